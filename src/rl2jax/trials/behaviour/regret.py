"""Regret of bandit agents, and what else is counted per pull (Wang et al. 2016, sections 3.1 to 3.1.4)."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from rl2jax.types import Trajectory


def best_means(params: Any, num_steps: int) -> chex.Array:
    """Expected reward of the best arm at each pull of a trial; float32 [num_steps].

    Args:
      params: a bandit with `arm_means`, float32 [num_arms], or [num_pulls, num_arms] where arms change.
      num_steps: pulls in the trial; a bandit that changes starts again after `num_pulls`.
    """
    best = params.arm_means.max(axis=-1)
    if best.ndim == 0:
        return jnp.broadcast_to(best, (num_steps,))
    return best[jnp.arange(num_steps) % len(best)]


def cumulative_regret(trajectory: Trajectory, params: Any) -> chex.Array:
    """R_t = sum over pulls up to t of mu* - mu(a): how much less was to be expected than of the best arm.

    Args:
      trajectory: one trial of a bandit with a known `expected_reward`; leaves [num_steps, ...].
      params: the task, as for `best_means`.

    Returns:
      float32 [num_steps].
    """
    chex.assert_rank(trajectory.expected_reward, 1)
    missed = best_means(params, len(trajectory.expected_reward)) - trajectory.expected_reward
    return jnp.cumsum(missed * trajectory.mask)


def suboptimal_pulls(trajectory: Trajectory, params: Any) -> chex.Array:
    """Number of pulls up to each of arms that are not the best one; float32 [num_steps], arguments as above."""
    chex.assert_rank(trajectory.expected_reward, 1)
    worse = trajectory.expected_reward < best_means(params, len(trajectory.expected_reward)) - 1e-6
    return jnp.cumsum(worse * trajectory.mask)


class InformativePulls(NamedTuple):
    """Which arm was pulled at each pull of an informative-arm bandit, 1 or 0; float32 [num_steps] each.

    Attributes:
      informative: the arm that tells.
      target: the arm that pays 5.
      other: any other.
    """

    informative: chex.Array
    target: chex.Array
    other: chex.Array


def informative_pulls(trajectory: Trajectory, params: Any) -> InformativePulls:
    """What `InformativePulls` says of one trial; as a `statistic`, shares of tasks.

    Args:
      trajectory: one trial; leaves [num_steps, ...].
      params: `InformativeParams`.
    """
    chex.assert_rank(trajectory.action, 1)
    informative = trajectory.action == len(params.arm_means) - 1
    target = trajectory.action == params.target
    shares = (informative, target, ~(informative | target))
    return InformativePulls(*(share.astype(jnp.float32) * trajectory.mask for share in shares))
