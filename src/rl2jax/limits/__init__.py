"""The best that any agent can do: Bayes-optimal values and policies, and upper bounds where those are out of reach."""

from typing import NamedTuple

from rl2jax.limits.bandit import bayes_optimal_agent, bayes_optimal_value, is_exact
from rl2jax.limits.dependent import dependent_value
from rl2jax.limits.information import InformationBound, information_bound
from rl2jax.limits.lagrangian import LagrangianBound, lagrangian_bound
from rl2jax.limits.mdp import oracle_bound, oracle_value

__all__ = [
    "InformationBound",
    "LagrangianBound",
    "Limit",
    "bandit_limit",
    "bayes_optimal_agent",
    "bayes_optimal_value",
    "dependent_value",
    "information_bound",
    "is_exact",
    "lagrangian_bound",
    "oracle_bound",
    "oracle_value",
]

_LONGEST_HORIZON = 1000  # of the bounds; beyond it the oracle is left
# Foreseeing agents are a useful bound for few arms, prices for many; between them both are tried.
_MOST_FORESEEN_ARMS = 30
_MOST_FORESEEN_WORK = 5_000_000  # k n^2; some minutes
_FEWEST_PRICED_ARMS = 15
_SHORT_HORIZON = 200


class Limit(NamedTuple):
    """What no agent can pass on average.

    Attributes:
      exact: the Bayes-optimal expected total reward of a trial, or None where it is not known.
      upper_bound: on any agent's expected total reward; `exact` where that is known.
      upper_bound_standard_error: of an upper bound estimated by sampling; 0 for the others.
      method: "dynamic programming", "lagrangian relaxation", "information relaxation", or "oracle".
    """

    exact: float | None
    upper_bound: float
    upper_bound_standard_error: float
    method: str


def bandit_limit(num_arms: int, num_pulls: int, seed: int = 0) -> Limit:
    """The limit of k independent uniform Bernoulli arms and n pulls.

    Args:
      num_arms: k >= 1.
      num_pulls: n >= 1.
      seed: of the scenarios on which the information relaxation is sampled.

    Raises:
      ValueError: for sizes below 1.
    """
    if is_exact(num_arms, num_pulls):
        value = bayes_optimal_value(num_arms, num_pulls)
        return Limit(value, value, 0.0, "dynamic programming")
    # Knowing the best arm, whose success probability is k / (k + 1) on average.
    limits = [Limit(None, num_pulls * num_arms / (num_arms + 1), 0.0, "oracle")]
    if num_pulls <= _LONGEST_HORIZON:
        if num_arms >= _FEWEST_PRICED_ARMS or num_pulls <= _SHORT_HORIZON:
            limits.append(Limit(None, lagrangian_bound(num_arms, num_pulls).upper_bound, 0.0, "lagrangian relaxation"))
        foreseen_arms = min(num_arms, num_pulls)
        if foreseen_arms <= _MOST_FORESEEN_ARMS and foreseen_arms * num_pulls**2 <= _MOST_FORESEEN_WORK:
            limits.append(Limit(None, *information_bound(num_arms, num_pulls, seed), "information relaxation"))
    return min(limits, key=lambda limit: limit.upper_bound)
