"""A whole table of the paper: train every cell, compare with every agent, bound, report; resumable anywhere."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from rl2jax.envs.names import parse_task, slug
from rl2jax.files import write_atomically
from rl2jax.results.compare import run_contender, select_agents
from rl2jax.results.evaluations import compare_with_progress
from rl2jax.results.limit_rows import limit_row
from rl2jax.results.pages import figures, text
from rl2jax.results.pages.deviations import deviations_markdown
from rl2jax.results.pages.page import build_page
from rl2jax.results.pages.papers import TABLES, build_table
from rl2jax.results.published import SCORES
from rl2jax.results.rows import (
    EvaluationRow,
    ScoredRow,
    format_score,
    holds,
    read_results,
    read_rows,
    write_comparison,
    write_rows,
)
from rl2jax.runs.stages import train_cell
from rl2jax.settings import require
from rl2jax.training.cost import measure_peak, training_seconds
from rl2jax.training.presets import preset_for


class Plan(NamedTuple):
    """What to reproduce, and where.

    Attributes:
      number: of the paper's table.
      preset: of the trainings; empty picks "paper" on an accelerator and "cpu" without one.
      training_seed: of all cells.
      num_tasks: fresh tasks for every agent of a cell, the same for all.
      seed: of those tasks.
      runs: folder of the training runs; None: runs/tableN/PRESET-seedS.
      results: folder of the rows that the table is made of.
      cells: task names; None: all of the table.
    """

    number: int
    preset: str
    training_seed: int
    num_tasks: int
    seed: int
    runs: Path | None
    results: Path
    cells: tuple[str, ...] | None = None


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def reproduce(plan: Plan, console: Console) -> None:
    """Runs what is not done yet and ends with the table.

    Raises:
      experiment.Interrupted: if a signal stopped it; start again to continue.
      ValueError: for a cell that the table does not have.
    """
    device = jax.devices()[0]
    preset = plan.preset or ("cpu" if device.platform == "cpu" else "paper")
    runs = plan.runs or Path(f"runs/table{plan.number}/{preset}-seed{plan.training_seed}")
    plan = plan._replace(preset=preset, runs=runs)
    known = SCORES[plan.number].scores
    cells = tuple(parse_task(cell).name for cell in plan.cells) if plan.cells else tuple(known)
    for cell in cells:
        require(cell in known, "--cells", cell, f"of table {plan.number}: {' '.join(known)}")
    _announce(plan, cells, console)
    plan.results.mkdir(parents=True, exist_ok=True)
    for task in cells:
        start = time.perf_counter()
        rows = _cell(plan, runs / slug(task), task, console)
        (ours,) = [row for row in rows if row.agent == "rl2"]
        took = duration(time.perf_counter() - start)
        score = format_score(ours.mean, ours.standard_error)
        console.print(f"{task}: {score} (paper {known[task]['rl2']:g}), {took}\n")
        write_report(plan.number, plan.results)
    console.print(text.to_terminal(build_table(plan.number, read_results(plan.results))))
    console.print(f"table, figure and page: {plan.results.parent / f'table{plan.number}'}.(md, tex, csv, html)")


def _announce(plan: Plan, cells: tuple[str, ...], console: Console) -> None:
    """What will run, and about how long that takes."""
    assert plan.runs is not None
    peak = measure_peak()
    speed = f"matrix products at {peak.operations_per_second / 1e9:,.0f} GFLOP/s"
    console.print(
        f"Table {plan.number} on {jax.devices()[0].device_kind} ({speed}), preset {plan.preset}, "
        f"runs in {plan.runs}; stop with Ctrl-C and start again to continue"
    )
    total = 0.0
    for name in cells:
        whole = training_seconds(name, plan.preset, peak)
        done = _share_done(plan.runs / slug(name), preset_for(parse_task(name), plan.preset).iterations)
        total += whole * (1.0 - done)
        text = "trained" if done == 1.0 else f"about {duration(whole * (1.0 - done))} of training"
        console.print(f"  {name:<28} {text}")
    left = f"about {duration(total)} of training in all" if total else "nothing left to train"
    console.print(f"{left}, and minutes a cell for the other agents\n")


def _share_done(folder: Path, iterations: int) -> float:
    names = [int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdigit()]
    return min(1.0, max(names, default=0) / iterations)


def _cell(plan: Plan, folder: Path, task_name: str, console: Console) -> list[EvaluationRow]:
    """Rows of one line of the table, made or, of the very same agent on the same tasks, read back."""
    console.rule(task_name)
    run = train_cell(folder, task_name, plan.preset, training_seed=plan.training_seed, console=console)
    task = parse_task(task_name)
    limit_file = plan.results / f"{slug(task_name)}.limit.json"
    of_tasks = {"num_tasks": plan.num_tasks, "seed": plan.seed}
    if not holds(limit_file, **of_tasks):
        console.print("limit ...")
        write_rows(limit_file, [limit_row(task, plan.num_tasks, plan.seed)])
    contender = run_contender(run, task)
    row_file = plan.results / f"{slug(task_name)}-{plan.preset}-seed{plan.training_seed}.json"
    identity = ("trained_on", "training_seed", "iteration", "parameters_sha256", "action_selection")
    trained = {"agent": "rl2", "preset": plan.preset, **{k: contender.context[k] for k in identity}, **of_tasks}
    if holds(row_file, **trained):
        return read_rows(row_file)
    agents = select_agents(task, None)
    result = compare_with_progress(task, agents, [contender], plan.num_tasks, plan.seed, "large", console)
    rows = [_of_cell(row, plan) if row.agent == "rl2" else row for row in result.rows]
    write_comparison(row_file, rows, result.tests)
    return rows


def _of_cell(row: EvaluationRow, plan: Plan) -> EvaluationRow:
    """The trained agent's row with the commands that make it again."""
    train = f"rl2jax train {row.task} --preset {plan.preset} --seed {plan.training_seed} --out DIR"
    return replace(row, preset=plan.preset, command=f"{train} && {row.command}")


def write_report(number: int, results: Path) -> None:
    """A table as Markdown, LaTeX, CSV and page beside the folder of its rows, from rows and pictures on disk alone.

    Of tables 1 and 2 also the reference agents against the published numbers and, with a trained agent, the figure.
    """
    rows, path = read_results(results), results.parent / f"table{number}"
    table, everything = (build_table(number, rows, everything=wanted) for wanted in (False, True))
    markdown = text.to_markdown(table)
    if everything != table:
        markdown += f"\nWith the agents that the paper does not have:\n\n{text.to_markdown(everything)}"
    write_atomically(path.with_suffix(".md"), markdown)
    write_atomically(path.with_suffix(".tex"), text.to_latex(table))
    write_atomically(path.with_suffix(".csv"), text.to_csv(everything))
    write_atomically(path.with_suffix(".html"), build_page(number, rows, TABLES[number].pictures(results.parent)))
    if number in SCORES:
        write_atomically(path.with_name(f"{path.name}-against-paper.md"), deviations_markdown(number, rows))
        _draw(number, rows, results.parent)


def _draw(number: int, rows: Iterable[ScoredRow], folder: Path) -> None:
    figure = SCORES[number].figure
    try:
        drawn = figures.learning_curves(figure, list(rows))
    except ValueError:
        return  # no trained agent yet
    drawn.savefig(folder / f"figure{figure}.png", dpi=150)
