"""Lagrangian upper bound of a Bernoulli bandit: one price per pull, the arms then play on their own."""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from rl2jax.settings import require

_MOST_PULLS = 1000  # an evaluation costs n^3 operations, and a bound takes some of them


class LagrangianBound(NamedTuple):
    """An upper bound and its certificate.

    Attributes:
      upper_bound: on any agent's expected total reward.
      prices: the multipliers that give it; float64 [num_pulls].
    """

    upper_bound: float
    prices: np.ndarray


def lagrangian_value(prices: np.ndarray, num_arms: int) -> tuple[float, np.ndarray]:
    """The bound that a vector of prices gives, and its slope.

    Exactly one arm is pulled at each time t. Charge p_t per pull instead and give p_t back (Brown & Smith
    2020, "Index policies and performance bounds for dynamic selection problems", section 3): a policy that keeps the
    rule pays nothing, so the best that may break it is an upper bound whatever the prices, of either sign.
    Without the rule each arm is a problem of its own,

      W_t(s, f) = max(W_{t+1}(s, f), m - p_t + m W_{t+1}(s+1, f) + (1 - m) W_{t+1}(s, f+1)),  W_n = 0,

    m = (s + 1) / (s + f + 2), and the bound is sum_t p_t + k W_0(0, 0). It is convex in the prices; a
    subgradient is 1 - k P(an arm is pulled at t).

    Args:
      prices: float64 [num_pulls].
      num_arms: k.

    Returns:
      (bound, subgradient [num_pulls]).
    """
    num_pulls = len(prices)
    pulls, successes = np.meshgrid(np.arange(num_pulls + 1), np.arange(num_pulls + 1), indexing="ij")
    mean = (successes + 1) / (pulls + 2)  # [pulls, successes]; above the diagonal nobody looks
    value = np.zeros((num_pulls + 2, num_pulls + 2))
    pulled = []
    for t in reversed(range(num_pulls)):
        now = slice(0, t + 1)
        after = slice(1, t + 2)
        failed = value[after, now]
        gain = mean[now, now] * (value[after, after] - failed + 1.0) + failed
        gain -= prices[t]
        waiting = value[now, now]
        pulled.append(gain > waiting)
        np.maximum(waiting, gain, out=waiting)
    reach = np.zeros((num_pulls + 2, num_pulls + 2))
    reach[0, 0] = 1.0
    slope = np.ones(num_pulls)
    for t in range(num_pulls):
        now = slice(0, t + 1)
        after = slice(1, t + 2)
        leaving = np.where(pulled.pop(), reach[now, now], 0.0)
        slope[t] -= num_arms * leaving.sum()
        reach[now, now] -= leaving
        won = leaving * mean[now, now]
        reach[after, after] += won
        reach[after, now] += leaving - won
    return float(prices.sum() + num_arms * value[0, 0]), slope


@cache
def lagrangian_bound(num_arms: int, num_pulls: int, most_evaluations: int | None = None) -> LagrangianBound:
    """The least bound over prices that are piecewise linear in time, by cutting planes in a trust region.

    Every evaluation is an upper bound, so stopping early costs tightness only. It is tight for many arms
    (k=50, n=15: 0.25% above the optimum) and loose for few (k=2, n=20: 8%), where it may pass the value of
    knowing the best arm: paths that pull several arms at a time, or none, then gain much.

    Args:
      num_arms: k >= 1.
      num_pulls: n, 1 to 1000.
      most_evaluations: of `lagrangian_value`, each O(n^3); default 120, 60 where n > 200, 30 where n > 600.

    Raises:
      ValueError: for sizes beyond those.
    """
    require(num_arms >= 1, "num_arms (k)", num_arms, "an integer >= 1")
    require(1 <= num_pulls <= _MOST_PULLS, "num_pulls (n)", num_pulls, f"1 to {_MOST_PULLS}")
    if most_evaluations is None:
        most_evaluations = 120 if num_pulls <= 200 else 60 if num_pulls <= 600 else 30
    hats = _hats(num_pulls)
    centre = np.full(len(hats), 1.0 - 0.5 / max(num_arms, 2))
    best, slope = lagrangian_value(centre @ hats, num_arms)
    heights, slopes = [best - (hats @ slope) @ centre], [hats @ slope]
    radius = 0.2
    for _ in range(most_evaluations - 1):
        low, point = _lowest(np.array(heights), np.array(slopes), centre, radius)
        if best - low < 1e-6 * num_pulls:
            break
        bound, slope = lagrangian_value(point @ hats, num_arms)
        heights.append(bound - (hats @ slope) @ point)
        slopes.append(hats @ slope)
        if bound < best:
            if best - bound > 0.5 * (best - low):
                radius *= 1.5
            best, centre = bound, point
        else:
            radius *= 0.6
    return LagrangianBound(best, centre @ hats)


def _lowest(heights: np.ndarray, slopes: np.ndarray, centre: np.ndarray, radius: float) -> tuple[float, np.ndarray]:
    """Minimum of the cuts' maximum, heights [c] + slopes [c, d] @ x, in a box around `centre` [d]."""
    solved = linprog(
        np.append(np.zeros(len(centre)), 1.0),
        A_ub=np.column_stack([slopes, -np.ones(len(heights))]),
        b_ub=-heights,
        bounds=[*zip(centre - radius, centre + radius, strict=True), (None, None)],
    )
    return float(solved.x[-1]), solved.x[:-1]


def _hats(num_pulls: int) -> np.ndarray:
    """Basis of the piecewise linear functions of time, with knots dense at both ends; float64 [knots, num_pulls]."""
    steps = np.array([0, 1, 2, 3, 4, 6, 9, 14, 21, 32, 50, 80, 130, 200, 300, 450])
    near = steps[steps < num_pulls / 2]
    knots = np.unique(np.concatenate([near, num_pulls - 1 - near]))
    return np.array([np.interp(np.arange(num_pulls), knots, unit) for unit in np.eye(len(knots))])
