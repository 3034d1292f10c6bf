"""A run in a folder: what it is, and its checkpoints; made and read back. `sessions` train it.

DIR/run.json       task, seed and config, and the run whose parameters it started from; written once, with its SHA-256
DIR/checkpoints/   one folder per saved iteration, the last two kept; with the SHA-256 of run.json and the rows so far
"""

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rl2jax.agents.base import Agent
from rl2jax.engines.base import DEVICE
from rl2jax.envs.names import Task, parse_task
from rl2jax.files import (
    git_commit,
    leftovers_of,
    read_regular,
    sealed,
    sha256,
    unsealed,
    write_atomically,
)
from rl2jax.runs import checkpoint
from rl2jax.runs.processes import is_first
from rl2jax.settings import UserError, require
from rl2jax.slow_rl.moments import Moments
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner
from rl2jax.training.teacher import teacher_of
from rl2jax.training.update import TrainState
from rl2jax.types import PyTree

_FORMAT = 3  # settings by their sections
RUN_FILE = "run.json"
_SHAPING = ("cell", "units", "weight_norm", "shared_trunk", "time_input")  # of the network
_CONTINUED = 0xC0111
_CHECKPOINTS, _LOCK = "checkpoints", ".lock"


class RunError(UserError, RuntimeError):
    """A run that cannot be made, continued or read; the message says what to do."""


class Run(NamedTuple):
    """A run folder and what it holds.

    Attributes:
      folder: where it lives.
      task: the task distribution and the number of episodes.
      config: all settings.
      seed: of the training key.
      mesh: devices that train it (`Learner.mesh`); chosen for each session, not saved.
      engine: who plays its trials, as `engines.base.find_engine` names them; chosen for each session, not saved.
    """

    folder: Path
    task: Task
    config: TrainConfig
    seed: int
    mesh: Mesh | None = None
    engine: str = DEVICE

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def learner(self) -> Learner:
        """Task distribution, config and devices, bound together."""
        return Learner(self.task.env, self.config, teacher_of(self.task, self.config), self.mesh)


class Start(NamedTuple):
    """What a training may start from.

    Attributes:
      name: of where it comes from, for messages.
      policy: its parameters.
      baseline: the baseline's; None where they are not known.
      return_moments: the scale that the baseline predicts on; None where it is not known.
      trainings: that led to them, the oldest first, each as `described`.
    """

    name: str
    policy: PyTree
    baseline: PyTree | None
    return_moments: Moments | None
    trainings: list[dict[str, Any]]


def create_run(
    folder: Path,
    task: Task,
    config: TrainConfig,
    seed: int,
    mesh: Mesh | None = None,
    start: Run | Start | None = None,
) -> Run:
    """Makes a run folder; with several processes, the first does.

    Args:
      folder: new or empty.
      task: the task distribution and the number of episodes.
      config: all settings.
      seed: of the training key.
      mesh: devices that train it.
      start: a run, whose newest parameters this one starts from, or other parameters; its checkpoint 0 holds them.

    Raises:
      RunError: if it holds a run already, holds other files, or cannot be written; if `start` has another policy.
      ValueError: if the config does not fit the task or the mesh.
    """
    run = Run(folder, task, config, seed, mesh)
    run.learner  # noqa: B018  # refuses a config that does not fit
    start = start_of(start) if isinstance(start, Run) else start
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
        description["started_from"] = start.trainings
    content = sealed(description)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, "; choose another --out") from error
    with lock(folder):
        _refuse_occupied(run, start)  # two processes may have come this far
        try:
            if state is not None:
                checkpoint.save(run.checkpoints, 0, state, {RUN_FILE: sha256(content.encode())})
            write_atomically(folder / RUN_FILE, content)
        except OSError as error:
            raise cannot_write(folder, error, "; choose another --out") from error
    return run


def _refuse_occupied(run: Run, start: Start | None) -> None:
    """Raises RunError for a folder where no new run can be made."""
    folder = run.folder
    if (folder / RUN_FILE).exists():
        raise RunError(f"{folder} already holds a run; continue it with --resume, or choose another --out")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; --out must be a new or empty folder")
    cut_off = start is not None and checkpoint.iterations_on_disk(run.checkpoints) in ([], [0])
    leftovers = {_LOCK, *(path.name for path in leftovers_of(folder / RUN_FILE))}
    leftovers |= {_CHECKPOINTS} if cut_off else set()
    if folder.is_dir() and any(entry.name not in leftovers for entry in folder.iterdir()):
        raise RunError(f"{folder} is not empty and holds no run; choose another --out")


def open_run(folder: Path) -> Run:
    """Reads a run folder back.

    Raises:
      RunError: if it holds no run, or `run.json` was changed or cannot be understood.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        seeds = sorted(found.parent.name for found in folder.glob(f"seed-*/{RUN_FILE}"))
        if seeds:
            also = "with train --resume, --num-seeds continues all"
            raise RunError(f"{folder} holds the runs of several seeds: name one, such as {folder / seeds[0]} ({also})")
        stages = sorted(found.parent.name for found in folder.glob(f"*/{RUN_FILE}"))
        if stages:
            names = ", ".join(stages)
            raise RunError(f"{folder} holds {names}: name one, for a recipe its last, {folder / stages[-1]}")
        make = f"make one with `rl2jax train TASK --out {folder}`"
        raise RunError(f"{folder} holds no run ({RUN_FILE} is missing); {make}")
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
    path = folder / RUN_FILE
    try:
        description = unsealed(read_regular(path))
        version = description["format"]
        require(version == _FORMAT, "format", version, f"{_FORMAT}, which this version reads")
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


def start_of(run: Run) -> Start:
    """The newest parameters of a run.

    Raises:
      RunError, checkpoint.CheckpointError: as `load_state`.
    """
    state = load_state(run)
    trainings = [*ancestry(run), described(run)]
    return Start(str(run.folder), state.params["policy"], state.params["baseline"], state.return_moments, trainings)


def started_from(run: Run, start: Start) -> TrainState:
    """A fresh train state with other parameters; the baseline's only if its inputs are the same.

    A baseline of the same trials and discount keeps the scale of its predictions, with the weight of a single step;
    other trials have another scale, which the first batch gives.

    Raises:
      RunError: if the policies differ in an array.
    """
    fresh = run.learner.init(jax.random.key(run.seed))
    policies = fresh.params["policy"], start.policy
    shapes = [{path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(policy)} for policy in policies]
    for path in sorted({*shapes[0], *shapes[1]}, key=str):
        if shapes[0].get(path) != shapes[1].get(path):
            raise RunError(
                f"{run.folder} cannot start from {start.name}: {jax.tree_util.keystr(path)} of the policy is "
                f"{shapes[1].get(path, 'absent')} there and {shapes[0].get(path, 'absent')} here"
                f"{_settings_there(run, start)}"
            )
    baseline, known = fresh.params["baseline"], start.baseline
    moments = fresh.return_moments
    if known is not None and jax.tree.map(jnp.shape, baseline) == jax.tree.map(jnp.shape, known):
        baseline = known
        if start.return_moments is not None and _returns_as_before(run, start):
            moments = start.return_moments._replace(count=jnp.ones(()))
    # Of the same seed, it would meet the same tasks again, by the same randomness: a fold of its own for each stage,
    # far from the small numbers, which are the keys of `split`.
    key = jax.random.fold_in(fresh.key, _CONTINUED + len(start.trainings))
    params = {"policy": start.policy, "baseline": baseline}
    return fresh._replace(params=params, return_moments=moments, key=key)


def _returns_as_before(run: Run, start: Start) -> bool:
    before = start.trainings[-1]
    there, here = TrainConfig.from_json(before["config"]).objective, run.config.objective
    same = (there.discount, there.normalise_returns) == (here.discount, here.normalise_returns)
    return same and before["task"] == run.task.name


def _settings_there(run: Run, start: Start) -> str:
    """The settings of the last training behind `start` that shape a network, where this run's are others."""
    there, here = TrainConfig.from_json(start.trainings[-1]["config"]).flat(), run.config.flat()
    shaping = ["network", *(f"network.{name}" for name in _SHAPING), "objective.task_inference_coefficient"]
    others = [f"--set {name}={there[name]}" for name in shaping if name in there and there[name] != here.get(name)]
    return f"; it has {' '.join(others)}" if others else ""


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
    wanted = checkpoint.saved_beside(run.checkpoints, iteration).get(RUN_FILE)
    if wanted is not None and wanted != run_digest(run.folder):
        raise RunError(
            f"{run.folder / RUN_FILE} is not the one that iteration {iteration} was saved with: put that back, "
            "or the checkpoints that belong to this one"
        )
    template = jax.eval_shape(run.learner.init, jax.random.key(0))
    return checkpoint.restore(run.checkpoints, iteration, template)


def run_digest(folder: Path) -> str:
    """SHA-256 of `run.json`."""
    try:
        return sha256(read_regular(folder / RUN_FILE))
    except OSError as error:
        raise RunError(f"{folder / RUN_FILE} cannot be read: {error.strerror or error}") from error


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
    if earlier := ancestry(run):
        kept = ("task", "seed", "commit", "iteration", "parameters_sha256")
        stages = [{name: stage[name] for name in kept} for stage in earlier]
        algorithms = [stage["config"].get("slow_rl", "trpo") for stage in earlier]
        context["started_from"] = [stage | {"algorithm": x} for stage, x in zip(stages, algorithms, strict=True)]
    return run.learner.networks.agent(policy, deterministic), context


def cannot_write(folder: Path, error: OSError, advice: str = "") -> RunError:
    """The error to raise in the place of the operating system's."""
    return RunError(f"cannot write to {folder}: {error.strerror or error}{advice}")


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
        raise cannot_write(folder, error, "; choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another process is training in {folder}; wait for it, or choose another --out") from error
        except OSError as error:
            raise RunError(f"{folder} cannot be locked: {error.strerror or error}; choose another --out") from error
        yield
