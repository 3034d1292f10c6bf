"""The maze benchmark: its arithmetic on fabricated times, and that a tiny run writes its rows."""

import sys

import jax
import pytest

from experiments.benchmarks import mazes
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import read_objects
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for

MACHINE = {"processor": "a processor", "cores": 2, "device": "cpu", "jax": "0.10", "commit": "abc"}
MACHINE |= {"date": "2026-01-01", "load": 0.25}


def test_the_ratio_is_of_the_same_moments(monkeypatch):
    """A machine of half the speed in the second round changes rates, not the ratio; the clock is ours."""
    now, played = [0.0], []

    def player(name, rate):
        def play(seed):
            played.append((name, seed))
            now[0] += 100 / rate * (1 if played.index((name, seed)) < 3 else 2)
            return 100.0

        return play

    monkeypatch.setattr(mazes.time, "perf_counter", lambda: now[0])
    found = mazes.paired_rates(player("host", 10.0), player("twin", 100.0), lambda: float(len(played)), 2)
    assert played == [("twin", 0), ("host", 0), ("twin", 1), ("twin", 2), ("host", 1), ("twin", 3)]
    assert found["host"] == pytest.approx([10.0, 5.0])
    assert found["twin"] == pytest.approx([100.0, 50.0])
    assert found["ratio"] == pytest.approx([10.0, 10.0])
    assert found["peak"] == [0.0, 3.0, 6.0]


def test_a_summary_keeps_its_samples():
    row = mazes.summary([4000.0, 5000.0, 10_000.0], [3e9, 1e9, 2e9])
    assert row["samples"] == [4000.0, 5000.0, 10_000.0]
    assert (row["steps_per_second"], row["steps_per_second_range"]) == (5000.0, [4000.0, 10_000.0])
    assert (row["seconds"], row["steps"]) == (10.0, 50_000)
    assert (row["peak_operations_per_second"], row["peak_operations_per_second_range"]) == (2e9, [1e9, 3e9])


def test_the_table():
    same = {"task": "maze:size=5,t=250,n=2", "machine": MACHINE}
    ratio = {"ratio": 11.0, "ratio_range": [9.5, 12.0], "ratios": [9.5, 11.0, 12.0]}
    rows = [
        {**same, "part": "in ViZDoom", **mazes.summary([6000.0, 5000.0, 7000.0], [150e9, 170e9])},
        {**same, "part": "on the twin", **mazes.summary([60_000.0, 61_000.0, 62_000.0], [150e9, 170e9]), **ratio},
    ]
    lines = mazes.to_markdown(rows).splitlines()
    assert lines[0].startswith("maze:size=5,t=250,n=2. a processor, 2 cores, cpu, JAX 0.10, commit abc, 2026-01-01;")
    assert "matrix products at 150 to 170 GFLOP/s" in lines[0]
    assert lines[4] == "| in ViZDoom | 3 | 6000 (5000 to 7000) | 8.33 s |  | 160 |"
    assert lines[5] == "| on the twin | 3 | 61000 (60000 to 62000) | 0.82 s | 11.0 (9.5 to 12.0) | 160 |"


def test_training_counts_the_steps_of_its_own_batch(monkeypatch):
    """Those before the end of a trial; the clock is ours, a second for each iteration."""
    task = parse_task("maze:size=5,t=60,map=1")
    config = preset_for(task, "cpu").replace({"batch.size": 1200, "network.units": 4})
    learner, times = Learner(task.env, config), iter(range(100))
    monkeypatch.setattr(mazes.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(mazes, "matmul_peak", lambda: 1e9)
    seen = []
    collect = mazes.make_collect

    def watched(*arguments, **more):
        def play(key, params):
            trajectory = collect(*arguments, **more)(key, params)
            jax.debug.callback(lambda mask: seen.append(float(mask.sum())), trajectory.mask)
            return trajectory

        return play

    monkeypatch.setattr(mazes, "make_collect", watched)
    monkeypatch.setattr(sys.modules["rl2jax.training.learner"], "make_collect", watched)
    row = mazes.training_row(learner, "cpu", 2)
    jax.effects_barrier()
    assert learner.steps_per_iteration == row["batch_size"] == 1200
    assert sorted(seen[1:]) == sorted(2 * row["samples"])
    assert 0 < min(row["samples"]) < 1200


def test_a_tiny_run_writes_its_rows(tmp_path, monkeypatch, capsys):
    pytest.importorskip("vizdoom")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mazes, "TASK", "maze:size=5,t=20,mazes=6")
    monkeypatch.setattr(mazes.xla, "prepare", lambda: None)  # its settings would outlive the test
    results = tmp_path / "results"
    options = {"rounds": 2, "trials": 3, "games": 1, "iterations": 0, "results": results}
    mazes.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    rows = read_objects(results / "mazes.json")
    assert [row["part"] for row in rows] == [
        "random play in ViZDoom, 2 workers of 1 games",
        "random play on the twin",
    ]
    assert [len(row["samples"]) for row in rows] == [2, 2]
    host, twin = (row["samples"] for row in rows)
    assert [b / a for a, b in zip(host, twin, strict=True)] == pytest.approx(rows[1]["ratios"])
    assert {"processor", "cores", "device", "jax", "python", "commit", "date", "load"} <= set(rows[0]["machine"])
    assert (results / "mazes.md").read_text() == mazes.to_markdown(rows) == capsys.readouterr().out


@pytest.mark.parametrize("option", ["--rounds", "--trials", "--games"])
def test_nothing_is_measured_of_nothing(option, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {option} must be an integer >= 1, got 0"):
        mazes.main([option, "0", "--results", str(tmp_path / "none")])
    assert not any(tmp_path.iterdir())
