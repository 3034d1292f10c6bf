"""What a trained agent costs whoever loads it: seconds and memory of a fresh process that plays with it.

For every agent of the package, a new Python process without a compilation cache imports rl2jax, loads the agent and
plays trials of the task it was trained on. Its time is from its start to its end.
"""

import argparse
import os
import time
from pathlib import Path

from experiments.benchmarks.__main__ import RESULTS, machine, write_report
from experiments.benchmarks.reports import Row
from experiments.benchmarks.timing import note, run_child
from experiments.messages import in_one_line
from rl2jax.results.rows import write_objects
from rl2jax.runs.shipped import RECIPES, ShippedAgent, list_agents
from rl2jax.settings import require

NUM_TRIALS = 1000
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def measure(agent: ShippedAgent, num_trials: int) -> Row:
    """The row of one agent, but for the machine."""
    settings = {"name": agent.name, "recipe": agent.recipe, "task": agent.task, "num_trials": num_trials}
    start = time.perf_counter()
    seen = run_child("load_agent", settings, UNCACHED)
    seconds = time.perf_counter() - start
    note(f"  {agent.name:<20}{agent.recipe:<14}{seconds:6.1f} s  {seen['max_rss_bytes'] / 1e9:.2f} GB")
    return {**settings, "part": "load and play", "seconds": seconds, **seen}


def main() -> None:
    """Measures all agents of the chosen recipes, writes rows and table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.loading", description=__doc__)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), help="default: %(default)s")
    parser.add_argument("--num-trials", type=int, default=NUM_TRIALS, help="default: %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    a = parser.parse_args()
    with in_one_line():
        for recipe in a.recipes:
            require(recipe in RECIPES, "--recipes", recipe, f"of {' '.join(RECIPES)}")
        require(a.num_trials >= 1, "--num-trials", a.num_trials, ">= 1")
        load = os.getloadavg()[0]
        rows = [measure(agent, a.num_trials) for agent in list_agents() if agent.recipe in a.recipes]
    described = machine({name: rows[0][name] for name in ("device", "jax")}, load)
    a.results.mkdir(parents=True, exist_ok=True)
    name = f"{rows[0]['platform']}-loading"
    write_objects(a.results / f"{name}.json", [row | {"machine": described} for row in rows])
    print(write_report(a.results, name))


if __name__ == "__main__":
    main()
