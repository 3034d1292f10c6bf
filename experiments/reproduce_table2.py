"""Table 2: tabular MDPs of five lengths, every agent, the oracle, figure 3 and a page; resumable at any point."""

from pathlib import Path

from experiments.reproduce_table import main
from rl2jax import xla

if __name__ == "__main__":
    xla.prepare()
    main(2, Path(__file__).parent / "results" / "table2", num_tasks=10_000, description=__doc__)
