"""The queue of the paper's recipe: when a cell ends, and that a packed run goes on elsewhere to the same bits."""

import numpy as np
import pytest
from rich.console import Console

from experiments import paper_column
from experiments.paper_column import cells, has_stopped_learning, pack, train, unpack
from rl2jax.runs.run import load_state, open_run, parameters_digest
from rl2jax.training.presets import PRESETS

TASK = "bandit:k=2,n=3"
QUIET = Console(quiet=True)
FOREVER = float("inf")


@pytest.fixture
def tiny(monkeypatch):
    """The paper's preset, cut down to what trains in a second."""
    changes = {"batch.size": 60, "network.units": 4, "ppo.minibatch_trials": 10, "iterations": 6}
    monkeypatch.setitem(PRESETS, "paper-first-order", PRESETS["paper-first-order"].replace(changes))


def test_all_bandits_the_shortest_trials_first():
    assert len(cells()) == 9
    assert [task.rpartition("n=")[2] for task in cells()] == ["10"] * 3 + ["100"] * 3 + ["500"] * 3


def test_a_rise_beyond_twice_its_error_goes_on():
    noise = np.random.default_rng(0).normal(0, 1, 200)
    error = np.sqrt(2 / 100)
    step = np.repeat([0.0, 1.0], 100)
    assert not has_stopped_learning(list(noise + 4 * error * step))
    assert has_stopped_learning(list(noise))
    assert has_stopped_learning(list(noise - 4 * error * step))  # it unlearns
    assert not has_stopped_learning(list(noise[:199]))  # too early to say


def test_a_packed_run_goes_on_elsewhere_to_the_same_bits(tiny, tmp_path, monkeypatch):
    whole, here, there = tmp_path / "whole", tmp_path / "here", tmp_path / "there"
    assert train(TASK, "paper-first-order", whole, whole / "packed", FOREVER, QUIET)
    monkeypatch.setattr(paper_column, "stop_when", lambda returns, deadline: lambda report: report.iteration == 2)
    assert not train(TASK, "paper-first-order", here, tmp_path / "packed", 0.0, QUIET)
    monkeypatch.undo()
    name = "paper-first-order/bandit-k2-n3"
    PRESETS["paper-first-order"], kept = open_run(here / name).config, PRESETS["paper-first-order"]
    try:
        assert train(TASK, "paper-first-order", there, tmp_path / "packed", FOREVER, QUIET)
    finally:
        PRESETS["paper-first-order"] = kept
    digests = [parameters_digest(load_state(open_run(folder / name)).params) for folder in (whole, there)]
    assert digests[0] == digests[1]
    assert [len(paper_column.returns_of(folder / name)) for folder in (whole, here, there)] == [6, 2, 6]


def test_an_older_archive_does_not_undo_what_was_done(tiny, tmp_path):
    run = tmp_path / "runs"
    assert train(TASK, "paper-first-order", run, tmp_path / "packed", FOREVER, QUIET)
    folder = run / "paper-first-order" / "bandit-k2-n3"
    archive = tmp_path / "again.zip"
    pack(open_run(folder), archive)
    (folder / "metrics.jsonl").write_text("")
    unpack(archive, folder)  # as far as the run has come already
    assert (folder / "metrics.jsonl").read_text() == ""
    unpack(archive, tmp_path / "new")
    assert parameters_digest(load_state(open_run(tmp_path / "new")).params) == parameters_digest(
        load_state(open_run(folder)).params
    )
