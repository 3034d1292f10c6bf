"""The package's trained agents: trained by a recipe, played beside their teacher, shipped; resumable anywhere."""

import argparse
from pathlib import Path

from rich.console import Console

from experiments import readme
from experiments.messages import in_one_line
from experiments.readme import RESULTS
from rl2jax import xla
from rl2jax.envs.names import parse_task, slug
from rl2jax.results.compare import command_line, run_contender, select_agents
from rl2jax.results.evaluations import compare_with_progress
from rl2jax.results.pages import tables
from rl2jax.results.published import TABLES
from rl2jax.results.reproduction.tables import write_report
from rl2jax.results.rows import format_score, read_rows, write_comparison
from rl2jax.runs import shipped
from rl2jax.runs.run import Run, load_state, parameters_digest
from rl2jax.runs.stages import train_recipe
from rl2jax.settings import require
from rl2jax.training.recipes import RECIPES, takes_most_likely

EVALUATION_SEED = 1
CELLS = [task for table in TABLES.values() for task in table.scores]


def table_of(task_name: str) -> int:
    """Number of the table that has a cell of this task."""
    return next(number for number, table in TABLES.items() if task_name in table.scores)


def is_evaluated(file: Path, run: Run, num_tasks: int) -> bool:
    """Whether a file has the row of this run's policy over so many tasks."""
    if not file.exists():
        return False
    wanted = {"parameters_sha256": parameters_digest(load_state(run).params["policy"]), "num_tasks": num_tasks}
    return any(wanted.items() <= row.items() for row in read_rows(file))


def make_agent(
    recipe: str, task_name: str, seed: int, num_tasks: int, runs: Path, results: Path, ships: Path, console: Console
) -> None:
    """One agent: trained, evaluated and shipped, or as much of that as is not done yet."""
    task, number = parse_task(task_name), table_of(task_name)
    run = train_recipe(runs / recipe / slug(task.name), task.name, recipe, training_seed=seed, console=console)
    (results / f"table{number}").mkdir(parents=True, exist_ok=True)
    file = results / f"table{number}" / f"{slug(task.name)}-{recipe}-seed{seed}.json"
    name = f"rl2_{recipe.replace('-', '_')}"
    if not is_evaluated(file, run, num_tasks):
        contender = run_contender(run, task, name, takes_most_likely(recipe, task))
        teacher = select_agents(task, [task.kind.teacher])
        result = compare_with_progress(task, teacher, [contender], num_tasks, EVALUATION_SEED, "large", console)
        command = command_line(task, num_tasks, EVALUATION_SEED, list(teacher), [recipe])
        rows = [row | {"command": command} for row in result.rows]
        rows = [row | {"preset": recipe, "recipe": recipe} if row["agent"] == name else row for row in rows]
        write_comparison(file, rows, result.tests)
    (row,) = [row for row in read_rows(file) if row["agent"] == name]
    known = tables.opponents(tables.read_results(file.parent), task.name)
    path = shipped.ship(run, recipe, row | known, ships)
    console.print(f"{task.name}, {recipe}: {format_score(row)}; {path}")
    write_report(number, file.parent)


def main() -> None:
    """Makes the agents of some cells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="best")
    parser.add_argument("--tasks", nargs="+", default=CELLS, help="task names (default: the cells of tables 1 and 2)")
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--num-tasks", type=int, default=100_000, help="fresh tasks for each")
    parser.add_argument("--out", type=Path, default=Path("runs/agents"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables' rows")
    parser.add_argument("--ship", type=Path, default=shipped.FOLDER, help="folder of the agents' files")
    a = parser.parse_args()
    console = Console(highlight=False)
    with in_one_line():
        names = [parse_task(task).name for task in a.tasks]
        for name in names:
            require(name in CELLS, "--tasks", name, f"of {' '.join(CELLS)}")
        for name in names:
            make_agent(a.recipe, name, a.seed, a.num_tasks, a.out, a.results, a.ship, console)
            if a.results.resolve() == RESULTS:
                readme.rewrite()


if __name__ == "__main__":
    xla.prepare()
    main()
