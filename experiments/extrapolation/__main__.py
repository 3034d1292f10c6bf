"""`make extrapolation`: trained agents at other lengths, priors and numbers of arms; resumable at any point."""

import argparse
from pathlib import Path

from rich.console import Console

from experiments.extrapolation.heat_maps import TITLES, heat_maps, panels, to_markdown
from experiments.extrapolation.shares import shares
from experiments.extrapolation.study import (
    MOST_STEPS,
    TrainedAgent,
    all_settings,
    complete,
    tasks_to_play,
    trained_agents,
)
from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.files import write_atomically
from rl2jax.results.rows import EvaluationRow, read_results
from rl2jax.runs.progress import progress_bar
from rl2jax.runs.shipped import RECIPES
from rl2jax.settings import require

RESULTS = Path(__file__).resolve().parents[1] / "results" / "extrapolation"
FEWEST_STEPS = 100


def results_of(recipe: str, of_runs: bool) -> Path:
    """Where rows go if nothing else is said: those of other agents than `best` replace none of its rows."""
    agents = "runs" if of_runs else recipe
    return RESULTS if agents == "best" else RESULTS.with_name(f"{RESULTS.name}-{agents}")


def play(agents: list[TrainedAgent], results: Path, most_steps: int, console: Console) -> None:
    """Every setting of every agent, or as many as are not done yet, under a progress bar."""
    results.mkdir(parents=True, exist_ok=True)
    settings = all_settings(agents)
    with progress_bar(console) as progress:
        bar = progress.add_task("extrapolation", total=len(settings), note="")
        for number, (task, fitting) in enumerate(settings.items()):
            progress.update(bar, completed=number, note=task.name)

            def on_progress(share: float, number: int = number) -> None:
                progress.update(bar, completed=number + share)

            complete(results, task, fitting, tasks_to_play(task, most_steps), on_progress)
        progress.update(bar, completed=len(settings), note="")


def _rows(results: Path) -> list[EvaluationRow]:
    return [row for row in read_results(results) if isinstance(row, EvaluationRow)]


def write_report(results: Path) -> list[Path]:
    """A table of all shares, and the heat maps that there are rows for, beside the folder of rows; from those alone.

    Returns:
      the files.
    """
    rows = _rows(results)
    path = results.parent / results.name
    files = [path.with_suffix(".md")]
    write_atomically(files[0], to_markdown(rows))
    for kind in TITLES:
        if panels(kind, rows):
            files.append(path.with_name(f"{path.name}-{kind}.png"))
            heat_maps(kind, rows).savefig(files[-1], dpi=200)
    return files


def main() -> None:
    """Plays what is not done yet and ends with tables and heat maps."""
    parser = argparse.ArgumentParser(prog="python -m experiments.extrapolation", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="best", help="of the package's trained agents")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of trained runs instead, one a task")
    parser.add_argument("--results", type=Path, help="folder of the rows (default: one for each recipe, one for runs)")
    parser.add_argument("--most-steps", type=int, default=MOST_STEPS, help="of an agent in a setting, over all tasks")
    a = parser.parse_args()
    results = a.results or results_of(a.recipe, of_runs=bool(a.runs))
    console = Console(highlight=False)
    with in_one_line():
        require(a.most_steps >= FEWEST_STEPS, "--most-steps", a.most_steps, f"an integer >= {FEWEST_STEPS}")
        play(trained_agents(a.runs, a.recipe), results, a.most_steps, console)
    files = write_report(results)
    errors = [share.standard_error for share in shares(_rows(results)).values()]
    console.print(f"cells: {len(errors)}, standard errors of at most {max(errors):.2f} percent")
    console.print(f"tables and heat maps: {', '.join(map(str, files))}", soft_wrap=True)


if __name__ == "__main__":
    xla.prepare()
    main()
