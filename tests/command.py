"""The command line as tests call it."""

import sys
import time
from pathlib import Path

import pytest

from rl2jax.cli.main import main

TINY = ["--set", "network.units=4", "--set", "batch.size=40", "--set", "slow_rl.minibatch_trials=5"]
TRAIN = ["train", "bandit:k=2,n=4", "--preset", "quick", *TINY]
COMMAND = [sys.executable, "-c", "from rl2jax.cli.main import main; main()"]


def run(arguments):
    """Runs the command line in this process; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return 0 if ended.value.code is None else ended.value.code


def final_state(folder: Path):
    """Bytes of the last checkpoint's arrays, by name."""
    from rl2jax.runs.checkpoint import _to_arrays
    from rl2jax.runs.run import load_state, open_run

    return {name: array.tobytes() for name, array in _to_arrays(load_state(open_run(folder))).items()}


def refused(capsys, arguments, *parts):
    """Exit code 2 and one line on standard error that has all of `parts`."""
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("rl2jax: error:")]
    assert len(lines) == 1, error
    for part in parts:
        assert part in lines[0]


def wait_for_rows(folder, count, process):
    deadline = time.monotonic() + 240
    path = folder / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
