"""Upper bounds against exact values, by enumeration where the problem is tiny."""

import itertools
import math
from functools import cache

import numpy as np
import pytest

from rl2jax.limits import bandit_limit, bayes_optimal_value, information_bound, lagrangian_bound
from rl2jax.limits.information import Penalty, Scenarios, best_allocation, sample_scenarios
from rl2jax.limits.lagrangian import lagrangian_value

SMALL = [(2, 6), (3, 10), (5, 12)]


def every_scenario(num_arms: int, num_pulls: int) -> tuple[Scenarios, np.ndarray]:
    """All outcomes of all arms, and their probabilities under uniform arms: s! f! / (n + 1)! each."""
    sequences = itertools.product(itertools.product((0, 1), repeat=num_pulls), repeat=num_arms)
    outcomes = np.array(list(sequences), np.uint8)
    successes = outcomes.sum(axis=-1)
    factorial = np.vectorize(math.factorial)
    each = factorial(successes) * factorial(num_pulls - successes) / math.factorial(num_pulls + 1)
    before = np.cumsum(outcomes, axis=-1, dtype=np.int32) - outcomes
    cells = before + np.arange(num_pulls, dtype=np.int32) * num_pulls
    return Scenarios(np.zeros(outcomes.shape[:2]), outcomes, cells), each.prod(axis=1)


@pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 3), (2, 4), (3, 3)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_penalty_bounds_the_optimum(k, n, seed):
    scenarios, chances = every_scenario(k, n)
    assert chances.sum() == pytest.approx(1.0)
    penalty = Penalty(n)
    weights = np.random.default_rng(seed).normal(-0.5, 1.0, penalty.shape)
    values, _ = best_allocation(penalty.gains(weights, scenarios))
    assert values @ chances >= bayes_optimal_value(k, n) - 1e-6


def test_penalties_cost_nothing_without_foresight():
    """A policy of the past alone earns the same, penalised by random weights or not: every outcome is enumerated."""
    num_arms, num_pulls = 2, 5
    scenarios, chances = every_scenario(num_arms, num_pulls)
    penalty = Penalty(num_pulls)
    gains = penalty.gains(np.random.default_rng(0).normal(size=penalty.shape), scenarios)
    penalised = np.diff(gains, axis=0)  # [pull of the arm, arm, scenario]
    paid = earned = 0.0
    for i, chance in enumerate(chances):
        pulls, wins = [0] * num_arms, [0] * num_arms
        for _ in range(num_pulls):
            arm = max(range(num_arms), key=lambda a: (wins[a] + 1) / (pulls[a] + 2))
            paid += chance * penalised[pulls[arm], arm, i]
            earned += chance * scenarios.outcomes[i, arm, pulls[arm]]
            wins[arm] += scenarios.outcomes[i, arm, pulls[arm]]
            pulls[arm] += 1
    assert paid == pytest.approx(earned, abs=1e-5)


@pytest.mark.parametrize(("k", "n"), [(1, 3), (3, 5), (4, 3)])
def test_inner_problem_equals_enumeration(k, n):
    gains = np.random.default_rng(0).normal(size=(n + 1, k, 20))
    gains[0] = 0.0
    allowed = [
        counts
        for counts in itertools.product(range(n + 1), repeat=k)
        if sum(counts) == n and all(later == 0 or earlier > 0 for earlier, later in itertools.pairwise(counts))
    ]
    worth = np.array([sum(gains[m, arm] for arm, m in enumerate(counts)) for counts in allowed])
    values, allocation = best_allocation(gains)
    np.testing.assert_allclose(values, worth.max(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(allocation, np.array(allowed)[worth.argmax(axis=0)])


def test_slope_is_the_derivative():
    penalty, rng = Penalty(6), np.random.default_rng(0)
    scenarios = sample_scenarios(rng, 500, 3, 6)
    weights, direction = rng.normal(size=(2, *penalty.shape))
    _, allocation = best_allocation(penalty.gains(weights, scenarios))
    chosen = np.arange(3), np.arange(500)[:, None]

    def worth(weights):
        gains = penalty.gains(weights, scenarios)
        return gains[allocation, *chosen].sum(axis=1).mean(dtype=np.float64)

    difference = (worth(weights + direction) - worth(weights - direction)) / 2
    assert difference == pytest.approx((penalty.slope(scenarios, allocation) * direction).sum(), rel=1e-4)


@cache
def quick_information_bound(k: int, n: int):
    return information_bound(k, n, num_scenarios=16384, fit_steps=150)


@pytest.mark.parametrize(("k", "n"), SMALL)
def test_information_bound_is_above_the_optimum_and_within_two_percent(k, n):
    bound, error = quick_information_bound(k, n)
    optimum = bayes_optimal_value(k, n)
    assert optimum - 3 * error <= bound <= 1.02 * optimum
    assert 0.0 < error < 0.001 * n


def test_fitting_the_penalty_tightens_the_bound():
    unfitted = information_bound(3, 10, num_scenarios=16384, fit_steps=0)
    fitted = quick_information_bound(3, 10)
    assert fitted.upper_bound < unfitted.upper_bound - 3 * (fitted.standard_error + unfitted.standard_error)


def test_scenarios_are_the_seeds():
    first, again, other = (information_bound.__wrapped__(2, 5, s, num_scenarios=256, fit_steps=2) for s in (0, 0, 1))
    assert first == again
    assert first != other


def relaxed_value_by_recursion(prices, num_arms: int) -> float:
    @cache
    def value(t, successes, failures):
        if t == len(prices):
            return 0.0
        mean = (successes + 1) / (successes + failures + 2)
        won, lost = value(t + 1, successes + 1, failures), value(t + 1, successes, failures + 1)
        return max(value(t + 1, successes, failures), mean - prices[t] + mean * won + (1 - mean) * lost)

    return sum(prices) + num_arms * value(0, 0, 0)


def test_lagrangian_equals_recursion_and_its_slope_is_one():
    rng = np.random.default_rng(0)
    for _ in range(5):
        prices = rng.uniform(0.3, 0.9, 7)
        bound, slope = lagrangian_value(prices, 4)
        assert bound == pytest.approx(relaxed_value_by_recursion(tuple(prices), 4), abs=1e-12)
        step = rng.normal(size=7)
        ahead, _ = lagrangian_value(prices + 1e-6 * step, 4)
        assert (ahead - bound) / 1e-6 == pytest.approx(slope @ step, abs=1e-4)


@pytest.mark.parametrize(("k", "n"), SMALL)
def test_any_prices_bound_the_optimum(k, n):
    for prices in np.random.default_rng(0).uniform(-0.2, 1.0, (10, n)):
        assert lagrangian_value(prices, k)[0] >= bayes_optimal_value(k, n)


@pytest.mark.parametrize(("k", "n", "gap"), [(2, 6, 0.1), (5, 12, 0.03), (50, 10, 0.002), (50, 15, 0.005)])
def test_lagrangian_bound_is_tight_for_many_arms(k, n, gap):
    optimum = bayes_optimal_value(k, n)
    assert optimum <= lagrangian_bound(k, n).upper_bound <= (1 + gap) * optimum


def test_lagrangian_bound_certifies_itself():
    bound = lagrangian_bound(10, 40)
    assert relaxed_value_by_recursion(tuple(bound.prices), 10) == pytest.approx(bound.upper_bound, abs=1e-10)


@pytest.mark.parametrize(("k", "n", "method"), [(5, 60, "information relaxation"), (50, 60, "lagrangian relaxation")])
def test_limits_of_longer_trials_are_below_the_oracle(k, n, method):
    limit = bandit_limit(k, n)
    assert limit.exact is None
    assert limit.method == method
    assert limit.upper_bound < 0.97 * n * k / (k + 1)


def test_beyond_all_bounds_the_oracle_is_left():
    limit = bandit_limit(4, 2000)
    assert limit == (None, 1600.0, 0.0, "oracle")


@pytest.mark.parametrize("bound", [lagrangian_bound, information_bound])
@pytest.mark.parametrize(("k", "n", "field", "value"), [(0, 20, "k", 0), (5, 0, "n", 0), (5, 1001, "n", 1001)])
def test_bounds_refuse(bound, k, n, field, value):
    with pytest.raises(ValueError, match=rf"\({field}\) must be .*got {value}"):
        bound(k, n)


@pytest.mark.parametrize("options", [{"num_scenarios": 100}, {"fit_steps": -1}])
def test_options_out_of_range(options):
    ((field, value),) = options.items()
    with pytest.raises(ValueError, match=rf"{field} must be .*got {value}"):
        information_bound(5, 20, **options)
