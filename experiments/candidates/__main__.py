"""`make candidates`: every candidate for as long as the base, on the same tasks; table in docs/appendix_recipes.md."""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from experiments.candidates.catalogue import BASE, CANDIDATES, Candidate, base_config, parts_of
from experiments.candidates.reports import read_results, to_markdown
from experiments.candidates.study import Study, find_row, make_row, plan
from experiments.documents import put_table
from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.envs.names import parse_task
from rl2jax.files import write_atomically
from rl2jax.results.reproduction.tables import duration
from rl2jax.settings import require
from rl2jax.training.config import parse_overrides
from rl2jax.training.cost import iteration_seconds, measure_peak
from rl2jax.training.learner import Learner

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "candidates"
DOCUMENT = ROOT / "docs" / "appendix_recipes.md"


class Budget(NamedTuple):
    """What one training seed of a candidate may cost."""

    iterations: int  # of the base
    num_tasks: int  # fresh ones of an evaluation


# Enough to tell candidates apart, few enough for all of them in an afternoon.
BUDGETS = {"bandit:k=5,n=100": Budget(40, 10_000), "mdp:n=10": Budget(40, 4_000)}
EVALUATION_SEED = 1


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.candidates", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(BUDGETS), help="default: %(default)s")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="candidates; the base is always among them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds (default 0 1 2)")
    parser.add_argument("--iterations", type=int, help="of the base, whose time everybody has (default: per task)")
    parser.add_argument("--num-tasks", type=int, help="fresh tasks of an evaluation (default: per task)")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="override fields of the base")
    parser.add_argument("--out", type=Path, default=Path("runs/candidates"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--report", action="store_true", help="only rewrite the table from the rows")
    return parser.parse_args(arguments)


def chosen(names: list[str] | None) -> list[Candidate]:
    """The candidates of these names, the base first; all without names.

    Raises:
      ValueError: naming one that there is not.
    """
    known = {candidate.name: candidate for candidate in CANDIDATES}
    for name in names or []:
        require(name in known, "--only", name, f"of {' '.join(known)}")
    return [candidate for candidate in CANDIDATES if names is None or candidate.name in (BASE.name, *names)]


def studies(a: argparse.Namespace, candidates: list[Candidate]) -> list[Study]:
    """One study per task, checked.

    Raises:
      ValueError: for settings that are not allowed, of the base or of a candidate.
    """
    found = []
    for name in a.tasks:
        overrides = parse_overrides(a.set, base_config(parse_task(name), {}))
        for option, given in ("--iterations", a.iterations), ("--num-tasks", a.num_tasks):
            require(given is not None or name in BUDGETS, option, given, f"given with task {name}")
        usual = BUDGETS.get(name, Budget(0, 0))
        iterations = usual.iterations if a.iterations is None else a.iterations
        num_tasks = usual.num_tasks if a.num_tasks is None else a.num_tasks
        study = Study(parse_task(name), overrides, iterations, num_tasks, EVALUATION_SEED, a.out, a.results)
        study.check()
        for candidate in candidates:
            parts_of(candidate, study.task, overrides)
        found.append(study)
    return found


def write_report(results: Path) -> None:
    """The table beside the rows, and in the document, from the rows alone."""
    table = to_markdown(read_results(results))
    write_atomically(results / "candidates.md", table)
    if results.resolve() == RESULTS and DOCUMENT.exists():
        write_atomically(DOCUMENT, put_table(DOCUMENT.read_text(), "candidates", table))


def run(found: list[Study], candidates: list[Candidate], seeds: list[int], console: Console) -> None:
    """All rows that are not there yet, a seed of everything before the next, and the table after each."""
    peak = measure_peak()
    each = {s.task.name: s.base_iterations * iteration_seconds(Learner(s.task.env, s.base), peak) for s in found}
    jobs = [(seed, study, candidate) for seed in seeds for study in found for candidate in candidates]
    for number, (seed, study, candidate) in enumerate(jobs):
        planned = plan(study, candidate, console)
        what = f"{study.task.name}, {candidate.name}, seed {seed}"
        if find_row(study, candidate, seed, planned) is not None:
            console.print(f"{what}: done before")
            continue
        left = sum(each[s.task.name] for other, s, c in jobs[number:] if not s.row_file(c, other).exists())
        console.rule(f"{number + 1} of {len(jobs)}: {what}; about {duration(left)} of training left")
        start = time.perf_counter()
        row = make_row(study, candidate, seed, planned, console)
        outcome = row.get("failure") or f"{row['mean']:.2f}"
        console.print(f"{what}: {outcome}, {duration(time.perf_counter() - start)}")
        write_report(study.results)
        jax.clear_caches()  # the next one has programs of its own; these would fill the memory


def main(arguments: list[str] | None = None) -> None:
    """Makes the rows and the table."""
    a = parse_arguments(arguments)
    console = Console(highlight=False)
    with in_one_line():
        if not a.report:
            candidates = chosen(a.only)
            run(studies(a, candidates), candidates, a.seeds, console)
        write_report(a.results)
    console.print(a.results / "candidates.md")


if __name__ == "__main__":
    xla.prepare()
    main()
