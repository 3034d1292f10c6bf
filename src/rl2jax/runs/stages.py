"""Trainings in folders: one preset, or the stages of a recipe, as much of them as is not done yet."""

from pathlib import Path
from typing import Any

from rich.console import Console

from rl2jax.devices import TRIALS, choose_mesh
from rl2jax.envs.names import parse_task
from rl2jax.runs.progress import train_with_progress
from rl2jax.runs.run import RUN_FILE, Run, Start, create_run, last_iteration, open_run
from rl2jax.settings import InputError, UserError
from rl2jax.training.presets import preset_for
from rl2jax.training.recipes import Stage, stages


class Interrupted(UserError, RuntimeError):
    """A cell was stopped by a signal; it continues where it was when the experiment is started again."""


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
    stage = Stage("", task, preset_for(task, preset_name).replace(changes))
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
            raise InputError(f"{folder} holds a run of other settings than {source}'s; move it away")
    else:
        run = create_run(folder, stage.task, stage.config, training_seed, start=start)
    shared = run._replace(mesh=choose_mesh(run.learner.num_trials, TRIALS))
    options: dict[str, Any] = {"resume": True, "checkpoint_minutes": checkpoint_minutes}
    if last_iteration(run) < run.config.iterations and not train_with_progress(shared, console, **options):
        raise Interrupted(f"{stage.task.name}: stopped and saved; start again to continue")
    return run
