"""Training on the real engine: ViZDoom plays the trials, the device learns from them."""

from dataclasses import dataclass
from functools import cached_property, partial

import chex
import jax
import jax.numpy as jnp

from rl2jax.engines.vizdoom.mazes import VizdoomMazes, make_collect
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Iterations, Learner
from rl2jax.training.update import TrainState
from rl2jax.trials.collect import Collect
from rl2jax.types import Metrics, Trajectory


@dataclass(frozen=True, eq=False)
class EngineLearner:
    """A `Learner` of a `MazeNavigation` whose trials are played by running games.

    Keys are used as on the device: the same mazes are drawn, and actions differ only where frames do.

    Attributes:
      learner: without a mesh.
      games: of the same task distribution.

    Raises:
      ValueError: at construction, if the two do not fit.
    """

    learner: Learner
    games: VizdoomMazes

    def __post_init__(self):
        require(self.learner.mesh is None, "learner.mesh", self.learner.mesh, "None with games of an engine")
        lane_steps = self.learner.config.batch.lane_steps
        require(lane_steps == 0, "lane_steps", lane_steps, "0 with games of an engine, which play one trial each")
        each = self.learner.config.batch.trials_per_task
        require(each == 1, "trials_per_task", each, "1 with games of an engine, which play a task each")
        require(self.games.env == self.learner.env, "games.env", self.games.env, f"the learner's, {self.learner.env}")

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
        """A batch of trials by the engine, from a key and the params, as `learner.make_collect` plays them."""
        learner = self.learner
        return make_collect(self.games, learner.trial, learner.agent_of, learner.num_trials)

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


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _learn(
    learner: Learner, state: TrainState, trajectory: Trajectory, key: chex.PRNGKey, key_update: chex.PRNGKey
) -> tuple[TrainState, Metrics]:
    return learner.learn(state, trajectory, key, key_update)
