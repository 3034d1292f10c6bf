"""Hyperparameters of reference agents: grid search on tasks of their own, kept on disk with every score."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rl2jax.agents import ReferenceAgent
from rl2jax.envs.base import TaskDistribution
from rl2jax.envs.names import Task, slug
from rl2jax.files import cache_folder, git_commit, write_atomically
from rl2jax.trials.evaluate import evaluate
from rl2jax.trials.trial import Trial

# Tuning draws from a stream of its own: no seed repeats a task of an evaluation or a training run.
_TUNING_STREAM = 0x7E4E
_SEED = 0
_MOST_TASKS, _MOST_STEPS = 10_000, 2_000_000
# Agents that draw many random numbers are played on fewer tasks: so many numbers at each step, over all tasks.
_MOST_DRAWS_PER_STEP = 200_000
COMMITTED = Path(__file__).parent / "tuned"


class Tuned(NamedTuple):
    """The outcome of a grid search.

    Attributes:
      hyperparameters: the best setting.
      scores: one {"hyperparameters", "mean", "standard_error"} per setting of the grid; all met the same tasks.
      num_tasks: tasks played per setting.
      seed: of the tasks; their stream is disjoint from evaluation's and training's.
      commit: of the source tree.
    """

    hyperparameters: dict[str, Any]
    scores: list[dict[str, Any]]
    num_tasks: int
    seed: int
    commit: str | None


def draws_per_step(spec: ReferenceAgent, env: TaskDistribution, settings: dict[str, Any]) -> int:
    """About how many random numbers an agent draws at a step; as many times more as its `num_samples` says."""
    if spec.draws_per_step == 0:  # also of a task that has no number of actions: one's own need not say it
        return 0
    return spec.draws_per_step * env.num_actions * settings.get("num_samples", 1)


def affordable_tasks(num_tasks: int, draws: int, most_draws: int) -> int:
    """`num_tasks`, or for an agent of `draws` random numbers a step, what keeps within `most_draws` over all tasks."""
    return num_tasks if draws == 0 else max(1, min(num_tasks, most_draws // draws))


def tune(
    spec: ReferenceAgent,
    trial: Trial,
    *,
    num_tasks: int | None = None,
    seed: int = _SEED,
    progress: Callable[[int], object] | None = None,
) -> Tuned:
    """Plays every setting of the grid on the same tasks and keeps the one with the largest mean.

    Args:
      spec: the agent and its grid.
      trial: task distribution and number of episodes.
      num_tasks: tasks per setting; default 10000, or 2 million steps' worth if that is fewer. Fewer for agents that
        draw very many random numbers.
      seed: of the tasks.
      progress: called with the number of settings done after each.
    """
    if num_tasks is None:
        num_tasks = min(_MOST_TASKS, max(1, _MOST_STEPS // trial.num_steps))
    default = {**spec.fixed, **spec.grid[0]}
    num_tasks = affordable_tasks(num_tasks, draws_per_step(spec, trial.env, default), _MOST_DRAWS_PER_STEP)
    key = jax.random.fold_in(jax.random.key(seed), _TUNING_STREAM)
    scores: list[dict[str, Any]] = []
    for setting in spec.grid:
        agent = spec.make(trial.env, trial.num_episodes, **spec.fixed, **setting)
        played = evaluate(agent, trial, num_tasks, key)
        error = played.standard_error if num_tasks > 1 else None
        scores.append({"hyperparameters": setting, "mean": played.mean, "standard_error": error})
        if progress is not None:
            progress(len(scores))
    best = max(scores, key=lambda score: score["mean"])
    return Tuned(best["hyperparameters"], scores, num_tasks, seed, git_commit())


def tuned_file(folder: Path, task: Task) -> Path:
    """The file of a task's tuned hyperparameters in `folder`."""
    return folder / (slug(task.name) + ".json")


def read_tuned(path: Path) -> dict[str, Tuned]:
    """Agent -> outcome, as saved; empty where there is no file or it cannot be understood."""
    try:
        return {name: Tuned(**fields) for name, fields in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_tuned(path: Path, tuned: dict[str, Tuned]) -> None:
    """Adds outcomes to a file, which is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    everything = {**read_tuned(path), **tuned}
    lines = (f"{json.dumps(name)}: {json.dumps(outcome._asdict())}" for name, outcome in sorted(everything.items()))
    write_atomically(path, "{\n" + ",\n".join(lines) + "\n}\n")


def find_tuned(task: Task, name: str, spec: ReferenceAgent) -> Tuned | None:
    """What was tuned before: committed with the package, else on this machine; None if nothing fits the grid."""
    if len(spec.grid) == 1:
        return Tuned(spec.grid[0], [], 0, _SEED, None)
    for folder in (COMMITTED, cache_folder() / "tuned"):
        tuned = read_tuned(tuned_file(folder, task)).get(name)
        if tuned is not None and [score["hyperparameters"] for score in tuned.scores] == list(spec.grid):
            return tuned
    return None


def tuned_or_tune(
    task: Task, name: str, spec: ReferenceAgent, progress: Callable[[int], object] | None = None
) -> Tuned:
    """`find_tuned`, or else a grid search whose outcome is kept on this machine."""
    found = find_tuned(task, name, spec)
    if found is None:
        found = tune(spec, Trial(task.env, task.num_episodes), progress=progress)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs the next tuning, not this one
            write_tuned(tuned_file(cache_folder() / "tuned", task), {name: found})
    return found
