"""The best that any agent can do: Bayes-optimal values."""

from rl2jax.limits.bandit import bayes_optimal_value

__all__ = ["bayes_optimal_value"]
