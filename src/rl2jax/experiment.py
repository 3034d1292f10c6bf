"""One cell of a table: train (or continue), evaluate (or read back)."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rl2jax.agents import ReferenceAgent
from rl2jax.compare import Comparison, Contender, compare, reference_contender
from rl2jax.devices import TRIALS, choose_mesh
from rl2jax.evaluate import evaluate, evaluation_key
from rl2jax.recipes import Stage, stages
from rl2jax.report import evaluation_row, read_rows, write_rows
from rl2jax.runs import RUN_FILE, Run, Start, create_run, last_iteration, open_run, trained_agent
from rl2jax.sessions import train_run
from rl2jax.tasks import Task, parse_task
from rl2jax.train import ChunkReport
from rl2jax.tuning import find_tuned, tuned_or_tune
from rl2jax.vision.episodes import maze_row, play, shortest_lengths


class Interrupted(RuntimeError):
    """A cell was stopped by a signal; it continues where it was when the experiment is started again."""


def progress_bar(console: Console) -> Progress:
    """A bar with rate, time left and the current return."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def train_with_progress(run: Run, console: Console, *, resume: bool, checkpoint_minutes: float = 5.0) -> bool:
    """`train_run` under a progress bar; returns whether all iterations are done."""
    with progress_bar(console) as progress:
        bar = progress.add_task("compiling", total=run.config.iterations, note="")

        def on_chunk(report: ChunkReport) -> None:
            note = f"{report.steps_per_second:,.0f} steps/s  return {report.metrics.mean_return[-1]:.2f}"
            done = int(report.state.iteration)
            progress.update(bar, description="training", completed=done, note=note)

        return train_run(run, resume=resume, checkpoint_minutes=checkpoint_minutes, on_chunk=on_chunk).finished


def evaluate_run(
    run: Run, console: Console, *, num_tasks: int, seed: int, deterministic: bool = False
) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint under a progress bar; returns its row."""
    agent, context = trained_agent(run, deterministic)
    with progress_bar(console) as progress:
        bar = progress.add_task("evaluating", total=num_tasks, note="")
        evaluation = evaluate(
            agent,
            run.learner.trial,
            num_tasks,
            evaluation_key(seed),
            progress=lambda done: progress.update(bar, completed=done),
        )
    command = _evaluate_command(num_tasks, seed, deterministic)
    return evaluation_row(evaluation, task=run.task.name, agent="rl2", seed=seed, **context, command=command)


def evaluate_in_mazes(
    run: Run, console: Console, *, num_tasks: int, seed: int, deterministic: bool = False, engine: str = "twin"
) -> dict[str, Any]:
    """`evaluate_run` of an agent in the test mazes, one after the other and again from the first; returns its row.

    Besides the total reward, the row has what Table 3 says of each episode (`vision.episodes.Scores`).
    """
    agent, context = trained_agent(run, deterministic)
    env = run.task.env.held_out()
    trial = replace(run.learner.trial, env=env)
    mazes = np.arange(num_tasks) % env.num_mazes
    with progress_bar(console) as progress:
        bar = progress.add_task("evaluating", total=1.0, note="")
        played = play(
            agent,
            trial,
            mazes,
            evaluation_key(seed),
            engine,
            progress=lambda share: progress.update(bar, completed=share),
        )
    return maze_row(
        played,
        trial.num_episodes,
        shortest_lengths(env, mazes),
        task=run.task.name,
        agent="rl2",
        engine=engine,
        seed=seed,
        **context,
        command=_evaluate_command(num_tasks, seed, deterministic) + f" --engine {engine}",
    )


def _evaluate_command(num_tasks: int, seed: int, deterministic: bool) -> str:
    command = f"rl2jax evaluate DIR --num-tasks {num_tasks} --seed {seed}"
    return command + (" --deterministic" if deterministic else "")


def train_cell(
    folder: Path,
    task_name: str,
    preset_name: str,
    *,
    training_seed: int,
    console: Console,
    **changes: Any,
) -> Run:
    """Trains one agent in `folder`, or as much of that as is not done yet.

    Args:
      folder: of the run; made if there is none.
      task_name: as `parse_task` reads it.
      preset_name: one of `PRESETS`.
      training_seed: of everything random in training.
      console: for the progress bar.
      **changes: fields of the preset's config to replace.

    Raises:
      Interrupted: if a signal stopped it; what was done is saved.
      ValueError: if the folder holds a run of other settings.
    """
    task = parse_task(task_name)
    stage = Stage("", task, task.preset(preset_name).replace(**changes))
    return train_stage(folder, stage, source=preset_name, training_seed=training_seed, console=console)


def train_recipe(
    folder: Path,
    task_name: str,
    recipe: str,
    *,
    training_seed: int,
    console: Console,
    checkpoint_minutes: float = 5.0,
) -> Run:
    """Trains the stages of a recipe, each in a folder of its own in `folder`, or as much of that as is not done yet.

    The stages' seeds are `training_seed` and those after it.

    Returns:
      the run of the last stage.

    Raises:
      Interrupted: if a signal stopped it; what was done is saved.
      ValueError: if a stage's folder holds a run of other settings, or there is no such recipe.
    """
    run = None
    for number, stage in enumerate(stages(recipe, parse_task(task_name))):
        where = folder / stage.name
        # A seed for each stage, as runs on disk have it; that stages meet other tasks, `runs.started_from` sees to.
        settings: dict[str, Any] = {"source": recipe, "training_seed": training_seed + number, "console": console}
        run = train_stage(where, stage, **settings, start=run, checkpoint_minutes=checkpoint_minutes)
    assert run is not None
    return run


def has_stages(folder: Path, task_name: str, recipe: str) -> bool:
    """Whether `train_recipe` has begun in a folder, which is then not itself a run."""
    begun = any((folder / stage.name / RUN_FILE).exists() for stage in stages(recipe, parse_task(task_name)))
    return begun and not (folder / RUN_FILE).exists()


def train_stage(
    folder: Path,
    stage: Stage,
    *,
    source: str,
    training_seed: int,
    console: Console,
    start: Run | Start | None = None,
    checkpoint_minutes: float = 5.0,
) -> Run:
    """Trains one stage in `folder`, or as much of that as is not done yet.

    Args:
      folder: of the run; made if there is none.
      stage: task and settings.
      source: what the settings are called in an error.
      training_seed: of everything random in training.
      console: for the progress bar.
      start: a run, or other parameters, that a new one starts from.
      checkpoint_minutes: between checkpoints.

    Raises:
      Interrupted: if a signal stopped it; what was done is saved.
      ValueError: if the folder holds a run of other settings.
    """
    if (folder / "run.json").exists():
        run = open_run(folder)
        if (run.task.name, run.config, run.seed) != (stage.task.name, stage.config, training_seed):
            raise ValueError(f"{folder} holds a run of other settings than {source}'s; move it away")
    else:
        run = create_run(folder, stage.task, stage.config, training_seed, start=start)
    shared = run._replace(mesh=choose_mesh(run.learner.num_trials, TRIALS))
    options: dict[str, Any] = {"resume": True, "checkpoint_minutes": checkpoint_minutes}
    if last_iteration(run) < run.config.iterations and not train_with_progress(shared, console, **options):
        raise Interrupted(f"{stage.task.name}: stopped and saved; start again to continue")
    return run


def run_cell(
    folder: Path,
    task_name: str,
    preset_name: str,
    *,
    training_seed: int,
    num_tasks: int,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """Trains and evaluates one agent in `folder`, or as much of that as is not done yet.

    Returns:
      the row of the evaluation, with `preset` and `command` added.

    Raises:
      Interrupted: if a signal stopped it; what was done is saved.
      ValueError: if the folder holds a run of other settings, or its row was damaged.
    """
    run = train_cell(folder, task_name, preset_name, training_seed=training_seed, console=console)
    row_file = folder / "row.json"
    if row_file.exists():
        rows = read_rows(row_file)
        if len(rows) != 1 or not {"num_tasks", "seed", "mean"} <= set(rows[0]):
            raise ValueError(f"{row_file} does not hold one row; move it away, and it is made again")
        if (rows[0]["num_tasks"], rows[0]["seed"]) == (num_tasks, seed):
            return rows[0]
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed)
    row |= {"preset": preset_name, "command": cell_command(run, preset_name, num_tasks, seed)}
    write_rows(row_file, [row])
    return row


def cell_command(run: Run, preset_name: str, num_tasks: int, seed: int) -> str:
    """The two commands that give the same row by hand."""
    return (
        f"rl2jax train {run.task.name} --preset {preset_name} --seed {run.seed} --out DIR && "
        f"rl2jax evaluate DIR --num-tasks {num_tasks} --seed {seed}"
    )


def compare_with_progress(
    task: Task,
    agents: dict[str, ReferenceAgent],
    trained: list[Contender],
    num_tasks: int,
    seed: int,
    protocol: str,
    console: Console,
) -> Comparison:
    """`compare` under a progress bar per agent; agents that were never tuned for the task are tuned first."""
    with progress_bar(console) as progress:
        contenders = []
        for name, spec in agents.items():
            tuned = find_tuned(task, name, spec)
            if tuned is None:
                bar = progress.add_task(f"tuning {name}", total=len(spec.grid), note="")
                tuned = tuned_or_tune(task, name, spec, partial(_advance, progress, bar))
            contenders.append(reference_contender(task, name, spec, tuned))
        bars = {c.name: progress.add_task(c.name, total=num_tasks, note="") for c in [*contenders, *trained]}

        def on_progress(name: str, done: int, total: int) -> None:
            progress.update(bars[name], completed=done, total=total)

        return compare(task, [*contenders, *trained], num_tasks, seed, protocol=protocol, on_progress=on_progress)


def _advance(progress: Progress, bar: TaskID, done: int) -> None:
    progress.update(bar, completed=done)
