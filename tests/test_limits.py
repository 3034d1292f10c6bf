"""Exact Bayes-optimal values against brute force and closed forms."""

from functools import cache

import pytest

from rl2jax.limits import bayes_optimal_value


@cache
def brute_force(counts: tuple[tuple[int, int], ...], pulls_left: int) -> float:
    """Dynamic programming over ordered arms, without any use of symmetry."""
    if pulls_left == 0:
        return 0.0
    best = 0.0
    for arm, (successes, failures) in enumerate(counts):
        mean = (successes + 1) / (successes + failures + 2)
        won = (*counts[:arm], (successes + 1, failures), *counts[arm + 1 :])
        lost = (*counts[:arm], (successes, failures + 1), *counts[arm + 1 :])
        value = mean * (1 + brute_force(won, pulls_left - 1)) + (1 - mean) * brute_force(lost, pulls_left - 1)
        best = max(best, value)
    return best


@pytest.mark.parametrize(("k", "n"), [(1, 4), (2, 1), (2, 6), (3, 4), (4, 3)])
def test_equals_brute_force(k, n):
    assert bayes_optimal_value(k, n) == pytest.approx(brute_force(((0, 0),) * k, n), abs=1e-12)


def test_two_pulls_of_two_arms_by_hand():
    # 1/2, then the better of the same arm (2/3 after a success) and the other (1/2).
    assert bayes_optimal_value(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 0.5)


def test_arms_beyond_the_pulls_do_not_matter():
    assert bayes_optimal_value(10, 10) == bayes_optimal_value(50, 10)


def test_k5_n10_is_the_papers_level():
    assert bayes_optimal_value(5, 10) == pytest.approx(6.65999, abs=1e-5)


@pytest.mark.parametrize(("k", "n", "field"), [(0, 5, "k"), (5, 13, "n"), (5, 0, "n")])
def test_refuses(k, n, field):
    with pytest.raises(ValueError, match=rf"\({field}\).*got {k if field == 'k' else n}"):
        bayes_optimal_value(k, n)
