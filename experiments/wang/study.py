"""What the experiments have in common: agents are trained, all play the same tasks, rows keep what was measured."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np
from rich.console import Console

from experiments.wang.draw import TRAINED
from rl2jax.agents import ReferenceAgent
from rl2jax.envs.names import Task, parse_task, slug
from rl2jax.files import git_commit
from rl2jax.results.compare import known_agents
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow, read_rows, write_rows
from rl2jax.runs.run import Run, trained_agent
from rl2jax.runs.stages import train_cell
from rl2jax.trials.evaluate import Played, evaluation_key, play_tasks
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import tuned_or_tune

# Preset "cpu" is `wang` with what makes it learn in fewer steps, found by trying on two independent arms: the mean
# return of the last 12 of 300 steps of a hundred trials (seed 0, standard error 0.5) was 63.5 with all of this, 62.5
# without normalised weights and returns (at 7e-3 and a bonus of 0.05), 60.9 without gates that start with memory too.
FAST = {
    "objective.normalise_advantages": True,
    "slow_rl.learning_rate": 5e-3,
    "optimiser.schedule": "linear",
    "objective.normalise_returns": True,
    "objective.entropy_coefficient": 0.1,
    "network.weight_norm": True,
    "iterations_per_chunk": 10,
}
_FAST_TRIALS = 100
PRESETS = ("cpu", "wang", "paper")


class Claim(NamedTuple):
    """What a paper says, and whether it is so here.

    Attributes:
      text: the claim, with the figures of ours that decide it.
      holds: whether they agree with it.
    """

    text: str
    holds: bool


class Reference(NamedTuple):
    """An agent that is not trained.

    Attributes:
      agent: its name among those that play the task.
      hyperparameters: of it; None: the best of its grid on tasks of their own.
      name: in rows and figures, where it differs.
    """

    agent: str
    hyperparameters: dict[str, Any] | None = {}  # noqa: RUF012
    name: str = ""


class Study(NamedTuple):
    """One experiment.

    Attributes:
      name: of its file of rows and its figure.
      title: of its figure; says which one of the papers it is.
      trained_on: tasks; agents are trained on each of them.
      tested_on: tasks that every agent plays that can.
      references: agents that are not trained; each plays the tasks that it can.
      measure: (task, trials) -> what is measured of an agent, as JSON has it.
      draw: (rows, theme) -> the figure.
      claims: rows -> what the papers say of it.
      changes: what preset "cpu" has beside `FAST`, as (field, value).
      num_seeds: agents trained on each task.
      num_tasks: that each agent plays of each task it is tested on.
      own_task_only: a trained agent plays just the task it was trained on.
    """

    name: str
    title: str
    trained_on: tuple[str, ...]
    tested_on: tuple[str, ...]
    references: tuple[Reference, ...]
    measure: Callable[[Task, Played], dict[str, Any]]
    draw: Callable[[list[MeasuredRow], Theme], matplotlib.figure.Figure]
    claims: Callable[[list[MeasuredRow]], list[Claim]]
    changes: tuple[tuple[str, Any], ...] = ()
    num_seeds: int = 1
    num_tasks: int = 10_000
    own_task_only: bool = False


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to run studies.

    Attributes:
      preset: of the trainings, one of `PRESETS`: ours for a laptop, Wang et al.'s, Duan et al.'s.
      training_seed: of the first agent trained on a task; the next ones have those after it.
      seed: of the tasks that are played.
      out: folder of the runs.
      results: folder of the rows.
      console: where progress is shown.
      iterations: in place of each study's own; None for those.
    """

    preset: str
    training_seed: int
    seed: int
    out: Path
    results: Path
    console: Console
    iterations: int | None = None


def rows_of(study: Study, plan: Plan) -> list[MeasuredRow]:
    """Runs what is not done yet of a study, and returns all its rows."""
    path = plan.results / f"{study.name}.json"
    kept = read_rows(path) if path.exists() else []
    rows: list[MeasuredRow] = []
    for reference in study.references:
        for task_name in study.tested_on:
            task = parse_task(task_name)
            spec = known_agents(task).get(reference.agent)
            if spec is not None:
                settings = _settings(task, reference, spec)
                agent = spec.make(task.env, task.num_episodes, **settings)
                context = {"agent": reference.name or reference.agent, "hyperparameters": settings}
                rows.append(_measured(study, plan, task, agent, context, 0.0, kept))
    for trained_on in study.trained_on:
        for seed in range(plan.training_seed, plan.training_seed + study.num_seeds):
            run = _trained(study, plan, trained_on, seed)
            agent, context = trained_agent(run)
            context = {"agent": TRAINED, **context, "preset": plan.preset}
            for task_name in (trained_on,) if study.own_task_only else study.tested_on:
                task = parse_task(task_name)
                rows.append(_measured(study, plan, task, agent, context, run.config.trial.first_step_flag, kept))
            write_rows(path, rows)
    write_rows(path, rows)
    return rows


def is_complete(study: Study, rows: list[MeasuredRow]) -> bool:
    """Whether these are all rows of a study; those of one that was stopped half-way are not."""
    names = [parse_task(name).name for name in study.trained_on]
    tested = 1 if study.own_task_only else len(study.tested_on)
    return all(len(rows_with(rows, agent=TRAINED, trained_on=name)) >= study.num_seeds * tested for name in names)


def _settings(task: Task, reference: Reference, spec: ReferenceAgent) -> dict[str, Any]:
    if reference.hyperparameters is None:
        return {**spec.fixed, **tuned_or_tune(task, reference.agent, spec).hyperparameters}
    return {**spec.fixed, **spec.grid[0], **reference.hyperparameters}


def _trained(study: Study, plan: Plan, task_name: str, seed: int) -> Run:
    changes: dict[str, Any] = {}
    if plan.preset == "cpu":
        task = parse_task(task_name)
        length = task.num_episodes * task.env.episode_length
        changes = {**FAST, "network.memory_horizon": length, "batch.size": _FAST_TRIALS * length, **dict(study.changes)}
    if plan.iterations is not None:
        changes["iterations"] = plan.iterations
    folder = plan.out / study.name / f"{slug(task_name)}-seed{seed}"
    preset = "wang" if plan.preset == "cpu" else plan.preset
    return train_cell(folder, task_name, preset, training_seed=seed, console=plan.console, **changes)


def _measured(
    study: Study, plan: Plan, task: Task, agent: Any, context: dict[str, Any], flag: float, kept: list[MeasuredRow]
) -> MeasuredRow:
    """The row on disk if it is of this agent and these tasks, else one that is measured now."""
    who = {"task": task.name, **context, "num_tasks": study.num_tasks, "seed": plan.seed}
    identity = json.loads(json.dumps(who))  # lists in place of tuples, as in the rows on disk
    for old in kept:
        if old.matches(**identity):
            return old
    plan.console.print(f"{study.name}: {context['agent']} on {task.name}", soft_wrap=True)
    played = play_tasks(agent, Trial(task.env, task.num_episodes, flag), study.num_tasks, evaluation_key(plan.seed))
    return MeasuredRow(
        experiment=study.name,
        **identity,
        measured=study.measure(task, played),
        command=f"python -m experiments.wang --only {study.name} --preset {plan.preset}",
        commit=git_commit(),
    )


def rows_with(rows: list[MeasuredRow], **fields: Any) -> list[MeasuredRow]:
    """The rows whose fields have these values."""
    return [row for row in rows if row.matches(**fields)]


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean and its standard error."""
    values = np.asarray(values, np.float64)
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def interval(mean_and_error: tuple[float, float]) -> tuple[float, float]:
    """The 95% interval."""
    mean, error = mean_and_error
    return mean - 1.96 * error, mean + 1.96 * error


def pooled(measured: list[dict[str, Any]], name: str) -> tuple[float, float]:
    """Mean over seeds, and its error: of what differs between seeds, and of what does between tasks, together.

    All seeds play the same tasks, so that more of them say no more of how the tasks were drawn.
    """
    means = np.array([m[name] for m in measured])
    within = float(np.mean([m[f"{name}_error"] ** 2 for m in measured]))
    between = float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
    return float(means.mean()), float(np.sqrt(within + between))
