"""Evaluations under a progress bar, and the rows they become."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress, TaskID

from rl2jax.agents import ReferenceAgent
from rl2jax.engines.base import DEVICE, find_engine
from rl2jax.engines.evaluation import evaluator
from rl2jax.envs.names import Task
from rl2jax.results.compare import Comparison, Contender, compare, reference_contender
from rl2jax.results.mazes import maze_row, play, shortest_lengths
from rl2jax.results.rows import EvaluationRow, MazeRow, read_rows, scores, write_rows
from rl2jax.runs.progress import progress_bar
from rl2jax.runs.run import Run, trained_agent
from rl2jax.runs.stages import train_cell
from rl2jax.settings import InputError
from rl2jax.trials.evaluate import evaluation_key
from rl2jax.trials.tuning import find_tuned, tuned_or_tune


def evaluate_run(
    run: Run, console: Console, *, num_tasks: int, seed: int, deterministic: bool = False, engine: str = DEVICE
) -> EvaluationRow:
    """Evaluates a run's newest checkpoint under a progress bar; returns its row, which names the engine if it had one.

    Raises:
      ValueError: if there is no such engine, or it refuses.
    """
    agent, context = trained_agent(run, deterministic)
    with evaluator(engine, run.task.env) as play_tasks, progress_bar(console) as progress:
        bar = progress.add_task("evaluating", total=num_tasks, note="")
        evaluation = play_tasks(
            agent,
            run.learner.trial,
            num_tasks,
            evaluation_key(seed),
            progress=lambda done: progress.update(bar, completed=done),
        )
    command = _evaluate_command(num_tasks, seed, deterministic)
    if engine != DEVICE:
        command, context = f"{command} --engine {engine}", {**context, "engine": engine}
    return EvaluationRow(task=run.task.name, agent="rl2", seed=seed, **context, **scores(evaluation), command=command)


def evaluate_in_mazes(
    run: Run, console: Console, *, num_tasks: int, seed: int, deterministic: bool = False, engine: str = DEVICE
) -> MazeRow:
    """`evaluate_run` of an agent in the test mazes, one after the other and again from the first; returns its row.

    Besides the total reward, the row has what Table 3 says of each episode (`mazes.Scores`).
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
        engine="twin" if engine == DEVICE else engine,
        seed=seed,
        **context,
        command=_evaluate_command(num_tasks, seed, deterministic) + f" --engine {engine}",
    )


def _evaluate_command(num_tasks: int, seed: int, deterministic: bool) -> str:
    command = f"rl2jax evaluate DIR --num-tasks {num_tasks} --seed {seed}"
    return command + (" --deterministic" if deterministic else "")


def run_cell(
    folder: Path,
    task_name: str,
    preset_name: str,
    *,
    training_seed: int,
    num_tasks: int,
    seed: int,
    console: Console,
) -> EvaluationRow:
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
        if len(rows) != 1:
            raise InputError(f"{row_file} does not hold one row; move it away, and it is made again")
        if rows[0].matches(num_tasks=num_tasks, seed=seed):
            return rows[0]
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed)
    command = cell_command(run, preset_name, num_tasks, seed)
    row = replace(row, preset=preset_name, command=command)
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
    engine: str = DEVICE,
) -> Comparison:
    """`compare` under a progress bar per agent; agents never tuned for the task are tuned first, on the device.

    Raises:
      ValueError: if there is no such engine, or it refuses.
    """
    find_engine(engine, task.env.held_out())  # before the tuning
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

        players = [*contenders, *trained]
        return compare(task, players, num_tasks, seed, protocol=protocol, engine=engine, on_progress=on_progress)


def _advance(progress: Progress, bar: TaskID, done: int) -> None:
    progress.update(bar, completed=done)
