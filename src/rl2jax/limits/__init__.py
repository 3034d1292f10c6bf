"""The best that any agent can do: Bayes-optimal values and policies, and upper bounds where those are out of reach."""

from typing import Any

from rl2jax.agents.base import ReferenceAgent
from rl2jax.kinds import kind_of, load
from rl2jax.limits.bandit import bayes_optimal_agent, bayes_optimal_value, is_exact
from rl2jax.limits.base import KnownLimit, Limit, Sample
from rl2jax.limits.dependent import dependent_value
from rl2jax.limits.information import InformationBound, information_bound
from rl2jax.limits.lagrangian import LagrangianBound, lagrangian_bound
from rl2jax.limits.mdp import oracle_bound, oracle_value

__all__ = [
    "InformationBound",
    "KnownLimit",
    "LagrangianBound",
    "Limit",
    "Sample",
    "bandit_limit",
    "bayes_optimal_agent",
    "bayes_optimal_value",
    "dependent_value",
    "information_bound",
    "is_exact",
    "lagrangian_bound",
    "limit_of",
    "oracle_bound",
    "oracle_value",
]

_LONGEST_HORIZON = 1000  # of the bounds; beyond it the oracle is left
# Foreseeing agents are a useful bound for few arms, prices for many; between them both are tried.
_MOST_FORESEEN_ARMS = 30
_MOST_FORESEEN_WORK = 5_000_000  # k n^2; some minutes
_FEWEST_PRICED_ARMS = 15
_SHORT_HORIZON = 200


def limit_of(env: Any) -> KnownLimit | None:
    """What is known of a task distribution's limit; None where nothing is."""
    reference = kind_of(env).limit
    known = load(reference) if reference else None
    return known if known is not None and known.holds(env) else None


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


BANDIT_LIMIT = KnownLimit(
    "bandit:k=K,n=N (uniform arms)",
    lambda env, num_episodes, sample: bandit_limit(env.num_arms, num_episodes, sample.seed),
    best_known=("bayes_optimal", "gittins_finite_horizon", "gittins"),
    holds=lambda env: env.is_uniform,
    optimal=lambda env, num_episodes: (
        ReferenceAgent(bayes_optimal_agent) if is_exact(env.num_arms, num_episodes) else None
    ),
)
