"""Training on an engine: the host plays the trials, the device learns from them."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import chex
import jax
import jax.numpy as jnp

from rl2jax.engines.base import EngineOf, HostEngine, find_engine
from rl2jax.engines.collection import make_collect
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Iterations, Learner
from rl2jax.training.update import TrainState
from rl2jax.trials.collect import Collect
from rl2jax.types import Metrics, Trajectory


@dataclass(frozen=True, eq=False)
class EngineLearner:
    """A `Learner` whose trials are played by a running engine.

    Keys are used as on the device: the same tasks are drawn, and actions differ only where observations do.

    Attributes:
      learner: without a mesh.
      engine: of the same task distribution, which does not refuse the config (`find_engine`).
    """

    learner: Learner
    engine: HostEngine

    @property
    def config(self) -> TrainConfig:
        """All settings."""
        return self.learner.config

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps that an iteration collects and learns from."""
        return self.learner.steps_per_iteration

    def init(self, key: chex.PRNGKey) -> TrainState:
        """A fresh train state."""
        return self.learner.init(key)

    def place(self, state: TrainState) -> TrainState:
        """A copy of a train state on the device."""
        return self.learner.place(state)

    @cached_property
    def collect(self) -> Collect:
        """A batch of trials by the engine, from a key and the params, as the device plays them."""
        learner, each = self.learner, self.config.batch.trials_per_task
        return make_collect(self.engine, learner.trial, learner.agent_of, learner.num_trials, each)

    def compile(self, state: TrainState, length: int) -> Iterations:
        """`length` iterations: the update is compiled at its first trajectory."""
        del state

        def run(state: TrainState) -> tuple[TrainState, Metrics]:
            rows = []
            for _ in range(length):
                key, key_collect, key_update = jax.random.split(state.key, 3)
                state, metrics = _learn(self.learner, state, self.collect(key_collect, state.params), key, key_update)
                rows.append(metrics)
            return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

        return run


@contextlib.contextmanager
def playing_on(engine: str | EngineOf, learner: Learner) -> Iterator[Learner | EngineLearner]:
    """A learner whose trials are played by an engine, as `find_engine` takes it, which runs as long as the context.

    Raises:
      ValueError: as `find_engine`.
    """
    alone = jax.process_count() == 1
    make = find_engine(engine, learner.env, lane_steps=learner.config.batch.lane_steps, alone=alone)
    if make is None:
        yield learner
        return
    with make(learner.env) as opened:
        yield EngineLearner(dataclasses.replace(learner, mesh=None), opened)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _learn(
    learner: Learner, state: TrainState, trajectory: Trajectory, key: chex.PRNGKey, key_update: chex.PRNGKey
) -> tuple[TrainState, Metrics]:
    return learner.learn(state, trajectory, key, key_update)
