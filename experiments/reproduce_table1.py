"""Table 1: nine bandit cells, every agent, the limits, figure 2 and a page; resumable at any point."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from rl2jax import host
from rl2jax.config import PRESETS
from rl2jax.experiment import Interrupted
from rl2jax.reproduce import Plan, reproduce

TABLE = 1
NUM_TASKS = 100_000
EVALUATION_SEED = 1
RESULTS = Path(__file__).parent / "results" / "table1"


def main() -> None:
    """Runs what is not done yet and ends with the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="", help="default: paper on an accelerator, else cpu"
    )
    parser.add_argument("--seed", type=int, default=0, help="training seed of all cells")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/table1/PRESET-seedN)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--num-tasks", type=int, default=NUM_TASKS, help="fresh tasks per cell")
    parser.add_argument("--cells", nargs="*", help="task names, e.g. bandit:k=5,n=10 (default: all)")
    a = parser.parse_args()
    cells = tuple(a.cells) if a.cells else None
    plan = Plan(TABLE, a.preset, a.seed, a.num_tasks, EVALUATION_SEED, a.out, a.results, cells)
    try:
        reproduce(plan, Console(highlight=False))
    except Interrupted as stopped:
        sys.exit(str(stopped))


if __name__ == "__main__":
    host.prepare()
    main()
