"""`trials.evaluate` on the host: the same tasks, and the same random numbers of the agent."""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial

import chex
import jax
import numpy as np

from rl2jax.agents.base import Agent
from rl2jax.engines.base import EngineOf, HostEngine, find_engine
from rl2jax.engines.collection import collect
from rl2jax.envs.base import TaskDistribution
from rl2jax.trials.evaluate import Evaluation, Played, evaluate, held_out, nothing, task_keys
from rl2jax.trials.trial import Trial
from rl2jax.types import PyTree, Trajectory

_OBSERVATION_BYTES = 2**30  # at most, of the trials that are in memory at once


@contextlib.contextmanager
def evaluator(engine: str | EngineOf, env: TaskDistribution) -> Iterator[Callable[..., Evaluation]]:
    """What evaluates agents in the tasks that `env` holds out: `evaluate`, or `evaluate_on` an engine.

    Raises:
      ValueError: as `find_engine`.
    """
    env = env.held_out()
    make = find_engine(engine, env)
    if make is None:
        yield evaluate
        return
    with make(env) as opened:
        yield partial(evaluate_on, opened)


def evaluate_on(
    engine: HostEngine,
    agent: Agent,
    trial: Trial,
    num_tasks: int,
    key: chex.PRNGKey,
    *,
    statistic: Callable[[Trajectory, PyTree], PyTree] = nothing,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """As `evaluate`; `engine` plays the tasks that `trial.env` holds out."""
    trial = held_out(trial)
    space = trial.env.observation_space(None)
    of_a_trial = trial.num_steps * math.prod(space.shape) * np.dtype(space.dtype).itemsize
    at_once = max(1, _OBSERVATION_BYTES // max(1, of_a_trial))
    totals, sums = [], []
    for start in range(0, num_tasks, at_once):
        indices = np.arange(start, min(start + at_once, num_tasks))
        keys_task, keys_rollout = jax.vmap(partial(task_keys, key), out_axes=1)(indices)
        tasks = jax.jit(jax.vmap(trial.env.sample_params))(keys_task)
        played = Played(collect(engine, agent, trial, keys_rollout, tasks), tasks)
        totals.append(played.trajectory.reward.sum(axis=0))
        looked_at = played.trajectory.reward.T, played.each(statistic)
        sums.append(jax.tree.map(lambda x: np.sum(x, axis=0, dtype=np.float64), looked_at))
        if progress is not None:
            progress(int(indices[-1]) + 1)
    curve, statistics = jax.tree.map(lambda *parts: sum(parts) / num_tasks, *sums)
    return Evaluation(np.concatenate(totals), curve, statistics)
