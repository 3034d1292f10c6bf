"""What training may know and the agent may not: expected rewards, a baseline that sees the task; and its warm-up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents import random_agent
from rl2jax.envs import BernoulliBandit, TabularMDP, random_cartpole
from rl2jax.slow_rl.baseline import baseline_optimiser
from rl2jax.slow_rl.sgd import num_minibatches
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.update import make_update, problem_of
from rl2jax.trials.collect import make_collect
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 6,
        "iterations": 3,
        "batch.size": 120,
        "network.units": 8,
        "slow_rl.max_kl": float("inf"),
        "slow_rl.epochs": 1,
    }
)


def test_a_bandit_expects_what_its_arms_pay():
    env = BernoulliBandit(3)
    task = env.sample_params(jax.random.key(0))
    trajectory = rollout(jax.random.key(1), random_agent(env.action_space()), Trial(env, 20), task)
    np.testing.assert_array_equal(trajectory.expected_reward, task.probs[trajectory.action])
    assert set(np.unique(trajectory.reward)) == {0.0, 1.0}


def test_an_mdp_expects_the_mean_of_the_state_it_was_in():
    """Not of the state it came to: 4000 steps' rewards scatter about it with unit variance."""
    env = TabularMDP(4, 2, 5)
    task = env.sample_params(jax.random.key(0))
    trajectory = rollout(jax.random.key(1), random_agent(env.action_space()), Trial(env, 800), task)
    np.testing.assert_array_equal(
        trajectory.expected_reward, task.reward_mean[trajectory.trial_obs.obs, trajectory.action]
    )
    noise = trajectory.reward - trajectory.expected_reward
    assert abs(noise.mean()) < 4 / np.sqrt(4000)
    assert abs(noise.std() - 1) < 0.05


def test_where_nothing_is_known_rewards_are_expected():
    env = random_cartpole(20)
    trajectory = rollout(
        jax.random.key(1), random_agent(env.action_space()), Trial(env, 2), env.sample_params(jax.random.key(0))
    )
    assert (trajectory.mask == 0).any()  # a pole has fallen: nothing is expected after the end either
    np.testing.assert_array_equal(trajectory.expected_reward, trajectory.reward)


@pytest.fixture(scope="module")
def batch():
    """(trial, networks, state, trajectory) of a small bandit batch."""
    env = BernoulliBandit(3)
    learner = Learner(env, CONFIG)
    state = learner.init(jax.random.key(0))
    collect = make_collect(learner.trial, learner.agent_of, learner.num_trials)
    return env, state, jax.jit(collect)(jax.random.key(1), state.params)


def test_expected_rewards_are_learned_from_and_rewards_are_reported(batch):
    """Training on expectations equals training on a trajectory whose rewards are those."""
    env, state, trajectory = batch
    key = jax.random.key(2)

    def updated(config, trajectory):
        trial = make_trial(env, config)
        update = make_update(make_networks(env, config), config, 120 // trial.num_steps)
        return jax.jit(update)(state, trajectory, key)

    wanted, _ = updated(CONFIG, trajectory._replace(reward=trajectory.expected_reward))
    got, metrics = updated(CONFIG.replace({"objective.expected_rewards": True}), trajectory)
    for a, b in zip(jax.tree.leaves(got.params), jax.tree.leaves(wanted.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.mean_return, trajectory.reward.sum(axis=0).mean(), rtol=1e-5)
    plain, _ = updated(CONFIG, trajectory)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(got), strict=True))


def test_only_the_baseline_sees_the_task():
    env = BernoulliBandit(3)
    blind = make_networks(env, CONFIG)
    seeing = make_networks(env, CONFIG.replace({"baseline.sees_task": True}))
    key = jax.random.key(0)
    params = seeing.init(key)
    assert jax.tree.structure(params["policy"]) == jax.tree.structure(blind.init(key)["policy"])
    task = env.sample_params(key)
    trajectory = rollout(key, seeing.agent(params["policy"]), Trial(env, 6), task)
    values = seeing.values(params["baseline"], trajectory.trial_obs, task.probs)
    others = seeing.values(params["baseline"], trajectory.trial_obs, 1 - task.probs)
    assert (np.abs(values - others) > 1e-4).all()  # from the first step on
    # Of a task of zeros it sees what a blind baseline sees, with the parameters that both have.
    unseen = seeing.values(params["baseline"], trajectory.trial_obs, jnp.zeros(3))
    common = {name: x for name, x in params["baseline"]["params"].items() if not name.startswith("task")}
    np.testing.assert_allclose(unseen, blind.values({"params": common}, trajectory.trial_obs, task.probs), rtol=1e-6)


@pytest.mark.slow
def test_a_baseline_that_sees_the_task_explains_more():
    """Before its first pull a blind baseline knows nothing of a trial's return; a seeing one learns the arms' part."""
    env = BernoulliBandit(2)
    config = CONFIG.replace(
        {
            "trial.num_episodes": 3,
            "iterations": 60,
            "batch.size": 1200,
            "baseline.epochs": 4,
            "baseline.learning_rate": 1e-2,
            "objective.discount": 1.0,
        }
    )
    explained = {}
    for sees in (False, True):
        learner = Learner(env, config.replace({"baseline.sees_task": sees, "slow_rl.learning_rate": 1e-6}))
        _, metrics = jax.jit(lambda state, learner=learner: learner.train_chunk(state, 60))(
            learner.init(jax.random.key(0))
        )
        explained[sees] = metrics.explained_variance[-20:].mean()
    assert explained[True] > explained[False] + 0.1, explained


def test_tasks_without_features_cannot_be_seen():
    with pytest.raises(ValueError, match=r"baseline\.sees_task must be false"):
        Learner(random_cartpole(20), CONFIG.replace({"baseline.sees_task": True}))


def test_the_policy_waits_for_its_baseline():
    learner = Learner(BernoulliBandit(3), CONFIG.replace({"baseline.warmup_iterations": 2}))
    state = learner.init(jax.random.key(0))
    step = jax.jit(learner.train_step)

    def same(a, b):
        return all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    for iteration in range(3):
        new, _ = step(state)
        assert same(new.params["policy"], state.params["policy"]) == (iteration < 2)
        assert same(new.slow_rl, state.slow_rl) == (iteration < 2)
        assert not same(new.params["baseline"], state.params["baseline"])
        state = new


def test_a_policy_that_waits_ends_at_rate_0_all_the_same():
    """And while it waits, no update is reported that was not made."""
    config = CONFIG.replace({"iterations": 4, "baseline.warmup_iterations": 2, "optimiser.schedule": "linear"})
    learner = Learner(BernoulliBandit(3), config)
    state, metrics = jax.jit(lambda state: learner.train_chunk(state, 4))(learner.init(jax.random.key(0)))
    ones = jax.tree.map(jnp.ones_like, state.params)
    problem = problem_of(learner.networks, config, learner.num_trials)
    assert state.slow_rl.iteration == 2
    steps = config.slow_rl.epochs * num_minibatches(learner.num_trials, config.slow_rl.minibatch_trials)
    of_baseline = baseline_optimiser(config.baseline, config.optimiser, config.iterations, learner.num_trials)
    of_policy = problem.make_optimiser(config.slow_rl.learning_rate, steps)
    for optimiser, part, opt_state in (
        (of_policy, "policy", state.slow_rl.opt_state),
        (of_baseline, "baseline", state.baseline_opt_state),
    ):
        updates, _ = optimiser.update(ones[part], opt_state, state.params[part])
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates)), part
    assert (metrics.kl[:2] == 0).all()
    assert (metrics.grad_norm[:2] == 0).all()
    assert (metrics.grad_norm[2:] > 0).all()
