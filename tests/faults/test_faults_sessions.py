"""Sessions of training that are killed, told to stop, started twice, or shown odd clocks."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from command import TRAIN, refused, run, wait_for_rows
from untrained import CONFIG, TASK

from rl2jax.runs import checkpoint
from rl2jax.runs import run as runs
from rl2jax.runs import session as sessions
from rl2jax.runs.checkpoint import CheckpointError, iterations_on_disk
from rl2jax.runs.run import RunError, create_run, load_state, open_run, parameters_digest
from rl2jax.runs.session import train_run
from rl2jax.types import Metrics

HERE = Path(__file__).parent
ITERATIONS = 9
# Nine iterations in chunks of two, a checkpoint after each.
SHORT = [*map(str, TRAIN), "--set", "iterations_per_chunk=2", "--iterations", str(ITERATIONS)]
SHORT += ["--checkpoint-minutes", "0"]
# The same, slower at each chunk, so that a kill from outside lands anywhere.
SLOWED = "import time, rl2jax.runs.session as r; rows = r.metric_rows\n"
SLOWED += "r.metric_rows = lambda report: (time.sleep(0.2), rows(report))[1]\n"
SLOW = [sys.executable, "-c", SLOWED + "from rl2jax.cli.main import main; main()"]


def outcome(folder):
    """What a run came to: the digest of its parameters, and its rows without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    learned = [{name: x for name, x in row.items() if "second" not in name} for row in rows]
    return parameters_digest(load_state(open_run(folder)).params), learned


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run, and how often it touches its folder."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    command = [sys.executable, str(HERE / "dies_at.py"), "0", str(folder), *SHORT, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["iteration"] for row in outcome(folder)[1]] == list(range(1, ITERATIONS + 1))
    return outcome(folder), int(done.stdout.splitlines()[-1])


def go_on(folder):
    """What a user does after a kill: resume, or start if there is no run yet; returns the outcome."""
    again = ["--resume"] if (folder / "run.json").exists() else []
    assert run([*SHORT, *again, "--out", folder]) == 0
    left = {path.name for path in folder.iterdir()}
    assert left <= {"run.json", "metrics.jsonl", "checkpoints", ".lock", "tensorboard"}  # no temporary files
    assert iterations_on_disk(folder / "checkpoints")[-1] == ITERATIONS
    assert not list(folder.glob("checkpoints/tmp-*"))
    return outcome(folder)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(10))
def test_killed_at_a_touch_of_its_files(tmp_path, whole, number):
    """kill -9 at a drawn step of making the folder, writing rows, writing and removing checkpoints."""
    expected, touches = whole
    rng = np.random.default_rng([1, number])
    low, high = number * touches // 10, (number + 1) * touches // 10  # one in each tenth of the training
    at = int(rng.integers(max(1, low), max(2, int(0.97 * high))))
    folder = tmp_path / "run"
    command = [sys.executable, str(HERE / "dies_at.py"), str(at), str(folder), *SHORT, "--out", str(folder)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert go_on(folder) == expected


@pytest.mark.faults
@pytest.mark.parametrize("number", range(10))
def test_killed_at_a_moment(tmp_path, whole, number):
    """kill -9 from outside, at a drawn time after a drawn number of iterations; every third time twice."""
    expected, _ = whole
    rng, folder = np.random.default_rng([2, number]), tmp_path / "run"
    for session in range(2 if number % 3 == 2 else 1):
        again = ["--resume"] if session else []
        process = subprocess.Popen(
            [*SLOW, *SHORT, *again, "--out", str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        done = max(iterations_on_disk(folder / "checkpoints"), default=0)
        wait_for_rows(folder, int(rng.integers(done, ITERATIONS)) if number or session else 0, process)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        (folder / ".lock").touch()  # it is there, and blocks nobody
    assert go_on(folder) == expected


COMPILES = "import pathlib; from rl2jax.training.loop import Learner as L; compile = L.compile\n"
COMPILES += "L.compile = lambda *a: (pathlib.Path({marker!r}).touch(), compile(*a))[1]\n"


@pytest.mark.faults
def test_told_to_stop_while_compiling(tmp_path, whole, monkeypatch):
    """It ends when that program is compiled, says that there was nothing to save, and can be resumed."""
    expected, _ = whole
    folder, marker = tmp_path / "run", tmp_path / "compiles"
    program = COMPILES.format(marker=str(marker)) + "from rl2jax.cli.main import main; main()"
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cold"))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *SHORT, "--out", str(folder)], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not marker.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "nothing to save" in " ".join(error.split())
    assert "--resume" in error
    assert iterations_on_disk(folder / "checkpoints") == []
    monkeypatch.undo()
    assert go_on(folder) == expected


@pytest.mark.faults
@pytest.mark.parametrize("period", [7, 100, 1001])
def test_clocks_that_jump_by_a_day(tmp_path, whole, period):
    """There and back: nothing fails, no rate is negative, and what depends on time comes out."""
    folder = tmp_path / "run"
    minutes = ["--checkpoint-minutes", "600"]
    command = [sys.executable, str(HERE / "odd_clocks.py"), str(period), *SHORT, *minutes, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert outcome(folder) == whole[0]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["seconds"] > 0 and row["steps_per_second"] > 0 for row in rows)


def test_checkpoints_follow_a_clock_that_is_set_back(tmp_path, monkeypatch):
    """Ten minutes are ten minutes by the monotonic clock; set back, it saves rather than wait for a day."""
    moments = [0.0, 300.0, 601.0, 602.0, 700.0, -86400.0, -86399.0, -86000.0]  # once at the start, once at each save
    clock = SimpleNamespace(monotonic=lambda: moments.pop(0))
    monkeypatch.setattr(sessions, "time", clock)
    run = create_run(tmp_path / "run", TASK, CONFIG.replace(iterations=5), seed=0)
    saved = []
    monkeypatch.setattr(sessions.Recorder, "save", lambda self, state: saved.append(int(state.iteration)))
    monkeypatch.setattr(sessions, "run_chunks", fake_chunks(5))
    train_run(run, checkpoint_minutes=10)
    assert saved == [2, 4, 5]  # 601 s; set back; the end


def fake_chunks(number):
    """In place of training: reports of chunks of one iteration."""

    def chunks(learner, state, callback, stopped):
        del learner, stopped
        for iteration in range(1, number + 1):
            state = state._replace(iteration=np.int32(iteration))
            metrics = Metrics._make(np.ones(1, np.float32) for _ in Metrics._fields)
            callback(sessions.ChunkReport(state, metrics, 1.0, 1.0, 0.0, iteration))
        return state, None

    return chunks


# --- Two at once.


def test_of_two_that_make_a_run_at_once_one_does(tmp_path, monkeypatch):
    """The second comes between the first's look at the folder and its writing."""
    folder, seeds = tmp_path / "run", iter([2])

    def meanwhile():
        for seed in seeds:
            create_run(folder, TASK, CONFIG, seed)
        return "commit"

    monkeypatch.setattr(runs, "git_commit", meanwhile)
    with pytest.raises(RunError, match="already holds a run"):
        create_run(folder, TASK, CONFIG, seed=1)
    assert open_run(folder).seed == 2


def test_a_second_session_is_refused_and_a_killed_ones_lock_is_none(tmp_path):
    """In processes of their own: a lock is the process's, and goes with it."""
    folder = create_run(tmp_path / "run", TASK, CONFIG, seed=1).folder
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold + "; time.sleep(600)", str(folder / ".lock")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "1\n"
    with pytest.raises(RunError, match=r"another process is training in .*run; wait for it, or choose another --out"):
        train_run(open_run(folder))
    assert {path.name for path in folder.iterdir()} == {"run.json", ".lock"}
    holder.kill()
    holder.communicate()
    with runs.lock(folder):
        assert (folder / ".lock").exists()


@pytest.mark.faults
def test_the_first_of_two_is_undisturbed(capsys, tmp_path, whole):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*SLOW, *SHORT, "--out", str(folder)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    wait_for_rows(folder, 2, process)
    refused(capsys, [*SHORT, "--resume", "--out", folder], "another process is training", "--out")
    refused(capsys, [*SHORT, "--out", folder], "already holds a run")
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert outcome(folder) == whole[0]


def test_what_killed_sessions_left_is_cleared(tmp_path):
    """Temporary files do not block a folder, nor stay."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".run.json.1234.tmp").write_text("{")
    run = create_run(folder, TASK, CONFIG, seed=1)
    (folder / ".metrics.jsonl.1234.tmp").write_text("{")
    (run.checkpoints / "tmp-2-1234" / "state").mkdir(parents=True)
    with sessions.Recorder(run, 0) as recorder:
        recorder.save(run.learner.init(jax.random.key(0))._replace(iteration=np.int32(2)))
    assert {path.name for path in folder.iterdir()} <= {"run.json", "metrics.jsonl", "checkpoints", ".lock"}
    assert [path.name for path in run.checkpoints.iterdir()] == ["2"]


def test_a_killed_rewriting_of_a_checkpoint_leaves_one(tmp_path, monkeypatch):
    """Between the old one's removal and the new one's arrival there is the one before."""
    run = create_run(tmp_path / "run", TASK, CONFIG, seed=1)
    state = run.learner.init(jax.random.key(0))
    for iteration in (1, 2):
        checkpoint.save(run.checkpoints, iteration, state._replace(iteration=np.int32(iteration)))
    rename = Path.rename

    def fails_at_the_second(self, target):
        if Path(target).name == "2":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_second)
    with pytest.raises(CheckpointError, match="Input/output error; the checkpoint of iteration 1 is kept"):
        checkpoint.save(run.checkpoints, 2, state)
    monkeypatch.undo()
    assert int(load_state(run).iteration) == 1
