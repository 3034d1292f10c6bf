"""Networks with a memory for each pair: against numpy, their symmetries, what they refuse, and that they learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params

from rl2jax.envs import BernoulliBandit, TabularMDP, spaces
from rl2jax.networks.per_pair import VECTOR
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import Peak, iteration_seconds, phase_costs
from rl2jax.training.families import make_networks
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.types import TrialObservation

STATES, ACTIONS, LENGTH, EPISODES, UNITS = 4, 3, 5, 3, 6
STEPS = LENGTH * EPISODES
ENV = TabularMDP(STATES, ACTIONS, LENGTH)
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": EPISODES,
        "network": "per_pair",
        "network.units": UNITS,
        "network.activation": "tanh",
        "objective.discount": 1.0,
        "objective.task_inference_coefficient": 1.0,
        "baseline.sees_task": True,
        "objective.expected_rewards": True,
    }
)
NETWORKS = make_networks(ENV, CONFIG)
PARAMS = random_params(NETWORKS, seed=3, scale=1.2)
FEATURES = np.random.default_rng(1).normal(size=STATES * ACTIONS).astype(np.float32)


def a_trial(seed=0, states=STATES, actions=ACTIONS, episodes=EPISODES):
    """A trial's inputs: the first step's are placeholders, and every episode starts in state 0."""
    rng, steps = np.random.default_rng(seed), LENGTH * episodes
    state, action = rng.integers(states, size=steps), rng.integers(actions, size=steps)
    reward, flag = rng.normal(size=steps).astype(np.float32), np.zeros(steps, np.float32)
    state[::LENGTH], flag[LENGTH::LENGTH] = 0, 1.0
    action[0], reward[0] = 0, 0.0
    return TrialObservation(state, action, reward, flag)


TRIAL = a_trial()


@jax.jit
def both(params, trial_obs, features):
    """(outputs of the policy, values) over a trial."""
    return NETWORKS.policy_outputs(params["policy"], trial_obs), NETWORKS.values(
        params["baseline"], trial_obs, features
    )


# --- What is computed.


def plain(params, name):
    """w = g v / |v|, column by column."""
    v = np.float64(params[name])
    return np.float64(params[f"{name}_scale"]) * v / np.linalg.norm(v, axis=0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def trial_time(t):
    left = max(STEPS - t, 1)
    return [left / STEPS, math.log10(left) / 2]


def numpy_pairs(params, trial_obs, told=0.0):
    """Memory, fast weights and vectors at every step, one pair at a time, in double precision."""
    w, u = (np.split(plain(params["pair"], name), 3, axis=1) for name in ("gru_input", "gru_hidden"))
    b = np.split(np.float64(params["pair"]["gru_bias"]), 3)
    head, head_bias = plain(params["pair"], "head")[:, :UNITS], params["pair"]["head_bias"][:UNITS]
    memory = np.zeros((STATES, ACTIONS, UNITS))
    moves = np.full((STATES, ACTIONS, STATES), 1 / STATES)
    vectors, known = np.zeros((STATES, VECTOR)), []
    for t in range(STEPS):
        if t:
            taken = trial_obs.obs[t - 1], trial_obs.prev_action[t]
            memory, moves, h = memory.copy(), moves.copy(), memory[taken]
            x = np.array([trial_obs.prev_reward[t], trial_obs.prev_done[t], *trial_time(t)])
            r, z = (sigmoid(x @ w[i] + h @ u[i] + b[i]) for i in (0, 1))
            c = np.tanh(x @ w[2] + r * (h @ u[2]) + b[2])
            memory[taken] = (1 - z) * h + z * c
            if not trial_obs.prev_done[t]:
                gate = sigmoid(memory[taken] @ plain(params, "gate")[:, 0] + params["gate_bias"][0])
                moves[taken] = (1 - gate) * moves[taken] + gate * np.eye(STATES)[trial_obs.obs[t]]
        shared = np.concatenate([vectors.mean(0), trial_time(t)]) @ plain(params, "shared")
        heard = np.array([[moves[s, a] @ vectors for a in range(ACTIONS)] for s in range(STATES)])
        hidden = memory @ head + head_bias + heard @ plain(params, "heard") + shared + told
        said = np.maximum(hidden, 0) @ plain(params, "said") + params["said_bias"]
        vectors = np.tanh(said.max(axis=1))
        known.append((memory, moves, vectors))
    return known


def numpy_readout(params, t, state, memory, moves, vectors, told=0.0):
    """(hidden layer of the present state's actions, [ACTIONS, UNITS]; times)."""
    left = LENGTH - t % LENGTH
    times = np.array([*trial_time(t), left / LENGTH, 1 / left])
    of_pair = np.concatenate([memory[state], moves[state] @ vectors], axis=1)
    shared = np.concatenate([vectors.mean(0), times]) @ plain(params, "readout_shared")
    return np.maximum(of_pair @ plain(params, "readout") + shared + params["readout_bias"] + told, 0), times


def test_policy_against_numpy():
    """The pair taken is remembered, moves follow, one round of messages, a readout of the present state's pairs."""
    params = PARAMS["policy"]["params"]
    outputs, _ = both(PARAMS, TRIAL, FEATURES)
    head, bias = plain(params["pair"], "head"), params["pair"]["head_bias"]
    for t, known in enumerate(numpy_pairs(params, TRIAL)):
        hidden, _ = numpy_readout(params, t, TRIAL.obs[t], *known)
        logits = hidden @ plain(params, "output")[:, 0]
        np.testing.assert_allclose(outputs.dist_params[t], logits, rtol=1e-3, atol=1e-4)
        inferred = (known[0] @ head[:, UNITS] + bias[UNITS]).ravel()
        np.testing.assert_allclose(outputs.inferred[t], inferred, rtol=1e-3, atol=1e-4)
    assert np.ptp(np.asarray(outputs.dist_params), axis=1).max() > 0.1  # there is something to compare


def test_baseline_against_numpy():
    """Told a feature of each pair; means and maxima of the readout's layer and of vectors; a level and a rate."""
    params = PARAMS["baseline"]["params"]
    _, values = both(PARAMS, TRIAL, FEATURES)
    features = FEATURES.reshape(STATES, ACTIONS, 1)
    expected = []
    for t, known in enumerate(numpy_pairs(params, TRIAL, features * params["feature"])):
        state, vectors = TRIAL.obs[t], known[2]
        hidden, times = numpy_readout(params, t, state, *known, features[state] * params["readout_feature"])
        pooled = [hidden.mean(0), hidden.max(0), vectors.mean(0), vectors.max(0), vectors[state], times]
        last = np.maximum(np.concatenate(pooled) @ plain(params, "pooled") + params["pooled_bias"], 0)
        level, rate = last @ plain(params, "output") + params["output_bias"]
        expected.append(level + times[0] * rate)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


def test_permuted_states_and_actions_permute_all_that_is_said_of_them():
    states, actions = np.array([2, 0, 3, 1]), np.array([2, 0, 1])
    new_state, new_action = np.argsort(states), np.argsort(actions)
    renamed = TRIAL._replace(obs=new_state[TRIAL.obs], prev_action=new_action[TRIAL.prev_action])
    features = FEATURES.reshape(STATES, ACTIONS)[states][:, actions].ravel()
    outputs, values = both(PARAMS, TRIAL, FEATURES)
    permuted, same = both(PARAMS, renamed, features)
    np.testing.assert_allclose(permuted.dist_params, outputs.dist_params[:, actions], rtol=1e-4, atol=1e-5)
    inferred = outputs.inferred.reshape(STEPS, STATES, ACTIONS)[:, states][:, :, actions]
    np.testing.assert_allclose(permuted.inferred, inferred.reshape(STEPS, -1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same, values, rtol=1e-4, atol=1e-5)
    assert not np.allclose(outputs.dist_params, outputs.dist_params[:, actions], atol=1e-2)


def test_only_the_pair_taken_changes_and_only_where_a_state_followed():
    """What is read is kept up to date; the state that begins an episode moves no fast weights."""
    weights = NETWORKS.policy_network.apply(PARAMS["policy"])
    remember = jax.jit(lambda state, seen: NETWORKS.remember(weights, state, seen))
    state = NETWORKS.initial_state()
    for t in range(STEPS):
        after = remember(state, jax.tree.map(lambda x: x[t], TRIAL))  # noqa: B023
        taken = np.zeros((STATES, ACTIONS), bool)
        taken[TRIAL.obs[t - 1], TRIAL.prev_action[t]] = t > 0
        np.testing.assert_array_equal(np.any(np.asarray(after.memory != state.memory), axis=-1), taken)
        changed = np.any(np.asarray(after.moves != state.moves), axis=-1)
        np.testing.assert_array_equal(changed, taken & (t % LENGTH != 0))
        np.testing.assert_allclose(np.asarray(after.moves).sum(-1), 1.0, rtol=1e-5)
        if t:  # before, nothing was read of memories of zeros
            np.testing.assert_allclose(after.read, after.memory @ weights.pair.head, rtol=1e-4, atol=1e-6)
        assert (after.state, after.step, after.episode_step) == (TRIAL.obs[t], t + 1, t % LENGTH)
        state = after


def test_acting_step_by_step_equals_unrolling():
    @jax.jit
    def acting(params):
        agent = NETWORKS.agent(params)
        keys = jax.random.split(jax.random.key(0), STEPS)

        def step(state, inputs):
            key, seen = inputs
            state, action, info = agent.step(key, state, seen)
            return state, (action, info)

        return jax.lax.scan(step, agent.init(keys[0]), (keys, TRIAL))[1]

    actions, info = acting(PARAMS["policy"])
    outputs, _ = both(PARAMS, TRIAL, FEATURES)
    np.testing.assert_allclose(info.dist_params, outputs.dist_params, rtol=1e-4, atol=1e-5)
    log_probs = jax.nn.log_softmax(outputs.dist_params)[np.arange(STEPS), actions]
    np.testing.assert_allclose(info.log_prob, log_probs, rtol=1e-4, atol=1e-5)
    assert len(set(np.asarray(actions))) > 1


def test_the_first_steps_flag_ends_nothing():
    """Before a trial there was no episode, whatever flag is shown."""
    flagged = TRIAL._replace(prev_done=np.append(np.float32(1.0), TRIAL.prev_done[1:]))
    for one, other in zip(
        jax.tree.leaves(both(PARAMS, TRIAL, FEATURES)), jax.tree.leaves(both(PARAMS, flagged, FEATURES)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_gradients_reach_every_parameter_and_agree_with_forward_derivatives():
    """Natural gradients need both."""
    direction = random_params(NETWORKS, seed=1)

    def loss(params):
        outputs, values = both(params, TRIAL, FEATURES)
        return jax.nn.log_softmax(outputs.dist_params)[:, 1].mean() + outputs.inferred.mean() + values.mean()

    gradient, (_, forward) = jax.jit(lambda p: (jax.grad(loss)(p), jax.jvp(loss, (p,), (direction,))))(PARAMS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    backward = sum(jax.tree.leaves(jax.tree.map(np.vdot, gradient, direction)))
    np.testing.assert_allclose(forward, backward, rtol=1e-3)
    assert abs(forward) > 0.01


# --- What may be asked of it.


def test_the_same_parameters_serve_other_numbers_and_longer_trials():
    """After a trial of its length what is left stays at one step."""
    networks = make_networks(TabularMDP(7, 2, LENGTH), CONFIG)
    longer = a_trial(states=7, actions=2, episodes=20 * EPISODES)
    outputs = jax.jit(lambda params: networks.policy_outputs(params, longer))(PARAMS["policy"])
    assert outputs.dist_params.shape == (20 * STEPS, 2)
    assert np.isfinite(outputs.dist_params).all()
    left = np.asarray(networks.time_left(jnp.array([0, STEPS - 1, STEPS, 19 * STEPS])))
    np.testing.assert_allclose(left[:, 0], [1, 1 / STEPS, 1 / STEPS, 1 / STEPS], rtol=1e-6)
    np.testing.assert_allclose(left[1:, 1], 0.0, atol=1e-6)


def test_without_features_none_are_inferred_or_told():
    bare = make_networks(
        ENV, CONFIG.replace({"objective.task_inference_coefficient": 0.0, "baseline.sees_task": False})
    )
    params = random_params(bare, seed=0)
    assert "feature" not in params["baseline"]["params"]
    outputs = bare.policy_outputs(params["policy"], TRIAL)
    assert outputs.inferred.shape == (STEPS, 0)
    assert outputs.dist_params.shape == (STEPS, ACTIONS)
    values = [bare.values(params["baseline"], TRIAL, f) for f in (None, FEATURES)]
    np.testing.assert_array_equal(*values)


class Boxes(TabularMDP):
    """An MDP whose spaces are said to be continuous."""

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (2,))


class Knobs(TabularMDP):
    """One whose actions are."""

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (2,))


class TwoFeatures(TabularMDP):
    """One that tells of two things only."""

    def task_features(self, params):
        return params.reward_mean[0, :2]


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (Boxes(3, 2, 4), {}, "observation space must be Discrete for network per_pair, got Box"),
        (Knobs(3, 2, 4), {}, "action space must be Discrete for network per_pair, got Box"),
        (BernoulliBandit(3), {}, "observation space must be Discrete for network per_pair"),
        (TwoFeatures(3, 2, 4), {}, "number of task features must be 6 for network per_pair, .*got 2"),
        (ENV, {"network.cell": "lstm"}, "setting of network per_pair must be one of .*, got 'cell'"),
        (
            ENV,
            {"network.shared_trunk": True, "baseline.sees_task": False},
            "setting of network per_pair must be one of .*, got 'shared_trunk'",
        ),
        (
            ENV,
            {"batch.lane_steps": 50, "baseline.sees_task": False},
            "network must be recurrent, or one's own",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(env, changes, message):
    with pytest.raises(ValueError, match=message):
        make_networks(env, CONFIG.replace(changes))


def test_cost_grows_with_the_pairs():
    """An iteration's operations: twice the states, more than twice the messages, fewer than four times."""
    sizes = [phase_costs(Learner(TabularMDP(s, ACTIONS, LENGTH), SMALL))["values"].operations for s in (20, 40)]
    assert 2 * sizes[0] < sizes[1] < 4 * sizes[0]
    assert 0 < iteration_seconds(Learner(ENV, SMALL), Peak(1e11, 1e10)) < 1


# --- Learning.

SMALL = CONFIG.replace(
    {
        "network.units": 8,
        "iterations": 15,
        "batch.size": 100 * STEPS,
        "objective.gae_lambda": 0.9,
        "slow_rl.max_kl": math.inf,
        "ppo.clip_range": 0.2,
        "slow_rl.epochs": 3,
        "slow_rl.minibatch_trials": 25,
        "slow_rl.learning_rate": 1e-2,
        "baseline.epochs": 2,
        "baseline.minibatch_trials": 25,
        "baseline.learning_rate": 1e-2,
        "iterations_per_chunk": 15,
    }
)


def test_an_mdp_is_learned():
    """Random play makes 15 in 15 steps."""
    _, metrics = train(ENV, SMALL, jax.random.key(0))
    assert metrics.mean_return[:2].mean() < 16.5
    assert metrics.mean_return[-5:].mean() > 19.0
    assert metrics.explained_variance[-5:].min() > 0.65
    assert (metrics.finite == 1).all()
