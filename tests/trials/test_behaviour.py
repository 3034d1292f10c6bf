"""Analyses of behaviour: by hand where that is possible, else on agents whose answer is known."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents import bandit, grid, harlow, restless, two_step
from rl2jax.envs import BanditParams, BernoulliBandit, GridNavigation, Harlow, RestlessBandit, RestlessParams, TwoStep
from rl2jax.trials.behaviour.learning import by_steps_since, harlow_accuracy, steps_to_goal
from rl2jax.trials.behaviour.logistic import logistic_regression
from rl2jax.trials.behaviour.regret import best_means, cumulative_regret, suboptimal_pulls
from rl2jax.trials.behaviour.rescorla_wagner import fit_rescorla_wagner, log_likelihood
from rl2jax.trials.behaviour.two_step import (
    Decisions,
    decisions_of,
    lagged_regression,
    stay_probabilities,
    stay_regression,
)
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import Trajectory, TrialObservation

pytestmark = pytest.mark.usefixtures("strict_ranks")


def play(env, agent, num_trials, num_episodes=1, seed=0):
    """Trajectories, time-major as the learner has them, and tasks."""

    @jax.jit
    @functools.partial(jax.vmap, out_axes=(1, 0))
    def one(key):
        key_task, key_rollout = jax.random.split(key)
        params = env.sample_params(key_task)
        return rollout(key_rollout, agent, Trial(env, num_episodes), params)._replace(task_features=()), params

    return one(jax.random.split(jax.random.key(seed), num_trials))


def statistic(env, agent, num_trials, measure, num_episodes=1, seed=0):
    """The mean of a statistic over trials."""

    @jax.jit
    @jax.vmap
    def one(key):
        key_task, key_rollout = jax.random.split(key)
        params = env.sample_params(key_task)
        return measure(rollout(key_rollout, agent, Trial(env, num_episodes), params), params)

    return jax.tree.map(lambda x: x.mean(0), one(jax.random.split(jax.random.key(seed), num_trials)))


def trajectory_of(action, reward, expected=None, obs=None, privileged=()):
    action, reward = jnp.asarray(action), jnp.asarray(reward, jnp.float32)
    obs = jnp.zeros_like(reward) if obs is None else jnp.asarray(obs)
    seen = TrialObservation(obs, action, reward, jnp.zeros_like(reward), privileged)
    expected = reward if expected is None else jnp.asarray(expected)
    return Trajectory(seen, action, reward, jnp.zeros_like(reward), jnp.ones_like(reward), expected, (), ())


# --- Regret.


def test_regret_by_hand():
    params = BanditParams(probs=jnp.array([0.2, 0.7, 0.7]))
    trajectory = trajectory_of([0, 1, 0, 2], [0, 0, 1, 1], [0.2, 0.7, 0.2, 0.7])
    np.testing.assert_allclose(cumulative_regret(trajectory, params), [0.5, 0.5, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(suboptimal_pulls(trajectory, params), [1, 1, 2, 2])
    masked = trajectory._replace(mask=jnp.array([1.0, 1, 0, 0]))
    np.testing.assert_allclose(cumulative_regret(masked, params), [0.5] * 4, rtol=1e-6)


def test_the_best_arm_of_a_restless_bandit_changes_and_comes_again_with_its_episode():
    means = jnp.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    params = RestlessParams(arm_means=means, is_high=jnp.zeros(3, bool), max_steps_in_episode=3)
    np.testing.assert_allclose(best_means(params, 5), [0.9, 0.6, 0.7, 0.9, 0.6])


@pytest.mark.parametrize(
    ("name", "settings", "regret"),
    [("thompson", {}, 2.78), ("ucb1", {"scaling": 1.0}, 5.45), ("gittins", {}, 1.75)],
)
def test_regret_of_known_agents_on_two_independent_arms(name, settings, regret):
    """The spec's numbers for 100 pulls, within 4 standard errors of 2000 tasks (a task's spread is about 3)."""
    env = BernoulliBandit(2)
    agent = getattr(bandit, name)(env, 100, **settings)
    curve = np.asarray(statistic(env, agent, 2000, cumulative_regret, num_episodes=100))
    assert abs(curve[-1] - regret) < 4 * 3.0 / np.sqrt(2000)
    assert (np.diff(curve) > -1e-5).all()


# --- Logistic regression.


def test_logistic_regression_of_a_constant_is_the_log_odds():
    """p = 3/4 of n = 400: log 3, with standard error 1 / sqrt(n p (1 - p))."""
    fit = logistic_regression(np.ones((400, 1)), np.arange(400) < 300, ridge=1e-9)
    np.testing.assert_allclose(fit.coefficients, [np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(fit.standard_errors, [1 / np.sqrt(400 * 0.75 * 0.25)], rtol=1e-6)
    np.testing.assert_allclose(fit.log_likelihood, 300 * np.log(0.75) + 100 * np.log(0.25), rtol=1e-9)


@hypothesis.given(st.integers(0, 1000))
def test_logistic_regression_is_at_the_top(seed):
    """The gradient of the penalised likelihood vanishes."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 3)), rng.random(60) < 0.5
    fit = logistic_regression(x, y, ridge=0.1)
    p = 1 / (1 + np.exp(-x @ fit.coefficients))
    np.testing.assert_allclose(x.T @ (y - p), 0.1 * fit.coefficients, atol=1e-6)


def test_logistic_regression_stays_finite_where_outcomes_are_told_apart():
    x = np.stack([np.ones(50), np.linspace(-1, 1, 50)], axis=1)
    fit = logistic_regression(x, x[:, 1] > 0)
    assert np.isfinite(fit.coefficients).all()
    assert fit.coefficients[1] > 10


@pytest.mark.parametrize(
    ("x", "y", "ridge", "field"),
    [
        (np.ones(3), np.ones(3), 1.0, "shape of regressors"),
        (np.ones((3, 1)), np.ones(4), 1.0, "shape of outcomes"),
        (np.ones((3, 1)), np.ones(3), 0.0, "ridge"),
    ],
)
def test_logistic_regression_names_what_is_wrong(x, y, ridge, field):
    with pytest.raises(ValueError, match=field):
        logistic_regression(x, y, ridge)


# --- Two-step task.


def test_decisions_by_hand():
    """(left, A, 1), (right, A, 0), (right, B, 1): common, uncommon, common; the fourth has no outcome yet."""
    obs, action, reward = [0, 1, 0, 1, 0, 2, 0], [0, 1, 1, 0, 1, 0, 0], [0, 1, 0, 0, 0, 1, 0]
    decisions = decisions_of(trajectory_of(action, reward, obs=obs))
    np.testing.assert_array_equal(decisions.complete, [[True, True, True, False]])
    np.testing.assert_array_equal(decisions.choice[0], [0, 1, 1, 0])
    np.testing.assert_array_equal(decisions.second[0, :3], [0, 0, 1])
    np.testing.assert_array_equal(decisions.outcome[0, :3], [0, 3, 0])
    stay = stay_probabilities(decisions)
    np.testing.assert_array_equal(stay.num_decisions, [1, 0, 0, 1])
    np.testing.assert_array_equal(stay.mean, [0.0, np.nan, np.nan, 1.0])
    assert np.isnan(stay.standard_error).all()


def test_decisions_leave_invalid_actions_out():
    """At the cue anything but its answer, elsewhere the cue's answer: shown again, and no decision."""
    obs, action = [3, 3, 0, 0, 2, 2, 3], [0, 2, 2, 1, 2, 1, 2]
    reward = [-1, 0, -1, 0, -1, 1, 0]
    decisions = decisions_of(trajectory_of(action, reward, obs=obs))
    np.testing.assert_array_equal(decisions.complete, [[True]])
    assert (decisions.choice[0, 0], decisions.second[0, 0], decisions.rewarded[0, 0]) == (1, 1, True)


def test_decisions_of_an_agent_are_those_of_its_trial():
    """With fixation as without: as many as there are, common as often as the task says."""
    for env in (TwoStep(50), TwoStep(50, common_percent=80, fixation=True)):
        decisions = decisions_of(play(env, two_step.model_free(env, 1), 40)[0])
        assert decisions.complete.shape == (40, 50)
        assert decisions.complete.all()
        share = env.common_percent / 100
        assert abs(decisions.common.mean() - share) < 4 * np.sqrt(share * (1 - share) / 2000)


@functools.cache
def two_step_decisions(name, better_percent):
    env = TwoStep(100, common_percent=75, switch_permille=25, better_percent=better_percent)
    settings = {} if name == "bayes_optimal" else {"inverse_temperature": 3.0}
    return decisions_of(play(env, getattr(two_step, name)(env, 1, **settings), 200)[0])


def test_a_model_free_agent_repeats_what_was_rewarded():
    """With nothing to learn no choice is better, and the analysis sees credit alone: a main effect of reward."""
    decisions = two_step_decisions("model_free", 50)
    stay, fit = stay_probabilities(decisions), stay_regression(decisions)
    assert stay.reward_effect > 0.2
    assert abs(stay.interaction) < 4 * np.sqrt(np.sum(stay.standard_error**2))
    assert fit.coefficients[1] > 10 * fit.standard_errors[1]
    assert abs(fit.coefficients[3]) < 4 * fit.standard_errors[3]


def test_a_model_based_agent_asks_where_the_reward_was():
    decisions = two_step_decisions("model_based", 50)
    stay, fit = stay_probabilities(decisions), stay_regression(decisions)
    assert stay.interaction > 0.2
    assert abs(stay.reward_effect) < 4 * np.sqrt(np.sum(stay.standard_error**2)) / 2
    assert fit.coefficients[3] > 10 * fit.standard_errors[3]
    assert abs(fit.coefficients[1]) < 4 * fit.standard_errors[1]


def test_in_the_papers_task_a_model_shows_in_the_lagged_regression():
    """Where one state is better for long, the index of each agent is by far the greater for what it is."""
    model_free = lagged_regression(two_step_decisions("model_free", 90))
    model_based = lagged_regression(two_step_decisions("model_based", 90))
    optimal = lagged_regression(two_step_decisions("bayes_optimal", 90))
    assert model_free.model_free > 3 * abs(model_free.model_based)
    assert model_based.model_based > 3 * abs(model_based.model_free)
    assert optimal.model_based > 3 * abs(optimal.model_free)
    assert stay_probabilities(two_step_decisions("bayes_optimal", 90)).interaction > 0.2


def test_lagged_regression_finds_the_lag():
    """Choices that repeat those of two decisions ago, three times in four."""
    rng = np.random.default_rng(0)
    choice = rng.integers(0, 2, (300, 40))
    for t in range(2, 40):
        choice[:, t] = np.where(rng.random(300) < 0.75, choice[:, t - 2], 1 - choice[:, t - 2])
    second = np.where(rng.random(choice.shape) < 0.75, choice, 1 - choice)
    decisions = Decisions(choice, second, rng.random(choice.shape) < 0.5, np.ones(choice.shape, bool))
    fit = lagged_regression(decisions, 3)
    expected = np.zeros((3, 4))
    expected[1] = np.log(3)
    assert (np.abs(fit.coefficients - expected) < 4 * fit.standard_errors).all()
    with pytest.raises(ValueError, match="more than num_lags, 40"):
        lagged_regression(decisions, 40)


# --- Learning rates.


def test_likelihood_by_hand():
    """Values 1/2, 1/2; arm 0 pays: 3/4, 1/2 at a rate of 1/2."""
    p = 1 / (1 + np.exp(-2.0 * 0.25))
    found = log_likelihood(np.array([[0, 0]]), np.array([[1.0, 0.0]]), 0.5, 2.0)
    np.testing.assert_allclose(found, np.log(0.5) + np.log(p))
    with_lapse = log_likelihood(np.array([[0, 0]]), np.array([[1.0, 0.0]]), 0.5, 2.0, 0.2)
    np.testing.assert_allclose(with_lapse, np.log(0.5) + np.log(0.8 * p + 0.1))


@pytest.mark.parametrize(("learning_rate", "inverse_temperature"), [(0.1, 6.0), (0.3, 4.0), (0.7, 3.0)])
def test_fits_recover_the_learning_rate(learning_rate, inverse_temperature):
    env = RestlessBandit()
    settings = {"learning_rate": learning_rate, "inverse_temperature": inverse_temperature}
    trajectory, _ = play(env, restless.rescorla_wagner(env, 1, **settings), 100)
    fit = fit_rescorla_wagner(trajectory.action.T, trajectory.reward.T)
    assert abs(fit.learning_rate - learning_rate) < 0.05
    assert abs(fit.inverse_temperature - inverse_temperature) < 0.1 * inverse_temperature
    fixed = fit_rescorla_wagner(trajectory.action.T, trajectory.reward.T, "b")
    assert fit.bic < fixed.bic
    assert fit.log_likelihood >= fixed.log_likelihood


def test_the_optimum_learns_faster_where_the_volatility_is_high():
    """What figure 4 asks of a trained agent, of the best that there is."""
    env = RestlessBandit(jump=True, better_percent=80, low_percent=1, high_percent=20)
    trajectory, params = play(env, restless.bayes_filter(env, 1), 200)
    action, reward, high = (np.asarray(x) for x in (trajectory.action.T, trajectory.reward.T, params.is_high[:, 0]))
    slow, fast = (fit_rescorla_wagner(action[these], reward[these], "abe") for these in (~high, high))
    assert fast.learning_rate > slow.learning_rate + 0.1


@pytest.mark.parametrize(
    ("action", "reward", "model", "field"),
    [([0, 1], [1, 0], "a", "model"), ([0, 1], [1], "ab", "shape"), ([0, 2], [1, 0], "ab", "action")],
)
def test_fits_name_what_is_wrong(action, reward, model, field):
    with pytest.raises(ValueError, match=field):
        fit_rescorla_wagner(np.array(action), np.array(reward), model)


# --- How soon an agent knows.


@pytest.mark.parametrize(("name", "later"), [("one_shot", 1.0), ("side", 0.5)])
def test_harlow_accuracy_by_choice(name, later):
    """A guess, then certainty; or guesses for ever."""
    env = Harlow(6)
    agent = getattr(harlow, name)(env, 1)
    accuracy = np.asarray(statistic(env, agent, 300, lambda t, _: harlow_accuracy(t, 7)).mean)
    assert abs(accuracy[0] - 0.5) < 4 * 0.5 / np.sqrt(300)
    assert (np.abs(accuracy[1:6] - later) <= (0 if later == 1.0 else 4 * 0.5 / np.sqrt(300))).all()
    assert np.isnan(accuracy[6])


def test_steps_to_goal_by_hand():
    visits = steps_to_goal(trajectory_of([0] * 6, [0, 0, 1, 0, 1, 0]), 3)
    np.testing.assert_array_equal(visits.total, [3, 2, 0])
    np.testing.assert_array_equal(visits.happened, [1, 1, 0])


def test_an_explorer_is_slow_once():
    """The papers' curve: many steps to the first goal, few to any other, as many as for who knows the goal."""
    env = GridNavigation()
    explores, knows = (
        np.asarray(statistic(env, agent(env, 1), 300, lambda t, _: steps_to_goal(t, 10)).mean)
        for agent in (grid.explorer, grid.shortest_path)
    )
    assert explores[0] > 1.8 * explores[1]
    np.testing.assert_allclose(explores[1:], knows[1:], atol=0.8)


def test_by_steps_since_a_change():
    changes = jnp.array([False, True, False, False, True, False])
    found = by_steps_since(jnp.array([9.0, 1, 2, 3, 4, 5]), changes, 2)
    np.testing.assert_array_equal(found.total, [1 + 4, 2 + 5])
    np.testing.assert_array_equal(found.happened, [2, 2])
