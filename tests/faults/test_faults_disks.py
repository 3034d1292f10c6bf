"""Disks that are full or cannot be written: one line says so, what was saved stays, and training goes on after."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import TRAIN, refused, run
from test_faults_sessions import outcome
from untrained import CONFIG, ROW, TASK, untrained_run

from rl2jax.runs import checkpoint
from rl2jax.runs import run as runs
from rl2jax.runs.checkpoint import CheckpointError, iterations_on_disk
from rl2jax.runs.run import RunError, create_run, load_state, open_run
from rl2jax.runs.session import read_metrics, train_run
from rl2jax.runs.shipped import describe, ship

pytestmark = pytest.mark.faults
NO_SPACE = "No space left on device"
LONG = CONFIG.replace({"iterations": 40, "objective.task_inference_coefficient": 0.0})


def fill(folder: Path) -> Path:
    """Leaves no byte; returns the file that takes them."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"0" * 1024)
        except OSError:
            return filler


@pytest.fixture
def disk(mounted):
    return mounted("size=1m")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The outcome where there was space."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_run(create_run(folder, TASK, LONG, seed=0), checkpoint_minutes=0).finished
    return outcome(folder)


def test_full_while_rows_are_written(disk, whole):
    """Rows are flushed after each chunk: the one that finds no place ends training."""
    created = create_run(disk / "run", TASK, LONG, seed=0)

    def at_iteration_three(report):
        if report.iteration == 3:
            checkpoint.save(created.checkpoints, 3, report.state, {"run.json": runs.run_digest(created.folder)})
            fill(disk)

    with pytest.raises(RunError, match=rf"cannot write to .*run: {NO_SPACE}"):
        train_run(created, checkpoint_minutes=600, on_chunk=at_iteration_three)
    assert iterations_on_disk(created.checkpoints) == [3]
    assert len(read_metrics(created.folder)) < LONG.iterations
    with pytest.raises((RunError, CheckpointError), match=NO_SPACE):  # still full: nor is what is there destroyed
        train_run(open_run(created.folder), resume=True)
    assert int(load_state(created).iteration) == 3
    (disk / "filler").unlink()
    assert train_run(open_run(created.folder), resume=True).finished
    assert outcome(created.folder) == whole


def test_full_while_a_checkpoint_is_written(disk, whole):
    created = create_run(disk / "run", TASK, LONG, seed=0)
    with pytest.raises((CheckpointError, RunError), match=NO_SPACE):
        train_run(created, checkpoint_minutes=0, on_chunk=lambda report: fill(disk) if report.iteration == 6 else None)
    kept = iterations_on_disk(created.checkpoints)
    assert kept == [4, 5]
    assert not list(created.checkpoints.glob("tmp-*"))
    assert int(load_state(created).iteration) == 5
    (disk / "filler").unlink()
    assert train_run(open_run(created.folder), resume=True).finished
    assert outcome(created.folder) == whole


def test_full_while_a_run_is_made(capsys, disk):
    folder = disk / "run"
    folder.mkdir()
    filler = fill(disk)
    command = [*TRAIN, "--iterations", 2, "--out", folder]
    refused(capsys, command, "cannot write to", NO_SPACE, "--out")
    assert not (folder / "run.json").exists()
    filler.unlink()
    assert run(command) == 0


def test_full_while_an_agent_is_shipped(disk, tmp_path):
    """The agent that was there stays."""
    trained = untrained_run(tmp_path / "run")
    path = ship(trained, "best", ROW, disk)
    before = path.read_bytes()
    filler = fill(disk)
    with pytest.raises(OSError, match=rf"{NO_SPACE}.*bandit-k2-n4.safetensors"):
        ship(trained, "best", ROW | {"mean": 2.6}, disk)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    filler.unlink()
    ship(trained, "best", ROW | {"mean": 2.6}, disk)
    assert describe("bandit-k2-n4", folder=disk).evaluation["mean"] == 2.6


def test_full_while_a_row_is_written(capsys, disk, tmp_path):
    trained = untrained_run(tmp_path / "run")
    command = ["evaluate", trained.folder, "--num-tasks", 50, "--json", disk / "row.json"]
    assert run(command) == 0
    before = (disk / "row.json").read_bytes()
    filler = fill(disk)
    refused(capsys, [*command, "--seed", 3], NO_SPACE, "row.json")
    assert (disk / "row.json").read_bytes() == before
    filler.unlink()
    assert run([*command, "--seed", 3]) == 0
    assert json.loads((disk / "row.json").read_text())[0]["seed"] == 3


@pytest.fixture
def read_only(disk):
    """A folder with a run, seen through a mount that refuses writing, root's too."""
    created = untrained_run(disk / "run")
    ship(created, "best", ROW, disk / "agents")
    seen = disk.parent / "seen"
    seen.mkdir()
    subprocess.run(["mount", "--bind", str(disk), str(seen)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(seen)], check=True)
        yield seen
    finally:
        subprocess.run(["umount", str(seen)], check=True)


def test_a_folder_that_cannot_be_written(capsys, read_only):
    """Reading works; whatever writes says in one line that it cannot."""
    refused(capsys, [*TRAIN, "--out", read_only / "new"], "cannot write to", "Read-only file system", "--out")
    refused(capsys, ["train", TASK.name, "--resume", "--out", read_only / "run"], "Read-only file system", "--out")
    refused(capsys, ["ship", read_only / "run", "--recipe", "best", "--out", read_only / "agents"], "can be written")
    evaluate = ["evaluate", read_only / "run", "--num-tasks", 50]
    assert run(evaluate) == 0
    refused(capsys, [*evaluate, "--json", read_only / "row.json"], "Read-only file system", "row.json")
    assert run(["agents", "--folder", read_only / "agents"]) == 0


def test_the_same_in_a_namespace_of_ones_own(tmp_path):
    """Where only a user namespace may mount, these tests run in one."""
    if os.environ.get("RL2JAX_IN_NAMESPACE"):
        pytest.skip("this is it")
    if subprocess.run(["mount", "--bind", tmp_path, tmp_path], capture_output=True).returncode == 0:
        subprocess.run(["umount", tmp_path], check=True)
        pytest.skip("mounts are allowed without one: done above")
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        if subprocess.run([*namespace, "true"], capture_output=True).returncode != 0:
            pytest.skip("neither mounts nor namespaces are allowed here")
    except OSError:
        pytest.skip("no unshare command")
    command = [*namespace, sys.executable, "-m", "pytest", "-q", "-m", "faults", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, "RL2JAX_IN_NAMESPACE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
