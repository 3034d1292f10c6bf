"""A run in a folder: what it is, its checkpoints, its metrics; made, continued, read back.

DIR/run.json       task, seed and config, and the run whose parameters it started from; written once, with its SHA-256
DIR/checkpoints/   one folder per saved iteration, the last two kept; with the SHA-256 of run.json and the rows so far
DIR/metrics.jsonl  one row per iteration
DIR/tensorboard/   the same, if tensorboardX is installed
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rl2jax import checkpoint
from rl2jax.agents.base import Agent
from rl2jax.config import TrainConfig
from rl2jax.files import (
    git_commit,
    is_sealed,
    leftovers_of,
    read_regular,
    sealed,
    unsealed,
    write_atomically,
)
from rl2jax.learner import TrainState
from rl2jax.processes import any_process, is_first, require_same, stop_signals, together
from rl2jax.tasks import Task, parse_task
from rl2jax.train import ChunkReport, Learner, NonFiniteError, Program, run_chunks
from rl2jax.tuning import teacher_of
from rl2jax.types import PyTree
from rl2jax.vision.engine_learner import EngineLearner
from rl2jax.vision.vizdoom import VizdoomMazes

_FORMAT = 2  # 1 had no digest of itself
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
      mesh: devices that train it (`Learner.mesh`); chosen for each session, not saved.
      engine: who plays its mazes, "twin" (the device) or "vizdoom"; chosen for each session, not saved.
    """

    folder: Path
    task: Task
    config: TrainConfig
    seed: int
    mesh: Mesh | None = None
    engine: str = "twin"

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def learner(self) -> Learner:
        """Task distribution, config and devices, bound together."""
        return Learner(self.task.env, self.config, teacher_of(self.task, self.config), self.mesh)


class Outcome(NamedTuple):
    """How a training session ended.

    Attributes:
      state: the last train state.
      finished: whether all iterations are done.
    """

    state: TrainState
    finished: bool


def create_run(
    folder: Path, task: Task, config: TrainConfig, seed: int, mesh: Mesh | None = None, start: Run | None = None
) -> Run:
    """Makes a run folder; with several processes, the first does.

    Args:
      folder: new or empty.
      task: the task distribution and the number of episodes.
      config: all settings.
      seed: of the training key.
      mesh: devices that train it.
      start: a run whose newest parameters this one starts from; its checkpoint 0 holds them.

    Raises:
      RunError: if it holds a run already, holds other files, or cannot be written; if `start` has another policy.
      ValueError: if the config does not fit the task or the mesh.
    """
    run = Run(folder, task, config, seed, mesh)
    run.learner  # noqa: B018  # refuses a config that does not fit
    state = None if start is None else started_from(run, start)
    if not is_first():
        return run
    _refuse_occupied(run, start)
    description = {
        "format": _FORMAT,
        "task": task.name,
        "seed": seed,
        "commit": git_commit(),
        "jax": jax.__version__,
        "config": config.to_json(),
    }
    if start is not None:
        description["started_from"] = [*ancestry(start), described(start)]
    content = sealed(description)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error, "; choose another --out") from error
    with lock(folder):
        _refuse_occupied(run, start)  # two processes may have come this far
        try:
            if state is not None:
                checkpoint.save(run.checkpoints, 0, state, {_RUN: _digest(content.encode())})
            write_atomically(folder / _RUN, content)
        except OSError as error:
            raise _cannot_write(folder, error, "; choose another --out") from error
    return run


def _refuse_occupied(run: Run, start: Run | None) -> None:
    """Raises RunError for a folder where no new run can be made."""
    folder = run.folder
    if (folder / _RUN).exists():
        raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out must be a new or empty folder")
    cut_off = start is not None and checkpoint.iterations_on_disk(run.checkpoints) in ([], [0])
    leftovers = {_LOCK, *(path.name for path in leftovers_of(folder / _RUN))} | ({_CHECKPOINTS} if cut_off else set())
    if folder.is_dir() and any(entry.name not in leftovers for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run; choose another --out")


def open_run(folder: Path) -> Run:
    """Reads a run folder back.

    Raises:
      RunError: if it holds no run, or `run.json` was changed or cannot be understood.
    """
    path = folder / _RUN
    if not path.is_file():
        seeds = sorted(found.parent.name for found in folder.glob(f"seed-*/{_RUN}"))
        if seeds:
            also = "with train --resume, --num-seeds continues all"
            raise RunError(f"{folder} holds the runs of several seeds: name one, such as {folder / seeds[0]} ({also})")
        stages = sorted(found.parent.name for found in folder.glob(f"*/{_RUN}"))
        if stages:
            names = ", ".join(stages)
            raise RunError(f"{folder} holds {names}: name one, for a recipe its last, {folder / stages[-1]}")
        raise RunError(f"{folder} holds no run ({_RUN} is missing); make one with `rl2jax train TASK --out {folder}`")
    description = _description(folder)
    try:
        config = TrainConfig.from_json(description["config"])
        return Run(folder, parse_task(description["task"]), config, int(description["seed"]))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _description(folder: Path) -> dict[str, Any]:
    """What `run.json` says, found unchanged.

    Raises:
      RunError: if it was changed, is of another version, or cannot be read.
    """
    path = folder / _RUN
    try:
        content = read_regular(path)
        description = unsealed(content) if is_sealed(content) else json.loads(content)
        version = description["format"]
        if version not in (1, _FORMAT):
            raise ValueError(f"format {version}, this version reads {_FORMAT} and 1")
        if version != 1 and not is_sealed(content):
            raise ValueError("its digest is missing")
        return description
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(
            f"{path} cannot be read: {error}; put back what was written (other settings need a new run: --start)"
        ) from error


def described(run: Run) -> dict[str, Any]:
    """What `run.json` says of a run, with the iteration it stands at and its policy's `parameters_digest`."""
    description = _description(run.folder)
    digest = parameters_digest(load_state(run).params["policy"])
    kept = {name: description[name] for name in ("task", "seed", "commit", "jax", "config")}
    return {**kept, "iteration": last_iteration(run), "parameters_sha256": digest}


def ancestry(run: Run) -> list[dict[str, Any]]:
    """The runs that led to where this one started, the oldest first, each as `described`; empty from scratch."""
    return _description(run.folder).get("started_from", [])


def started_from(run: Run, start: Run) -> TrainState:
    """A fresh train state with another run's parameters; the baseline's only if its inputs are the same.

    Raises:
      RunError: if the policies differ in an array, or `start` has no checkpoint.
    """
    fresh, old = run.learner.init(jax.random.key(run.seed)), load_state(start)
    shapes = [{p: x.shape for p, x in jax.tree_util.tree_leaves_with_path(s.params["policy"])} for s in (fresh, old)]
    for path in sorted({*shapes[0], *shapes[1]}, key=str):
        if shapes[0].get(path) != shapes[1].get(path):
            raise RunError(
                f"{run.folder} cannot start from {start.folder}: {jax.tree_util.keystr(path)} of the policy is "
                f"{shapes[1].get(path, 'absent')} there and {shapes[0].get(path, 'absent')} here"
            )
    same_baseline = jax.tree.map(jnp.shape, fresh.params["baseline"]) == jax.tree.map(jnp.shape, old.params["baseline"])
    baseline = (old if same_baseline else fresh).params["baseline"]
    return fresh._replace(params={"policy": old.params["policy"], "baseline": baseline})


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


def load_state(run: Run, iteration: int | None = None) -> TrainState:
    """The saved train state of a run at an iteration; default the newest.

    Raises:
      RunError: if there is none, or it was saved with another `run.json` than the one that is there now.
      checkpoint.CheckpointError: if it is damaged or of another architecture.
    """
    if not checkpoint.iterations_on_disk(run.checkpoints):
        raise RunError(f"{run.folder} holds no checkpoint yet; continue it with `rl2jax train ... --resume`")
    if iteration is None:
        iteration = last_iteration(run)
    wanted = checkpoint.saved_beside(run.checkpoints, iteration).get(_RUN)
    if wanted is not None and wanted != _run_digest(run.folder):
        raise RunError(
            f"{run.folder / _RUN} is not the one that iteration {iteration} was saved with: put that back, "
            "or the checkpoints that belong to this one"
        )
    template = jax.eval_shape(run.learner.init, jax.random.key(0))
    return checkpoint.restore(run.checkpoints, iteration, template)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run_digest(folder: Path) -> str:
    """SHA-256 of `run.json`."""
    try:
        return _digest(read_regular(folder / _RUN))
    except OSError as error:
        raise RunError(f"{folder / _RUN} cannot be read: {error.strerror or error}") from error


def trained_agent(run: Run, deterministic: bool = False) -> tuple[Agent, dict[str, Any]]:
    """The policy of a run's newest checkpoint, and what a row of its scores says of it.

    Raises:
      RunError, checkpoint.CheckpointError: as `load_state`.
    """
    state = load_state(run)
    policy = state.params["policy"]
    context = {
        "hyperparameters": run.config.to_json(),
        "trained_on": run.task.name,
        "training_seed": run.seed,
        "iteration": int(state.iteration),
        "parameters_sha256": parameters_digest(policy),
        "action_selection": "mode" if deterministic else "sample",
    }
    return run.learner.networks.agent(policy, deterministic), context


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
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())  # from here on: opening a run compiles
        with together("opening the run"):
            stack.enter_context(lock(run.folder))
            learner: Learner | EngineLearner = run.learner
            if run.engine == "vizdoom":
                games = stack.enter_context(VizdoomMazes(run.task.env))
                learner = EngineLearner(run._replace(mesh=None).learner, games)
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
        path = run.folder / _METRICS
        try:
            for leftover in (*leftovers_of(path), *leftovers_of(run.folder / _RUN)):
                leftover.unlink(missing_ok=True)
            rows = _rows_until(run, iteration)
            if rows is not None:
                write_atomically(path, rows)
            self._file = open(path, "ab")  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(run.folder, error) from error
        self._rows_so_far = hashlib.sha256(rows or b"")
        self._run_digest = _run_digest(run.folder)
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
            raise _cannot_write(self._run.folder, error) from error

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
                raise _cannot_write(self._run.folder, error) from error
            beside = {_RUN: self._run_digest, _METRICS: self._rows_so_far.hexdigest()}
            checkpoint.save(self._run.checkpoints, iteration, state, beside)
        self._saved_iteration = iteration

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # what was not flushed has been reported
            self._file.close()
        if self._board:
            self._board.close()


def _cannot_write(folder: Path, error: OSError, advice: str = "") -> RunError:
    return RunError(f"cannot write to {folder}: {error.strerror or error}{advice}")


def record(
    learner: Program,
    state: TrainState,
    recorders: list[Recorder],
    part: Callable[[PyTree, int], PyTree],
    checkpoint_minutes: float,
    on_chunk: Callable[[ChunkReport], None] | None,
    stop: threading.Event | None = None,
) -> TrainState:
    """Trains to the last iteration or until a signal comes to any process, with a recorder for each run.

    Args:
      learner: what is trained.
      state: where it starts; donated.
      recorders: of the runs that the learner trains at once; none where another process writes.
      part: (state or metrics, number of a recorder) -> its run's.
      checkpoint_minutes: between checkpoints.
      on_chunk: called after each chunk.
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
            if on_chunk is not None:
                on_chunk(report)
            if is_due():
                save(report.state)
                saved_at = time.monotonic()
        return stopped()

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
    return [row for _, row in _lines_and_rows(folder / _METRICS)]


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
                raise ValueError(f"iteration {row['iteration']!r}")
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
    path = run.folder / _METRICS
    if not os.path.lexists(path):
        return None
    rows = b"".join(line for line, row in _lines_and_rows(path) if row["iteration"] <= iteration)
    saved = iteration in checkpoint.iterations_on_disk(run.checkpoints)
    wanted = checkpoint.saved_beside(run.checkpoints, iteration).get(_METRICS) if saved else None
    if wanted is not None and wanted != _digest(rows):
        raise RunError(
            f"{path} was changed: its rows are not those that iteration {iteration} was saved with; {_WITHOUT_ROWS}"
        )
    return rows


def _tensorboard(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """One session at a time; the lock goes with the process (of several, the first) that holds it, however it ends.

    Raises:
      RunError: if another process holds it, or the folder cannot be written.
    """
    if not is_first():
        yield
        return
    try:
        file = open(folder / _LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise _cannot_write(folder, error, "; choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process is training in {folder}; wait for it, or choose another --out") from error
        except OSError as error:
            raise RunError(f"{folder} cannot be locked: {error.strerror or error}; choose another --out") from error
        yield
