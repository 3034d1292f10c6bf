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

from experiments.benchmarks.parts import DEFAULT, FIRST_ORDER, ITERATIONS, NATURAL, against_floor
from experiments.benchmarks.reports import TOLERANCE, Regression, Row, against_bars, regressions, roofline, to_markdown
from experiments.benchmarks.timing import Sample, note, run_child
from experiments.documents import put_table
from rl2jax.envs.names import parse_task
from rl2jax.files import git_commit, write_atomically
from rl2jax.results.rows import read_objects, write_objects
from rl2jax.settings import require
from rl2jax.slow_rl.ppo import PPO
from rl2jax.slow_rl.sgd import num_minibatches
from rl2jax.slow_rl.trpo import TRPO
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import phase_costs, total
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.xla import ONE_THREAD

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "benchmarks"
DOCUMENT = ROOT / "docs" / "performance.md"
UNITS = 256
THREADS = (1, 2)
# PyTorch's natural-gradient iteration of trials longer than this takes minutes: the number of threads is chosen on
# as many trials of a tenth of their length, so that products are as wide.
LONG_TRIAL, SHORTER = 100, 10


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


def environment_of(devices: int) -> dict[str, str]:
    """Variables of a process of ours with as many devices."""
    variables = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")}
    if devices > 1:  # told by the environment, as imports start the backend
        flags = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
        variables |= {"JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": flags}
    return variables


def jax_rows(
    case: Case, changes: dict[str, Any], compile_only: bool = False, devices: int = 1, long_samples: int = 1
) -> list[Row]:
    """Our own rows of one task, measured with an empty compilation cache."""
    settings = {"task": case.task, "changes": changes, "beside": case.beside, "compile_only": compile_only}
    settings |= {"devices": devices, "long_samples": long_samples}
    with tempfile.TemporaryDirectory() as cache:
        variables = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return run_child("parts", settings, variables | environment_of(devices))


def torch_settings(learner: Learner, threads: int) -> dict[str, Any]:
    """`torch_loop.Settings` of the iteration of one of `ITERATIONS` with PyTorch's GRU."""
    config: TrainConfig = learner.config
    update = config.slow_rl
    # What the other kind of step alone asks for has its default.
    first_order, natural = (update, TRPO()) if isinstance(update, PPO) else (PPO(), update)
    return {
        "gru_units": config.network.units,
        "policy_epochs": first_order.epochs,
        "baseline_epochs": config.baseline.epochs,
        "discount": config.objective.discount,
        "gae_lambda": config.objective.gae_lambda,
        "clip_range": first_order.clip_range,
        "gradient_clip": config.optimiser.clip,
        "max_kl": update.max_kl,
        **{name: getattr(natural, name) for name in ("cg_iters", "cg_damping", "backtrack_ratio")},
        "natural": config.slow_rl.work().linearisations > 0,
        "num_arms": learner.env.action_space(None).n,
        "num_steps": learner.trial.num_steps,
        "num_trials": learner.num_trials,
        "num_minibatches": num_minibatches(learner.num_trials, first_order.minibatch_trials),
        "learning_rate": first_order.learning_rate,
        "rounded": config.network.matmul_precision == "bfloat16",
        "threads": threads,
    }


def choose_threads(learner: Learner) -> dict[int, float]:
    """Number of threads -> seconds of PyTorch's iteration on as many trials of a tenth of the length."""
    seconds = {}
    for threads in THREADS:
        settings = torch_settings(learner, threads)
        settings |= {"num_steps": settings["num_steps"] // SHORTER, "once": True}
        seconds[threads] = run_child("torch_loop", settings)["seconds"]
        note(f"  PyTorch, {threads} threads, trials of {settings['num_steps']} steps: {seconds[threads]:.2f} s")
    return seconds


def torch_rows(case: Case, changes: dict[str, Any], ours: Row) -> list[Row]:
    """The iteration of one of our rows in PyTorch, with each number of `THREADS`; where it is long, with the better."""
    task = parse_task(case.task)
    learner = Learner(task.env, preset_for(task, "paper").replace({**changes, **ITERATIONS[ours["part"]]}))
    kind = "natural-gradient" if learner.config.slow_rl.work().linearisations else "first-order"
    steps = learner.num_trials * learner.trial.num_steps
    cost = total(list(phase_costs(learner).values()))
    numbers: tuple[int, ...] = THREADS
    context: Row = {}
    if kind == "natural-gradient" and learner.trial.num_steps > LONG_TRIAL:
        seconds = choose_threads(learner)
        numbers = (min(seconds, key=seconds.__getitem__),)
        context["seconds_of_shorter_trials"] = {str(threads): value for threads, value in seconds.items()}
    rows = []
    for threads in numbers:
        result = run_child("torch_loop", torch_settings(learner, threads) | {"once": False})
        row = against_floor([Sample(*sample) for sample in result["samples"]], cost, steps)
        part = f"{kind} iteration in PyTorch, {threads} thread{'s'[: threads - 1]}"
        speedup = ours["steps_per_second"] / row["steps_per_second"]
        rows.append({**row, **context, "part": part, "threads": threads, "torch": result["torch"], "speedup": speedup})
        note(f"  {part}: {row['seconds']:.2f} s")
    return rows


def python_row(case: Case, changes: dict[str, Any], ours: Row, network: str) -> Row:
    """Rollouts one step at a time, with the network in NumPy or in PyTorch."""
    task = parse_task(case.task)
    units = preset_for(task, "paper").replace(changes).network.units
    settings = {"num_arms": task.env.action_space(None).n, "num_pulls": task.num_episodes, "units": units}
    variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    row = run_child("python_loop", settings | {"network": network}, variables)
    note(f"  step by step in Python, network in {network}: {row['steps_per_second']:.0f} steps/s")
    speedup = ours["steps_per_second"] / row["steps_per_second"]
    return {"part": f"rollout, step by step in Python, network in {network}", **row, "speedup": speedup}


def rows_of(case: Case, a: argparse.Namespace, with_torch: bool) -> list[Row]:
    """All rows of one task; ours alone, or planned memory alone, if the command line says so."""
    case = case._replace(beside=case.beside and not a.ours)
    changes = {"batch.size": a.batch_size or case.batch_size, "network.units": a.gru_units}
    changes["matmul_precision"] = a.matmul_precision
    rows = jax_rows(case, changes, a.compile_only, a.devices, a.long_samples)
    by_part = {row["part"]: row for row in rows}
    others = []
    if case.beside and not a.compile_only:
        for network in ("NumPy", "PyTorch")[: 1 + with_torch]:
            others.append(python_row(case, changes, by_part["rollout"], network))
        if with_torch:
            others += [row for name in (FIRST_ORDER, NATURAL) for row in torch_rows(case, changes, by_part[name])]
    shared = ("task", "batch_size", "gru_units", "platform", "devices", "matmul_precision")
    context = {name: rows[0][name] for name in shared if name in rows[0]}
    return rows + [{**context, **row} for row in others]


def still_worse(
    rows: list[Row], reference: list[Row], cases: list[Case], a: argparse.Namespace, with_torch: bool
) -> list[Regression]:
    """What is worse than in the reference, and again in other processes: a shared machine has slow minutes."""
    worse = regressions(rows, reference, a.tolerance)
    if not worse:
        return []
    note("\n".join(["worse than in the last commit, so measured again:", *map(str, worse)]))
    tasks = {regression.row["task"] for regression in worse}
    ours = a.ours or all(regression.field != "speedup" for regression in worse)
    chosen = [case for case in cases if parse_task(case.task).name in tasks]
    settings = argparse.Namespace(**{**vars(a), "ours": ours})
    again = [row for case in chosen for row in rows_of(case, settings, with_torch)]
    return [second for second in regressions(again, reference, a.tolerance) if any(map(second.is_again, worse))]


def committed_rows(name: str) -> list[Row]:
    """Rows as in the last commit; none if there are none."""
    command = ["git", "-C", str(ROOT), "show", f"HEAD:{(RESULTS / name).relative_to(ROOT).as_posix()}"]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else []


def file_name(platform: str, a: argparse.Namespace) -> str:
    """Of the rows, without its ending; those of other sizes than the default ones replace none of these."""
    parts = [platform]
    parts += [str(a.batch_size)] if a.batch_size else []
    parts += [f"{a.gru_units}-units"] if a.gru_units != UNITS else []
    parts += [f"{a.devices}-devices"] if a.devices != 1 else []
    parts += [a.matmul_precision] if a.matmul_precision != DEFAULT else []
    return "-".join(parts + (["planned"] if a.compile_only else []))


def write_report(results: Path, name: str) -> str:
    """Table and roofline beside the rows, and the tables in the document, from the rows alone.

    Returns:
      the table.
    """
    rows = read_objects(results / f"{name}.json")
    table = to_markdown(rows)
    write_atomically(results / f"{name}.md", table)
    if any("of_floor" in row for row in rows):
        roofline(rows).savefig(results / f"{name}-roofline.png", dpi=150)
    if results.resolve() == RESULTS and DOCUMENT.exists():
        files = (read_objects(path) for path in sorted(results.glob("cpu*.json")))
        everything = [row for rows in files for row in rows if "batch_size" in row]  # agents that play have none
        text = put_table(DOCUMENT.read_text(), f"benchmark {name}", table)
        write_atomically(DOCUMENT, put_table(text, "bars", against_bars(everything)))
    return table


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.add_argument("--batch-size", type=int, help="steps in a batch (default: as in CASES, per task)")
    parser.add_argument("--gru-units", type=int, default=UNITS)
    parser.add_argument("--devices", type=int, default=1, help="that share the trials; of a processor, cores")
    parser.add_argument("--matmul-precision", default=DEFAULT, help="of the network's products, as in the config")
    parser.add_argument("--tasks", nargs="+", default=[case.task for case in CASES], help="of the default ones")
    parser.add_argument("--ours", action="store_true", help="leave the loops of others out")
    parser.add_argument("--long-samples", type=int, default=1, help="of an iteration of more than 10 s")
    parser.add_argument("--compile-only", action="store_true", help="run nothing: planned memory of whole iterations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--check", action="store_true", help="fail where a ratio is worse than in the last commit")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="by which share (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Measures, writes rows, table and figure, compares."""
    a = parse_arguments()
    known = [case.task for case in CASES]
    for task in a.tasks:
        require(task in known, "--tasks", task, f"of {' '.join(known)}")
    require(a.devices >= 1, "--devices", a.devices, ">= 1")
    require(a.long_samples >= 1, "--long-samples", a.long_samples, ">= 1")
    TrainConfig().replace({"network.matmul_precision": a.matmul_precision})  # refuses another
    start, load = time.perf_counter(), os.getloadavg()[0]
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        note("PyTorch is not installed (pip install 'rl2jax[benchmarks]'): its loop is left out")
    chosen = [case for case in CASES if case.task in a.tasks]
    a.results.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for case in chosen:  # written after each, in case a later one fails
        rows += rows_of(case, a, with_torch)
        described = machine({name: rows[0][name] for name in ("device", "jax")}, load)
        name = file_name(rows[0]["platform"], a)
        write_objects(a.results / f"{name}.json", [row | {"machine": described} for row in rows])
    print(write_report(a.results, name))
    note(f"{a.results / name}.(json, md) after {time.perf_counter() - start:.0f} s")
    if a.check:
        worse = still_worse(rows, committed_rows(f"{name}.json"), chosen, a, with_torch)
        sys.exit("\n".join(["worse than in the last commit, twice:", *map(str, worse)]) if worse else 0)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
