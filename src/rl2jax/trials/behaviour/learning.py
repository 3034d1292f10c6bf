"""How soon an agent knows: Harlow's accuracy from choice to choice, steps to a goal from visit to visit."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from rl2jax.envs.harlow import FIXATE
from rl2jax.types import Trajectory


class Counted(NamedTuple):
    """Sums over events by their number within a trial; their quotient over many trials is a mean.

    Attributes:
      total: what is averaged, summed over the trials that have such an event; float32 [num_events].
      happened: whether (as a `statistic`: in which share of tasks) there was one; float32 [num_events].
    """

    total: chex.Array
    happened: chex.Array

    @property
    def mean(self) -> chex.Array:
        """Of the trials that got so far; [num_events], nan where none did."""
        return self.total / self.happened


def _by_number(value: chex.Array, happens: chex.Array, num_events: int) -> Counted:
    """Values at steps [num_steps] where an event happens, by its number; events past the last number are left out."""
    number = jnp.where(happens, jnp.cumsum(happens) - 1, num_events)
    zeros = jnp.zeros(num_events)
    return Counted(zeros.at[number].add(value, mode="drop"), zeros.at[number].add(1.0, mode="drop"))


def harlow_accuracy(trajectory: Trajectory, num_choices: int) -> Counted:
    """Whether the first, the second, ... choice of a trial was the rewarded object (Wang et al. 2016, figure 6f).

    Args:
      trajectory: one trial of `Harlow`; leaves [num_steps, ...].
      num_choices: how many to look at.

    Returns:
      1 or 0 as the total of each; [num_choices].
    """
    chex.assert_rank(trajectory.action, 1)
    shows_objects = trajectory.trial_obs.privileged.shows_objects
    chooses = shows_objects & (trajectory.action != FIXATE) & (trajectory.mask > 0)
    return _by_number((trajectory.reward > 0).astype(jnp.float32), chooses, num_choices)


def steps_to_goal(trajectory: Trajectory, num_visits: int) -> Counted:
    """Steps to the first, the second, ... reward, counted from the one before (Wang et al. 2016, figure 7c).

    A mean over trials is over those that got so far: late visits are those of quick trials.

    Args:
      trajectory: one trial of `GridNavigation`; leaves [num_steps, ...].
      num_visits: how many to look at.

    Returns:
      steps as the total of each; [num_visits].
    """
    chex.assert_rank(trajectory.reward, 1)
    reached = (trajectory.reward > 0) & (trajectory.mask > 0)
    steps = jnp.arange(1.0, len(reached) + 1.0)
    at = _by_number(steps, reached, num_visits)
    since = at.total - jnp.append(0.0, at.total[:-1])
    return Counted(jnp.where(at.happened > 0, since, 0.0), at.happened)


def by_steps_since(per_step: chex.Array, changes: chex.Array, num_steps: int) -> Counted:
    """What was measured at each step, by how many steps ago the task changed: how an agent adapts.

    Args:
      per_step: float32 [length].
      changes: whether the task at this step is not what it was the step before; bool [length].
      num_steps: how far from a change to look.

    Returns:
      sums over the changes of a trial, and how many there were that far back; [num_steps].
    """
    chex.assert_equal_shape([per_step, changes])
    steps = jnp.arange(len(per_step))
    last_change = jnp.maximum.accumulate(jnp.where(changes, steps, -num_steps))
    since = jnp.minimum(steps - last_change, num_steps)
    zeros = jnp.zeros(num_steps)
    return Counted(zeros.at[since].add(per_step, mode="drop"), zeros.at[since].add(1.0, mode="drop"))
