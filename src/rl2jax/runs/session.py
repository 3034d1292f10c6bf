"""A session of training in a run folder: begun or resumed, recorded, ended by its last iteration or a signal.

DIR/metrics.jsonl  one row per iteration
DIR/tensorboard/   the same, if tensorboardX is installed
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rl2jax.files import leftovers_of, read_regular, sha256, write_atomically
from rl2jax.runs import checkpoint
from rl2jax.runs.processes import any_process, is_first, require_same, stop_signals, together
from rl2jax.runs.run import RUN_FILE, Run, RunError, cannot_write, load_state, lock, run_digest
from rl2jax.settings import InputError
from rl2jax.training.learner import Program
from rl2jax.training.loop import ChunkReport, NonFiniteError, run_chunks
from rl2jax.training.on_engine import playing_on
from rl2jax.training.update import TrainState
from rl2jax.types import PyTree

METRICS_FILE = "metrics.jsonl"


class Outcome(NamedTuple):
    """How a training session ended.

    Attributes:
      state: the last train state.
      finished: whether all iterations are done.
    """

    state: TrainState
    finished: bool


def train_run(
    run: Run,
    *,
    resume: bool = False,
    checkpoint_minutes: float = 5.0,
    on_chunk: Callable[[ChunkReport], bool | None] | None = None,
) -> Outcome:
    """Trains in a run folder until the config's last iteration, or until SIGINT or SIGTERM.

    A checkpoint is written every `checkpoint_minutes` and at the end, whatever ends it. Chunks of iterations
    are the same wherever a session starts and whenever it saves, so a run that was killed and resumed
    equals one that never stopped, bit for bit.

    Args:
      run: from `create_run` or `open_run`.
      resume: continue from the newest checkpoint, if there is one.
      checkpoint_minutes: minutes between checkpoints.
      on_chunk: called after each chunk, for a progress bar; returning True ends the session there.

    Raises:
      RunError: if another process trains there, or the folder cannot be written.
      checkpoint.CheckpointError: if a checkpoint cannot be written or read.
      NonFiniteError: if an update was not finite; the last good state is saved first.
      ValueError: if there is no such engine as the run's, or it refuses.
    """
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())  # from here on: opening a run compiles
        with together("opening the run"):
            stack.enter_context(lock(run.folder))
            learner = stack.enter_context(playing_on(run.engine, run.learner))
            saved = checkpoint.iterations_on_disk(run.checkpoints)
            if saved and (resume or saved == [0]):  # 0: the parameters of the run it starts from
                state = learner.place(load_state(run))
            else:
                state = learner.init(jax.random.key(run.seed))
            iteration = int(state.iteration)
        wanted = f"{run.task.name}, {run.config}, seed {run.seed}, saved at iteration {iteration}"
        require_same("task, settings, seed and the folder that --resume reads", wanted)
        with together("opening its files"):
            recorders = [stack.enter_context(Recorder(run, iteration))] if is_first() else []
        state = record(learner, state, recorders, lambda tree, _: tree, checkpoint_minutes, on_chunk, stop)
    return Outcome(state, int(state.iteration) >= run.config.iterations)


class Recorder:
    """Writes what a session of training leaves in a run folder: rows, TensorBoard's events, checkpoints.

    A context that closes the files. Rows after `iteration`, where the session starts, are dropped first.
    """

    def __init__(self, run: Run, iteration: int):
        path = run.folder / METRICS_FILE
        try:
            for leftover in (*leftovers_of(path), *leftovers_of(run.folder / RUN_FILE)):
                leftover.unlink(missing_ok=True)
            rows = _rows_until(run, iteration)
            if rows is not None:
                write_atomically(path, rows)
            self._file = open(path, "ab")  # noqa: SIM115
        except OSError as error:
            raise cannot_write(run.folder, error) from error
        self._rows_so_far = hashlib.sha256(rows or b"")
        self._run_digest = run_digest(run.folder)
        self._board = _tensorboard(run.folder / "tensorboard")
        self._run, self._saved_iteration = run, iteration

    def write(self, report: ChunkReport) -> None:
        """Writes a chunk's rows."""
        try:
            for row in metric_rows(report):
                line = (json.dumps(row, allow_nan=False) + "\n").encode()
                self._file.write(line)
                self._rows_so_far.update(line)
                for name, value in row.items() if self._board else ():
                    self._board.add_scalar(name, value, row["iteration"])
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._run.folder, error) from error

    def write_good(self, report: ChunkReport) -> None:
        """Writes the rows before the first that is not finite."""
        length = len(report.metrics.finite)
        good = length if report.metrics.finite.all() else int(np.argmin(report.metrics.finite))
        metrics = jax.tree.map(lambda x: x[:good], report.metrics)
        seconds, iteration = report.seconds * good / length, report.iteration - length + good
        self.write(report._replace(metrics=metrics, seconds=seconds, iteration=iteration))

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint, unless the last one was of the same iteration."""
        iteration = int(state.iteration)
        if iteration != self._saved_iteration:
            try:
                os.fsync(self._file.fileno())  # a checkpoint must not outlive the rows that led to it
            except OSError as error:
                raise cannot_write(self._run.folder, error) from error
            beside = {RUN_FILE: self._run_digest, METRICS_FILE: self._rows_so_far.hexdigest()}
            checkpoint.save(self._run.checkpoints, iteration, state, beside)
        self._saved_iteration = iteration

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what was not flushed has been reported
            self._file.close()
        if self._board:
            self._board.close()


def record(
    learner: Program,
    state: TrainState,
    recorders: list[Recorder],
    part: Callable[[PyTree, int], PyTree],
    checkpoint_minutes: float,
    on_chunk: Callable[[ChunkReport], bool | None] | None,
    stop: threading.Event | None = None,
) -> TrainState:
    """Trains to the last iteration or until a signal comes to any process, with a recorder for each run.

    Args:
      learner: what is trained.
      state: where it starts; donated.
      recorders: of the runs that the learner trains at once; none where another process writes.
      part: (state or metrics, number of a recorder) -> its run's.
      checkpoint_minutes: between checkpoints.
      on_chunk: called after each chunk; returning True ends training there.
      stop: set by a signal; None: this function waits for them itself.
    """
    saved_at = time.monotonic()

    def save(state: TrainState) -> None:
        for number, recorder in enumerate(recorders):
            recorder.save(part(state, number))

    def is_due() -> bool:
        passed = time.monotonic() - saved_at
        return not 0 <= passed < 60.0 * checkpoint_minutes  # also where a clock was set back

    def callback(report: ChunkReport) -> bool:
        nonlocal saved_at
        with together("writing"):
            for number, recorder in enumerate(recorders):
                rate = report.steps_per_second / len(recorders)
                recorder.write(report._replace(metrics=part(report.metrics, number), steps_per_second=rate))
            ended = on_chunk is not None and bool(on_chunk(report))
            if is_due():
                save(report.state)
                saved_at = time.monotonic()
        return any_process(signalled.is_set() or ended)

    def stopped() -> bool:
        return any_process(signalled.is_set())

    waiting = stop_signals() if stop is None else contextlib.nullcontext(stop)
    with waiting as signalled:
        try:
            state, _ = run_chunks(learner, state, callback, stopped)
        except NonFiniteError as error:
            for number, recorder in enumerate(recorders):
                if error.report is not None:
                    recorder.write_good(error.report._replace(metrics=part(error.report.metrics, number)))
            save(error.state)
            raise
        save(state)
    return state


def metric_rows(report: ChunkReport) -> list[dict[str, Any]]:
    """One row of `metrics.jsonl` per iteration of a chunk; `steps_per_second` is without compile time."""
    length = len(report.metrics.mean_return)
    first = report.iteration - length + 1
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
    """The rows of a run's `metrics.jsonl`; a last line cut off by a crash is left out.

    Raises:
      RunError: if another line is no row, or the file cannot be read.
    """
    return [row for _, row in _lines_and_rows(folder / METRICS_FILE)]


def _lines_and_rows(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Lines with their ends, and what they say; as `read_metrics`."""
    try:
        lines = read_regular(path).split(b"\n") if os.path.lexists(path) else []
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["iteration"], int):
                raise InputError(f"iteration {row['iteration']!r}")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number == len(lines):  # what follows the last end of line: nothing, or a torn row
                continue
            raise RunError(f"{path}: line {number} is no row of metrics ({error}); {_WITHOUT_ROWS}") from error
        found.append((line + b"\n", row))
    return found


_WITHOUT_ROWS = "put back what was written, or move the file away to go on without its rows"


def _rows_until(run: Run, iteration: int) -> bytes | None:
    """The rows of `metrics.jsonl` up to an iteration, as they stand there; None without the file.

    A killed run wrote those after its last checkpoint, and repeats them.

    Raises:
      RunError: if they are not those that the iteration's checkpoint was saved with.
    """
    path = run.folder / METRICS_FILE
    if not os.path.lexists(path):
        return None
    rows = b"".join(line for line, row in _lines_and_rows(path) if row["iteration"] <= iteration)
    saved = iteration in checkpoint.iterations_on_disk(run.checkpoints)
    wanted = checkpoint.saved_beside(run.checkpoints, iteration).get(METRICS_FILE) if saved else None
    if wanted is not None and wanted != sha256(rows):
        raise RunError(
            f"{path} was changed: its rows are not those that iteration {iteration} was saved with; {_WITHOUT_ROWS}"
        )
    return rows


def _tensorboard(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))
