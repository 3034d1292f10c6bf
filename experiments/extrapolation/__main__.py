"""`make extrapolation`: trained agents at other lengths of a trial and other priors; resumable at any point."""

import argparse
from pathlib import Path

from rich.console import Console

from experiments.extrapolation.heat_maps import TITLES, heat_maps, to_markdown
from experiments.extrapolation.shares import by_task, shares
from experiments.extrapolation.study import MOST_STEPS, complete, tasks_to_play, tested_tasks, trained_agents
from experiments.messages import in_one_line
from rl2jax import host
from rl2jax.compare import Contender
from rl2jax.experiment import progress_bar
from rl2jax.files import write_atomically
from rl2jax.shipped import RECIPES
from rl2jax.tables import read_results
from rl2jax.tasks import Task, parse_task

RESULTS = Path(__file__).resolve().parents[1] / "results" / "extrapolation"


def play(agents: list[Contender], results: Path, most_steps: int, console: Console) -> None:
    """Every setting of every agent, or as many as are not done yet, under a progress bar."""
    results.mkdir(parents=True, exist_ok=True)
    settings: dict[Task, list[Contender]] = {}
    for agent in agents:
        for task in tested_tasks(parse_task(agent.name).env):
            settings.setdefault(task, []).append(agent)
    with progress_bar(console) as progress:
        bar = progress.add_task("extrapolation", total=len(settings), note="")
        for number, (task, fitting) in enumerate(settings.items()):
            progress.update(bar, completed=number, note=task.name)

            def on_progress(share: float, number: int = number) -> None:
                progress.update(bar, completed=number + share)

            complete(results, task, fitting, tasks_to_play(task, most_steps), on_progress)
        progress.update(bar, completed=len(settings), note="")


def write_report(results: Path) -> None:
    """A table of all shares, and heat maps of each kind, beside the folder of rows and from those rows alone."""
    rows = read_results(results)
    path = results.parent / results.name
    write_atomically(path.with_suffix(".md"), to_markdown(rows))
    for kind in TITLES:
        if any(parse_task(task).kind == kind for task in by_task(rows)):
            heat_maps(kind, rows).savefig(path.with_name(f"{path.name}-{kind}.png"), dpi=200)


def main() -> None:
    """Plays what is not done yet and ends with tables and heat maps."""
    parser = argparse.ArgumentParser(prog="python -m experiments.extrapolation", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="best", help="of the package's trained agents")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="folders of trained runs instead, one a task")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--most-steps", type=int, default=MOST_STEPS, help="of an agent in a setting, over all tasks")
    a = parser.parse_args()
    console = Console(highlight=False)
    with in_one_line():
        play(trained_agents(a.runs, a.recipe), a.results, a.most_steps, console)
    write_report(a.results)
    errors = [share.standard_error for share in shares(read_results(a.results)).values()]
    console.print(f"cells: {len(errors)}, standard errors of at most {max(errors):.2f} percent")
    console.print(f"tables and heat maps: {a.results}.md and {a.results}-(bandit, mdp).png")


if __name__ == "__main__":
    host.prepare()
    main()
