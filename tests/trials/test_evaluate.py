"""Evaluation: the same tasks for everyone, formulas against numpy, and fresh tasks."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params
from test_lanes import Corridor

from rl2jax.agents import Agent, random_agent, reference_agents
from rl2jax.envs import BernoulliBandit
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.trials.collect import make_collect
from rl2jax.trials.evaluate import Evaluation, _default_batch, evaluate, evaluation_key, play_tasks
from rl2jax.trials.trial import Trial


@dataclass(frozen=True)
class PaysTheTask(BernoulliBandit):
    """Every pull pays the first arm's probability, whatever is pulled: the total tells the task."""

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, params.probs[0], terminated, info


@dataclass(frozen=True)
class PaysTheArm(BernoulliBandit):
    """A pull pays its arm's probability itself."""

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, params.probs[action], terminated, info


def always(arm):
    return Agent(lambda key: (), lambda key, state, trial_obs: (state, jnp.asarray(arm, jnp.int32), ()))


# --- Scores.


def test_scores_against_numpy():
    totals = np.random.default_rng(0).normal(6, 2, 11).astype(np.float32)
    evaluation = Evaluation(totals, np.zeros(3))
    wide = totals.astype(np.float64)
    np.testing.assert_allclose(evaluation.mean, wide.mean())
    np.testing.assert_allclose(evaluation.standard_deviation, np.sqrt(((wide - wide.mean()) ** 2).sum() / 10))
    np.testing.assert_allclose(evaluation.standard_error, wide.std(ddof=1) / np.sqrt(11))


def test_one_task_has_no_standard_error():
    """nan, and no warning of numpy's."""
    evaluation = Evaluation(np.ones(1, np.float32), np.ones(1))
    assert evaluation.mean == 1.0
    assert math.isnan(evaluation.standard_error)


def test_mean_of_many_tasks_keeps_its_digits():
    """float32 sums of a million totals would drift in the fourth digit."""
    totals = np.full(1_000_001, 100.1, np.float32)
    np.testing.assert_allclose(Evaluation(totals, np.zeros(1)).mean, np.float64(np.float32(100.1)), rtol=1e-12)


@pytest.fixture(scope="module")
def random_scores():
    """The random agent on 4000 bandits of 5 arms and 10 pulls, Table 1's first column."""
    trial = Trial(BernoulliBandit(5), 10)
    return evaluate(random_agent(trial.env.action_space()), trial, 4000, evaluation_key(0))


def test_the_random_agent_earns_half_a_pull(random_scores):
    """Table 1: 5.0 for 10 pulls of arms that are uniform on [0, 1]."""
    assert abs(random_scores.mean - 5.0) < 4 * random_scores.standard_error
    # 10 pulls of variance 1/4, any two of which share the mean of the arms: variance 1/12 / 5.
    np.testing.assert_allclose(random_scores.standard_deviation, np.sqrt(10 / 4 + 90 / 60), rtol=0.05)


def test_the_reward_curve_is_the_mean_reward_of_each_step(random_scores):
    """It adds up to the mean total, and is flat for an agent that does not learn."""
    assert random_scores.reward_curve.shape == (10,)
    np.testing.assert_allclose(random_scores.reward_curve.sum(), random_scores.mean, rtol=1e-6)
    assert np.abs(random_scores.reward_curve - 0.5).max() < 4.5 * 0.5 / np.sqrt(4000)


# --- Which tasks.


def test_results_do_not_depend_on_the_batch_size():
    """A recurrent policy on 7 tasks: all at once, or in batches of 3 with a remainder."""
    config = TrainConfig().replace({"trial.num_episodes": 4, "network.units": 4})
    trial = make_trial(PaysTheArm(2), config)
    networks = make_networks(trial.env, config)
    agent = networks.agent(random_params(networks, seed=0)["policy"])
    done = []
    whole = evaluate(agent, trial, 7, evaluation_key(1))
    parts = evaluate(agent, trial, 7, evaluation_key(1), batch_tasks=3, progress=done.append)
    assert done == [3, 6, 7]
    assert len(whole.total_reward) == 7
    assert np.unique(whole.total_reward).size == 7
    np.testing.assert_allclose(parts.total_reward, whole.total_reward, atol=1e-5)
    np.testing.assert_allclose(parts.reward_curve, whole.reward_curve, atol=1e-5)


@pytest.fixture(scope="module")
def tasks_of():
    """(key, number of tasks, agent) -> the first arm's probability in each task that is met."""

    def tasks(key, num_tasks, agent):
        return evaluate(agent, Trial(PaysTheTask(2), 2), num_tasks, key).total_reward / 2

    return tasks


def test_agents_meet_the_same_tasks(tasks_of):
    """So that they can be compared in pairs; and task i is the same in a longer evaluation."""
    agents = [always(0), always(1), random_agent(PaysTheTask(2).action_space())]
    first, *others = (tasks_of(evaluation_key(3), 20, agent) for agent in agents)
    assert np.unique(first).size == 20
    for other in others:
        np.testing.assert_array_equal(other, first)
    np.testing.assert_array_equal(tasks_of(evaluation_key(3), 30, always(0))[:20], first)


def test_tasks_are_fresh(tasks_of):
    """No task of an evaluation is one of another seed's, or of a training batch of the same seed."""
    trial = Trial(PaysTheTask(2), 2)
    config = TrainConfig().replace({"trial.num_episodes": 2, "network.units": 2})
    networks = make_networks(trial.env, config)
    collect = jax.jit(make_collect(trial, lambda params: networks.agent(params["policy"]), 50))
    met = [np.asarray(tasks_of(evaluation_key(seed), 50, always(0))) for seed in (0, 1)]
    for key in (jax.random.key(0), *jax.random.split(jax.random.key(0), 3)):  # the root, and train_step's three
        met.append(np.asarray(collect(key, random_params(networks, seed=0)).task_features[:, 0]))
    assert np.unique(np.concatenate(met)).size == sum(map(len, met))


def test_common_tasks_make_differences_sharp():
    """Paired on common tasks, always arm 0 and always arm 1 differ by exactly the difference of their arms."""
    trial = Trial(PaysTheArm(2), 1)
    rewards = [evaluate(always(arm), trial, 500, evaluation_key(4)).total_reward for arm in (0, 1)]
    _, params = play_tasks(always(0), trial, 500, evaluation_key(4))
    np.testing.assert_array_equal(rewards[0] - rewards[1], params.probs[:, 0] - params.probs[:, 1])


@pytest.mark.parametrize("num_tasks", [0, -3])
def test_at_least_one_task(num_tasks):
    with pytest.raises(ValueError, match=f"num_tasks must be >= 1, got {num_tasks}"):
        evaluate(always(0), Trial(BernoulliBandit(2), 1), num_tasks, evaluation_key(0))


def test_the_trials_themselves_are_those_that_are_scored(monkeypatch):
    """In batches of any size: the same tasks, keys and rewards; a held-out split is played as in `evaluate`."""
    env = BernoulliBandit(3)
    trial, agent = Trial(env, 7), reference_agents(env)["thompson"].make(env, 7)
    scored = evaluate(agent, trial, 50, evaluation_key(2))
    for at_once in (50, 8):
        monkeypatch.setattr(
            "rl2jax.trials.evaluate._default_batch", lambda agent, trial, num_tasks, at_once=at_once: at_once
        )
        trajectory, params = play_tasks(agent, trial, 50, evaluation_key(2))
        np.testing.assert_array_equal(trajectory.reward.sum(axis=0), scored.total_reward)
        np.testing.assert_array_equal(trajectory.task_features, params.probs)
        pulled = np.take_along_axis(params.probs, trajectory.action.T, axis=1).T
        np.testing.assert_array_equal(trajectory.expected_reward, pulled)


@pytest.mark.parametrize(
    ("state_bytes", "num_tasks", "expected"),
    [(4, 1000, 1000), (4, 2001, 1001), (4, 100_000, 2000), (8 * 2**10, 1000, 500), (8 * 2**20, 3, 1)],
)
def test_tasks_are_played_in_equal_batches_whose_states_stay_in_cache(state_bytes, num_tasks, expected):
    agent = always(0)._replace(init=lambda key: jnp.zeros(state_bytes // 4))
    assert _default_batch(agent, Trial(BernoulliBandit(2), 10), num_tasks) == expected


def test_a_batch_is_limited_in_steps_too():
    assert _default_batch(always(0), Trial(BernoulliBandit(2), 10_000), 1000) == 200


def test_an_agent_that_plays_on_is_not_compiled_again():
    traced = []

    def step(key, state, trial_obs):
        traced.append(trial_obs)
        return state, jnp.int32(0), ()

    agent, trial, key = Agent(lambda key: (), step), Trial(PaysTheTask(2), 3), evaluation_key(0)
    first = evaluate(agent, trial, 5, key)
    compiled = len(traced)
    again, others = evaluate(agent, trial, 5, key), evaluate(agent, trial, 5, evaluation_key(1))
    assert len(traced) == compiled
    assert (again.total_reward == first.total_reward).all()
    assert (others.total_reward != first.total_reward).any()
    evaluate(agent, Trial(PaysTheTask(3), 3), 5, key)
    assert len(traced) > compiled


def test_an_agent_that_cannot_be_hashed_plays():
    class Unhashable:
        __hash__ = None

        def __call__(self, key, state, trial_obs):
            return state, jnp.int32(0), ()

    agent = Agent(lambda key: (), Unhashable())
    assert evaluate(agent, Trial(PaysTheTask(2), 3), 5, evaluation_key(0)).total_reward.shape == (5,)
    assert play_tasks(agent, Trial(PaysTheTask(2), 3), 5, evaluation_key(0)).trajectory.reward.shape == (3, 5)


# --- Trials that end early.


@dataclass(frozen=True)
class ShortCorridor(Corridor):
    """The same tasks, declared as ones whose trials end early."""

    ends_early = True


def corridor_agent():
    """Learns where the goal is: its memory must be new in every trial; wanders as long as it does not know."""

    def step(key, side, trial_obs):
        found = (trial_obs.prev_done > 0) & (trial_obs.prev_reward > 0)
        side = jnp.where(found, trial_obs.prev_action, side)
        action = jnp.where(side < 0, jax.random.bernoulli(key).astype(jnp.int32), side)
        return side, action, ()

    return Agent(lambda key: jnp.int32(-1), step)


@pytest.mark.parametrize(("num_tasks", "batch_tasks"), [(1, None), (50, None), (1100, None), (1100, 7), (200, 1000)])
def test_trials_that_end_early_are_the_same_one_after_another(num_tasks, batch_tasks):
    """Tasks, randomness, and the reward at each step: as if each trial were played to the last step it may have."""
    side_by_side, in_lanes = (
        evaluate(corridor_agent(), Trial(env, 3), num_tasks, evaluation_key(0), batch_tasks=batch_tasks)
        for env in (Corridor(), ShortCorridor())
    )
    assert len(in_lanes.total_reward) == num_tasks
    np.testing.assert_allclose(in_lanes.total_reward, side_by_side.total_reward, rtol=0, atol=1e-6)
    np.testing.assert_allclose(in_lanes.reward_curve, side_by_side.reward_curve, rtol=0, atol=1e-6)


def test_a_trial_in_a_queue_is_cut_where_one_of_its_own_is():
    """Where a task's own time limit, 6 steps, is longer than the distribution says."""
    scores = [
        evaluate(corridor_agent(), Trial(env, 3), 200, evaluation_key(0))
        for env in (Corridor(episode_length=3), ShortCorridor(episode_length=3))
    ]
    for one, other in zip(*([s.total_reward, s.reward_curve] for s in scores), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_what_is_over_is_not_played_on():
    """Trials that are given 200 steps and take at most 6."""
    steps = []

    def wander(key, state, trial_obs):
        action = jax.random.bernoulli(key).astype(jnp.int32)
        jax.debug.callback(lambda _: steps.append(1), action)  # once for each trial that is played on
        return state, action, ()

    def steps_in(env):
        steps.clear()
        evaluate(Agent(lambda key: (), wander), Trial(env, 1), 64, evaluation_key(0), batch_tasks=4)
        jax.effects_barrier()
        return len(steps)

    assert steps_in(Corridor(episode_length=200)) == 64 * 200
    assert steps_in(ShortCorridor(episode_length=200)) < 0.25 * 64 * 200


def test_a_statistic_sees_whole_trials_that_end_early():
    trial = Trial(ShortCorridor(), 3)
    seen = evaluate(
        corridor_agent(), trial, 50, evaluation_key(0), statistic=lambda trajectory, params: trajectory.mask.sum()
    )
    played = play_tasks(corridor_agent(), trial, 50, evaluation_key(0))
    np.testing.assert_allclose(seen.statistic, played.trajectory.mask.sum(axis=0).mean())
    assert seen.statistic < trial.num_steps


def test_progress_of_trials_that_end_early():
    told = []
    evaluate(corridor_agent(), Trial(ShortCorridor(), 3), 100, evaluation_key(0), batch_tasks=2, progress=told.append)
    assert told == [32, 64, 96, 100]
