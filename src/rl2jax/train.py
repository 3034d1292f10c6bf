"""train(): one jitted iteration, a scan over a chunk of them, and a host loop around the chunks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent
from rl2jax.config import TrainConfig
from rl2jax.envs.base import TaskDistribution, require
from rl2jax.learner import (
    TrainState,
    init_train_state,
    make_collect,
    make_networks,
    make_trial,
    make_update,
    num_trials_in_batch,
)
from rl2jax.networks import PolicyAndBaseline
from rl2jax.trial import Trial
from rl2jax.types import Metrics


class ChunkReport(NamedTuple):
    """What the host learns after a chunk.

    Attributes:
      state: the train state after the chunk; on the device.
      metrics: numpy arrays [iterations in the chunk].
      seconds: wall time of the chunk, compilation excluded.
      steps_per_second: environment steps collected and learned from per second, compilation excluded.
      compile_seconds: time spent compiling before the chunk; 0 if it was compiled already.
    """

    state: TrainState
    metrics: Metrics
    seconds: float
    steps_per_second: float
    compile_seconds: float


Callback = Callable[[ChunkReport], bool | None]


class NonFiniteError(RuntimeError):
    """An update produced a number that is not finite. `state` is the last good train state."""

    def __init__(self, state: TrainState):
        self.state = state
        super().__init__(
            f"iteration {int(state.iteration) + 1} produced a non-finite loss or parameter; the state of iteration "
            f"{int(state.iteration)} was kept. Look for infinite rewards or observations, or lower the learning rate."
        )


@dataclass(frozen=True)
class Learner:
    """A task distribution and a config, bound together; equal learners share compiled code.

    Attributes:
      env: the task distribution.
      config: all settings.
      teacher: who is imitated, with algorithm "imitation".

    Raises:
      ValueError: at construction, if the config does not fit the environment.
    """

    env: TaskDistribution
    config: TrainConfig
    teacher: Agent | None = None

    def __post_init__(self):
        imitates = self.config.algorithm == "imitation"
        require(imitates or self.teacher is None, "teacher", self.teacher, "given with algorithm imitation only")
        require(not imitates or self.teacher is not None, "teacher", self.teacher, "an agent, with imitation")
        num_trials_in_batch(self.trial, self.config)
        make_networks(self.env, self.config)

    @cached_property
    def trial(self) -> Trial:
        """The trial that is played."""
        return make_trial(self.env, self.config)

    @cached_property
    def networks(self) -> PolicyAndBaseline:
        """The networks that are trained."""
        return make_networks(self.env, self.config)

    @cached_property
    def num_trials(self) -> int:
        """Trials in a batch."""
        return num_trials_in_batch(self.trial, self.config)

    def init(self, key: chex.PRNGKey) -> TrainState:
        """A fresh train state."""
        return _init(self, key)

    def train_step(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """One iteration: collect a batch, update on it. A non-finite update is thrown away."""
        key, key_collect, key_update = jax.random.split(state.key, 3)
        teaching = (self.teacher, self.config.teacher_acts)
        trajectory = make_collect(self.trial, self.networks, self.num_trials, *teaching)(key_collect, state.params)
        update = make_update(self.networks, self.config, self.num_trials)
        new_state, metrics = update(state, trajectory, key_update)
        new_state = new_state._replace(key=key)
        # One scalar stands for all: a NaN or infinity anywhere in the new state reaches their sum.
        total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(new_state._replace(key=())))
        finite = jnp.isfinite(total) & jnp.isfinite(metrics.baseline_loss) & jnp.isfinite(metrics.mean_return)
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_state, state)
        return kept, metrics._replace(finite=finite.astype(jnp.float32))

    def train_chunk(self, state: TrainState, length: int) -> tuple[TrainState, Metrics]:
        """`length` iterations on the device; metrics have leaves [length]."""
        return jax.lax.scan(lambda state, _: self.train_step(state), state, None, length=length)


@partial(jax.jit, static_argnums=0)
def _init(learner: Learner, key: chex.PRNGKey) -> TrainState:
    # One program instead of an eager operation per parameter: seconds less to wait.
    return init_train_state(learner.networks, learner.config, learner.num_trials, key)


_whole_training = jax.jit(Learner.train_chunk, static_argnums=(0, 2))  # made once: a second call is not traced again


@partial(jax.jit, static_argnums=(0, 2), donate_argnums=1)
def train_chunk(learner: Learner, state: TrainState, length: int) -> tuple[TrainState, Metrics]:
    """Jitted `Learner.train_chunk`; the state's memory is donated."""
    return learner.train_chunk(state, length)


def train(
    env: TaskDistribution,
    config: TrainConfig,
    key: chex.PRNGKey,
    *,
    callback: Callback | None = None,
    state: TrainState | None = None,
    teacher: Agent | None = None,
) -> tuple[TrainState, Metrics]:
    """Trains a recurrent policy on tasks drawn from `env`.

    Without a callback and with a traced or plain key this is one pure function, so it can be jitted and
    vmapped: `jax.vmap(lambda key: train(env, config, key))(keys)` trains one agent per key.

    Args:
      env: the task distribution.
      config: all settings; `config.iterations` is where training ends.
      key: the run's randomness; unused if `state` is given.
      callback: called on the host after each chunk of `config.iterations_per_chunk` iterations; returning
        True ends training there.
      state: continue from here instead of from scratch. Not donated.
      teacher: who is imitated, with `config.algorithm` "imitation"; `metrics.mean_return` is of those who act.

    Returns:
      (state, metrics); metrics have leaves [iterations done by this call].

    Raises:
      ValueError: if the config does not fit the environment.
      NonFiniteError: with a callback, if an update was not finite. Without one, see `metrics.finite`.
    """
    learner = Learner(env, config, teacher)
    if callback is None:
        if state is None:
            state = learner.init(key)
            length = config.iterations
        else:
            length = config.iterations - int(state.iteration)
        return _whole_training(learner, state, length)
    return _train_on_host(learner, key, callback, state)


def _train_on_host(
    learner: Learner, key: chex.PRNGKey, callback: Callback, state: TrainState | None
) -> tuple[TrainState, Metrics]:
    """Chunk by chunk; compiles ahead of time so that compilation is measured apart."""
    config = learner.config
    state = learner.init(key) if state is None else jax.tree.map(jnp.copy, state)
    compiled: dict[int, Any] = {}
    history: list[Metrics] = []
    iteration = int(state.iteration)
    while iteration < config.iterations:
        # Chunks end at multiples of their length wherever training started, so that a resumed run
        # executes the same programs as an uninterrupted one.
        to_boundary = config.iterations_per_chunk - iteration % config.iterations_per_chunk
        length = min(to_boundary, config.iterations - iteration)
        compile_start = time.perf_counter()
        if length not in compiled:
            compiled[length] = train_chunk.lower(learner, state, length).compile()
        start = time.perf_counter()
        state, metrics = compiled[length](state)
        metrics = jax.tree.map(np.asarray, metrics)  # waits for the device
        seconds = time.perf_counter() - start
        if not metrics.finite.all():
            raise NonFiniteError(state)
        iteration += length
        history.append(metrics)
        steps = length * learner.num_trials * learner.trial.num_steps
        if callback(ChunkReport(state, metrics, seconds, steps / seconds, start - compile_start)):
            break
    if not history:
        return state, jax.tree.map(lambda _: np.zeros((0,), np.float32), Metrics(*Metrics._fields))
    return state, jax.tree.map(lambda *chunks: np.concatenate(chunks), *history)
