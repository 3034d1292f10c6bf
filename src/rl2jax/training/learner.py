"""A task distribution and a config, bound together: one jitted iteration, and a scan over a chunk of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from rl2jax.agents.base import Agent
from rl2jax.devices import TRIALS, put, replicate
from rl2jax.envs.base import TaskDistribution
from rl2jax.networks.base import Networks
from rl2jax.settings import InputError, name_of, require
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.update import (
    TrainState,
    init_train_state,
    make_update,
    num_trials_in_batch,
    steps_in_lane,
)
from rl2jax.trials.collect import make_collect
from rl2jax.trials.trial import Trial
from rl2jax.types import Metrics, PyTree, Trajectory

Iterations = Callable[[TrainState], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Learner:
    """A task distribution and a config, bound together; equal learners share compiled code.

    Attributes:
      env: the task distribution.
      config: all settings.
      teacher: who is imitated, of an algorithm that needs a teacher.
      mesh: devices with one axis, "trials", that share the trials, or lanes, of a batch; None: the default device.
        States and metrics are whole on each of them.

    Raises:
      ValueError: at construction, if the config does not fit the environment or the mesh.
    """

    env: TaskDistribution
    config: TrainConfig
    teacher: Agent | None = None
    mesh: Mesh | None = None

    def __post_init__(self):
        imitates, name = self.config.slow_rl.needs_teacher, name_of(self.config.slow_rl)
        require(imitates or self.teacher is None, "teacher", self.teacher, f"None: slow_rl {name} has no use for one")
        require(not imitates or self.teacher is not None, "teacher", self.teacher, f"an agent, with slow_rl {name}")
        num_trials_in_batch(self.trial, self.config)
        make_networks(self.env, self.config)
        if self.mesh is not None:
            require(self.mesh.axis_names == (TRIALS,), "mesh axes", self.mesh.axis_names, f"({TRIALS!r},)")
            self._require_equal_shares(self.mesh.size)

    def _require_equal_shares(self, num_devices: int) -> None:
        steps, share = self.lane_steps, self.num_trials // num_devices
        what = "lanes" if self.config.batch.lane_steps else "trials"
        near = [str(shares * num_devices * steps) for shares in (share, share + 1) if shares]
        if self.num_trials % num_devices:
            raise InputError(
                f"batch.size must hold a multiple of {num_devices} {what} ({steps} steps each) on {num_devices} "
                f"devices, such as {' or '.join(near)}, got {self.config.batch.size} ({self.num_trials} {what})"
            )

    @cached_property
    def trial(self) -> Trial:
        """The trial that is played."""
        return make_trial(self.env, self.config)

    @cached_property
    def networks(self) -> Networks:
        """The networks that are trained."""
        return make_networks(self.env, self.config)

    @cached_property
    def num_trials(self) -> int:
        """Trials in a batch; with `BatchSettings.lane_steps` lanes."""
        return num_trials_in_batch(self.trial, self.config)

    @property
    def lane_steps(self) -> int:
        """Steps of each of them: of a lane, or the most of a trial."""
        return steps_in_lane(self.trial, self.config)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that an iteration collects and learns from."""
        return self.num_trials * self.lane_steps

    def init(self, key: chex.PRNGKey) -> TrainState:
        """A fresh train state."""
        return _init(self, key)

    def place(self, state: TrainState) -> TrainState:
        """A copy of a train state where training wants it: whole, on every device of the mesh."""
        return put(state, self.mesh, PartitionSpec())

    def agent_of(self, params: PyTree) -> Agent:
        """Who plays the trials with a train state's params: the student, with the teacher's help where it has one."""
        return self.config.slow_rl.acting(self.networks.agent(params["policy"]), self.teacher)

    def train_step(self, state: TrainState, config: TrainConfig | None = None) -> tuple[TrainState, Metrics]:
        """One iteration: collect a batch, update on it; `config` as of `train_chunk`."""
        key, key_collect, key_update = jax.random.split(state.key, 3)
        batch = self.config.batch
        collect = make_collect(
            self.trial, self.agent_of, self.num_trials, self.mesh, batch.lane_steps, batch.trials_per_task
        )
        return self.learn(state, collect(key_collect, state.params), key, key_update, config)

    def learn(
        self,
        state: TrainState,
        trajectory: Trajectory,
        key: chex.PRNGKey,
        key_update: chex.PRNGKey,
        config: TrainConfig | None = None,
    ) -> tuple[TrainState, Metrics]:
        """The second half of an iteration; `key` is the next iteration's. A non-finite update is thrown away."""
        update = make_update(self.networks, config or self.config, self.num_trials, self.mesh)
        new_state, metrics = update(state, trajectory, key_update)
        new_state = new_state._replace(key=key)
        # One scalar stands for all: a NaN or infinity anywhere in the new state reaches their sum. The gradient's need
        # not: a line search that finds no finite step takes none.
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new_state._replace(key=())))
        finite = jnp.isfinite(total) & jnp.isfinite(metrics.baseline_loss) & jnp.isfinite(metrics.mean_return)
        finite = finite & jnp.isfinite(metrics.grad_norm)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
        return kept, metrics._replace(finite=finite.astype(jnp.float32))

    def train_chunk(
        self, state: TrainState, length: int, config: TrainConfig | None = None
    ) -> tuple[TrainState, Metrics]:
        """`length` iterations on the device; metrics have leaves [length].

        Args:
          state: where they start.
          length: how many.
          config: as the learner's, but for traced numbers in it (`training.sweeps`).
        """
        done = jax.lax.scan(lambda state, _: self.train_step(state, config), state, None, length=length)
        return replicate(done, self.mesh)

    def compile(self, state: TrainState, length: int) -> Iterations:
        """The program of `length` iterations, compiled; a state's memory is donated."""
        return train_chunk.lower(self, state, length).compile()


@partial(jax.jit, static_argnums=0)
def _init(learner: Learner, key: chex.PRNGKey) -> TrainState:
    # One program instead of an eager operation per parameter: seconds less to wait.
    return replicate(init_train_state(learner.networks, learner.config, learner.num_trials, key), learner.mesh)


whole_training = jax.jit(Learner.train_chunk, static_argnums=(0, 2))  # made once: a second call is not traced again


class Program(Protocol):
    """What the host loop runs: a `Learner`, many seeds of one (`seeds.SeedLearner`), or one with games of an engine."""

    @property
    def config(self) -> TrainConfig: ...  # noqa: D102

    @property
    def steps_per_iteration(self) -> int: ...  # noqa: D102

    def compile(self, state: TrainState, length: int) -> Iterations: ...  # noqa: D102


class Trainable(Protocol):
    """A program that is one function of JAX; hashable, static."""

    def train_chunk(self, state: TrainState, length: int) -> tuple[TrainState, Metrics]: ...  # noqa: D102


@partial(jax.jit, static_argnums=(0, 2), donate_argnums=1)
def train_chunk(learner: Trainable, state: TrainState, length: int) -> tuple[TrainState, Metrics]:
    """Jitted `Learner.train_chunk`; the state's memory is donated."""
    return learner.train_chunk(state, length)
