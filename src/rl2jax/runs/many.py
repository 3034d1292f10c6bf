"""Many trainings at once, on disk: an ordinary run folder for each.

OUT/seed-S                one setting, several seeds
OUT/FIELD=VALUE,...       several settings, one seed
OUT/FIELD=VALUE,.../seed-S   both
"""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from rl2jax.envs.names import Task
from rl2jax.runs import checkpoint
from rl2jax.runs.processes import stop_signals
from rl2jax.runs.progress import progress_bar
from rl2jax.runs.run import Run, RunError, create_run, load_state, lock, open_run
from rl2jax.runs.session import Recorder, record
from rl2jax.training.config import TrainConfig
from rl2jax.training.loop import ChunkReport
from rl2jax.training.seeds import SeedLearner
from rl2jax.training.sweeps import learner_of
from rl2jax.training.update import TrainState
from rl2jax.types import PyTree

ONE_SETTING: Sequence[Mapping[str, float]] = ({},)


def member_folder(out: Path, setting: Mapping[str, float], seed: int | None) -> Path:
    """Where a training's run lives; without a seed's folder in it where there is one seed only."""
    folder = out / ",".join(f"{field}={value!r}" for field, value in setting.items())
    return folder if seed is None else folder / f"seed-{seed}"


def create_seed_runs(
    out: Path,
    task: Task,
    config: TrainConfig,
    first_seed: int,
    num_seeds: int | None,
    mesh: Mesh | None = None,
    settings: Sequence[Mapping[str, float]] = ONE_SETTING,
) -> list[Run]:
    """Makes a run folder for each of `num_seeds` seeds from `first_seed` on, in each setting; None: for that seed.

    Raises:
      RunError: as `create_run`; if any of them exists, none is made.
      ValueError: if a config does not fit the task, or the runs cannot be shared evenly by the mesh.
    """
    seeds = range(first_seed, first_seed + (num_seeds or 1))
    runs = [
        Run(member_folder(out, setting, None if num_seeds is None else seed), task, config.replace(setting), seed)
        for setting in settings
        for seed in seeds
    ]
    learner_of([run.learner for run in runs], mesh)
    for run in runs:
        if run.folder.exists():
            raise RunError(f"{run.folder} exists already; continue with --resume, or choose another --out")
    return [create_run(run.folder, task, run.config, run.seed) for run in runs]


def open_seed_runs(
    out: Path,
    first_seed: int | None,
    num_seeds: int | None,
    settings: Sequence[Mapping[str, float]] = ONE_SETTING,
) -> list[Run]:
    """Reads the runs of `create_seed_runs` back; without a first seed, from the lowest there is.

    Raises:
      RunError: if one is missing, or they are not of the same task and settings.
    """
    if num_seeds is None:
        folders = [member_folder(out, setting, None) for setting in settings]
    else:
        if first_seed is None:
            found = member_folder(out, settings[0], None).glob("seed-*")
            names = [re.fullmatch(r"seed-(\d+)", path.name) for path in found]
            first_seed = min((int(name[1]) for name in names if name), default=0)
        seeds = range(first_seed, first_seed + num_seeds)
        folders = [member_folder(out, setting, seed) for setting in settings for seed in seeds]
    runs = [open_run(folder) for folder in folders]
    for number, run in enumerate(runs):
        setting = settings[number // (num_seeds or 1)]
        if (run.task.name, run.config) != (runs[0].task.name, runs[0].config.replace(setting)):
            raise RunError(f"{run.folder} and {runs[0].folder} have different settings; continue each by itself")
    return runs


def _last_common_iteration(runs: list[Run]) -> int:
    """The newest iteration that every run has saved; 0 if a session was killed before or during its first saves."""
    saved = [{*checkpoint.iterations_on_disk(run.checkpoints)} for run in runs]
    common = set.intersection(*saved)
    killed_early = not all(saved) and max(map(len, saved)) <= 1
    if not common and not killed_early:
        newest = ", ".join(f"{run.folder.name}: {max(s, default=0)}" for run, s in zip(runs, saved, strict=True))
        raise RunError(f"--resume: the runs have no saved iteration in common ({newest}); continue each by itself")
    return max(common, default=0)


def _start(runs: list[Run], learner: SeedLearner, resume: bool) -> TrainState:
    iteration = _last_common_iteration(runs) if resume else 0
    if resume:
        # What came after is repeated to the bit. Left there, it would push what all have out of the newest two.
        for run in runs:
            checkpoint.remove_after(run.checkpoints, iteration)
    if iteration == 0:
        return learner.init(jnp.stack([jax.random.key(run.seed) for run in runs]))
    states = [load_state(run, iteration) for run in runs]
    return learner.place(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


def _part(tree: PyTree, number: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[number], tree)


def train_seeds_with_progress(
    runs: list[Run], mesh: Mesh | None, console: Console, *, resume: bool, checkpoint_minutes: float = 5.0
) -> bool:
    """Trains all runs at once under one progress bar, which shows the mean return over them.

    Args:
      runs: from `create_seed_runs` or `open_seed_runs`.
      mesh: devices that share them.
      console: for the progress bar.
      resume: continue from the newest iteration that all runs have saved.
      checkpoint_minutes: minutes between checkpoints.

    Returns:
      whether all iterations are done.

    Raises:
      RunError: as `train_run`.
      checkpoint.CheckpointError: if a checkpoint cannot be written or read.
      NonFiniteError: if any seed's update was not finite; the last good states are saved first.
    """
    learner = learner_of([run.learner for run in runs], mesh)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())  # from here on: starting compiles
        for run in runs:
            stack.enter_context(lock(run.folder))
        states = _start(runs, learner, resume)
        done = int(states.iteration[0])
        recorders = [stack.enter_context(Recorder(run, done)) for run in runs]
        progress = stack.enter_context(progress_bar(console))
        bar: Any = progress.add_task("compiling", total=learner.config.iterations, note="")

        def on_chunk(report: ChunkReport) -> None:
            note = (
                f"{report.steps_per_second:,.0f} steps/s  mean return {np.mean(report.metrics.mean_return[:, -1]):.2f}"
            )
            progress.update(bar, description="training", completed=report.iteration, note=note)

        states = record(learner, states, recorders, _part, checkpoint_minutes, on_chunk, stop)
    return int(states.iteration[0]) >= learner.config.iterations
