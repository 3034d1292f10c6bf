"""Networks over a batch of trials: as many side by side as are fastest, the others after them in lanes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rl2jax.devices import fill_up, share_trials
from rl2jax.networks.memory import unroll_steps
from rl2jax.types import PyTree, TrialObservation


class Lane(NamedTuple):
    """What a network is unrolled over where it is more, or less, than one trial.

    Attributes:
      trial_obs: what is seen; leaves [num_steps, ...].
      first: 1.0 at each trial's first step, where trial follows trial: there memory starts anew; float32 [num_steps].
        Empty: one trial.
      start: what is seen at a trial's first step, where `trial_obs` begins with the second because all trials start
        alike; its leaves have neither time nor trials. Elsewhere empty.
    """

    trial_obs: TrialObservation
    first: chex.Array | tuple[()] = ()
    start: TrialObservation | tuple[()] = ()


def as_lane(seen: TrialObservation | Lane) -> Lane:
    """A trial's observations as a lane."""
    return seen if isinstance(seen, Lane) else Lane(seen)


def step_in_trial(lane: Lane, num_steps: int) -> chex.Array:
    """Index of each step in its own trial; int32 [num_steps]."""
    index = jnp.arange(num_steps)
    if not isinstance(lane.first, tuple):
        index = index - jax.lax.cummax(jnp.where(lane.first > 0, index, 0))
    return index + 1 if isinstance(lane.start, TrialObservation) else index


def unroll_layer(
    memory: Any, weights: PyTree, start: chex.Array | None, inputs: tuple[chex.Array, chex.Array | None], first: Any
) -> list[chex.Array]:
    """`RecurrentLayer.unroll` over a lane with less work: outputs [steps, units] of its parts, one after another.

    Args:
      memory: a `RecurrentLayer`.
      weights: its weights.
      start: input at a trial's first step, where the others begin with the second; otherwise None.
      inputs: of the layer, float32 [num_steps, input_size]; the flags among them, float32 [num_steps], if it forgets
        at an episode's end, otherwise None.
      first: as `Lane.first`.
    """
    state, outputs = memory.known_start(weights), []
    if start is not None:
        state, output = memory.step(weights, state, start)
        outputs.append(output[None])
    if isinstance(first, tuple):
        # Outside the scan, which would have a state for each trial: under `jax.vmap` all share this one.
        now, inputs = (jax.tree.map(lambda x, part=part: x[part], inputs) for part in (0, slice(1, None)))
        state, output = memory.step_with_flag(weights, state, now)
        outputs.append(output[None])
        first = np.zeros(len(inputs[0]), np.float32)
    elif state is None:
        state = memory.start(weights)
    return [*outputs, unroll_steps(partial(memory.step_with_flag, weights), state, inputs, first)]


# The axis of trials in what they see; of what all see at the start there is one.
_TRIALS_AXIS: Any = Lane(1, 1, None)  # type: ignore[arg-type]


def unroll_trials(function: Callable, mesh: Mesh | None, abreast: int, starts_alike: bool = False) -> Callable:
    """`vmap_trials(function, mesh, (None, 1), 1)`, with at most about `abreast` trials side by side.

    A processor is fastest where the states of all trials that take a step together stay in its cache. So a wide batch
    is laid out as lanes, in which trial follows trial. They divide it evenly; where it does not divide, it is filled up
    with zeros, whose outputs are cut off.

    Where all trials start alike, so does whatever a network makes of it: the first step is taken once for all of them.

    Args:
      function: (params, trial_obs) of one trial to outputs with leaves [num_steps, ...]; where trials come in lanes,
        `abreast` is not 0, or with `starts_alike`, (params, `Lane`) too. Where there is a `Lane.start`, the outputs are
        those of the start and then of every step, leaves [1 + num_steps, ...].
      mesh: devices that share the trials; each has lanes of its own.
      abreast: on each device; 0: all trials.
      starts_alike: whether the function knows of `Lane.start` and all trials see the same at their first step
        (`trial.starts_alike`); without effect on trials that come in lanes.

    Returns:
      (params, trial_obs with leaves [num_steps, num_trials, ...], or a `Lane` of them) -> outputs likewise.
    """
    batched = jax.vmap(function, (None, _TRIALS_AXIS), 1)
    alone = jax.vmap(function, (None, 1), 1)

    def in_lanes(params: PyTree, seen: TrialObservation | Lane) -> PyTree:
        trial_obs, first, _ = as_lane(seen)
        num_steps, num_trials = trial_obs.prev_reward.shape
        come_in_lanes, start = isinstance(seen, Lane), ()
        if starts_alike and num_steps > 1 and not come_in_lanes:
            start = jax.tree.map(lambda x: x[0, 0], trial_obs)
            trial_obs = jax.tree.map(lambda x: x[1:], trial_obs)
        length = max(1, round(num_trials / abreast)) if abreast else 1
        if length == 1:
            seen = Lane(trial_obs, first, start)
            return batched(params, seen) if start or come_in_lanes else alone(params, trial_obs)
        if not come_in_lanes:
            first = jnp.zeros(trial_obs.prev_reward.shape).at[0].set(1.0)
        filled = jax.tree.map(partial(fill_up, 1, -num_trials % length), Lane(trial_obs, first))
        lanes = jax.tree.map(partial(_one_after_another, length), filled)
        outputs = batched(params, lanes._replace(start=start))
        if not start:
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
