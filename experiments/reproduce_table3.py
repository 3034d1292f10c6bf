"""Table 3: visual navigation; every agent in 1000 test mazes of two sizes, pictures and a page; resumable."""

import argparse
import importlib.util
from pathlib import Path

import jax
from rich.console import Console

from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.results.mazes import ENGINES
from rl2jax.results.published import MAZES
from rl2jax.results.reproduction.mazes import Plan, reproduce
from rl2jax.training.presets import PRESETS
from rl2jax.training.recipes import RECIPES

RESULTS = Path(__file__).parent / "results" / "table3"
EVALUATION_SEED = 1
SIZES = dict(zip(("small", "large"), MAZES, strict=True))


def main() -> None:
    """Runs what is not done yet of the table and ends with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="", help="default: paper on an accelerator, else cpu"
    )
    parser.add_argument("--recipe", choices=RECIPES, help="train by a recipe beyond the paper's, in place of a preset")
    parser.add_argument("--run", type=Path, nargs="+", default=[], help="trained runs, in place of training any")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--references-only", action="store_true", help="train nothing")
    only.add_argument("--trained-only", action="store_true", help="no reference agents")
    parser.add_argument("--engine", choices=ENGINES, default="", help="default: vizdoom where it is installed")
    parser.add_argument("--sizes", choices=list(SIZES), nargs="+", default=list(SIZES))
    parser.add_argument("--num-mazes", type=int, default=1000, help="test mazes, at most 1000")
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/table3/PRESET-seedN)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--deterministic", action="store_true", help="trained agents take the likeliest action")
    a = parser.parse_args()
    preset = a.preset or ("cpu" if jax.devices()[0].platform == "cpu" else "paper")
    if a.references_only:
        a.recipe = None
    engine = a.engine or ("vizdoom" if importlib.util.find_spec("vizdoom") else "twin")
    plan = Plan(
        tasks=tuple(SIZES[size] for size in a.sizes),
        engine=engine,
        num_mazes=a.num_mazes,
        seed=EVALUATION_SEED,
        runs=tuple(a.run),
        preset=None if a.references_only else preset,
        training_seed=a.seed,
        out=a.out or Path(f"runs/table3/{a.recipe or preset}-seed{a.seed}"),
        results=a.results,
        deterministic=a.deterministic,
        recipe=a.recipe,
        references=not a.trained_only,
    )
    with in_one_line():
        reproduce(plan, Console(highlight=False))


if __name__ == "__main__":
    xla.prepare()
    main()
