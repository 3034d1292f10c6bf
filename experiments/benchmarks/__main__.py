"""`make benchmark`: every part of an iteration against its floor, compilation, memory, and other loops beside ours."""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from experiments.benchmarks.parts import against_floor
from experiments.benchmarks.reports import TOLERANCE, Row, regressions, roofline, to_markdown
from experiments.benchmarks.timing import Sample, note, run_child
from experiments.documents import put_table
from rl2jax.config import TrainConfig
from rl2jax.cost import phase_costs, total
from rl2jax.envs.base import require
from rl2jax.files import git_commit, write_atomically
from rl2jax.report import read_rows, write_rows
from rl2jax.sgd import num_minibatches
from rl2jax.tasks import parse_task
from rl2jax.train import Learner

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "benchmarks"
DOCUMENT = ROOT / "docs" / "performance.md"
# The paper's first-order iteration without its KL checks, and with the GRU that PyTorch has.
FIRST_ORDER = {"algorithm": "ppo", "max_kl": float("inf"), "activation": "tanh", "weight_norm": False}


class Case(NamedTuple):
    """A task, its default batch (narrow enough for a quarter of an hour in all), and whether others run it too."""

    task: str
    batch_size: int
    beside: bool


CASES = (
    Case("bandit:k=5,n=10", 50_000, True),
    Case("bandit:k=50,n=500", 100_000, True),
    Case("mdp:n=25", 50_000, False),
)


def machine(device: dict[str, str], load: float) -> dict[str, Any]:
    """What the rows were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "processor": found.group(1) if found else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **device,
        "python": platform.python_version(),
        "commit": git_commit(),
        "date": datetime.date.today().isoformat(),
        "load": load,
    }


def jax_rows(case: Case, changes: dict[str, Any]) -> list[Row]:
    """Our own rows of one task, measured with an empty compilation cache."""
    settings = {"task": case.task, "changes": changes, "first_order": FIRST_ORDER if case.beside else None}
    with tempfile.TemporaryDirectory() as cache:
        variables = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        }
        return run_child("parts", settings, variables)


def torch_settings(learner: Learner, threads: int) -> dict[str, Any]:
    """`torch_loop.Settings` of the iteration that `FIRST_ORDER` makes ours."""
    config: TrainConfig = learner.config
    same = ["gru_units", "policy_epochs", "baseline_epochs", "discount", "gae_lambda", "clip_range", "gradient_clip"]
    same += ["max_kl", "cg_iters", "cg_damping", "backtrack_ratio"]
    return {
        **{name: getattr(config, name) for name in same},
        "natural": config.algorithm == "trpo",
        "num_arms": learner.env.action_space(None).n,
        "num_steps": learner.trial.num_steps,
        "num_trials": learner.num_trials,
        "num_minibatches": num_minibatches(learner.num_trials, config.policy_minibatch_trials),
        "learning_rate": config.policy_learning_rate,
        "threads": threads,
    }


def torch_rows(case: Case, changes: dict[str, Any], kind: str, ours: Row, numbers: tuple[int, ...]) -> list[Row]:
    """The same "natural-gradient" or "first-order" iteration in PyTorch, with these numbers of threads."""
    task = parse_task(case.task)
    config = task.preset("paper").replace(**changes)
    learner = Learner(task.env, config.replace(**FIRST_ORDER) if kind == "first-order" else config)
    steps = learner.num_trials * learner.trial.num_steps
    cost = total(list(phase_costs(learner).values()))
    rows = []
    for threads in numbers:
        result = run_child("torch_loop", torch_settings(learner, threads))
        row = against_floor([Sample(*sample) for sample in result["samples"]], cost, steps)
        part = f"{kind} iteration in PyTorch, {threads} thread{'s'[: threads - 1]}"
        rows.append({**row, "part": part, "threads": threads, "torch": result["torch"]})
        note(f"  {part}: {row['seconds']:.2f} s")
    return [row | {"speedup": ours["steps_per_second"] / row["steps_per_second"]} for row in rows]


def python_row(case: Case, changes: dict[str, Any], ours: Row) -> Row:
    """Rollouts one step at a time."""
    task = parse_task(case.task)
    units = task.preset("paper").replace(**changes).gru_units
    settings = {"num_arms": task.env.action_space(None).n, "num_pulls": task.num_episodes, "units": units}
    row = run_child("python_loop", settings, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    note(f"  step by step in Python: {row['steps_per_second']:.0f} steps/s")
    speedup = ours["steps_per_second"] / row["steps_per_second"]
    return {"part": "rollout, step by step in Python", **row, "speedup": speedup}


def rows_of(case: Case, batch_size: int | None, gru_units: int, with_torch: bool, ours: bool) -> list[Row]:
    """All rows of one task; those of `ours` alone if asked."""
    case = case._replace(beside=case.beside and not ours)
    changes = {"batch_size": batch_size or case.batch_size, "gru_units": gru_units}
    rows = jax_rows(case, changes)
    by_part = {row["part"]: row for row in rows}
    others = []
    if case.beside:
        others.append(python_row(case, changes, by_part["rollout"]))
        if with_torch:
            first_order = torch_rows(case, changes, "first-order", by_part["first-order iteration"], (1, 2))
            best = min(first_order, key=lambda row: row["seconds"])["threads"]  # a natural step takes minutes
            others += first_order + torch_rows(case, changes, "natural-gradient", by_part["iteration"], (best,))
    context = {name: rows[0][name] for name in ("task", "batch_size", "gru_units", "platform")}
    return rows + [{**context, **row} for row in others]


def committed_rows(name: str) -> list[Row]:
    """Rows as in the last commit; none if there are none."""
    command = ["git", "-C", str(ROOT), "show", f"HEAD:{(RESULTS / name).relative_to(ROOT).as_posix()}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else []


def write_report(results: Path, name: str) -> None:
    """Table and roofline beside the rows, and the table in the document, from the rows alone."""
    rows = read_rows(results / f"{name}.json")
    table = to_markdown(rows)
    write_atomically(results / f"{name}.md", table)
    roofline(rows).savefig(results / f"{name}-roofline.png", dpi=150)
    if results.resolve() == RESULTS and DOCUMENT.exists():
        write_atomically(DOCUMENT, put_table(DOCUMENT.read_text(), f"benchmark {name}", table))
    print(table)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("--batch-size", type=int, help="steps in a batch (default: as in CASES, per task)")
    parser.add_argument("--gru-units", type=int, default=256)
    parser.add_argument("--tasks", nargs="+", default=[case.task for case in CASES], help="of the default ones")
    parser.add_argument("--ours", action="store_true", help="leave the loops of others out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--check", action="store_true", help="fail if a ratio is worse than in the last commit's rows")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="by which share (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measures, writes rows, table and figure, compares."""
    a = parse_arguments()
    known = [case.task for case in CASES]
    for task in a.tasks:
        require(task in known, "--tasks", task, f"of {' '.join(known)}")
    start, load = time.perf_counter(), os.getloadavg()[0]
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        note("PyTorch is not installed (pip install 'rl2jax[benchmarks]'): its loop is left out")
    chosen = [case for case in CASES if case.task in a.tasks]
    a.results.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case in chosen:  # written after each, in case a later one fails
        rows += rows_of(case, a.batch_size, a.gru_units, with_torch, a.ours)
        described = machine({name: rows[0][name] for name in ("device", "jax")}, load)
        name = rows[0]["platform"]
        write_rows(a.results / f"{name}.json", [row | {"machine": described} for row in rows])
    write_report(a.results, name)
    note(f"{a.results / name}.(json, md) and {name}-roofline.png after {time.perf_counter() - start:.0f} s")
    if a.check:
        worse = regressions(rows, committed_rows(f"{name}.json"), a.tolerance)
        sys.exit("\n".join(["worse than in the last commit:", *worse]) if worse else 0)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
