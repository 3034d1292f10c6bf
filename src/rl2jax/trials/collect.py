"""A batch of trials on freshly drawn tasks, played on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rl2jax.agents.base import AgentOf
from rl2jax.devices import vmap_trials
from rl2jax.envs.base import TaskDistribution
from rl2jax.settings import Section, bounded
from rl2jax.trials.rollout import rollout, rollout_lane, steps_apart
from rl2jax.trials.trial import Trial
from rl2jax.types import TRIALS_AXIS, PyTree, Trajectory

Collect = Callable[[chex.PRNGKey, PyTree], Trajectory]


@dataclass(frozen=True)
class BatchSettings(Section):
    """What one iteration collects.

    Attributes:
      size: time steps; size // (steps in a trial) whole trials are collected.
      lane_steps: 0: each trial has its own row of the batch, as long as a trial can last; what remains after its end is
        wasted. Above: rows ("lanes") of so many steps, in which a trial on a fresh task follows as soon as one has
        ended: size // lane_steps of them. For trials of varying length. A lane's end cuts the last trial. Choose at
        least the steps of a long trial: what comes later in a trial than a lane is long is never learned.
      trials_per_task: so many trials of a batch are of one task (common tasks): a divisor of the number of trials.
    """

    section: ClassVar[str] = "batch"
    size: int = bounded(250_000, at_least=1)
    lane_steps: int = bounded(0, at_least=0)
    trials_per_task: int = bounded(1, at_least=1)

    def check(self) -> None:
        """Lanes have at least two steps, and tasks of their own."""
        self.require(self.lane_steps != 1, "lane_steps", "0 or at least 2")
        self.require(not self.lane_steps or self.trials_per_task == 1, "trials_per_task", "1 with batch.lane_steps")


def make_collect(
    trial: Trial,
    agent_of: AgentOf,
    num_trials: int,
    mesh: Mesh | None = None,
    lane_steps: int = 0,
    trials_per_task: int = 1,
) -> Collect:
    """Returns collect(key, params) -> a batch of trials on freshly drawn tasks, by default one task a trial.

    Each device of a mesh plays its share of the trials, the same ones as one device would.

    Args:
      trial: what is played.
      agent_of: from the params of a train state to who plays.
      num_trials: in a batch; or lanes.
      mesh: devices that share them.
      lane_steps: as `BatchSettings.lane_steps`.
      trials_per_task: as `BatchSettings.trials_per_task`; divides `num_trials`. Trials of one task are side by side.
    """
    if lane_steps:

        def play_lane(key: chex.PRNGKey, params: PyTree) -> Trajectory:
            return rollout_lane(key, agent_of(params), trial, lane_steps)

        def collect_lanes(key: chex.PRNGKey, params: PyTree) -> Trajectory:
            return vmap_trials(play_lane, mesh, (0, None), 1)(jax.random.split(key, num_trials), params)

        return collect_lanes

    apart = steps_apart(trial)

    def play(key: chex.PRNGKey, task: PyTree, params: PyTree) -> Trajectory:
        return rollout(key, agent_of(params), trial, task, apart=apart)

    def collect(key: chex.PRNGKey, params: PyTree) -> Trajectory:
        key_tasks, key_rollouts = jax.random.split(key)
        tasks = draw_tasks(trial.env, key_tasks, num_trials, trials_per_task, mesh)
        play_trials = vmap_trials(play, mesh, (0, 0, None), TRIALS_AXIS)
        return play_trials(jax.random.split(key_rollouts, num_trials), tasks, params)

    return collect


def draw_tasks(
    env: TaskDistribution, key: chex.PRNGKey, num_trials: int, trials_per_task: int = 1, mesh: Mesh | None = None
) -> PyTree:
    """The tasks of a batch, as `make_collect` says; leaves [num_trials, ...]."""
    tasks = vmap_trials(env.sample_params, mesh, (0,), 0)(jax.random.split(key, num_trials // trials_per_task))
    if trials_per_task == 1:
        return tasks
    return jax.tree.map(lambda x: jnp.repeat(x, trials_per_task, axis=0), tasks)
