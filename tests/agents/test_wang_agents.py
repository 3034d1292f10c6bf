"""Reference agents of the tasks of Wang et al.: optima against dynamic programming, learners against equations."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents import dependent, grid, reference_agents, restless, two_step
from rl2jax.agents.harlow import HARLOW_AGENTS
from rl2jax.envs import (
    DependentBandit,
    GridNavigation,
    Harlow,
    InformativeBandit,
    RestlessBandit,
    TwoStep,
)
from rl2jax.limits.dependent import dependent_value
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

pytestmark = pytest.mark.usefixtures("strict_ranks")

ALL = [DependentBandit(), InformativeBandit(), RestlessBandit(9), TwoStep(4), Harlow(3), GridNavigation("open", 3, 9)]


def totals(env, agent, num_tasks, num_episodes=1, seed=0):
    """Expected reward of a trial, summed, on fresh tasks; numpy [num_tasks]."""

    @jax.jit
    @jax.vmap
    def one(key):
        key_task, key_rollout = jax.random.split(key)
        return rollout(key_rollout, agent, Trial(env, num_episodes), env.sample_params(key_task)).expected_reward.sum()

    return np.asarray(one(jax.random.split(jax.random.key(seed), num_tasks)))


def states(agent, history, obs=0, privileged=()):
    """What an agent's `step` returns after [(action, reward), ...] from its first step on: [(state, action), ...]."""
    key, found = jax.random.key(0), []
    state = agent.init(key)
    for i, (action, reward) in enumerate([(0, 0.0), *history]):
        seen = TrialObservation(obs, jnp.int32(action), jnp.float32(reward), jnp.float32(0), privileged)
        state, chosen, _ = agent.step(jax.random.fold_in(key, i), state, seen)
        found.append((state, int(chosen)))
    return found


@pytest.mark.parametrize("env", ALL, ids=lambda env: type(env).__name__)
def test_every_reference_agent_plays(env):
    """Those of a kind of task, all of them, with the first of their settings; agents of other tasks are not offered."""
    agents = reference_agents(env)
    assert "random" in agents
    assert len(agents) >= 3
    if isinstance(env, DependentBandit):  # the others play in test_bandit_agents.py
        agents = {"bayes_optimal": agents["bayes_optimal"]}
    key = jax.random.key(0)
    params = env.sample_params(key)
    for spec in agents.values():
        agent = spec.make(env, 1, **spec.fixed, **spec.grid[-1])
        _, trial_obs = Trial(env, 1).reset(key, params)
        agent_state, action, _ = jax.eval_shape(agent.step, key, jax.eval_shape(agent.init, key), trial_obs)
        same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), agent_state, agent.init(key))
        assert all(jax.tree.leaves(same))
        assert (action.shape, action.dtype) == ((), jnp.int32)


# --- Dependent arms.


def value_by_search(env, num_pulls):
    """The best agent's value by dynamic programming over counts of each arm, both arms tried at every pull."""
    better = None if env.better_percent is None else env.better_percent / 100
    grid_p = (np.arange(4000) + 0.5) / 4000 if better is None else np.array([better, 1 - better])

    @cache
    def value(wins_first, losses_first, wins_second, losses_second):
        seen = wins_first + losses_first + wins_second + losses_second
        if seen == num_pulls:
            return 0.0
        weight = grid_p ** (wins_first + losses_second) * (1 - grid_p) ** (losses_first + wins_second)
        if weight.sum() == 0.0:  # cannot come about
            return 0.0
        mean = float((weight * grid_p).sum() / weight.sum())
        first = mean * (1 + value(wins_first + 1, losses_first, wins_second, losses_second))
        first += (1 - mean) * value(wins_first, losses_first + 1, wins_second, losses_second)
        second = (1 - mean) * (1 + value(wins_first, losses_first, wins_second + 1, losses_second))
        second += mean * value(wins_first, losses_first, wins_second, losses_second + 1)
        return max(first, second)

    return value(0, 0, 0, 0)


@pytest.mark.parametrize("percent", [None, 90, 60, 100])
def test_the_greater_posterior_mean_is_optimal_for_dependent_arms(percent):
    """The closed form against a search over all policies."""
    env = DependentBandit(percent)
    for num_pulls in (1, 2, 6):
        np.testing.assert_allclose(dependent_value(env, num_pulls), value_by_search(env, num_pulls), rtol=1e-5)


@pytest.mark.parametrize("percent", [None, 75, 100])
def test_the_dependent_agent_reaches_the_limit(percent):
    env = DependentBandit(percent)
    found = totals(env, dependent.bayes_optimal(env, 20), 2000, num_episodes=20)
    assert abs(found.mean() - dependent_value(env, 20)) < 4 * found.std() / np.sqrt(2000) + 1e-4


def test_limits_of_the_papers_bandits():
    """Regret of the best agent. With p1 = q or 1 - q the evidence is a random walk; below 0 it points at the wrong arm.

    Up with probability q, it is at 0 for 1 / (2 q - 1) steps on average and below for (1 - q) / (2 q - 1)^2; a wrong
    arm costs 2 q - 1, at 0 half of the time.
    """
    for percent, num_pulls in ((90, 100), (75, 300), (60, 3000)):
        q = percent / 100
        regret = q * num_pulls - dependent_value(DependentBandit(percent), num_pulls)
        np.testing.assert_allclose(regret, 0.5 + (1 - q) / (2 * q - 1), rtol=1e-4)
    np.testing.assert_allclose(75 - dependent_value(DependentBandit(), 100), 1.2214, atol=1e-4)
    with pytest.raises(ValueError, match=r"num_pulls must be .*got 0"):
        dependent_value(DependentBandit(), 0)


# --- The informative arm.


def informative_value(num_targets, num_pulls):
    """By dynamic programming over what can be the target and what is left."""

    @cache
    def value(possible, left):
        if left == 0:
            return 0.0
        if len(possible) == 1:
            return 5.0 * left
        share = 1 / len(possible)
        told = sum(share * ((target + 1) / num_targets + value((target,), left - 1)) for target in possible)
        tried = [
            share * (5 + value((target,), left - 1))
            + (1 - share) * (1 + value(tuple(t for t in possible if t != target), left - 1))
            for target in possible
        ]
        return max(told, *tried)

    return value(tuple(range(num_targets)), num_pulls)


@pytest.mark.parametrize(("num_targets", "num_pulls"), [(10, 5), (10, 1), (5, 3), (4, 2)])
def test_asking_first_is_optimal(num_targets, num_pulls):
    """0.55 and then 5 four times: 20.55 in the paper's task."""
    env = InformativeBandit(num_targets, num_pulls)
    expected = informative_value(num_targets, num_pulls)
    agent = dependent.informed(env, 1)

    @jax.jit
    @jax.vmap
    def one(target):
        return rollout(jax.random.key(0), agent, Trial(env, 1), env.params_of(target)).reward.sum()

    np.testing.assert_allclose(one(jnp.arange(num_targets)).mean(), expected, rtol=1e-6)
    if (num_targets, num_pulls) == (10, 5):
        np.testing.assert_allclose(expected, 20.55)


def test_searching_costs_half_of_it():
    """Any arm not yet ruled out: found at pull 1 to 5 with a tenth each, else never: 11 on average."""
    env = InformativeBandit()
    found = totals(env, dependent.search(env, 1), 3000)
    assert abs(found.mean() - 11.0) < 4 * found.std() / np.sqrt(3000)
    # UCB tries five different arms, on average those of all eleven.
    found = totals(env, dependent.ucb(env, 1), 3000)
    assert abs(found.mean() - 5 * (5 + 9 + 0.55) / 11) < 4 * found.std() / np.sqrt(3000)


# --- Restless bandits.

HISTORY = [(0, 1.0), (1, 1.0), (0, 0.0), (0, 1.0)]


def test_rescorla_wagner_by_hand():
    found = states(restless.rescorla_wagner(RestlessBandit(), 1, learning_rate=0.4), HISTORY)
    values = np.array([0.5, 0.5])
    for (state, _), pull in zip(found, [None, *HISTORY], strict=True):
        if pull is not None:
            values[pull[0]] += 0.4 * (pull[1] - values[pull[0]])
        np.testing.assert_allclose(state.estimate, values, rtol=1e-6)
    assert found[1][1] == 0
    assert found[2][1] in (0, 1)  # both paid once
    assert found[3][1] == 1


def test_pearce_hall_by_hand():
    found = states(restless.pearce_hall(RestlessBandit(), 1, surprise_weight=0.2, scaling=0.8), HISTORY)
    values, rate = np.array([0.5, 0.5]), 0.5
    for arm, reward in HISTORY:
        error = reward - values[arm]
        values[arm] += 0.8 * rate * error
        rate = 0.8 * rate + 0.2 * abs(error)
    np.testing.assert_allclose(found[-1][0].estimate.values, values, rtol=1e-6)
    np.testing.assert_allclose(found[-1][0].estimate.rate, rate, rtol=1e-6)


def test_kalman_gain_settles():
    """At the positive root of P^2 = s^2 (P + 1/4): the gain of a fixed learning rate."""
    found = states(restless.kalman(RestlessBandit(), 1, volatility=0.1), HISTORY * 20)
    square = 0.1**2
    variance = (square + np.sqrt(square**2 + square)) / 2
    np.testing.assert_allclose(found[-1][0].estimate.variance, variance, rtol=1e-4)
    # The first pull: gain (1/12) / (1/12 + 1/4) = 1/4.
    np.testing.assert_allclose(found[1][0].estimate.mean, 0.5 + 0.25 * 0.5, rtol=1e-6)


def test_discounted_ucb_by_hand():
    found = states(restless.discounted_ucb(RestlessBandit(), 1, discount=0.5, scaling=0.0), HISTORY)
    counts = found[-1][0].estimate
    np.testing.assert_allclose(counts.pulls, [0.125 + 0.5 + 1, 0.25], rtol=1e-6)
    np.testing.assert_allclose(counts.successes, [0.125 + 1, 0.25], rtol=1e-6)
    assert found[1][1] == 1  # never pulled
    assert found[-1][1] == 1  # 1 against 9 / 13


@pytest.mark.parametrize(
    "env",
    [
        RestlessBandit(6, jump=True, better_percent=80, low_percent=5, high_percent=30),
        RestlessBandit(6, jump=True, better_percent=80, low_percent=5, high_percent=30, block_length=2),
    ],
)
def test_the_filter_is_bayes_rule(env):
    """Against the sum over all paths and both volatilities."""
    history = [(0, 1.0), (1, 1.0), (1, 0.0), (0, 0.0), (0, 1.0)]
    found = states(restless.bayes_filter(env, 1), history)
    for seen in range(6):
        joint = np.zeros(2)  # of p1 at this pull being low or high
        for starts_high in (False, True):
            is_high = np.full(6, starts_high)
            if env.block_length is not None:
                is_high ^= np.arange(6) // env.block_length % 2 == 1
            hazard = np.where(is_high, 0.3, 0.05)
            for path in np.ndindex(*(2,) * (seen + 1)):
                p = np.array([0.2, 0.8])[list(path)]
                weight = 0.25
                for t in range(1, seen + 1):
                    weight *= hazard[t] if path[t] != path[t - 1] else 1 - hazard[t]
                for t, (arm, reward) in enumerate(history[:seen]):
                    mean = p[t] if arm == 0 else 1 - p[t]
                    weight *= mean if reward else 1 - mean
                joint[path[-1]] += weight
        np.testing.assert_allclose(found[seen][0].estimate.sum(axis=0), joint / joint.sum(), rtol=1e-4)


def test_the_filter_takes_a_second_episode_for_a_new_one():
    """Whose blocks begin anew, though the trial's time is no multiple of them."""
    env = RestlessBandit(5, jump=True, better_percent=80, low_percent=5, high_percent=30, block_length=2)
    history = [(0, 1.0), (1, 1.0), (1, 0.0), (0, 0.0), (0, 1.0)]
    found = states(restless.bayes_filter(env, 2), history + history)
    for first, second in zip(found[:5], found[5:10], strict=True):
        np.testing.assert_array_equal(first[0].estimate, second[0].estimate)


@pytest.mark.parametrize("settings", [{}, {"jump": True}, {"jump": True, "better_percent": 75}])
def test_the_filters_model_is_the_tasks(settings):
    """Rows are distributions, uniform p1 stays uniform, and one step of the walk has the volatility's spread."""
    env = RestlessBandit(low_percent=0, high_percent=15, **settings)
    support, kernels = restless.filter_model(env)
    np.testing.assert_allclose(kernels.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(kernels.sum(1), 1.0, rtol=1e-2)
    np.testing.assert_allclose(kernels[0], np.eye(len(support)), atol=1e-6)
    if not settings:
        spread = np.sqrt(kernels[1][50] @ (support - support[50]) ** 2)
        np.testing.assert_allclose(spread, 0.15, rtol=0.01)


@pytest.mark.slow
def test_who_knows_more_earns_more():
    """On the default bandits: the filter, one volatility for all, any arm."""
    env = RestlessBandit()
    agents = (restless.bayes_filter(env, 1), restless.kalman(env, 1), restless.kalman(env, 1, thompson=True))
    best, fixed, thompson = (totals(env, agent, 500).mean() for agent in agents)
    assert best > fixed > thompson > 60  # paired: the same tasks


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda env: restless.rescorla_wagner(env, 1, learning_rate=1.5), "learning_rate must be .*got 1.5"),
        (lambda env: restless.rescorla_wagner(env, 1, inverse_temperature=-1.0), "inverse_temperature"),
        (lambda env: restless.pearce_hall(env, 1, surprise_weight=2.0), "surprise_weight"),
        (lambda env: restless.kalman(env, 1, volatility=-0.1), "volatility"),
        (lambda env: restless.discounted_ucb(env, 1, discount=1.1), "discount"),
        (lambda env: two_step.hybrid(TwoStep(), 1, model_weight=2.0), "model_weight"),
        (lambda env: two_step.model_free(TwoStep(), 1, trace=-1.0), "trace"),
    ],
)
def test_bad_settings_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make(RestlessBandit())


# --- Two-step task.


def decide(agent, decisions):
    """The estimate after [(choice, second state, reward), ...]."""
    key = jax.random.key(0)
    state, steps = agent.init(key), [(0, 0, 0.0)]
    for choice, second, reward in decisions:
        steps += [(second, choice, 0.0), (0, 0, reward)]
    for obs, action, reward in steps:
        seen = TrialObservation(jnp.int32(obs), jnp.int32(action), jnp.float32(reward), jnp.float32(0))
        state, _, _ = agent.step(key, state, seen)
    return state.estimate


DECISIONS = [(0, 1, 1.0), (1, 1, 0.0), (0, 2, 1.0)]


@pytest.mark.parametrize("trace", [0.0, 0.6, 1.0])
def test_two_step_values_by_hand(trace):
    values = decide(two_step.hybrid(TwoStep(), 1, learning_rate=0.3, trace=trace), DECISIONS)
    first, second = np.full(2, 0.5), np.full(2, 0.5)
    for choice, state, reward in DECISIONS:
        surprise = reward - second[state - 1]
        first[choice] += 0.3 * (second[state - 1] - first[choice] + trace * surprise)
        second[state - 1] += 0.3 * surprise
    np.testing.assert_allclose(values.first, first, rtol=1e-6)
    np.testing.assert_allclose(values.second, second, rtol=1e-6)


def test_two_step_belief_by_hand():
    """Odds 9 for A, then 1/9, then 1/9, each followed by a switch with 10 percent."""
    belief = decide(two_step.bayes_optimal(TwoStep(switch_permille=100), 1), DECISIONS)
    expected = 0.5
    for odds in (9.0, 1 / 9, 1 / 9):
        posterior = expected * odds / (expected * odds + 1 - expected)
        expected = 0.9 * posterior + 0.1 * (1 - posterior)
    np.testing.assert_allclose(belief, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fixation", [False, True])
def test_two_step_agents_are_ordered(fixation):
    """The optimum beats the model-based learner, that the model-free one, all of them a coin; 100 decisions."""
    env = TwoStep(common_percent=80, switch_permille=25, fixation=fixation)
    best, model, free = (
        totals(env, make(env, 1), 300).mean()
        for make in (two_step.bayes_optimal, two_step.model_based, two_step.model_free)
    )
    assert best > model + 2 > free + 3 > 53


@pytest.mark.slow
def test_two_step_optimum_without_switch_reaches_nearly_what_is_there():
    """Common 3/4 of 0.9 and 1/4 of 0.1 is 0.7 a decision; finding out costs less than one reward."""
    env = TwoStep()
    found = totals(env, two_step.bayes_optimal(env, 1), 1000)
    assert 69 < found.mean() < 70


# --- Harlow, grid.


@pytest.mark.parametrize("observation", ["vector", "image"])
def test_one_shot_is_what_harlow_saw(observation):
    """0.2 for each fixation, 0 on average for the first choice, 1 for each other: 2 + 9 in ten."""
    env = Harlow(observation=observation, num_fixations=2)
    found = totals(env, HARLOW_AGENTS["one_shot"].make(env, 1), 300 if observation == "vector" else 40)
    np.testing.assert_allclose(np.unique(found), [10.0, 12.0], rtol=1e-5)
    if observation == "vector":
        assert abs(found.mean() - 11.0) < 4 / np.sqrt(300)


def test_grid_distances():
    """In the open they are of the taxicab; in the I-maze from end to opposite end twice the side less two."""
    field, maze = GridNavigation("open", 5), GridNavigation("i-maze", 7)
    taxicab = np.abs(field.cells[:, None] - field.cells[None]).sum(-1)
    np.testing.assert_array_equal(grid.distances(field), taxicab)
    between = grid.distances(maze)[np.ix_(maze.goals, maze.goals)]
    np.testing.assert_array_equal(between[0], [0, 6, 12, 12])
    np.testing.assert_array_equal(grid.distances(maze), grid.distances(maze).T)


@pytest.mark.slow
@pytest.mark.parametrize("env", [GridNavigation(), GridNavigation("open", 4, view_radius=1)])
def test_grid_agents_are_ordered(env):
    agents = (grid.shortest_path, grid.explorer)
    knows, explores = (totals(env, agent(env, 1), 200) for agent in agents)
    assert knows.mean() > explores.mean() > 0.8 * knows.mean()
    # Of each goal the mean distance from anywhere else says how many visits 200 steps hold, up to the last one.
    far = grid.distances(env)[:, env.goals].sum(axis=0) / (len(env.cells) - 1)
    assert abs(knows.mean() - (env.episode_length / far).mean()) < 4 * knows.std() / np.sqrt(200) + 0.5
