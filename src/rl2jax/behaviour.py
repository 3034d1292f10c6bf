"""How an agent explores: which arms it pulls, and when."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.envs.bandit import BanditParams
from rl2jax.trial import Trial
from rl2jax.types import Trajectory

_MOST_BINS, _MOST_RANKS = 25, 10


def pull_shares(trial: Trial) -> Callable[[Trajectory, BanditParams], jax.Array]:
    """How often each arm of a Bernoulli bandit is pulled over a trial, arms ordered from the best to the worst.

    Args:
      trial: of a `BernoulliBandit`.

    Returns:
      A statistic for `evaluate`: float32 [num_bins, num_ranks], the share of the pulls of each time bin (at most 25,
      of equal length up to rounding) that went to arms of each rank (at most 10 groups of equal size up to rounding);
      rows sum to 1.
    """
    num_arms, num_pulls = trial.env.num_actions, trial.num_steps
    num_bins, num_ranks = min(num_pulls, _MOST_BINS), min(num_arms, _MOST_RANKS)
    bin_of_pull = np.arange(num_pulls) * num_bins // num_pulls
    share = 1.0 / np.bincount(bin_of_pull)[bin_of_pull]

    def statistic(trajectory: Trajectory, params: BanditParams) -> jax.Array:
        rank_of_arm = jnp.argsort(jnp.argsort(-params.probs))
        ranks = jax.nn.one_hot(rank_of_arm[trajectory.action] * num_ranks // num_arms, num_ranks)
        return jax.ops.segment_sum(
            ranks * share[:, None].astype(np.float32), bin_of_pull, num_bins, indices_are_sorted=True
        )

    return statistic
