"""Reinforcement learning from the agents that imitated a teacher: whether it loses what they have, or gains on it.

For each cell the package's `best` agent, and the same after reinforcement, play the same fresh tasks.
Advantages are returns to the trial's end less a baseline that sees the task: of those their estimates are unbiased, and
what is lost is lost to noise, not to a wrong baseline.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.messages import in_one_line
from experiments.readme import RESULTS
from rl2jax import xla
from rl2jax.envs.names import Task, parse_task, slug
from rl2jax.files import write_atomically
from rl2jax.results.compare import run_contender, shipped_contender
from rl2jax.results.evaluations import compare_with_progress
from rl2jax.results.published import TABLES
from rl2jax.results.rows import read_rows, read_tests, write_comparison
from rl2jax.results.stats import PairTest
from rl2jax.runs.shipped import agent_name, describe, start_of_agent
from rl2jax.runs.stages import train_stage
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.recipes import Stage

NUM_TASKS = 100_000
EVALUATION_SEED = 2  # the tasks of seed 1 are those of the tables
BEFORE, AFTER = "rl2_best", "rl2_reinforced"
CELLS = tuple(TABLES[1].scores)
_STEPS, _WARMUP, _ITERATIONS = 40_000, 10, 50


def reinforcement(task: Task, imitated: TrainConfig, policy_learning_rate: float) -> TrainConfig:
    """Settings of what follows imitation: small steps from large batches, towards the trial's whole reward.

    Args:
      task: a cell.
      imitated: settings of the agent that it starts from.
      policy_learning_rate: of Adam; it falls to 0.
    """
    trials = _STEPS // task.num_episodes
    return imitated.replace(
        {
            "slow_rl": "ppo",
            "objective.discount": 1.0,
            "objective.gae_lambda": 1.0,
            "objective.expected_rewards": True,
            "baseline.sees_task": True,
            "baseline.warmup_iterations": _WARMUP,
            "iterations": _WARMUP + _ITERATIONS,
            "batch.size": trials * task.num_episodes,
            "slow_rl.epochs": 1,
            "slow_rl.minibatch_trials": trials // 4,
            "baseline.minibatch_trials": trials // 20,
            "slow_rl.learning_rate": policy_learning_rate,
            "optimiser.schedule": "cosine",
        }
    )


def make_row(task: Task, rate: float, seed: int, num_tasks: int, runs: Path, results: Path, console: Console) -> None:
    """One cell: trained and compared, or as much of that as is not done yet.

    Raises:
      ValueError: if there are rows of the same agent by another command, which these would replace.
    """
    file = results / f"{slug(task.name)}.json"
    before, name = shipped_contender("best", task), agent_name(task)
    command = f"python -m experiments.beyond_teacher --tasks {task.name} --policy-learning-rate {rate} --seed {seed}"
    command += "" if num_tasks == NUM_TASKS else f" --num-tasks {num_tasks}"
    digest = before.context["parameters_sha256"]
    for row in read_rows(file) if file.exists() else []:
        if row.get("parameters_sha256") == digest:
            require(row["command"] == command, f"{file}: command", row["command"], f"{command}, or another --results")
            return
    config = reinforcement(task, describe(name, "best").config, rate)
    stage = Stage("reinforcement", task, config)
    settings: dict[str, Any] = {"source": "beyond_teacher", "training_seed": seed, "console": console}
    run = train_stage(runs / f"{slug(task.name)}-{digest[:8]}", stage, **settings, start=start_of_agent(name, "best"))
    contenders = [before, run_contender(run, task, AFTER)]
    result = compare_with_progress(task, {}, contenders, num_tasks, EVALUATION_SEED, "large", console)
    write_comparison(file, [row | {"command": command} for row in result.rows], result.tests)


def line_of(task: str, rows: list[dict[str, Any]], tests: list[PairTest]) -> str:
    """A line of the table: both scores, and what reinforcement changed, with the p-value of either direction."""
    score = {row["agent"]: f"{row['mean']:.6g} ± {row['standard_error']:.2g}" for row in rows}
    (test,) = [test for test in tests if {test.better, test.worse} == {BEFORE, AFTER}]
    difference = test.difference if test.better == AFTER else -test.difference
    changed = f"{difference:+.3g} ± {test.standard_error:.2g} | {min(1.0, 2 * test.p):.2g}"
    return f"| {task} | {score[BEFORE]} | {score[AFTER]} | {changed} |"


def to_markdown(results: Path) -> str:
    """The table of all cells that have rows."""
    lines = ["| cell | imitated | reinforced | difference, in pairs | p, two-sided |", "|---|" + "---:|" * 4]
    for task in CELLS:
        file = results / f"{slug(task)}.json"
        if file.exists():
            lines.append(line_of(task, read_rows(file), read_tests(file)))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Goes through the cells, then writes their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=CELLS, help="names of cells (default: those of table 1)")
    parser.add_argument("--policy-learning-rate", type=float, default=3e-5, help="of Adam; it falls to 0")
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--num-tasks", type=int, default=NUM_TASKS, help="fresh tasks for each")
    parser.add_argument("--out", type=Path, default=Path("runs/beyond-teacher"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "beyond-teacher", help="folder of the rows")
    a = parser.parse_args()
    console = Console(highlight=False)
    with in_one_line():
        tasks = [parse_task(name) for name in a.tasks]
        for task in tasks:
            require(task.name in CELLS, "--tasks", task.name, f"of {' '.join(CELLS)}")
        a.results.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            make_row(task, a.policy_learning_rate, a.seed, a.num_tasks, a.out, a.results, console)
    text = to_markdown(a.results)
    write_atomically(a.results.with_suffix(".md"), text)
    console.print(text)


if __name__ == "__main__":
    xla.prepare()
    main()
