"""The exact Bayes-optimal value of two arms of probabilities p and 1 - p."""

import numpy as np
import scipy.special

from rl2jax.envs.bandit import DependentBandit
from rl2jax.limits.base import KnownLimit, Limit, Sample
from rl2jax.settings import require


def dependent_value(env: DependentBandit, num_pulls: int) -> float:
    """Expected total reward of the best agent in `num_pulls` pulls.

    What a pull tells does not depend on the arm, so the greedy agent is optimal and its value is the sum over pulls t
    of E max(m, 1 - m), with m the posterior mean of p1 after t pulls (see `agents.dependent`). For a uniform p1 the
    number of successes is uniform on 0..t; for two values it is a mixture of two binomials.

    Args:
      env: says which prior.
      num_pulls: n.

    Raises:
      ValueError: for less than one pull.
    """
    require(num_pulls >= 1, "num_pulls", num_pulls, "an integer >= 1")
    value = 0.0
    for pulls in range(num_pulls):
        successes = np.arange(pulls + 1)
        if env.better_percent is None:
            mean = (successes + 1.0) / (pulls + 2.0)
            value += float(np.maximum(mean, 1.0 - mean).mean())
            continue
        better = env.better_percent / 100.0
        log_choose = scipy.special.gammaln(pulls + 1) - scipy.special.gammaln(successes + 1)
        log_choose -= scipy.special.gammaln(pulls - successes + 1)
        # Of each number of successes, together with p1 being the greater value, and the smaller.
        high, low = (
            0.5 * np.exp(log_choose + scipy.special.xlogy(successes, p) + scipy.special.xlogy(pulls - successes, 1 - p))
            for p in (better, 1.0 - better)
        )
        first, second = better * high + (1.0 - better) * low, (1.0 - better) * high + better * low
        value += float(np.maximum(first, second).sum())
    return value


def _limit(env: DependentBandit, num_episodes: int, sample: Sample) -> Limit:
    del sample
    value = dependent_value(env, num_episodes)
    return Limit(value, value, 0.0, "dynamic programming")


DEPENDENT_LIMIT = KnownLimit("dependent:n=N", _limit, best_known=("bayes_optimal",))
