"""Exact Bayes-optimal values and policies against brute force and closed forms."""

from functools import cache

import jax
import numpy as np
import pytest

from rl2jax import TrialObservation
from rl2jax.envs import BernoulliBandit
from rl2jax.limits import bandit_limit, bayes_optimal_agent, bayes_optimal_value, is_exact
from rl2jax.limits.bandit import _count_states, solve
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial


def action_values(counts: tuple[tuple[int, int], ...], pulls_left: int) -> list[float]:
    """Dynamic programming over ordered arms, without any use of symmetry: the value of pulling each arm."""
    values = []
    for arm, (successes, failures) in enumerate(counts):
        mean = (successes + 1) / (successes + failures + 2)
        won = (*counts[:arm], (successes + 1, failures), *counts[arm + 1 :])
        lost = (*counts[:arm], (successes, failures + 1), *counts[arm + 1 :])
        value = mean * (1 + brute_force(won, pulls_left - 1)) + (1 - mean) * brute_force(lost, pulls_left - 1)
        values.append(value)
    return values


@cache
def brute_force(counts: tuple[tuple[int, int], ...], pulls_left: int) -> float:
    return max(action_values(counts, pulls_left)) if pulls_left else 0.0


@pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 1), (2, 6), (3, 4), (4, 3)])
def test_equals_brute_force(k, n):
    assert bayes_optimal_value(k, n) == pytest.approx(brute_force(((0, 0),) * k, n), abs=1e-12)


def test_two_pulls_of_two_arms_by_hand():
    # 1/2, then the better of the same arm (2/3 after a success) and the other (1/2).
    assert bayes_optimal_value(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_arms_beyond_the_pulls_do_not_matter():
    assert bayes_optimal_value(10, 10) == bayes_optimal_value(50, 10) == pytest.approx(6.71395, abs=1e-5)


def test_k5_n10_is_the_papers_level():
    assert bayes_optimal_value(5, 10) == pytest.approx(6.65999, abs=1e-5)


def value_on_a_lattice(num_pulls: int) -> float:
    """Two arms, all four counts of a time step at once in an array: [arm 1's s, f, arm 2's s, f]."""
    axis = np.arange(num_pulls + 1)
    s1, f1, s2, f2 = np.meshgrid(axis, axis, axis, axis, indexing="ij")
    value = np.zeros((num_pulls + 2,) * 4)
    for pulls in reversed(range(num_pulls)):
        won1, lost1 = value[1:, :-1, :-1, :-1], value[:-1, 1:, :-1, :-1]
        won2, lost2 = value[:-1, :-1, 1:, :-1], value[:-1, :-1, :-1, 1:]
        mean1, mean2 = (s1 + 1) / (s1 + f1 + 2), (s2 + 1) / (s2 + f2 + 2)
        pulled = np.maximum(mean1 * (1 + won1) + (1 - mean1) * lost1, mean2 * (1 + won2) + (1 - mean2) * lost2)
        now = s1 + f1 + s2 + f2 == pulls
        value[:-1, :-1, :-1, :-1][now] = pulled[now]
    return value[0, 0, 0, 0]


def test_two_arms_for_longer():
    assert bayes_optimal_value(2, 16) == pytest.approx(value_on_a_lattice(16), abs=1e-10)


@pytest.mark.parametrize(("k", "n"), [(2, 5), (3, 6), (9, 6)])
def test_count_of_states(k, n):
    assert _count_states(k, n) == len(solve(k, n).value) - 1


@pytest.mark.parametrize(("k", "n", "exact"), [(2, 20, True), (3, 20, True), (5, 14, True), (50, 15, True)])
def test_cells_in_reach(k, n, exact):
    assert is_exact(k, n) is exact


@pytest.mark.parametrize(("k", "n"), [(50, 17), (5, 100), (50, 500), (1, 10_000)])
def test_cells_out_of_reach(k, n):
    assert not is_exact(k, n)


@pytest.mark.parametrize(("k", "n", "field", "value"), [(0, 5, "k", 0), (5, 30, "n", 30), (5, 0, "n", 0)])
def test_refuses(k, n, field, value):
    with pytest.raises(ValueError, match=rf"\({field}\) must be .*got {value}"):
        bayes_optimal_value(k, n)


@pytest.mark.parametrize(("k", "num_tasks"), [(5, 20_000), (50, 20_000)])
def test_the_policy_earns_the_value(k, num_tasks):
    env = BernoulliBandit(k)
    played = evaluate(bayes_optimal_agent(env, 10), Trial(env, 10), num_tasks, evaluation_key(0))
    assert abs(played.mean - bayes_optimal_value(k, 10)) < 3 * played.standard_error
    assert played.standard_error < 0.02


def test_the_policy_is_optimal_in_whatever_state_it_is_brought():
    """It sees another's pulls, and what it would do is best by brute force."""
    num_arms, num_pulls = 3, 5
    agent = bayes_optimal_agent(BernoulliBandit(num_arms), num_pulls)
    act = jax.jit(agent.step)
    rng = np.random.default_rng(0)
    for _ in range(30):
        state, counts = agent.init(jax.random.key(0)), [(0, 0)] * num_arms
        arm, reward = 2, 1.0  # placeholders, to be ignored
        for pulls_left in range(num_pulls, 0, -1):
            obs = TrialObservation(np.zeros(1, np.float32), np.int32(arm), np.float32(reward), np.float32(1.0))
            state, action, _ = act(jax.random.key(0), state, obs)
            values = action_values(tuple(counts), pulls_left)
            assert values[int(action)] == pytest.approx(max(values), abs=1e-9)
            arm, reward = int(rng.integers(num_arms)), float(rng.integers(2))
            counts[arm] = (counts[arm][0] + int(reward), counts[arm][1] + 1 - int(reward))


def test_the_limit_of_a_small_cell_is_exact():
    limit = bandit_limit(50, 10)
    assert limit.exact == limit.upper_bound == pytest.approx(6.713951191, abs=1e-8)
    assert limit.upper_bound_standard_error == 0.0
    assert limit.method == "dynamic programming"


def test_what_is_wrong_with_a_limits_sizes():
    with pytest.raises(ValueError, match=r"num_arms \(k\) must be .*got 0"):
        bandit_limit(0, 100)
