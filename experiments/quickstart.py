"""Quickstart: k=5, n=10 from scratch to within 1% of Bayes-optimal, in minutes, with its row of Table 1."""

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console

from rl2jax import xla
from rl2jax.limits import bayes_optimal_value
from rl2jax.results.evaluations import run_cell
from rl2jax.results.published import SCORES
from rl2jax.results.rows import format_score
from rl2jax.runs.session import read_metrics
from rl2jax.runs.stages import Interrupted

TASK = "bandit:k=5,n=10"
PRESET = "quick"
NUM_TASKS = 100_000
EVALUATION_SEED = 1
PUBLISHED = SCORES[1].scores[TASK]


def plot(run_folder: Path, mean: float, optimum: float, path: Path) -> None:
    """Mean return over training, between random and Bayes-optimal."""
    rows = read_metrics(run_folder)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([row["iteration"] for row in rows], [row["mean_return"] for row in rows], label="RL² in training")
    for name, value, style in (
        ("Bayes-optimal", optimum, "--"),
        ("Thompson (published)", PUBLISHED["thompson"], ":"),
        ("random", PUBLISHED["random"], "-."),
    ):
        axes.axhline(value, linestyle=style, color="0.4", linewidth=1)
        axes.annotate(name, (rows[-1]["iteration"], value), ha="right", va="bottom", fontsize=8, color="0.3")
    axes.set(
        xlabel="iteration",
        ylabel="total reward in a trial",
        title=f"5 arms, 10 pulls: a recurrent network becomes a bandit algorithm ({mean:.3f})",
    )
    axes.title.set_fontsize(10)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Trains, evaluates, prints the row, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--out", type=Path, default=None, help="run folder (default runs/quickstart-seedN)")
    arguments = parser.parse_args()
    folder = arguments.out or Path(f"runs/quickstart-seed{arguments.seed}")
    console = Console(highlight=False)
    console.print(f"{TASK}: training from scratch (preset {PRESET}), then {NUM_TASKS} fresh tasks; in {folder}")
    try:
        row = run_cell(
            folder,
            TASK,
            PRESET,
            training_seed=arguments.seed,
            num_tasks=NUM_TASKS,
            seed=EVALUATION_SEED,
            console=console,
        )
    except Interrupted as stopped:
        sys.exit(str(stopped))
    optimum = bayes_optimal_value(5, 10)
    plot(folder, row.mean, optimum, folder / "learning_curve.png")
    published = "  ".join(f"{SCORES[1].columns[agent]} {score:g}" for agent, score in PUBLISHED.items())
    console.print(f"\nTable 1, n=10, k=5 (published):  {published}")
    console.print(
        f"this agent:  {format_score(row.mean, row.standard_error)} over {NUM_TASKS} tasks; Bayes-optimal {optimum:.4f}"
    )
    console.print(f"that is {100 * row.mean / optimum:.2f}% of the optimum; {folder}/learning_curve.png")


if __name__ == "__main__":
    xla.prepare()
    main()
