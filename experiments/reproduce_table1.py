"""Table 1: nine bandit cells, every agent, the limits, figure 2 and a page; resumable at any point."""

from pathlib import Path

from experiments.reproduce_table import main
from rl2jax import xla

if __name__ == "__main__":
    xla.prepare()
    main(1, Path(__file__).parent / "results" / "table1", num_tasks=100_000, description=__doc__)
