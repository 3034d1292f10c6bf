"""The paper's recipe to its end, cell after cell, at low priority: stop it at any time, start it again anywhere.

A cell ends after the preset's iterations, or once it has stopped learning: when the mean training return of the last
100 iterations is no better than that of the 100 before by twice its standard error. After each session a cell's run is
packed into one file, RESULTS/PRESET-TASK.zip, which is replaced, and from which another machine goes on.
"""

import argparse
import contextlib
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.messages import in_one_line
from experiments.readme import RESULTS as ALL_RESULTS
from rl2jax import xla
from rl2jax.envs.names import parse_task, slug
from rl2jax.results.published import SCORES
from rl2jax.runs.progress import train_with_progress
from rl2jax.runs.run import RUN_FILE, Run, create_run, last_iteration, open_run
from rl2jax.runs.session import METRICS_FILE, read_metrics
from rl2jax.runs.stages import Interrupted
from rl2jax.settings import require
from rl2jax.training.loop import ChunkReport
from rl2jax.training.presets import preset_for

RESULTS = ALL_RESULTS / "paper-column"
PRESETS = ("paper-first-order", "paper")
WINDOW = 100  # iterations
_CHECKPOINTS = "checkpoints"


def cells() -> list[str]:
    """The bandits of table 1, the shortest trials first."""
    tasks = list(SCORES[1].scores)
    return sorted(tasks, key=lambda task: int(task.rpartition("n=")[2]))


def has_stopped_learning(returns: Sequence[float], window: int = WINDOW) -> bool:
    """Whether the last `window` mean returns are no better than those before, by twice the difference's error.

    The error is of the difference of two means of independent iterations, from the variances within the windows.
    """
    if len(returns) < 2 * window:
        return False
    last, before = np.asarray(returns[-window:]), np.asarray(returns[-2 * window : -window])
    error = np.sqrt((last.var(ddof=1) + before.var(ddof=1)) / window)
    return bool(last.mean() - before.mean() <= 2.0 * error)


def pack(run: Run, archive: Path) -> None:
    """Writes a run's settings, rows and newest checkpoint into one file, which replaces an older one."""
    newest = run.checkpoints / str(last_iteration(run))
    files = [run.folder / RUN_FILE, run.folder / METRICS_FILE, *sorted(newest.rglob("*"))]
    temporary = archive.with_suffix(".tmp")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for path in files:
            if path.is_file():
                file.write(path, path.relative_to(run.folder))
    temporary.replace(archive)


def unpack(archive: Path, folder: Path) -> None:
    """Makes a run's folder of such a file, unless the folder holds a run that has come as far."""
    with zipfile.ZipFile(archive) as file:
        packed = max(int(name.split("/")[1]) for name in file.namelist() if name.startswith(f"{_CHECKPOINTS}/"))
        if (folder / RUN_FILE).exists() and last_iteration(open_run(folder)) >= packed:
            return
        file.extractall(folder)


def yield_to_others() -> None:
    """The lowest priority: nice 19, also for the scheduler's group of this session, within which alone nice counts."""
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def stop_when(returns: list[float], deadline: float) -> Callable[[ChunkReport], bool]:
    """A callback that ends a session: at a time (`time.monotonic`), or when the run has stopped learning."""

    def callback(report: ChunkReport) -> bool:
        returns.extend(float(x) for x in report.metrics.mean_return)
        return time.monotonic() >= deadline or has_stopped_learning(returns)

    return callback


def open_or_create(folder: Path, task: str, preset: str) -> Run:
    """A cell's run, of seed 0.

    Raises:
      ValueError: if the folder holds a run of other settings.
    """
    parsed = parse_task(task)
    config = preset_for(parsed, preset)
    if not (folder / RUN_FILE).exists():
        return create_run(folder, parsed, config, 0)
    run = open_run(folder)
    require((run.task, run.config) == (parsed, config), str(folder), run.config, f"a run of preset {preset}")
    return run


def returns_of(folder: Path) -> list[float]:
    """Mean returns of a run's iterations so far."""
    return [row["mean_return"] for row in read_metrics(folder)] if (folder / METRICS_FILE).exists() else []


def train(task: str, preset: str, runs: Path, results: Path, deadline: float, console: Console) -> bool:
    """Goes on with one cell; returns whether it is done."""
    folder, archive = runs / preset / slug(task), results / f"{preset}-{slug(task)}.zip"
    if archive.exists():
        unpack(archive, folder)
    returns = returns_of(folder)
    if has_stopped_learning(returns):
        console.print(f"{task}: stopped learning after {len(returns)} iterations")
        return True
    run = open_or_create(folder, task, preset)
    if last_iteration(run) < run.config.iterations:
        train_with_progress(run, console, resume=True, until=stop_when(returns, deadline))
    done = last_iteration(run)
    if done:
        pack(run, archive)
    share, mean = done / run.config.iterations, np.mean(returns[-WINDOW:] or [np.nan])
    console.print(f"{task}: {done} iterations, {share:.1%} of the paper's samples, mean training return {mean:.3f}")
    ended = done >= run.config.iterations or has_stopped_learning(returns)
    if not ended and time.monotonic() < deadline:
        raise Interrupted("stopped and saved; start again to continue")
    return ended


def main() -> None:
    """Goes through the cells until all are done or the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default=PRESETS[0])
    parser.add_argument("--cells", nargs="+", choices=cells(), default=cells(), metavar="TASK", help="default: all")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long (default: never)")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper-column"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the packed runs")
    a = parser.parse_args()
    console = Console(highlight=False)
    deadline = time.monotonic() + 60.0 * a.minutes
    yield_to_others()
    with in_one_line():
        for task in a.cells:
            if not train(task, a.preset, a.runs, a.results, deadline, console) and time.monotonic() >= deadline:
                raise Interrupted("the time is up; start again to continue")


if __name__ == "__main__":
    xla.prepare()
    main()
