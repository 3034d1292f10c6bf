"""What the tables have in common: their command line."""

import argparse
from pathlib import Path

from rich.console import Console

from experiments import readme
from experiments.messages import in_one_line
from rl2jax.results.reproduction.tables import Plan, reproduce
from rl2jax.training.presets import PRESETS

EVALUATION_SEED = 1


def main(number: int, results: Path, num_tasks: int, description: str | None) -> None:
    """Runs what is not done yet of a table and ends with it."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="", help="default: paper on an accelerator, else cpu"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed of all cells")
    parser.add_argument("--out", type=Path, help=f"folder of the runs (default runs/table{number}/PRESET-seedN)")
    parser.add_argument("--results", type=Path, default=results, help="folder of the rows")
    parser.add_argument("--num-tasks", type=int, default=num_tasks, help="fresh tasks per cell")
    parser.add_argument("--cells", nargs="*", help="task names, e.g. bandit:k=5,n=10 (default: all)")
    a = parser.parse_args()
    cells = tuple(a.cells) if a.cells else None
    plan = Plan(number, a.preset, a.seed, a.num_tasks, EVALUATION_SEED, a.out, a.results, cells)
    with in_one_line():
        reproduce(plan, Console(highlight=False))
        if a.results.resolve() == readme.RESULTS / f"table{number}":
            readme.rewrite()
