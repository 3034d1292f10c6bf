"""How an agent explores: which arms it pulls, and when."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.envs.bandit import BanditParams
from rl2jax.trials.trial import Trial
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
    in_bin = np.arange(num_bins)[:, None] == bin_of_pull
    averaging = (in_bin / in_bin.sum(axis=1, keepdims=True)).astype(np.float32)  # [num_bins, num_pulls]

    def statistic(trajectory: Trajectory, params: BanditParams) -> jax.Array:
        better_arms = jnp.sum(params.probs[None, :] > params.probs[:, None], axis=1)
        group = better_arms * num_ranks // num_arms
        return jnp.matmul(averaging, jax.nn.one_hot(group[trajectory.action], num_ranks), precision="highest")

    return statistic
