"""Information-relaxation upper bound of a Bernoulli bandit: all outcomes known in advance, at a price."""

from functools import cache
from typing import NamedTuple

import numpy as np

from rl2jax.settings import require

_MOST_PULLS = 1000
_BATCH = 128  # scenarios at once; their tables stay in the processor's cache


class InformationBound(NamedTuple):
    """An upper bound, estimated on sampled scenarios.

    Attributes:
      upper_bound: on any agent's expected total reward.
      standard_error: of that estimate.
    """

    upper_bound: float
    standard_error: float


class Scenarios(NamedTuple):
    """Sampled bandits with everything that would happen in them.

    Attributes:
      probs: success probabilities; float64 [b, k].
      outcomes: of each arm's i-th pull, 0 or 1; uint8 [b, k, n].
      cells: where the arm then stands, (pulls made) * n + successes; int32 [b, k, n].
    """

    probs: np.ndarray
    outcomes: np.ndarray
    cells: np.ndarray


def sample_scenarios(rng: np.random.Generator, num_scenarios: int, num_arms: int, num_pulls: int) -> Scenarios:
    """Draws bandits with uniform arms, and the outcomes of n pulls of each arm."""
    probs = rng.random((num_scenarios, num_arms))
    outcomes = (rng.random((num_scenarios, num_arms, num_pulls), np.float32) < probs[..., None]).astype(np.uint8)
    successes = np.cumsum(outcomes, axis=-1, dtype=np.int32) - outcomes
    return Scenarios(probs, outcomes, successes + np.arange(num_pulls, dtype=np.int32) * num_pulls)


def best_allocation(gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inner problem: how often to pull each arm if arm a's first m pulls are worth gains[m, a].

    Arm a + 1 may be pulled only if arm a is: the first arms get at least one pull each, the others none.

    Args:
      gains: [n + 1, k, b], gains[0] is 0.

    Returns:
      (values [b], pulls [b, k]) with pulls summing to n.
    """
    num_pulls, (num_arms, batch) = len(gains) - 1, gains.shape[1:]
    best = np.full((num_arms + 1, num_pulls + 1, batch), -np.inf, gains.dtype)  # after arms, of pulls
    best[0, 0] = 0.0
    spare = np.empty_like(best[0])
    for arm in range(num_arms):
        for pulls in range(1, num_pulls + 1 - arm):
            candidate = np.add(best[arm, arm : num_pulls + 1 - pulls], gains[pulls, arm], out=spare[arm + pulls :])
            target = best[arm + 1, arm + pulls :]
            np.maximum(target, candidate, out=target)
    values = best[1:, num_pulls]
    last = values.argmax(axis=0)
    rows, counts = np.arange(batch), np.arange(num_pulls + 1)
    allocation = np.zeros((batch, num_arms), np.int32)
    left = np.full(batch, num_pulls)
    for arm in reversed(range(num_arms)):
        before = left[:, None] - counts
        worth = best[arm, np.maximum(before, 0), rows[:, None]] + gains[:, arm].T
        worth[(before < 0) | (counts < 1)] = -np.inf
        pulled = np.where(arm <= last, worth.argmax(axis=1), 0)
        allocation[:, arm] = pulled
        left = left - pulled
    return values.max(axis=0), allocation


class Penalty:
    """Weights of the outcomes' surprises, piecewise linear in an arm's pulls and its posterior mean.

    With c such a function, m the posterior mean and o the outcome, a pull is worth m + c (o - m) instead of o.

    Attributes:
      mean: m of each cell (see `Scenarios`); float64 [n * n].
      shape: of an array of weights, [knots in pulls, knots in mean].
    """

    def __init__(self, num_pulls: int):
        near = [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 90, 130, 180, 250, 350, 500, 700]
        pulls, successes = np.divmod(np.arange(num_pulls**2), num_pulls)
        self.mean = np.minimum((successes + 1) / (pulls + 2), 1.0)  # successes > pulls never happen
        self._by_pulls = _hats(np.arange(num_pulls), [*(p for p in near if p < num_pulls - 1), num_pulls - 1])
        by_mean = _hats(self.mean, [0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1])
        self._by_mean = by_mean.reshape(-1, num_pulls, num_pulls)
        self.shape = (len(self._by_pulls), len(self._by_mean))

    def gains(self, weights: np.ndarray, scenarios: Scenarios) -> np.ndarray:
        """What each arm's first m pulls are worth; float32 [n + 1, k, b]."""
        batch, num_arms, num_pulls = scenarios.outcomes.shape
        table = np.einsum("px,pm,xms->ms", weights, self._by_pulls, self._by_mean, optimize=True)
        table = table.ravel().astype(np.float32)
        mean = self.mean.astype(np.float32)
        gains = np.zeros((num_pulls + 1, num_arms, batch), np.float32)
        for arm in range(num_arms):
            cells = scenarios.cells[:, arm].T
            expected = mean[cells]
            worth = expected + table[cells] * (scenarios.outcomes[:, arm].T - expected)
            np.cumsum(worth, axis=0, out=gains[1:, arm])
        return gains

    def slope(self, scenarios: Scenarios, allocation: np.ndarray) -> np.ndarray:
        """Derivative by the weights of the mean worth of `allocation` [b, k]; `shape`."""
        batch, _, num_pulls = scenarios.outcomes.shape
        taken = np.arange(num_pulls) < allocation[..., None]
        cells = scenarios.cells[taken]
        surprise = scenarios.outcomes[taken] - self.mean[cells]
        table = np.bincount(cells, surprise, num_pulls**2).reshape(num_pulls, num_pulls)
        return np.einsum("ms,pm,xms->px", table, self._by_pulls, self._by_mean, optimize=True) / batch


def fit_weights(penalty: Penalty, rng: np.random.Generator, num_arms: int, num_pulls: int, steps: int) -> np.ndarray:
    """Weights of a small bound: it is convex in them; stochastic subgradients (Adam), every step on new scenarios."""
    weights, first, second = np.zeros((3, *penalty.shape))
    for i in range(1, steps + 1):
        scenarios = sample_scenarios(rng, _BATCH, num_arms, num_pulls)
        _, allocation = best_allocation(penalty.gains(weights, scenarios))
        slope = penalty.slope(scenarios, allocation)
        first += 0.1 * (slope - first)
        second += 0.01 * (slope**2 - second)
        rate = 0.1 * (1.0 + np.cos(np.pi * i / steps))
        weights = weights - rate * (first / (1 - 0.9**i)) / (np.sqrt(second / (1 - 0.99**i)) + 1e-8)
    return weights


@cache
def information_bound(
    num_arms: int, num_pulls: int, seed: int = 0, *, num_scenarios: int = 8192, fit_steps: int = 200
) -> InformationBound:
    """Bound by an agent that foresees every outcome and is charged for it (Brown, Smith & Sun 2010).

    Arms being exchangeable, an agent loses nothing by first pulling them in the order 1, 2, ..., k; it is held
    to that. A pull is then paid m + c(s, f) (o - m): m = (s + 1) / (s + f + 2) the posterior mean after s
    successes and f failures of the arm, o the outcome, c any function. This is the reward o less a penalty
    (1 - c) (o - m), whose mean is zero given the past ("dual feasible"), so to an agent that does not foresee
    outcomes it pays the same on average; hence the optimum is at most the mean of the best that a foreseeing
    agent can do. That agent's problem is solved exactly: an arm's first pulls are worth the same whenever they
    are made, so it only chooses how many of each (`best_allocation`). c = 1 - (n - s - f) / (s + f + 3) or so
    would charge for what a success says of the arm's future; here c is fitted (Desai, Farias & Moallemi 2012,
    "Pathwise optimization for optimal stopping"), and the bound taken on other scenarios than those of the fit.

    Where the optimum is known (k=2 to 5, n up to 20) the bound is 0.6% to 0.9% above it. What is lost: a fitted
    c does not know the time, only how often the arm was pulled.

    The standard error is reduced by regression on moments of the best two arms, whose means are known.

    Args:
      num_arms: k >= 1; arms beyond n do not matter.
      num_pulls: n, 1 to 1000.
      seed: of the scenarios.
      num_scenarios: for the estimate, at least 128; rounded up to a multiple of 128.
      fit_steps: of the fit; 0: c = 0, an arm pays its posterior mean.

    Raises:
      ValueError: for sizes beyond those.
    """
    require(num_arms >= 1, "num_arms (k)", num_arms, "an integer >= 1")
    require(1 <= num_pulls <= _MOST_PULLS, "num_pulls (n)", num_pulls, f"1 to {_MOST_PULLS}")
    require(num_scenarios >= _BATCH, "num_scenarios", num_scenarios, f"at least {_BATCH}")
    require(fit_steps >= 0, "fit_steps", fit_steps, ">= 0")
    num_arms = min(num_arms, num_pulls)
    rng_fit, rng_bound = np.random.default_rng([seed, num_arms, num_pulls]).spawn(2)
    penalty = Penalty(num_pulls)
    weights = fit_weights(penalty, rng_fit, num_arms, num_pulls, fit_steps)
    values, probs = [], []
    for _ in range(-(-num_scenarios // _BATCH)):
        scenarios = sample_scenarios(rng_bound, _BATCH, num_arms, num_pulls)
        values.append(best_allocation(penalty.gains(weights, scenarios))[0])
        probs.append(scenarios.probs)
    return _regressed_mean(np.concatenate(values).astype(np.float64), np.concatenate(probs))


def _regressed_mean(values: np.ndarray, probs: np.ndarray) -> InformationBound:
    """Mean of `values` [b], with moments of the best arms of `probs` [b, k] as control variates."""
    num_arms = probs.shape[1]
    ranked = np.sort(probs, axis=1)
    # The largest of k uniforms has E[x^p] = k / (k + p), the second largest E[x] = (k - 1) / (k + 1).
    controls = [ranked[:, -1] ** power - num_arms / (num_arms + power) for power in (1, 2, 3)]
    if num_arms > 1:
        controls.append(ranked[:, -2] - (num_arms - 1) / (num_arms + 1))
    design = np.column_stack([np.ones(len(values)), *controls])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    rest = values - design @ coefficients
    variance = (rest**2).sum() / (len(values) - design.shape[1])
    return InformationBound(float(coefficients[0]), float(np.sqrt(variance / len(values))))


def _hats(points: np.ndarray, knots: list[float]) -> np.ndarray:
    """Basis of the piecewise linear functions with these knots; float64 [knots, points]."""
    return np.array([np.interp(points, knots, unit) for unit in np.eye(len(knots))])
