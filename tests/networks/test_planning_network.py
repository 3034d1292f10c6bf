"""The network that counts and plans, against planning agents and by its symmetries."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rl2jax
from rl2jax.agents.planning import stationary, value_iteration
from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.networks.planning import PLANS, count, make_plan, no_counts
from rl2jax.training.families import make_networks, make_trial
from rl2jax.trials.rollout import rollout

ENV = TabularMDP(num_states=4, num_actions=3, episode_length=5)
CONFIG = rl2jax.TrainConfig().replace(
    {
        "trial.num_episodes": 3,
        "batch.size": 600,
        "slow_rl": "ppo",
        "network": "planner",
        "network.units": 8,
        "objective.discount": 1.0,
        "objective.gae_lambda": 0.9,
    }
)
TRIAL = make_trial(ENV, CONFIG)
NETWORKS = make_networks(ENV, CONFIG)
# Compiled once for all tests.
DIST_PARAMS, VALUES = jax.jit(NETWORKS.dist_params), jax.jit(NETWORKS.values)
COUNT = jax.jit(count)


@jax.jit
def weights_of(key, spread=0.5):
    """Parameters away from their initial values, so that every part counts."""
    params = NETWORKS.init(key)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [spread * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.map(jnp.add, params, jax.tree.unflatten(tree, noise))


@jax.jit
def play(params):
    key_task, key_play = jax.random.split(jax.random.key(0))
    return rollout(key_play, NETWORKS.agent(params["policy"]), TRIAL, ENV.sample_params(key_task))


@jax.jit
def best_values(reward, transition):
    """Of the 5 steps of an episode in an MDP that is known."""
    return value_iteration(stationary(jnp.asarray(reward), 5), jnp.asarray(transition))


def without_bonus(weights, mean=1.0):
    """Plans on the posterior with the prior of the tasks' distribution, and nothing else."""
    silent = jax.tree.map(jnp.zeros_like, weights)
    return silent._replace(prior=jnp.array([mean, 0.0, 0.0]))


def counted(trajectory):
    """(visits, rewards, moves) before each step, by a loop in numpy."""
    obs, action, reward, done = (
        np.asarray(x) for x in (trajectory.trial_obs.obs, trajectory.action, trajectory.reward, trajectory.episode_done)
    )
    visits, rewards, moves = np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((4, 3, 4))
    known = []
    for t in range(len(obs)):
        known.append((visits.copy(), rewards.copy(), moves.copy()))
        visits[obs[t], action[t]] += 1
        rewards[obs[t], action[t]] += reward[t]
        if not done[t]:
            moves[obs[t], action[t], obs[t + 1]] += 1
    return known


def test_counts_are_what_happened_and_an_episodes_last_move_is_not_seen():
    trajectory = play(weights_of(jax.random.key(1)))
    counts, steps = no_counts(4, 3), []
    for t, (visits, rewards, moves) in enumerate(counted(trajectory)):
        counts = COUNT(counts, jax.tree.map(lambda x, t=t: x[t], trajectory.trial_obs))
        np.testing.assert_allclose(counts.visits, visits)
        np.testing.assert_allclose(counts.rewards, rewards, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(counts.moves, moves)
        steps.append((int(counts.time), int(counts.step), int(counts.state), int(counts.start)))
    obs = np.asarray(trajectory.trial_obs.obs)
    assert steps == [(t, t % 5, obs[t], obs[t - t % 5]) for t in range(15)]


def test_a_plan_without_bonuses_is_value_iteration_on_the_posterior():
    trajectory = play(weights_of(jax.random.key(2)))
    weights = without_bonus(NETWORKS.policy_network.apply(weights_of(jax.random.key(2))["policy"]))
    counts = no_counts(4, 3)
    for t in range(15):
        counts = COUNT(counts, jax.tree.map(lambda x, t=t: x[t], trajectory.trial_obs))
    plan = jax.jit(make_plan, static_argnums=(2, 3))(weights, jax.tree.map(lambda x: x[..., None], counts), 5, 15)
    visits, rewards, moves = counted(trajectory)[-1]
    reward = (1.0 + rewards) / (1.0 + visits)
    transition = (1.0 + moves) / (4.0 + moves.sum(axis=-1, keepdims=True))
    q = best_values(reward, transition)  # [5, S, A], the whole way first
    expected = np.concatenate([np.zeros((1, 4)), np.asarray(q.max(axis=-1))[::-1]])
    for k in range(PLANS):
        np.testing.assert_allclose(plan.values[:, k, :, 0], expected, rtol=1e-4)


def test_without_bonuses_it_acts_as_the_planning_agent_does_at_an_episodes_start():
    trajectory = play(weights_of(jax.random.key(3)))
    params = weights_of(jax.random.key(3))["policy"]
    silent = jax.tree.map(jnp.zeros_like, params)
    silent["params"]["prior"] = jnp.array([1.0, 0.0, 0.0])
    logits = DIST_PARAMS(silent, trajectory.trial_obs)
    for t in (0, 5, 10):
        visits, rewards, moves = counted(trajectory)[t]
        transition = (1.0 + moves) / (4.0 + moves.sum(axis=-1, keepdims=True))
        q = best_values((1.0 + rewards) / (1.0 + visits), transition)
        first = q[0, int(trajectory.trial_obs.obs[t])]
        np.testing.assert_allclose(logits[t], first - first.mean(), rtol=1e-4, atol=1e-4)


def test_playing_and_learning_see_the_same_logits():
    params = weights_of(jax.random.key(4))
    trajectory = play(params)
    logits = DIST_PARAMS(params["policy"], trajectory.trial_obs)
    np.testing.assert_allclose(logits, trajectory.agent_info.dist_params, rtol=1e-4, atol=1e-4)


def test_renaming_states_and_actions_renames_the_logits():
    params = weights_of(jax.random.key(5))
    seen = play(params).trial_obs
    states, actions = jnp.array([2, 0, 3, 1]), jnp.array([1, 2, 0])  # new names of the old ones
    renamed = seen._replace(obs=states[seen.obs], prev_action=actions[seen.prev_action])
    before = DIST_PARAMS(params["policy"], seen)
    after = DIST_PARAMS(params["policy"], renamed)
    np.testing.assert_allclose(after[:, actions], before, rtol=1e-4, atol=1e-4)
    value = partial(VALUES, params["baseline"])
    np.testing.assert_allclose(value(renamed), value(seen), rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter_of_both_networks():
    params = weights_of(jax.random.key(6))
    trajectory = play(params)

    def loss(params):
        distribution = NETWORKS.distribution(NETWORKS.dist_params(params["policy"], trajectory.trial_obs))
        log_prob = distribution.log_prob(trajectory.action)
        weighted = jnp.sum(log_prob * jnp.arange(15.0))
        return weighted + jnp.sum(NETWORKS.values(params["baseline"], trajectory.trial_obs) ** 2)

    gradients = jax.jit(jax.grad(loss))(params)
    gradients["baseline"]["params"].pop("scale")  # of logits: a value has none
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0 or "readout2_bias" in str(path[-1]), path


def test_the_first_steps_gradient_is_that_of_differences():
    params = weights_of(jax.random.key(7))
    seen = play(params).trial_obs

    @jax.jit
    def value(mean):
        changed = jax.tree.map(lambda x: x, params["baseline"])
        changed["params"]["prior"] = changed["params"]["prior"].at[2].set(mean)
        return NETWORKS.values(changed, seen).sum()

    at = params["baseline"]["params"]["prior"][2]
    numeric = (value(at + 1e-2) - value(at - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(value)(at), numeric, rtol=5e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (BernoulliBandit(3), {}, "observation space must be Discrete for network planner"),
        (
            ENV,
            {"objective.task_inference_coefficient": 1.0},
            "task_inference_coefficient must be 0 or false with network planner",
        ),
        (ENV, {"baseline.sees_task": True}, "baseline.sees_task must be 0 or false with network planner"),
        (ENV, {"network.shared_trunk": True}, "setting of network planner must be one of .*, got 'shared_trunk'"),
    ],
)
def test_what_it_cannot_do_is_said(env, changes, message):
    with pytest.raises(ValueError, match=message):
        make_networks(env, CONFIG.replace(changes))


def test_its_updates_raise_the_surrogate():
    config = CONFIG.replace(
        {"iterations": 4, "batch.size": 3000, "slow_rl.minibatch_trials": 50, "slow_rl.max_kl": float("inf")}
    )
    _, metrics = jax.jit(lambda key: rl2jax.train(ENV, config, key))(jax.random.key(0))
    assert (metrics.surrogate_gain > 0).all()
    assert (metrics.kl > 0).all()
    assert metrics.explained_variance[-1] > metrics.explained_variance[0]
    assert (metrics.finite == 1).all()


def test_it_plays_on_after_a_trial_of_its_length():
    """An agent of few episodes may be tried in trials of more."""
    params = weights_of(jax.random.key(8))["policy"]
    longer = make_trial(ENV, CONFIG.replace({"trial.num_episodes": 5}))
    task = ENV.sample_params(jax.random.key(9))
    trajectory = jax.jit(lambda p: rollout(jax.random.key(10), NETWORKS.agent(p), longer, task))(params)
    assert np.isfinite(trajectory.agent_info.dist_params).all()
    assert int(trajectory.mask.sum()) == 25
