"""Reinforcement after imitation: its settings, its table, and a small one from start to end."""

import jax
import pytest
from rich.console import Console

from experiments import beyond_teacher
from experiments.beyond_teacher import AFTER, BEFORE, line_of, make_row, reinforcement, to_markdown
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import EvaluationRow
from rl2jax.results.stats import PairTest
from rl2jax.training.learner import Learner
from rl2jax.training.recipes import stages

ROWS = [
    EvaluationRow(task="cell", agent=BEFORE, num_tasks=100, seed=0, mean=83.5, standard_error=0.04),
    EvaluationRow(task="cell", agent=AFTER, num_tasks=100, seed=0, mean=83.25, standard_error=0.05),
]


@pytest.mark.parametrize("name", beyond_teacher.CELLS)
def test_it_starts_from_what_imitated_and_has_no_teacher(name):
    task = parse_task(name)
    imitated = stages("best", task)[-1].config
    config = reinforcement(task, imitated, 1e-5)
    assert (config.slow_rl.name, config.slow_rl.learning_rate) == ("ppo", 1e-5)
    assert config.objective.gae_lambda == config.objective.discount == 1.0  # the trial's whole return
    before = Learner(task.env, imitated.replace({"slow_rl": "ppo"}))
    policies = [
        jax.eval_shape(learner.init, jax.random.key(0)).params["policy"]
        for learner in (before, Learner(task.env, config))
    ]
    assert policies[0] == policies[1]


@pytest.mark.parametrize(("better", "worse", "sign"), [(BEFORE, AFTER, "-"), (AFTER, BEFORE, "+")])
def test_a_loss_is_negative_and_p_is_of_either_direction(better, worse, sign):
    tests = [PairTest(better, worse, 0.25, 0.02, 100, True, 0.03, 0.06)]
    assert line_of("cell", ROWS, tests) == f"| cell | 83.5 ± 0.04 | 83.25 ± 0.05 | {sign}0.25 ± 0.02 | 0.06 |"


def test_a_small_one(monkeypatch, tmp_path):
    for name, value in {"_STEPS": 400, "_WARMUP": 1, "_ITERATIONS": 1}.items():
        monkeypatch.setattr(beyond_teacher, name, value)
    task, console = parse_task("bandit:k=5,n=10"), Console(quiet=True)
    made = {"runs": tmp_path / "runs", "results": tmp_path, "console": console}
    make_row(task, 1e-5, 0, 50, **made)
    rows = (tmp_path / "bandit-k5-n10.json").read_text()
    make_row(task, 1e-5, 0, 50, **made)  # done: nothing is played again
    assert (tmp_path / "bandit-k5-n10.json").read_text() == rows
    with pytest.raises(ValueError, match=r"--num-tasks 60, or another --results, got .*--num-tasks 50"):
        make_row(task, 1e-5, 0, 60, **made)
    assert (tmp_path / "bandit-k5-n10.json").read_text() == rows
    assert to_markdown(tmp_path).splitlines()[2].startswith("| bandit:k=5,n=10 | ")
