"""Many training seeds in one program: each seed's numbers are those of its own training."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
from jax.sharding import Mesh, PartitionSpec

from rl2jax.agents.base import Agent
from rl2jax.devices import SEEDS, put, vmap_seeds
from rl2jax.envs.base import TaskDistribution
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Iterations, Learner, train_chunk
from rl2jax.training.loop import Callback, run_chunks
from rl2jax.training.update import TrainState
from rl2jax.types import Metrics


@dataclass(frozen=True)
class SeedLearner:
    """A `Learner` for several seeds at once: states and metrics have a leading axis [num_seeds].

    Attributes:
      learner: of one seed; without a mesh.
      num_seeds: how many.
      mesh: devices with one axis, "seeds", each of which trains its share of the seeds; None: the default device.

    Raises:
      ValueError: at construction, if the seeds cannot be shared evenly.
    """

    learner: Learner
    num_seeds: int
    mesh: Mesh | None = None

    def __post_init__(self):
        require(self.num_seeds >= 1, "num_seeds", self.num_seeds, ">= 1")
        require(self.learner.mesh is None, "learner.mesh", self.learner.mesh, "None: devices share seeds, not trials")
        if self.mesh is not None:
            require(self.mesh.axis_names == (SEEDS,), "mesh axes", self.mesh.axis_names, f"({SEEDS!r},)")
            allowed = f"a multiple of the number of devices ({self.mesh.size})"
            require(self.num_seeds % self.mesh.size == 0, "num_seeds", self.num_seeds, allowed)

    @property
    def config(self) -> TrainConfig:
        """All settings."""
        return self.learner.config

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of an iteration, over all seeds."""
        return self.num_seeds * self.learner.steps_per_iteration

    def init(self, keys: chex.PRNGKey) -> TrainState:
        """Fresh train states from keys [num_seeds]."""
        return self.place(_init_each(self.learner, keys))

    def place(self, states: TrainState) -> TrainState:
        """A copy of train states where training wants them: on each device of the mesh its share."""
        return put(states, self.mesh, PartitionSpec(SEEDS))

    def train_chunk(self, states: TrainState, length: int) -> tuple[TrainState, Metrics]:
        """`length` iterations of every seed; metrics have leaves [num_seeds, length]."""
        return vmap_seeds(lambda state: self.learner.train_chunk(state, length), self.mesh)(states)

    def compile(self, states: TrainState, length: int) -> Iterations:
        """The program of `length` iterations of every seed, compiled; the states' memory is donated."""
        return train_chunk.lower(self, states, length).compile()


@partial(jax.jit, static_argnums=0)
def _init_each(learner: Learner, keys: chex.PRNGKey) -> TrainState:
    """One after another: many orthogonal matrices at once, in batches, can stop jaxlib 0.10.2 on few cores for good."""
    return jax.lax.map(learner.init, keys)


@partial(jax.jit, static_argnums=(0, 2))
def whole_training(learner: SeedLearner, states: TrainState, length: int) -> tuple[TrainState, Metrics]:
    """Every seed from one state to the last iteration, in one program."""
    return learner.train_chunk(states, length)


def train_seeds(
    env: TaskDistribution,
    config: TrainConfig,
    keys: chex.PRNGKey,
    *,
    callback: Callback | None = None,
    states: TrainState | None = None,
    teacher: Agent | None = None,
    mesh: Mesh | None = None,
    slow_rl: Any = None,
) -> tuple[TrainState, Metrics]:
    """Trains one agent per key, all in one program; each as `train` would from its key.

    Args:
      env: the task distribution.
      config: all settings, the same for all.
      keys: the runs' randomness, [num_seeds]; unused if `states` is given.
      callback: as in `train`; `report.metrics` has leaves [num_seeds, iterations in the chunk].
      states: continue from these, [num_seeds], all at the same iteration.
      teacher: as in `train`.
      mesh: devices that share the seeds, from `devices.make_mesh(devices, "seeds")`.
      slow_rl: as in `train`.

    Returns:
      (states, metrics) with leaves [num_seeds, ...] and [num_seeds, iterations done by this call].

    Raises:
      ValueError: if the config does not fit the environment, or seeds cannot be shared evenly by the devices.
      NonFiniteError: with a callback, if any seed's update was not finite. Without one, see `metrics.finite`.
    """
    config = config if slow_rl is None else config.replace(slow_rl=slow_rl)
    num_seeds = keys.shape[0] if states is None else states.iteration.shape[0]
    learner = SeedLearner(Learner(env, config, teacher), num_seeds, mesh)
    start = learner.init(keys) if states is None else learner.place(states)
    if callback is not None:
        return run_chunks(learner, start, callback)
    done = 0 if states is None else int(states.iteration[0])
    return whole_training(learner, start, config.iterations - done)
