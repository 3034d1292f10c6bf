"""Rows as records: what is on disk reads and writes back the same, what is wrong is named, and which row counts."""

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from rl2jax.results.rows import (
    EvaluationRow,
    LimitRow,
    MazeRow,
    MeasuredRow,
    Row,
    best_reference,
    best_row,
    documented,
    holds,
    opponents,
    read_objects,
    read_rows,
    write_rows,
)

COMMITTED = Path(__file__).parents[2] / "experiments" / "results"
GIVEN = {"task": "bandit:k=2,n=3", "agent": "greedy", "num_tasks": 9, "seed": 1, "mean": 1.5, "standard_error": 0.1}
ROW = EvaluationRow(**GIVEN)
BOUND = {"exact": None, "upper_bound": 2.0, "upper_bound_standard_error": 0.1, "method": "oracle"}
BOUND |= {"best_policy": "beb", "best_policy_mean": 1.9, "best_policy_standard_error": 0.1}


@pytest.mark.parametrize("folder", ["", "table1", "table2", "table3", "wang", "extrapolation", "training-seeds"])
def test_committed_rows_read_and_write_back_the_same(folder):
    found = {path: read_rows(path) for path in (COMMITTED / folder).glob("*.json")}
    assert any(found.values())
    for path, rows in found.items():
        if rows:
            assert [row.to_json() for row in rows] == read_objects(path)


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({}, EvaluationRow),
        ({"agent": "limit"} | BOUND, LimitRow),
        ({"engine": "vizdoom", "pull_frequencies": [[0.5, 0.5]]}, EvaluationRow),
        ({"measured": {"regret": 1.0}, "experiment": "bandits"}, MeasuredRow),
    ],
)
def test_the_fields_tell_the_kind(more, kind):
    found = GIVEN | more
    if kind is MeasuredRow:
        del found["mean"], found["standard_error"]
    row = Row.from_json(found)
    assert type(row) is kind
    assert row.to_json() == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": None}, "mean must be a finite number, got None"),
        ({"mean": True}, "mean must be a finite number, got True"),
        ({"mean": float("inf")}, "mean must be a finite number"),
        ({"standard_error": -1.0}, "standard_error must be a number >= 0, or null, got -1.0"),
        ({"num_tasks": 9.0}, "num_tasks must be a whole number, got 9.0"),
        ({"iteration": "3"}, "iteration must be a whole number, or null, got '3'"),
        ({"reward_curve": [0.5, None]}, "reward_curve must be a list of numbers, or null"),
        ({"significantly_better": "ucb1"}, "significantly_better must be a list of texts, or null"),
        ({"learning_curve": {"iteration": ["x"]}}, "learning_curve must be an object, or null"),
        ({"means": 1.0}, "means is no field of such a row"),
        ({"success_length": []}, "engine is missing"),
        ({"pull_frequencies": [[0.5], ["x"]]}, "pull_frequencies must be finite numbers"),
    ],
)
def test_what_is_wrong_is_named_with_file_row_and_field(tmp_path, change, message):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GIVEN, GIVEN | change]))
    with pytest.raises(ValueError, match=r"rows\.json, row 2: " + message):
        read_rows(path)


def test_a_missing_field_is_named(tmp_path):
    for field in ("num_tasks", "seed", "mean", "standard_error"):
        path = tmp_path / f"{field}.json"
        path.write_text(json.dumps([{name: value for name, value in GIVEN.items() if name != field}]))
        with pytest.raises(ValueError, match=rf"{field}\.json, row 1: {field} is missing"):
            read_rows(path)


def test_a_field_at_its_default_is_not_on_disk(tmp_path):
    write_rows(tmp_path / "a.json", [ROW, replace(ROW, preset="cpu", standard_error=None)])
    first, second = read_objects(tmp_path / "a.json")
    assert first == GIVEN
    assert second == GIVEN | {"preset": "cpu", "standard_error": None}
    assert read_rows(tmp_path / "a.json") == [ROW, replace(ROW, preset="cpu", standard_error=None)]
    assert holds(tmp_path / "a.json", agent="greedy", preset="cpu")
    assert not holds(tmp_path / "a.json", agent="greedy", preset="paper")
    assert not holds(tmp_path / "none.json", agent="greedy")


def maze(engine, **more):
    lists = {field.name: [1.0] for field in fields(MazeRow) if field.default is MISSING and "list" in str(field.type)}
    numbers = {name: 1.0 for name in ("improved_percent", "found_again_percent")}
    numbers |= {f"{name}_error": None for name in numbers}
    return MazeRow(**(GIVEN | lists | numbers | {"engine": engine} | more))


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (replace(ROW, num_tasks=99, iteration=9), replace(ROW, preset="paper-first-order")),
        (replace(ROW, num_tasks=99, iteration=9), replace(ROW, iteration=10)),
        (replace(ROW, num_tasks=99), replace(ROW, num_tasks=100, training_seed=3)),
        (maze("twin"), maze("vizdoom", training_seed=3)),
        (maze("vizdoom"), maze("twin", num_tasks=10)),
        (replace(ROW, training_seed=1), replace(ROW, training_seed=0)),
    ],
)
def test_one_rule_says_which_row_counts(worse, better):
    for rows in ([worse, better], [better, worse]):
        assert best_row(rows) is better
        assert documented(rows) == {(ROW.task, ROW.agent): better}


def test_opponents_are_the_best_that_needs_no_training_and_the_limit():
    trained = replace(ROW, agent="rl2", mean=1.9, trained_on=ROW.task)
    better = replace(ROW, agent="ucb1", mean=1.7)
    limit = LimitRow(**(GIVEN | {"agent": "limit", "mean": 2.0} | BOUND))
    rows = [ROW, trained, better, limit, replace(ROW, task="bandit:k=2,n=4", mean=3.0)]
    assert best_reference(rows[:4]) is better
    assert opponents(rows, ROW.task) == {
        "best_reference": {"agent": "ucb1", "mean": 1.7},
        "limit": {"method": "oracle", "mean": 2.0},
    }
    assert opponents([trained], ROW.task) == {}
    assert best_reference([]) is None
