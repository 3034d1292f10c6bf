"""Any agent on fresh tasks: mean, standard error, and the reward at each step of a trial."""

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent
from rl2jax.settings import require
from rl2jax.trials.rollout import rollout, rollout_queue
from rl2jax.trials.trial import Trial
from rl2jax.types import TRIALS_AXIS, PyTree, Trajectory
from rl2jax.xla import less_optimised

# Evaluation draws from a stream of its own, so that no seed repeats a task of a training run.
_EVALUATION_STREAM = 0x52EA1
# Fewer tasks at once leave a CPU waiting between operations, more fall out of its cache (docs/appendix_performance.md).
_TASKS_AT_ONCE, _STATES_IN_CACHE = 2000, 4 * 2**20  # bytes
_TASKS_AT_ONCE_ON_ACCELERATORS = 20_000
_MOST_STEPS_ON_DEVICE = 2_000_000
# Where trials end early. With few tasks a lane most lanes wait for the last trials; few lanes are small operations.
_FEWEST_LANES, _TASKS_A_LANE = 64, 16


class Evaluation(NamedTuple):
    """Scores of one agent.

    Attributes:
      total_reward: total undiscounted reward of each trial; float32 numpy [num_tasks].
      reward_curve: mean reward at each step of a trial, over tasks; float64 numpy [num_steps].
      statistic: mean over tasks of what `evaluate` was asked to look at; float64 numpy leaves.
    """

    total_reward: np.ndarray
    reward_curve: np.ndarray
    statistic: PyTree = ()

    @property
    def mean(self) -> float:
        """Mean total reward of a trial."""
        return float(self.total_reward.mean(dtype=np.float64))

    @property
    def standard_deviation(self) -> float:
        """Sample standard deviation over tasks; nan for one task."""
        if len(self.total_reward) < 2:
            return math.nan
        return float(self.total_reward.std(ddof=1, dtype=np.float64))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean; nan for one task."""
        return self.standard_deviation / math.sqrt(len(self.total_reward))


class Played(NamedTuple):
    """Trials as they went.

    Attributes:
      trajectory: numpy leaves [num_steps, num_tasks, ...]; without `agent_info` unless it was asked for.
      params: the tasks; numpy leaves [num_tasks, ...].
    """

    trajectory: Trajectory
    params: PyTree

    def each(self, statistic: Callable[[Trajectory, PyTree], PyTree]) -> PyTree:
        """What a statistic of `evaluate` says of each trial; numpy leaves [num_tasks, ...]."""
        return jax.device_get(jax.jit(jax.vmap(statistic, (TRIALS_AXIS, 0)))(*self))


def evaluation_key(seed: int) -> chex.PRNGKey:
    """The key of an evaluation; disjoint from the stream of a training run of the same seed."""
    return jax.random.fold_in(jax.random.key(seed), _EVALUATION_STREAM)


def nothing(trajectory: Trajectory, params: PyTree) -> PyTree:
    """The statistic of those who want no statistic."""
    del trajectory, params
    return ()


def evaluate(
    agent: Agent,
    trial: Trial,
    num_tasks: int,
    key: chex.PRNGKey,
    *,
    batch_tasks: int | None = None,
    statistic: Callable[[Trajectory, PyTree], PyTree] = nothing,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Plays one trial on each of `num_tasks` fresh tasks.

    Task i and its randomness depend on (key, i) only: not on the batch size, and not on the agent, so
    agents evaluated with one key meet the same tasks and can be compared in pairs.

    Args:
      agent: who acts.
      trial: task distribution and number of episodes.
      num_tasks: how many tasks.
      key: as from `evaluation_key`.
      batch_tasks: tasks on the device at once; default equal batches of at most 2000 on a CPU, within 4 MiB of agents'
        states, else of 20000, within 2 million time steps. Where trials end early (`TaskDistribution.ends_early`) and
        no statistic asks for whole trials, at most so many at once, which others follow.
      statistic: (trajectory, params) -> arrays to average over tasks.
      progress: called with the number of tasks done after each batch.

    Returns:
      the scores.
    """
    require(num_tasks >= 1, "num_tasks", num_tasks, ">= 1")
    trial = held_out(trial)
    batch_tasks = _default_batch(agent, trial, num_tasks) if batch_tasks is None else min(num_tasks, batch_tasks)

    if trial.env.ends_early and statistic is nothing:
        num_lanes = min(batch_tasks, max(_FEWEST_LANES, math.ceil(num_tasks / _TASKS_A_LANE)))
        batch_tasks = min(num_tasks, num_lanes * _TASKS_A_LANE)
        play_batch = _kept(_queue_scorer, agent, trial, num_lanes)
    else:
        play_batch = _kept(_scorer, agent, trial, statistic)
    totals, sums = [], None
    for start in range(0, num_tasks, batch_tasks):
        indices = np.arange(start, start + batch_tasks)
        wanted = indices < num_tasks  # the last batch is played whole, its surplus dropped
        total, *batch_sums = play_batch(key, indices, wanted.astype(np.float32))
        totals.append(np.asarray(total)[wanted])
        batch_sums = jax.tree.map(lambda x: np.asarray(x, np.float64), batch_sums)
        sums = batch_sums if sums is None else jax.tree.map(np.add, sums, batch_sums)
        if progress is not None:
            progress(min(start + batch_tasks, num_tasks))
    curve, statistics = jax.tree.map(lambda x: x / num_tasks, sums)
    return Evaluation(np.concatenate(totals), curve, statistics)


def play_tasks(agent: Agent, trial: Trial, num_tasks: int, key: chex.PRNGKey, *, agent_info: bool = False) -> Played:
    """The trials of `evaluate` themselves, for those who look at more than a mean.

    Args:
      agent: who acts.
      trial: task distribution and number of episodes.
      num_tasks: how many tasks; all their trials are kept in memory.
      key: as from `evaluation_key`.
      agent_info: whether what the agent says at each step is kept, such as a policy's `PolicyInfo`.
    """
    require(num_tasks >= 1, "num_tasks", num_tasks, ">= 1")
    trial = held_out(trial)
    batch_tasks = _default_batch(agent, trial, num_tasks)
    play_batch = _kept(_recorder, agent, trial, agent_info)
    starts = range(0, num_tasks, batch_tasks)
    parts = [jax.device_get(play_batch(key, np.arange(start, start + batch_tasks))) for start in starts]

    def join(axis, *leaves):  # the last batch is played whole
        return np.take(np.concatenate(leaves, axis), np.arange(num_tasks), axis)

    return Played(*jax.tree.map(join, jax.tree.broadcast((TRIALS_AXIS, 0), parts[0]), *parts))


def _scorer(agent: Agent, trial: Trial, statistic: Callable[[Trajectory, PyTree], PyTree]) -> Callable:
    """(key, indices, 1.0 where wanted) -> (total rewards, sums over wanted tasks of the rewards, of the statistic)."""

    def play(key, index):
        trajectory, params = _play_one(agent, trial, key, index)
        return trajectory.reward, statistic(trajectory, params)

    @partial(jax.jit, compiler_options=less_optimised())
    def play_batch(key, indices, wanted):
        rewards, statistics = jax.vmap(partial(play, key), out_axes=(1, 0))(indices)
        sums = jax.tree.map(
            lambda x: jnp.einsum("b...,b->...", x.astype(jnp.float32), wanted, precision="highest"), statistics
        )
        return rewards.sum(axis=0), jnp.sum(rewards * wanted, axis=1), sums

    return play_batch


def _queue_scorer(agent: Agent, trial: Trial, num_lanes: int) -> Callable:
    """`_scorer` without a statistic, for trials that end early: what is wanted comes first, the rest is not played."""

    @partial(jax.jit, compiler_options=less_optimised())
    def play_batch(key, indices, wanted):
        def task_of(i):
            key_task, key_rollout = task_keys(key, indices[i])
            return key_rollout, trial.env.sample_params(key_task)

        num_wanted = wanted.sum().astype(jnp.int32)
        return *rollout_queue(task_of, len(indices), num_wanted, agent, trial, num_lanes), ()

    return play_batch


def _recorder(agent: Agent, trial: Trial, agent_info: bool) -> Callable:
    """(key, indices) -> (trajectories, tasks)."""

    @partial(jax.jit, compiler_options=less_optimised())
    def play_batch(key, indices):
        trajectory, params = jax.vmap(partial(_play_one, agent, trial, key), out_axes=(TRIALS_AXIS, 0))(indices)
        return trajectory if agent_info else trajectory._replace(agent_info=()), params

    return play_batch


def _kept(make: Callable[..., Callable], *arguments: Any) -> Callable:
    """`make(*arguments)`, the same again for the same ones: an agent that plays on need not be compiled again."""
    try:
        return _last_made(make, *arguments)
    except TypeError:  # what cannot be hashed cannot be found again
        return make(*arguments)


@lru_cache(maxsize=8)  # each holds an agent's parameters and a program
def _last_made(make: Callable[..., Callable], *arguments: Any) -> Callable:
    return make(*arguments)


def held_out(trial: Trial) -> Trial:
    """The same of the tasks that are evaluated on."""
    return dataclasses.replace(trial, env=trial.env.held_out())


def _play_one(agent: Agent, trial: Trial, key: chex.PRNGKey, index: chex.Array) -> tuple[Trajectory, PyTree]:
    """Task number `index` of the key's stream: the trial, and the task."""
    key_task, key_rollout = task_keys(key, index)
    params = trial.env.sample_params(key_task)
    return rollout(key_rollout, agent, trial, params), params


def task_keys(key: chex.PRNGKey, index: chex.Array) -> chex.PRNGKey:
    """Of the task itself, and of playing it; [2]."""
    return jax.random.split(jax.random.fold_in(key, index))


def _default_batch(agent: Agent, trial: Trial, num_tasks: int) -> int:
    """As many as are best at once, or fewer, so that the last batch is about as large as the others."""
    at_once = min(_TASKS_AT_ONCE_ON_ACCELERATORS, _MOST_STEPS_ON_DEVICE // trial.num_steps)
    if jax.default_backend() == "cpu":
        state = jax.eval_shape(agent.init, jax.random.key(0))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        at_once = min(at_once, _TASKS_AT_ONCE, _STATES_IN_CACHE // max(1, size))
    batches = math.ceil(num_tasks / max(1, at_once))
    return math.ceil(num_tasks / batches)
