"""A run in a folder: what it is, its checkpoints, its metrics; made, continued, read back.

DIR/run.json       task, seed and config; written once
DIR/checkpoints/   one folder per saved iteration, the last two kept
DIR/metrics.jsonl  one row per iteration
DIR/tensorboard/   the same, if tensorboardX is installed
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rl2jax import checkpoint
from rl2jax.config import TrainConfig
from rl2jax.files import git_commit, write_atomically
from rl2jax.learner import TrainState
from rl2jax.tasks import Task, parse_task
from rl2jax.train import ChunkReport, Learner, NonFiniteError, train
from rl2jax.tuning import teacher_of
from rl2jax.types import PyTree

_FORMAT = 1
_RUN, _METRICS, _CHECKPOINTS, _LOCK = "run.json", "metrics.jsonl", "checkpoints", ".lock"


class RunError(RuntimeError):
    """A run that cannot be made, continued or read; the message says what to do."""


class Run(NamedTuple):
    """A run folder and what it holds.

    Attributes:
      folder: where it lives.
      task: the task distribution and the number of episodes.
      config: all settings.
      seed: of the training key.
    """

    folder: Path
    task: Task
    config: TrainConfig
    seed: int

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def learner(self) -> Learner:
        """Task distribution and config, bound together."""
        return Learner(self.task.env, self.config, teacher_of(self.task, self.config))


class Outcome(NamedTuple):
    """How a training session ended.

    Attributes:
      state: the last train state.
      finished: whether all iterations are done.
    """

    state: TrainState
    finished: bool


def create_run(folder: Path, task: Task, config: TrainConfig, seed: int) -> Run:
    """Makes a run folder.

    Raises:
      RunError: if it holds a run already, holds other files, or cannot be written.
      ValueError: if the config does not fit the task.
    """
    run = Run(folder, task, config, seed)
    run.learner  # noqa: B018  # refuses a config that does not fit the task
    if (folder / _RUN).exists():
        raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out must be a new or empty folder")
    if folder.is_dir() and any(entry.name != _LOCK for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run; choose another --out")
    description = {
        "format": _FORMAT,
        "task": task.name,
        "seed": seed,
        "commit": git_commit(),
        "jax": jax.__version__,
        "config": config.to_json(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / _RUN, json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    return run


def open_run(folder: Path) -> Run:
    """Reads a run folder back.

    Raises:
      RunError: if it holds no run, or `run.json` cannot be understood.
    """
    path = folder / _RUN
    if not path.is_file():
        raise RunError(f"{folder} holds no run ({_RUN} is missing); make one with `rl2jax train TASK --out {folder}`")
    try:
        description = json.loads(path.read_text())
        if description["format"] != _FORMAT:
            raise ValueError(f"format {description['format']}, this version reads {_FORMAT}")
        config = TrainConfig.from_json(description["config"])
        return Run(folder, parse_task(description["task"]), config, int(description["seed"]))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def last_iteration(run: Run) -> int:
    """The newest saved iteration of a run; 0 without one."""
    return max(checkpoint.iterations_on_disk(run.checkpoints), default=0)


def parameters_digest(params: PyTree) -> str:
    """SHA-256 over the names, shapes and bits of parameters: two agents are the same if it is."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def load_state(run: Run) -> TrainState:
    """The newest saved train state of a run.

    Raises:
      RunError: if there is none.
      checkpoint.CheckpointError: if it is damaged or of another architecture.
    """
    template = jax.eval_shape(run.learner.init, jax.random.key(0))
    if not checkpoint.iterations_on_disk(run.checkpoints):
        raise RunError(f"{run.folder} holds no checkpoint yet; continue it with `rl2jax train ... --resume`")
    return checkpoint.restore_latest(run.checkpoints, template)[1]


def train_run(
    run: Run,
    *,
    resume: bool = False,
    checkpoint_minutes: float = 5.0,
    on_chunk: Callable[[ChunkReport], None] | None = None,
) -> Outcome:
    """Trains in a run folder until the config's last iteration, or until SIGINT or SIGTERM.

    A checkpoint is written every `checkpoint_minutes` and at the end, whatever ends it. Chunks of iterations
    are the same wherever a session starts and whenever it saves, so a run that was killed and resumed
    equals one that never stopped, bit for bit.

    Args:
      run: from `create_run` or `open_run`.
      resume: continue from the newest checkpoint, if there is one.
      checkpoint_minutes: minutes between checkpoints.
      on_chunk: called after each chunk, for a progress bar.

    Raises:
      RunError: if another process trains there, or the folder cannot be written.
      checkpoint.CheckpointError: if a checkpoint cannot be written or read.
      NonFiniteError: if an update was not finite; the last good state is saved first.
    """
    with _lock(run.folder), _stop_signals() as stop:
        learner = run.learner
        if resume and checkpoint.iterations_on_disk(run.checkpoints):
            state = load_state(run)
        else:
            state = learner.init(jax.random.key(run.seed))
        try:
            return _train_locked(run, state, stop, checkpoint_minutes, on_chunk)
        except OSError as error:
            raise RunError(f"cannot write to {run.folder}: {error.strerror or error}") from error


def _train_locked(
    run: Run,
    state: TrainState,
    stop: threading.Event,
    checkpoint_minutes: float,
    on_chunk: Callable[[ChunkReport], None] | None,
) -> Outcome:
    saved_at, saved_iteration = time.monotonic(), int(state.iteration)
    _trim_metrics(run.folder / _METRICS, saved_iteration)
    board = _tensorboard(run.folder / "tensorboard")

    def save(state: TrainState) -> None:
        nonlocal saved_at, saved_iteration
        iteration = int(state.iteration)
        if iteration != saved_iteration:
            checkpoint.save(run.checkpoints, iteration, state)
        saved_at, saved_iteration = time.monotonic(), iteration

    with open(run.folder / _METRICS, "a") as metrics_file:

        def callback(report: ChunkReport) -> bool:
            for row in metric_rows(report):
                metrics_file.write(json.dumps(row) + "\n")
                for name, value in row.items() if board else ():
                    board.add_scalar(name, value, row["iteration"])
            metrics_file.flush()
            if on_chunk is not None:
                on_chunk(report)
            if time.monotonic() - saved_at >= 60.0 * checkpoint_minutes:
                save(report.state)
            return stop.is_set()

        try:
            teacher = run.learner.teacher
            key = jax.random.key(run.seed)
            state, _ = train(run.task.env, run.config, key, callback=callback, state=state, teacher=teacher)
        except NonFiniteError as error:
            save(error.state)
            raise
        finally:
            if board:
                board.close()
        save(state)
    return Outcome(state, int(state.iteration) >= run.config.iterations)


def metric_rows(report: ChunkReport) -> list[dict[str, Any]]:
    """One row of `metrics.jsonl` per iteration of a chunk; `steps_per_second` is without compile time."""
    length = len(report.metrics.mean_return)
    first = int(report.state.iteration) - length + 1
    columns = report.metrics._asdict()
    del columns["finite"]
    return [
        {
            "iteration": first + i,
            **{name: float(values[i]) for name, values in columns.items()},
            "seconds": report.seconds / length,
            "steps_per_second": report.steps_per_second,
        }
        for i in range(length)
    ]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; a last line cut off by a crash is left out."""
    rows = []
    path = folder / _METRICS
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _trim_metrics(path: Path, iteration: int) -> None:
    """Drops rows after `iteration`: a killed run wrote them after its last checkpoint, and repeats them."""
    if path.exists():
        kept = [row for row in read_metrics(path.parent) if row["iteration"] <= iteration]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept))


def _tensorboard(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process, however it ends."""
    try:
        file = open(folder / _LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process is training in {folder}; wait for it, or choose another --out") from error
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGINT and SIGTERM set an event; a second one acts as usual. Does nothing outside the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in signals}

    def request_stop(number, frame):
        del frame
        stop.set()
        signal.signal(number, previous[number])

    for number in signals:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for number in signals:
            signal.signal(number, previous[number])
