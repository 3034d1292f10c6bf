"""Other training seeds: how much a recipe's agents differ by nothing but the numbers drawn while they were trained.

For each cell the package's agent, of training seed 0, and those of other seeds play the same fresh tasks, beside the
reference agent that teaches or could.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.documents import put_table
from experiments.messages import in_one_line
from experiments.readme import RESULTS, ROOT
from rl2jax import xla
from rl2jax.envs.names import Task, parse_task, slug
from rl2jax.files import write_atomically
from rl2jax.results.compare import Contender, run_contender, select_agents, shipped_contender
from rl2jax.results.evaluations import compare_with_progress
from rl2jax.results.published import SCORES
from rl2jax.results.rows import EvaluationRow, read_rows, read_tests, write_comparison
from rl2jax.results.stats import PairTest
from rl2jax.runs.stages import train_recipe
from rl2jax.settings import require
from rl2jax.training.recipes import RECIPES, takes_most_likely

NUM_TASKS = 100_000
EVALUATION_SEED = 2  # the tasks of seed 1 are those of the tables
CELLS = tuple(task for table in SCORES.values() for task in table.scores)
DOCUMENT = ROOT / "docs" / "appendix_recipes.md"


def make_rows(
    recipe: str, task: Task, seeds: list[int], num_tasks: int, runs: Path, results: Path, console: Console
) -> None:
    """One cell: trained with each seed and compared, or as much of that as is not done yet.

    Args:
      recipe: one of `RECIPES`.
      task: a cell.
      seeds: of training, beside the package's agent's own.
      num_tasks: that each plays.
      runs: folder of the runs.
      results: folder of the rows.
      console: for progress bars.

    Raises:
      ValueError: if there are rows of other seeds, or of more tasks, which these would replace.
    """
    file = results / f"{slug(task.name)}-{recipe}.json"
    shipped = shipped_contender(recipe, task)
    of_package = shipped.context["training_seed"]
    require(of_package not in seeds, "--seeds", of_package, f"without {of_package}, the package's agent's own")
    known = [row for row in read_rows(file) if row.training_seed is not None] if file.exists() else []
    asked = ", ".join(map(str, [of_package, *seeds]))
    for row in known:
        here = f"{row.training_seed} over {row.num_tasks}"
        kept = row.training_seed in [of_package, *seeds] and row.num_tasks <= num_tasks
        require(kept, f"{file}: seed", here, f"one of {asked} over at most {num_tasks} tasks, or another --results")
    contenders = [_named(shipped)]
    for seed in seeds:
        folder = runs / recipe / f"{slug(task.name)}-seed{seed}"
        run = train_recipe(folder, task.name, recipe, training_seed=seed, console=console)
        contenders.append(_named(run_contender(run, task, shipped.name, takes_most_likely(recipe, task))))
    wanted = [(c.name, c.context["parameters_sha256"], num_tasks) for c in contenders]
    if wanted == [(row.agent, row.parameters_sha256, row.num_tasks) for row in known]:
        return
    teacher = select_agents(task, [task.kind.teacher])
    result = compare_with_progress(task, teacher, contenders, num_tasks, EVALUATION_SEED, "large", console)
    command = f"python -m experiments.training_seeds --recipe {recipe} --tasks {task.name} --seeds "
    command += " ".join(map(str, seeds)) + ("" if num_tasks == NUM_TASKS else f" --num-tasks {num_tasks}")
    rows = [replace(row, command=command, recipe=recipe) for row in result.rows]
    write_comparison(file, rows, result.tests)


def _named(contender: Contender) -> Contender:
    """By its training seed."""
    return contender._replace(name=f"{contender.name}-seed{contender.context['training_seed']}")


def line_of(rows: list[EvaluationRow], tests: list[PairTest], seeds: list[int]) -> str:
    """A line of the table.

    Args:
      rows: of one cell and recipe: the reference agent, the package's agent, those of other seeds.
      tests: between them.
      seeds: that have columns.
    """
    teacher, shipped, *others = rows
    cells = [shipped.task, str(shipped.recipe), f"{shipped.mean:.6g} ± {shipped.standard_error:.2g}"]
    for seed in seeds:
        names = [row.agent for row in others if row.training_seed == seed]
        cells.append(_difference(names[0], shipped.agent, tests) if names else "–")
    scores = [row.mean for row in rows[1:]]
    cells.append(f"{100 * statistics.stdev(scores) / statistics.mean(scores):.2g}%")
    cells.append(f"{100 * min(scores) / teacher.mean:.2f}%")
    return "| " + " | ".join(cells) + " |"


def _difference(name: str, other: str, tests: list[PairTest]) -> str:
    """What one has more than the other on the same tasks, with its standard error."""
    (test,) = [test for test in tests if {test.better, test.worse} == {name, other}]
    difference = test.difference if test.better == name else -test.difference
    return f"{difference:+.3g} ± {test.standard_error:.2g}"


def to_markdown(results: Path) -> str:
    """The table of all cells that have rows, recipe by recipe."""
    found: list[tuple[list[EvaluationRow], list[PairTest]]] = []
    for recipe in RECIPES:
        files = [results / f"{slug(parse_task(task).name)}-{recipe}.json" for task in CELLS]
        found += [(read_rows(file), read_tests(file)) for file in files if file.exists()]
    seeds = sorted({row.training_seed for rows, _ in found for row in rows[2:] if row.training_seed is not None})
    differences = [f"seed {seed} less the package's, in pairs" for seed in seeds]
    header = ["cell", "recipe", "the package's", *differences, "deviation over seeds", "lowest, of reference"]
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    return "\n".join([*lines, *(line_of(rows, tests, seeds) for rows, tests in found)]) + "\n"


def write_report(results: Path) -> None:
    """The table of a folder's rows beside it, and of the committed rows in docs/appendix_recipes.md too."""
    table = to_markdown(results)
    write_atomically(results.with_suffix(".md"), table)
    if results.resolve() == RESULTS / "training-seeds":
        write_atomically(DOCUMENT, put_table(DOCUMENT.read_text(), "training seeds", table))


def main() -> None:
    """Goes through the cells, then writes their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, default="best")
    parser.add_argument("--tasks", nargs="+", default=CELLS, help="names of cells (default: those of tables 1 and 2)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of training")
    parser.add_argument("--num-tasks", type=int, default=NUM_TASKS, help="fresh tasks for each")
    parser.add_argument("--out", type=Path, default=Path("runs/training-seeds"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS / "training-seeds", help="folder of the rows")
    a = parser.parse_args()
    console = Console(highlight=False)
    with in_one_line():
        for seed in a.seeds:
            require(seed >= 0, "--seeds", seed, ">= 0")
        require(len(set(a.seeds)) == len(a.seeds), "--seeds", a.seeds, "different from each other")
        tasks = [parse_task(name) for name in a.tasks]
        for task in tasks:
            require(task.name in CELLS, "--tasks", task.name, f"of {' '.join(CELLS)}")
        a.results.mkdir(parents=True, exist_ok=True)
        for task in tasks:
            make_rows(a.recipe, task, a.seeds, a.num_tasks, a.out, a.results, console)
    write_report(a.results)
    console.print(to_markdown(a.results), soft_wrap=True)


if __name__ == "__main__":
    xla.prepare()
    main()
