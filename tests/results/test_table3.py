"""Reproducing Table 3: who is trained, where they play, what is refused, what rows and notes say."""

from io import StringIO

import jax
import pytest
from helpers import random_params
from rich.console import Console

from rl2jax.envs.names import parse_task
from rl2jax.results.published import MAZES
from rl2jax.results.reproduction import mazes as table3
from rl2jax.results.reproduction.mazes import Plan, reproduce
from rl2jax.results.rows import read_rows
from rl2jax.runs import checkpoint
from rl2jax.runs.run import create_run
from rl2jax.training.presets import preset

SMALL, LARGE = "maze:size=5,t=6,n=2", "maze:size=9,t=9,n=2"
CONFIG = preset("quick", "maze", num_episodes=2, episode_length=250).replace(
    {"network.units": 8, "iterations": 1, "objective.task_inference_coefficient": 0.0}
)


@pytest.fixture(autouse=True)
def short_trials_are_of_the_table(monkeypatch):
    for short, published in zip((SMALL, LARGE), list(MAZES), strict=True):
        monkeypatch.setitem(MAZES, short, MAZES[published])


def run_of(folder, name="maze:size=5,mazes=3", start=None):
    """A run with random parameters in place of a training."""
    run = create_run(folder, parse_task(name), CONFIG, seed=7, start=start)
    state = run.learner.init(jax.random.key(7))
    state = state._replace(params=random_params(run.learner.networks, seed=3), iteration=jax.numpy.int32(4))
    checkpoint.save(run.checkpoints, 4, state)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("run") / "run")


def plan(tmp_path, *runs, **settings):
    base = {"tasks": (SMALL, LARGE), "engine": "twin", "num_mazes": 2, "seed": 1, "preset": None}
    base |= {"training_seed": 0, "out": tmp_path / "runs", "results": tmp_path / "table3", "references": False}
    return Plan(runs=tuple(run.folder for run in runs), **(base | settings))


def quiet():
    return Console(file=StringIO())


def test_one_agent_plays_in_both_sizes(run, tmp_path):
    """Section 3.3: trained on small mazes, tested on both; its row says what it was trained on."""
    reproduce(plan(tmp_path, run), quiet())
    (small,), (large,) = (read_rows(tmp_path / "table3" / name) for name in played(tmp_path))
    assert (small.task, large.task) == (SMALL, LARGE)
    assert small.trained_on == large.trained_on == run.task.name
    assert small.parameters_sha256 == large.parameters_sha256
    assert small.started_from is None
    assert [len(row.length) for row in (small, large)] == [2, 2]
    assert max(large.length) <= 9
    assert not list(tmp_path.glob("figure5*"))  # there are no rows of a training to draw
    for size in ("small", "large"):
        assert (tmp_path / f"figure4-{size}.png").exists()
        assert (tmp_path / f"trial-{size}.gif").exists()


def played(tmp_path):
    """Files of rows, small mazes first."""
    return sorted(path.name for path in (tmp_path / "table3").iterdir())


def test_what_was_played_is_not_played_again(run, tmp_path, monkeypatch):
    wanted = plan(tmp_path, run, tasks=(SMALL,))
    reproduce(wanted, quiet())
    before = [path.read_bytes() for path in (tmp_path / "table3").iterdir()]
    monkeypatch.setattr(table3, "play", None)
    monkeypatch.setattr(table3, "draw", None)
    reproduce(wanted, quiet())
    assert [path.read_bytes() for path in (tmp_path / "table3").iterdir()] == before


def test_without_runs_one_training_serves_both_sizes(run, tmp_path, monkeypatch):
    """On small mazes, with the paper's horizon and two episodes a trial, whichever sizes are asked for."""
    asked = []

    def train_cell(folder, name, preset, **rest):
        asked.append((name, preset, rest["training_seed"]))
        return run

    monkeypatch.setattr(table3, "train_cell", train_cell)
    monkeypatch.setattr(table3, "draw", lambda *_: None)
    reproduce(plan(tmp_path, preset="quick", training_seed=5, tasks=(LARGE,)), quiet())
    assert asked == [("maze:size=5,t=250,n=2", "quick", 5)]
    assert [row.preset for name in played(tmp_path) for row in read_rows(tmp_path / "table3" / name)] == ["quick"]


@pytest.mark.parametrize(
    "name",
    [
        "maze:size=5,thin=1,mazes=3",
        "maze:size=5,turn=2,mazes=3",
        "maze:size=5,mazes=1001",
        "maze:size=5,mazes=3,more=2",
    ],
)
def test_a_run_for_other_walls_or_turns_or_of_more_mazes_is_refused(name, tmp_path):
    """Of 1001 training mazes, the last may be a test maze of the table; so may those added to a smaller set."""
    other = run_of(tmp_path / "other", name)
    with pytest.raises(
        ValueError, match=r"--run .*other: task must be mazes whose walls, turns, frames and training set"
    ):
        reproduce(plan(tmp_path, other), quiet())
    assert played(tmp_path) == []


def test_a_row_names_the_trainings_that_came_before(run, tmp_path, monkeypatch):
    monkeypatch.setattr(table3, "draw", lambda *_: None)
    reproduce(plan(tmp_path, run_of(tmp_path / "later", start=run), tasks=(SMALL,)), quiet())
    (row,) = read_rows(tmp_path / "table3" / played(tmp_path)[0])
    (before,) = row.started_from
    assert (before["task"], before["seed"], before["iteration"]) == (run.task.name, 7, 4)
    assert before["algorithm"] == CONFIG.slow_rl.name
    assert before["parameters_sha256"] == row.parameters_sha256  # nothing was learned in between
