"""Other training seeds: their table, and a small comparison from start to end."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from experiments import training_seeds
from experiments.training_seeds import line_of, make_rows, to_markdown
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import EvaluationRow
from rl2jax.results.stats import PairTest
from rl2jax.training import recipes
from rl2jax.training.recipes import Stage

SCORE = {"task": "cell", "num_tasks": 100, "seed": 0, "standard_error": 0.5}
TEACHER = EvaluationRow(agent="gittins", mean=80.0, **SCORE)
PACKAGE = EvaluationRow(agent="a-seed0", mean=79.0, recipe="best", training_seed=0, **SCORE)
OTHER = replace(PACKAGE, agent="a-seed2", training_seed=2, mean=78.0)


@pytest.mark.parametrize(("better", "worse", "sign"), [("a-seed0", "a-seed2", "-"), ("a-seed2", "a-seed0", "+")])
def test_a_line_has_differences_in_pairs_and_the_lowest_score(better, worse, sign):
    unasked = PairTest("gittins", "a-seed0", 9.0, 9.0, 100, True, 0.1, 0.1)
    tests = [unasked, PairTest(better, worse, 0.25, 0.02, 100, True, 0.03, 0.06)]
    line = line_of([TEACHER, PACKAGE, OTHER], tests, [1, 2])
    # Scores 79 and 78: their standard deviation is 0.707, 0.90% of their mean; 78 is 97.5% of 80.
    assert line == f"| cell | best | 79 ± 0.5 | – | {sign}0.25 ± 0.02 | 0.9% | 97.50% |"


def test_a_small_one(monkeypatch, tmp_path):
    task, console = parse_task("bandit:k=5,n=10"), Console(quiet=True)
    (stage,) = recipes.stages("best-scratch", task)
    short = stage.config.replace(
        {"iterations": 1, "batch.size": 100, "slow_rl.minibatch_trials": 5, "baseline.minibatch_trials": 5}
    )
    monkeypatch.setattr("rl2jax.runs.stages.stages", lambda *_: (Stage(stage.name, task, short),))
    made = {"runs": tmp_path / "runs", "results": tmp_path / "rows", "console": console}
    made["results"].mkdir()
    make_rows("best-scratch", task, [1, 2], 50, **made)
    file = tmp_path / "rows" / "bandit-k5-n10-best-scratch.json"
    rows = json.loads(file.read_text())
    names = ["gittins_finite_horizon", *(f"rl2_best_scratch-seed{seed}" for seed in (0, 1, 2))]
    assert [row["agent"] for row in rows] == names
    assert rows[1]["mean"] > rows[2]["mean"] != rows[3]["mean"]  # one iteration teaches little
    written = file.stat().st_mtime_ns
    make_rows("best-scratch", task, [1, 2], 50, **made)  # done: nothing is played again
    assert file.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match=r"one of 0, 1, 2 over at most 40 tasks, .* got '0 over 50'"):
        make_rows("best-scratch", task, [1, 2], 40, **made)
    with pytest.raises(ValueError, match=r"seed must be one of 0, 2 over .* got '1 over 50'"):
        make_rows("best-scratch", task, [2], 50, **made)
    with pytest.raises(ValueError, match="--seeds must be without 0"):
        make_rows("best-scratch", task, [0], 50, **made)
    assert json.loads(file.read_text()) == rows
    table = to_markdown(tmp_path / "rows").splitlines()
    assert "seed 1 less the package's, in pairs | seed 2 less the package's" in table[0]
    assert table[2].startswith("| bandit:k=5,n=10 | best-scratch | 6.")


def test_a_table_of_another_folder_leaves_the_documents(tmp_path):
    before = training_seeds.DOCUMENT.read_bytes()
    training_seeds.write_report(tmp_path)
    assert training_seeds.DOCUMENT.read_bytes() == before


def test_what_is_committed_is_made_of_the_committed_rows():
    table = to_markdown(training_seeds.RESULTS / "training-seeds")
    assert (training_seeds.RESULTS / "training-seeds.md").read_text() == table
    assert f"<!-- training seeds -->\n{table}<!-- end of training seeds -->" in training_seeds.DOCUMENT.read_text()
