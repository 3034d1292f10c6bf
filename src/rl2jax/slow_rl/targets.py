"""What a batch of trials, or lanes, gives to learn: returns and their scale, values, advantages."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rl2jax.networks.base import Networks
from rl2jax.slow_rl.advantages import discounted_returns, generalised_advantages, standardise
from rl2jax.slow_rl.base import Batch
from rl2jax.slow_rl.baseline import BaselineBatch, values_over_trials
from rl2jax.slow_rl.moments import Moments, standardise_columns, update_moments
from rl2jax.slow_rl.settings import Objective
from rl2jax.types import PyTree, Trajectory


class Targets(NamedTuple):
    """What an update learns from a batch.

    Attributes:
      batch: for the policy's algorithm.
      baseline: for the baseline.
      task_features: as the baseline's values want them, [num_trials, num_task_features].
      moments: of all returns so far, with these.
    """

    batch: Batch
    baseline: BaselineBatch
    task_features: chex.Array
    moments: Moments


def make_targets(
    networks: Networks,
    objective: Objective,
    moments: Moments,
    params: dict[str, PyTree],
    trajectory: Trajectory,
    estimates: bool,
    mesh: Mesh | None = None,
) -> Targets:
    """Returns, values and advantages of a batch (Duan et al. 2016, section 2.2: of whole trials, not of episodes).

    Args:
      networks: of policy and baseline.
      objective: discount, lambda, and what is normalised.
      moments: of the returns before this batch, the scale that the baseline predicts on.
      params: {"policy": ..., "baseline": ...}.
      trajectory: the batch, [num_steps, num_trials, ...]; lanes, if it says where trials end.
      estimates: whether values are wanted; without them they are 0.
      mesh: devices that share the trials.
    """
    in_lanes, mask = not isinstance(trajectory.trial_done, tuple), trajectory.mask
    rewards = trajectory.expected_reward if objective.expected_rewards else trajectory.reward
    features = standardise_columns(trajectory.task_features)
    by_trial = features[0] if in_lanes else features  # no baseline sees it in lanes
    trial_done = trajectory.trial_done if in_lanes else None
    returns = _returns(rewards, objective, trial_done)

    # The first batch has no scale yet, but of a baseline that came with one: its own moments serve.
    new_moments = update_moments(moments, returns, mask)
    serving = jax.tree.map(lambda new, old: jnp.where(moments.count == 0, new, old), new_moments, moments)
    values = jnp.zeros_like(mask)
    if estimates:
        mean, scale = baseline_scale(objective, serving)
        of_values = params["policy" if networks.shares_trunk else "baseline"]
        output = values_over_trials(networks, mesh)(of_values, trajectory.trial_obs, by_trial)
        values = (mean + scale * output) * (1.0 if in_lanes else mask)
    if in_lanes:  # where a lane's end cuts a trial, its value stands for all that would have followed
        rewards = jnp.where(mask > 0, rewards, values)
        returns = _returns(rewards, objective, trial_done)
        new_moments = update_moments(moments, returns, mask)
    new_mean, new_scale = baseline_scale(objective, new_moments)
    target = (returns - new_mean) / new_scale
    by_step = features if in_lanes else features[None]
    batch = Batch(
        trajectory.trial_obs,
        trajectory.action,
        trajectory.agent_info.log_prob,
        trajectory.agent_info.dist_params,
        _advantages(rewards, values, mask, objective, trial_done),
        mask,
        by_step,
        target if networks.shares_trunk else None,
        rewards,
        returns,
        values,
        trajectory.trial_done,
        trajectory.agent_info,
    )
    return Targets(batch, BaselineBatch(trajectory.trial_obs, target, mask, by_step), by_trial, new_moments)


def _returns(rewards: chex.Array, objective: Objective, trial_done: Any) -> chex.Array:
    return jax.vmap(discounted_returns, (1, None, 1), 1)(rewards, objective.discount, trial_done)


def _advantages(
    rewards: chex.Array, values: chex.Array, mask: chex.Array, objective: Objective, trial_done: Any
) -> chex.Array:
    advantages = jax.vmap(generalised_advantages, (1, 1, None, None, 1), 1)(
        rewards, values, objective.discount, objective.gae_lambda, trial_done
    )
    return standardise(advantages, mask) if objective.normalise_advantages else advantages * mask


def baseline_scale(objective: Objective, moments: Moments) -> tuple[chex.Array, chex.Array]:
    """(mean, scale) of what the baseline's output is relative to; float32 []."""
    if not objective.normalise_returns:
        return jnp.zeros(()), jnp.ones(())
    return moments.mean, jnp.sqrt(moments.variance) + 1e-6
