"""Arrays over several devices: a mesh with one axis, and which axis of an array goes along it.

The program says where the trials of a batch are; XLA's partitioner does the rest: each device plays and learns
from its own trials, and what sums over trials (gradients, Fisher products, metrics) is summed over devices.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rl2jax.settings import InputError
from rl2jax.types import PyTree

TRIALS, SEEDS = "trials", "seeds"


def make_mesh(devices: Sequence[jax.Device], axis: str = TRIALS) -> Mesh:
    """A mesh with one axis, `TRIALS` or `SEEDS`, over these devices."""
    return Mesh(np.array(devices), (axis,), axis_types=(AxisType.Auto,))


def choose_mesh(count: int, axis: str, num_devices: int | None = None) -> Mesh | None:
    """A mesh on which `count` trials or seeds divide evenly; None if it has one device.

    With several processes it has as many devices of each.

    Args:
      count: trials in a batch, or seeds.
      axis: `TRIALS` or `SEEDS`.
      num_devices: of each process; default the most, of those there are, that divide `count`.

    Raises:
      ValueError: if a process has not as many devices.
    """
    available, processes = jax.local_device_count(), jax.process_count()
    if num_devices is None:
        num_devices = max((n for n in range(1, available + 1) if count % (n * processes) == 0), default=1)
    if not 1 <= num_devices <= available:
        here = f"the {jax.default_backend()} devices of this process"
        raise InputError(f"--devices must be from 1 to {available} ({here}), got {num_devices}")
    if num_devices * processes == 1:
        return None
    local = [[d for d in jax.devices() if d.process_index == process] for process in range(processes)]
    return make_mesh([d for devices in local for d in devices[:num_devices]], axis)


def cores_per_device() -> int:
    """Of a processor's cores that this process may use, each device's share; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jax.local_device_count())


def describe(mesh: Mesh | None, count: int, axis: str) -> str:
    """One line on how `count` trials or seeds are shared; empty where there is one device and nothing to say."""
    if jax.device_count() == 1:
        return ""
    used, available = 1 if mesh is None else mesh.size, jax.device_count()
    uneven = f" ({count} do not divide evenly by {available})" if count % available else ""
    return f"{used} of {available} devices, {count // used} {axis} on each{uneven}"


def vmap_trials(function: Callable, mesh: Mesh | None, in_axes: Any, out_axes: Any) -> Callable:
    """`jax.vmap` over trials; on a mesh each device computes its own share, with nothing sent while it does.

    What is not mapped over is whole on every device, and its gradient is summed over devices once, at the end: left
    to the partitioner, the gradient of a scan over time would be summed at each step. Trials that do not divide
    evenly are filled up with zeros, whose outputs are cut off.

    Args:
      function: of one trial.
      mesh: with axis `TRIALS`; None: `jax.vmap` itself.
      in_axes: a tuple, for each argument the trials' axis in all its leaves, or None.
      out_axes: the trials' axis in the outputs: an int, or a PyTree of them.
    """
    return share_trials(jax.vmap(function, in_axes, out_axes), mesh, in_axes, out_axes)


def share_trials(batched: Callable, mesh: Mesh | None, in_axes: Any, out_axes: Any) -> Callable:
    """`vmap_trials` of a function that is batched already, and may be given any number of trials."""
    if mesh is None:
        return batched
    specs = jax.tree.map(_spec, (in_axes, out_axes), is_leaf=lambda axis: axis is None)
    sharded = jax.shard_map(batched, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)

    def padded(*arguments):
        mapped = [(axis, argument) for axis, argument in zip(in_axes, arguments, strict=True) if axis is not None]
        count = jax.tree.leaves(mapped[0][1])[0].shape[mapped[0][0]]
        if count % mesh.size == 0:
            return sharded(*arguments)
        filled = (
            argument if axis is None else jax.tree.map(partial(fill_up, axis, -count % mesh.size), argument)
            for axis, argument in zip(in_axes, arguments, strict=True)
        )
        cut = partial(jax.lax.slice_in_dim, start_index=0, limit_index=count)
        return jax.tree.map(
            lambda axis, output: jax.tree.map(partial(cut, axis=axis), output), out_axes, sharded(*filled)
        )

    return padded


def side_by_side(first: Callable, second: Callable, mesh: Mesh) -> Callable:
    """Two computations at once, each on one of two devices; both devices then know what both found.

    Args:
      first: of whole arrays, to arrays of numbers; called as on one device.
      second: likewise.
      mesh: two devices, with axis `TRIALS`.

    Returns:
      (arguments of the first, arguments of the second) -> (what the first returns, what the second returns).
    """

    def one_of_both(*arguments: tuple) -> tuple[PyTree, PyTree]:
        found = tuple(jax.eval_shape(function, *own) for function, own in zip((first, second), arguments, strict=True))
        nothing = jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), found)
        mine = jax.lax.cond(
            jax.lax.axis_index(TRIALS) == 0,
            lambda: (first(*arguments[0]), nothing[1]),
            lambda: (nothing[0], second(*arguments[1])),
        )
        return jax.lax.psum(mine, TRIALS)

    return jax.shard_map(one_of_both, mesh=mesh, in_specs=_spec(None), out_specs=_spec(None), check_vma=False)


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, TRIALS)


def fill_up(axis: int, count: int, x: jax.Array) -> jax.Array:
    """`x` with `count` zeros more along an axis."""
    if count == 0:
        return x
    zeros = jax.numpy.zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]), x.dtype)
    return jax.numpy.concatenate([x, zeros], axis)


def vmap_seeds(function: Callable, mesh: Mesh | None) -> Callable:
    """`jax.vmap` over seeds, or members of a sweep: of all arguments' and outputs' first axis.

    On a mesh with axis `SEEDS` each device computes its share, and nothing is ever sent between devices.
    """
    batched = jax.vmap(function)
    if mesh is None:
        return batched
    spec = PartitionSpec(SEEDS)
    return jax.shard_map(batched, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same whole arrays on every device, inside a compiled program; None changes nothing."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def put(tree: PyTree, mesh: Mesh | None, spec: PartitionSpec) -> PyTree:
    """A copy of `tree`, on the mesh; every process passes the same."""
    tree = jax.tree.map(jax.numpy.copy, tree)  # never the caller's own memory: what is put may be donated
    if mesh is None:
        return tree
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, spec))(tree)
