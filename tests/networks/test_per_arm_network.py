"""Networks with a memory for each arm: against numpy, their symmetry, and that they learn, are kept and are shipped."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params

from rl2jax.envs import BernoulliBandit, TabularMDP, spaces
from rl2jax.envs.names import parse_task
from rl2jax.networks.per_arm import PerArmNetworks, is_constant
from rl2jax.runs import checkpoint
from rl2jax.runs.run import create_run, parameters_digest
from rl2jax.runs.shipped import describe, load_agent, ship
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.trials.collect import make_collect
from rl2jax.trials.evaluate import evaluate
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

ARMS, STEPS, UNITS = 4, 9, 6
HIDDEN = UNITS // 2
ENV = BernoulliBandit(ARMS)
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": STEPS,
        "network": "per_arm",
        "network.units": UNITS,
        "network.activation": "tanh",
        "objective.task_inference_coefficient": 1.0,
        "baseline.sees_task": True,
        "objective.expected_rewards": True,
    }
)
NETWORKS = make_networks(ENV, CONFIG)
PARAMS = random_params(NETWORKS, seed=2, scale=1.0)
FEATURES = np.array([0.3, -1.0, 1.4, 0.2], np.float32)


def a_trial(seed=0):
    """A trial's inputs: the first step's are placeholders."""
    rng = np.random.default_rng(seed)
    action = rng.integers(ARMS, size=STEPS)
    action[0] = 0
    reward = rng.integers(2, size=STEPS).astype(np.float32)
    flag = np.ones(STEPS, np.float32)
    reward[0] = flag[0] = 0.0
    return TrialObservation(np.zeros((STEPS, 1), np.float32), action, reward, flag)


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


def numpy_arms(params, trial_obs):
    """Memory [STEPS, ARMS, UNITS] and time left [STEPS, 2], one arm at a time, in double precision."""
    w, u = (np.split(plain(params["arm"], name), 3, axis=1) for name in ("gru_input", "gru_hidden"))
    b = np.split(np.float64(params["arm"]["gru_bias"]), 3)
    memory, memories, times = np.zeros((ARMS, UNITS)), [], []
    for t in range(STEPS):
        left = STEPS - t
        times.append([left / STEPS, math.log(left) / math.log(STEPS)])
        if t:
            arm = trial_obs.prev_action[t]
            h = memory[arm]
            x = np.array([trial_obs.prev_reward[t], trial_obs.prev_done[t], *times[-1]])
            r, z = (sigmoid(x @ w[i] + h @ u[i] + b[i]) for i in (0, 1))
            c = np.tanh(x @ w[2] + r * (h @ u[2]) + b[2])
            memory = memory.copy()
            memory[arm] = (1 - z) * h + z * c
        memories.append(memory)
    return np.array(memories), np.array(times)


def numpy_hidden(params, memory, time, told=0.0):
    """The readout's hidden layer of every arm, [ARMS, HIDDEN]."""
    context = np.concatenate([memory.mean(0), time]) @ plain(params, "context")
    read = memory @ plain(params["arm"], "head")[:, :HIDDEN] + params["arm"]["head_bias"][:HIDDEN]
    return np.maximum(read + context + told, 0.0)


def test_policy_against_numpy():
    """One GRU step on the arm pulled; a rectified readout of memory, mean memory and time left; what is inferred."""
    params = PARAMS["policy"]["params"]
    outputs, _ = both(PARAMS, TRIAL, FEATURES)
    memories, times = numpy_arms(params, TRIAL)
    head, bias = plain(params["arm"], "head"), params["arm"]["head_bias"]
    for t in range(STEPS):
        logits = numpy_hidden(params, memories[t], times[t]) @ plain(params, "output")[:, 0]
        np.testing.assert_allclose(outputs.dist_params[t], logits, rtol=1e-4, atol=1e-5)
        inferred = memories[t] @ head[:, HIDDEN] + bias[HIDDEN]
        np.testing.assert_allclose(outputs.inferred[t], inferred, rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(outputs.dist_params[-1])) > 0.1  # there is something to compare


def test_baseline_against_numpy():
    """Mean and maximum over arms of the hidden layer, told a feature of each; a level, and a rate times the time."""
    params = PARAMS["baseline"]["params"]
    _, values = both(PARAMS, TRIAL, FEATURES)
    memories, times = numpy_arms(params, TRIAL)
    expected = []
    for memory, time in zip(memories, times, strict=True):
        hidden = numpy_hidden(params, memory, time, FEATURES[:, None] * params["feature"])
        pooled = np.concatenate([hidden.mean(0), hidden.max(0), time])
        last = np.maximum(pooled @ plain(params, "pooled") + params["pooled_bias"], 0.0)
        level, rate = last @ plain(params, "output") + params["output_bias"]
        expected.append(level + time[0] * rate)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_permuted_arms_permute_all_that_is_said_of_them():
    """The policy's to the last bit: memories are summed in the order of the pulls. A value is a sum over arms."""
    order = np.array([2, 0, 3, 1])
    renamed = TRIAL._replace(prev_action=np.argsort(order)[TRIAL.prev_action])
    outputs, values = both(PARAMS, TRIAL, FEATURES)
    permuted, same = both(PARAMS, renamed, FEATURES[order])
    np.testing.assert_array_equal(permuted.dist_params, outputs.dist_params[:, order])
    np.testing.assert_array_equal(permuted.inferred, outputs.inferred[:, order])
    np.testing.assert_allclose(same, values, rtol=1e-5)
    assert not np.array_equal(outputs.dist_params, outputs.dist_params[:, order])


def test_only_the_arm_pulled_is_remembered_and_nothing_at_first():
    weights = NETWORKS.policy_network.apply(PARAMS["policy"])
    step = jax.jit(lambda state, seen: NETWORKS.step(weights, state, seen)[0])
    state = NETWORKS.initial_state()
    for t in range(STEPS):
        seen = jax.tree.map(lambda x: x[t], TRIAL)  # noqa: B023
        after = step(state, seen)
        changed = np.any(np.asarray(after.memory != state.memory), axis=1)
        expected = np.arange(ARMS) == TRIAL.prev_action[t] if t else np.zeros(ARMS, bool)
        np.testing.assert_array_equal(changed, expected)
        np.testing.assert_allclose(after.total, np.asarray(after.memory).sum(0), rtol=1e-4, atol=1e-6)
        read = after.memory @ weights.arm.head
        np.testing.assert_allclose(after.read, read, rtol=1e-4, atol=1e-6)
        assert int(after.step) == t + 1
        state = after


def test_acting_step_by_step_equals_unrolling():
    @jax.jit
    def acting(params):
        agent = NETWORKS.agent(params)
        keys = jax.random.split(jax.random.key(0), STEPS)

        def step(state, inputs):
            state, action, info = agent.step(*inputs[:1], state, inputs[1])
            return state, (action, info)

        return jax.lax.scan(step, agent.init(keys[0]), (keys, TRIAL))[1]

    actions, info = acting(PARAMS["policy"])
    outputs, _ = both(PARAMS, TRIAL, FEATURES)
    np.testing.assert_allclose(info.dist_params, outputs.dist_params, rtol=1e-5, atol=1e-6)
    log_probs = jax.nn.log_softmax(outputs.dist_params)[np.arange(STEPS), actions]
    np.testing.assert_allclose(info.log_prob, log_probs, rtol=1e-4, atol=1e-5)
    assert len(set(np.asarray(actions))) > 1


def test_the_time_left_ends_at_one_step():
    left = np.asarray(NETWORKS.time_left(jnp.array([0, STEPS - 1, STEPS, 100 * STEPS])))
    np.testing.assert_allclose(left, [[1.0, 1.0]] + 3 * [[1 / STEPS, 0.0]], atol=1e-6)
    single = make_networks(ENV, CONFIG.replace({"trial.num_episodes": 1}))
    np.testing.assert_array_equal(single.time_left(jnp.zeros((), jnp.int32)), [1.0, 0.0])


def test_gradients_are_finite_and_reach_every_parameter():
    def loss(params):
        outputs, values = both(params, TRIAL, FEATURES)
        errors = jnp.square(outputs.inferred - FEATURES).mean() + jnp.square(values - 1.0).mean()
        return jax.nn.log_softmax(outputs.dist_params)[:, 1].mean() + errors

    gradient = jax.jit(jax.grad(loss))(PARAMS)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_gradient_against_differences():
    """Along a random direction, of everything the networks say."""
    direction = random_params(NETWORKS, seed=1)

    @jax.jit
    def loss(size):
        outputs, values = both(jax.tree.map(lambda p, d: p + size * d, PARAMS, direction), TRIAL, FEATURES)
        return jnp.sum(jnp.tanh(outputs.dist_params)) + jnp.sum(outputs.inferred) + jnp.sum(values)

    found = jax.grad(loss)(0.0)
    expected = (loss(1e-2) - loss(-1e-2)) / 2e-2
    np.testing.assert_allclose(found, expected, rtol=0.02)
    np.testing.assert_allclose(jax.jvp(loss, (0.0,), (1.0,))[1], found, rtol=1e-3)  # natural gradients need these


# --- What may be asked of it.


def test_inputs_that_the_task_gives():
    """A bandit's constant observation is left out; without features none are inferred or told."""
    assert not NETWORKS.sees_observation
    assert is_constant(spaces.Discrete(1))
    assert not is_constant(spaces.Discrete(2))
    assert not is_constant(spaces.Box(0.0, 1.0, (2,)))
    bare = make_networks(
        ENV, CONFIG.replace({"objective.task_inference_coefficient": 0.0, "baseline.sees_task": False})
    )
    params = random_params(bare, seed=0)
    assert "feature" not in params["baseline"]["params"]
    outputs = bare.policy_outputs(params["policy"], TRIAL)
    assert outputs.inferred.shape == (STEPS, 0)
    assert outputs.dist_params.shape == (STEPS, ARMS)
    values = [bare.values(params["baseline"], TRIAL, f) for f in (None, FEATURES)]
    np.testing.assert_array_equal(*values)


def test_an_observation_is_seen():
    """An MDP's state enters memory and readout."""
    env = TabularMDP(num_states=3, num_actions=ARMS, episode_length=3)
    networks = make_networks(
        env, CONFIG.replace({"objective.task_inference_coefficient": 0.0, "baseline.sees_task": False})
    )
    assert networks.sees_observation
    params = random_params(networks, seed=2)
    said = []
    for state in (0, 1):
        seen = TRIAL._replace(obs=np.full(STEPS, state))
        said.append((networks.dist_params(params["policy"], seen), networks.values(params["baseline"], seen)))
    for one, other in zip(*said, strict=True):
        assert np.abs(np.asarray(one - other)).max() > 1e-3


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (ENV, {"network.cell": "lstm"}, "setting of network per_arm must be one of .*, got 'cell'"),
        (
            ENV,
            {"network.shared_trunk": True, "baseline.sees_task": False},
            "setting of network per_arm must be one of .*, got 'shared_trunk'",
        ),
        (
            ENV,
            {"batch.lane_steps": 50, "baseline.sees_task": False},
            "network must be recurrent, or one's own, with batch.lane_steps",
        ),
        (TabularMDP(3, 2, 4), {}, "number of task features must be 2 for network per_arm, one for each action .*got 6"),
    ],
)
def test_what_it_cannot_do_is_refused(env, changes, message):
    with pytest.raises(ValueError, match=message):
        make_networks(env, CONFIG.replace(changes))


def test_continuous_actions_are_refused():
    class Continuous(BernoulliBandit):
        def action_space(self, params=None):
            return spaces.Box(-1.0, 1.0, (ARMS,))

    with pytest.raises(ValueError, match=r"action space must be Discrete for network per_arm, got Box"):
        make_networks(Continuous(ARMS), CONFIG)


# --- Learning, and what is kept.

SMALL = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 10,
        "iterations": 30,
        "batch.size": 4000,
        "network": "per_arm",
        "network.units": 8,
        "objective.discount": 1.0,
        "slow_rl.max_kl": math.inf,
        "ppo.clip_range": 0.2,
        "slow_rl.epochs": 4,
        "slow_rl.minibatch_trials": 50,
        "slow_rl.learning_rate": 1e-2,
        "baseline.epochs": 2,
        "baseline.minibatch_trials": 50,
        "baseline.learning_rate": 1e-2,
        "optimiser.schedule": "linear",
        "objective.task_inference_coefficient": 1.0,
        "objective.expected_rewards": True,
        "baseline.sees_task": True,
        "iterations_per_chunk": 10,
    }
)
TASK = parse_task("bandit:k=5,n=10")


@pytest.fixture(scope="module")
def trained():
    return train(TASK.env, SMALL, jax.random.key(0))


def test_a_bandit_is_learned(trained):
    """Random play makes 5, the optimum 6.660; one GRU of 64 units needs 600000 steps for 6.63."""
    state, metrics = trained
    assert metrics.mean_return[0] < 5.5
    networks = make_networks(TASK.env, SMALL)
    result = evaluate(networks.agent(state.params["policy"]), Trial(TASK.env, 10), 4000, jax.random.key(1))
    assert result.mean > 6.4


def test_the_baseline_explains_returns(trained):
    assert trained[1].explained_variance[-5:].min() > 0.7


def test_natural_gradients_and_seeds_side_by_side():
    """TRPO steps within its limit, and seeds can be mapped over."""
    natural = SMALL.replace(
        {
            "slow_rl": "trpo",
            "slow_rl.max_kl": 0.01,
            "objective.task_inference_coefficient": 0.0,
            "iterations": 2,
            "batch.size": 400,
            "trpo.cg_damping": 0.1,
        }
    )
    learner = Learner(TASK.env, natural)

    def seed(key):
        return learner.train_step(learner.init(key))[1]

    metrics = jax.jit(jax.vmap(seed))(jax.random.split(jax.random.key(0), 2))
    assert (metrics.kl > 0).all()
    assert (metrics.kl <= 0.01 + 1e-6).all()
    assert metrics.mean_return[0] != metrics.mean_return[1]


def test_what_is_collected_is_what_is_learned_from(trained):
    """Log-probabilities of a batch as it was played are those of the unrolled network."""
    state, _ = trained
    learner = Learner(TASK.env, SMALL)
    collect = make_collect(learner.trial, learner.agent_of, 8)
    batch = jax.jit(collect)(jax.random.key(3), state.params)
    unroll = jax.jit(jax.vmap(learner.networks.dist_params, (None, 1), 1))
    np.testing.assert_allclose(
        unroll(state.params["policy"], batch.trial_obs), batch.agent_info.dist_params, rtol=1e-3, atol=1e-4
    )


def test_shipped_and_loaded(trained, tmp_path):
    """The file says which network it is of, and plays as the run does."""
    state, _ = trained
    run = create_run(tmp_path / "run", TASK, SMALL, seed=0)
    checkpoint.save(run.checkpoints, 30, state)
    row = {"task": TASK.name, "iteration": 30, "action_selection": "sample", "num_tasks": 100, "seed": 1, "mean": 6.5}
    row |= {"standard_error": 0.05, "standard_deviation": 1.1, "command": "rl2jax compare ...", "commit": "abc"}
    ship(run, "best-scratch", row, tmp_path)
    said = describe("bandit-k5-n10", "best-scratch", tmp_path)
    assert said.config == SMALL
    assert said.parameters_sha256 == parameters_digest(state.params["policy"])
    agent = load_agent("bandit-k5-n10", "best-scratch", tmp_path)
    original = make_networks(TASK.env, SMALL).agent(state.params["policy"])
    scores = [evaluate(a, Trial(TASK.env, 10), 200, jax.random.key(1)).total_reward for a in (agent, original)]
    np.testing.assert_array_equal(*scores)


def test_initial_values():
    """Arms start equal: every first move is uniform; update gates remember on every scale of the horizon."""
    networks = PerArmNetworks(
        NETWORKS.observation,
        NETWORKS.action,
        NETWORKS.distribution,
        units=64,
        memory_horizon=50,
        trial_steps=STEPS,
        sees_observation=False,
    )
    params = jax.jit(networks.init)(jax.random.key(0))
    outputs = networks.dist_params(params["policy"], TRIAL)
    assert np.ptp(np.asarray(outputs[0])) == 0
    assert np.ptp(np.asarray(outputs[-1])) > 0
    _, update, _ = np.split(np.asarray(params["policy"]["params"]["arm"]["gru_bias"]), 3)
    assert update.min() > -math.log(50)
    assert np.ptp(update) > 2


def test_golden():
    """What these parameters said when the first agents were shipped: to say else would change those agents."""
    outputs, values = both(PARAMS, TRIAL, FEATURES)
    found = [*outputs.dist_params[-1], *outputs.inferred[-1], values[-1]]
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-4, atol=1e-5)


GOLDEN = [-0.927049, -0.740041, -0.697817, -0.328777, 2.772731, 2.804792, 2.817548, 2.863099, 0.890609]
