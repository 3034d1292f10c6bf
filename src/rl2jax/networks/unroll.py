"""Networks over a batch of trials: as many side by side as are fastest, the others after them in lanes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rl2jax.devices import fill_up, share_trials
from rl2jax.types import PyTree, TrialObservation

# The axis of trials in what they see; of what all see at the start there is one.
_TRIALS_AXIS: Any = TrialObservation(1, 1, 1, 1, 1, 1, start=None)  # type: ignore[arg-type]


def unroll_trials(function: Callable, mesh: Mesh | None, abreast: int, starts_alike: bool = False) -> Callable:
    """`vmap_trials(function, mesh, (None, 1), 1)`, with at most about `abreast` trials side by side.

    A processor is fastest where the states of all trials that take a step together stay in its cache. So a wide batch
    is laid out as lanes, in which trial follows trial. They divide it evenly; where it does not divide, it is filled up
    with zeros, whose outputs are cut off.

    Where all trials start alike, so does whatever a network makes of it: the first step is taken once for all of them.

    Args:
      function: (params, trial_obs) of one trial, or one lane, to outputs with leaves [num_steps, ...]. Where
        `trial_obs.first` is 1 its memory starts anew. Where there is a `trial_obs.start`, a trial begins with the step
        after it, and the outputs are those of the start and then of every step, leaves [1 + num_steps, ...].
      mesh: devices that share the trials; each has lanes of its own.
      abreast: on each device; 0: all trials.
      starts_alike: whether the function knows of `start` and all trials see the same at their first step
        (`trial.starts_alike`); without effect on trials that come in lanes.

    Returns:
      (params, trial_obs with leaves [num_steps, num_trials, ...]) -> outputs likewise.
    """
    batched = jax.vmap(function, (None, _TRIALS_AXIS), 1)

    def in_lanes(params: PyTree, trial_obs: TrialObservation) -> PyTree:
        num_steps, num_trials = trial_obs.prev_reward.shape
        come_in_lanes = not isinstance(trial_obs.first, tuple)
        start: Any = ()
        if starts_alike and num_steps > 1 and not come_in_lanes:
            start = jax.tree.map(lambda x: x[0, 0], trial_obs)
            trial_obs = jax.tree.map(lambda x: x[1:], trial_obs)
        length = max(1, round(num_trials / abreast)) if abreast else 1
        if length == 1:
            return batched(params, trial_obs._replace(start=start))
        if not come_in_lanes:
            starts = jnp.zeros(trial_obs.prev_reward.shape).at[0].set(1.0)
            trial_obs = trial_obs._replace(first=starts)
        filled = jax.tree.map(partial(fill_up, 1, -num_trials % length), trial_obs)
        lanes = jax.tree.map(partial(_one_after_another, length), filled)
        outputs = batched(params, lanes._replace(start=start))
        if start == ():
            return jax.tree.map(lambda x: _side_by_side(length, x)[:, :num_trials], outputs)

        def of_trials(x: chex.Array) -> chex.Array:
            """The start's output, of which each lane has one, and the steps' after it."""
            of_start = jnp.broadcast_to(x[:1, :1], (1, num_trials, *x.shape[2:]))
            return jnp.concatenate([of_start, _side_by_side(length, x[1:])[:, :num_trials]])

        return jax.tree.map(of_trials, outputs)

    return share_trials(in_lanes, mesh, (None, 1), 1)


def _one_after_another(length: int, x: chex.Array) -> chex.Array:
    """[num_steps, length * lanes, ...] to [length * num_steps, lanes, ...]."""
    num_steps, num_trials, *rest = x.shape
    apart = x.reshape(num_steps, length, num_trials // length, *rest).swapaxes(0, 1)
    return apart.reshape(length * num_steps, num_trials // length, *rest)


def _side_by_side(length: int, x: chex.Array) -> chex.Array:
    """The inverse."""
    num_steps, lanes, *rest = x.shape
    apart = x.reshape(length, num_steps // length, lanes, *rest).swapaxes(0, 1)
    return apart.reshape(num_steps // length, length * lanes, *rest)
