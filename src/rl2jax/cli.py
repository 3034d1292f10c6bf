"""The command line: train, evaluate, ship, compare, limits; what only shows files is in cli_results.py."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rl2jax import cli_results, host, processes

app = typer.Typer(
    help="Learning to reinforcement learn (RL^2) on JAX: train a recurrent policy over a distribution of tasks; "
    "its activations become the learner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True, highlight=False)

TASK_HELP = "bandit:k=5,n=10, mdp:n=10 (s=, a=, t= optional), or package.module:object for your own."


@app.command()
def train(
    task: Annotated[str, typer.Argument(help=TASK_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty, or with --resume an earlier run's.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper (default; the paper's numbers), paper-first-order, cpu (for a laptop), quick (minutes); or a "
            "recipe beyond the paper's, trained in stages in OUT: best-scratch, best."
        ),
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="trpo, ppo or imitation (with --set teacher=AGENT); default as the preset says.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Training iterations; default as the preset says.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override any field of TrainConfig."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random (default 0).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same result.")] = False,
    start: Annotated[
        Path | None, typer.Option(help="Folder of a run whose parameters the new one starts from.")
    ] = None,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    devices: Annotated[
        int | None, typer.Option(help="Devices of this machine that share the batch; default as many as divide it.")
    ] = None,
    num_seeds: Annotated[
        int | None, typer.Option(help="Train this many seeds, from --seed on, at once; a run each in OUT/seed-S.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Train with other processes; where process 0 listens.")
    ] = None,
    num_processes: Annotated[int | None, typer.Option(help="With --coordinator: how many processes.")] = None,
    process_id: Annotated[int | None, typer.Option(help="With --coordinator: which this is, from 0.")] = None,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Train with the processes that SLURM or Open MPI started.")
    ] = False,
) -> None:
    """Train an agent; Ctrl-C saves and exits, --resume continues to the same bits."""
    _check_seed(seed)
    if not checkpoint_minutes >= 0:
        raise ValueError(f"--checkpoint-minutes must be >= 0 (0: after every chunk), got {checkpoint_minutes:g}")
    several = distributed or not (coordinator is num_processes is process_id is None)
    _check_num_seeds(num_seeds, seed, several)
    processes.join(coordinator, num_processes, process_id, distributed)  # before imports that start JAX's backend
    from rl2jax.config import parse_overrides
    from rl2jax.devices import SEEDS, TRIALS, describe
    from rl2jax.experiment import train_with_progress
    from rl2jax.recipes import RECIPES
    from rl2jax.seed_runs import train_seeds_with_progress

    if preset in RECIPES:
        fixed: dict[str, Any] = {
            "--algorithm": algorithm,
            "--iterations": iterations,
            "--set": set_,
            "--devices": devices,
        }
        fixed |= {
            "--num-seeds": num_seeds,
            "--start": start,
            "--coordinator": coordinator,
            "--distributed": distributed or None,
        }
        _refuse_with_recipe(preset, fixed)
        _train_recipe(task, out, preset, seed or 0, resume, checkpoint_minutes)
        return
    with processes.together("preparing the run"):
        changes: dict[str, Any] = parse_overrides(set_ or [])
        changes |= {k: v for k, v in {"algorithm": algorithm, "iterations": iterations}.items() if v is not None}
        if start is not None and (resume or num_seeds is not None):
            raise ValueError("--start is for one new run: it cannot be combined with --resume or --num-seeds")
        if resume:
            runs, mesh = _earlier_runs(task, out, preset, changes, seed, devices, num_seeds)
        else:
            runs, mesh = _new_runs(task, out, preset, changes, seed or 0, devices, num_seeds, start)
        learner, config = runs[0].learner, runs[0].config
    shown = console if processes.is_first() else Console(quiet=True)
    seeds = f"seed {runs[0].seed}" if num_seeds is None else f"seeds {runs[0].seed} to {runs[-1].seed}"
    shown.print(
        f"{runs[0].task.name}  {config.algorithm}, {config.iterations} iterations of {learner.num_trials} trials "
        f"x {learner.trial.num_steps} steps, GRU-{config.gru_units}, {seeds}, in {out}"
    )
    shared = (learner.num_trials, TRIALS) if num_seeds is None else (num_seeds, SEEDS)
    used = describe(mesh, *shared)
    if used:
        shown.print(used)
    options: Any = {"resume": resume, "checkpoint_minutes": checkpoint_minutes}
    if num_seeds is None:
        finished = train_with_progress(runs[0], shown, **options)
    else:
        finished = train_seeds_with_progress(runs, mesh, shown, **options)
    if not finished:
        shown.print("stopped and saved; continue with --resume")
        return
    shown.print(f"done; now `rl2jax evaluate {runs[0].folder} --num-tasks 10000`")


def _refuse_with_recipe(recipe: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{given[0]} cannot be combined with --preset {recipe}, whose stages have their own settings")


def _train_recipe(task: str, out: Path, recipe: str, seed: int, resume: bool, checkpoint_minutes: float) -> None:
    """All stages, each a run of its own in `out`; what is done already is not done again."""
    from rl2jax.experiment import Interrupted, train_recipe

    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} is not empty; continue what it holds with --resume, or choose another")
    try:
        options: Any = {"training_seed": seed, "console": console, "checkpoint_minutes": checkpoint_minutes}
        run = train_recipe(out, task, recipe, **options)
    except Interrupted:
        console.print("stopped and saved; continue with --resume")
        return
    console.print(f"done; now `rl2jax evaluate {run.folder} --num-tasks 10000`")


def _new_runs(task, out, preset, changes, seed, devices, num_seeds, start) -> tuple[list[Any], Any]:
    """The run in `out`, or one for each of several seeds, and the devices that share its trials, or the seeds."""
    from rl2jax.devices import SEEDS, TRIALS, choose_mesh
    from rl2jax.runs import Run, create_run, open_run
    from rl2jax.seed_runs import create_seed_runs
    from rl2jax.tasks import parse_task

    parsed = parse_task(task)
    config = parsed.preset(preset or "paper").replace(**changes)
    if config.num_episodes != parsed.num_episodes:
        raise ValueError(f"set the number of episodes in the task: n={config.num_episodes} in {task!r}")
    if num_seeds is not None:
        mesh = choose_mesh(num_seeds, SEEDS, devices)
        return create_seed_runs(out, parsed, config, seed, num_seeds, mesh), mesh
    mesh = choose_mesh(Run(out, parsed, config, seed).learner.num_trials, TRIALS, devices)
    started_from = None if start is None else open_run(start)
    return [create_run(out, parsed, config, seed, mesh, started_from)], mesh


def _earlier_runs(task, out, preset, changes, seed, devices, num_seeds) -> tuple[list[Any], Any]:
    """The same of runs that exist; refuses settings that differ from theirs."""
    from rl2jax.devices import SEEDS, TRIALS, choose_mesh
    from rl2jax.runs import open_run
    from rl2jax.seed_runs import open_seed_runs
    from rl2jax.tasks import parse_task

    parsed = parse_task(task)
    runs = [open_run(out)] if num_seeds is None else open_seed_runs(out, seed, num_seeds)
    for number, run in enumerate(runs):
        wanted = (run.config if preset is None else parsed.preset(preset)).replace(**changes)
        _refuse_differences(run, parsed.name, wanted, run.seed if seed is None else seed + number)
    if num_seeds is not None:
        return runs, choose_mesh(num_seeds, SEEDS, devices)
    mesh = choose_mesh(runs[0].learner.num_trials, TRIALS, devices)
    return [runs[0]._replace(mesh=mesh)], mesh


def _check_num_seeds(num_seeds: int | None, seed: int | None, several_processes: bool) -> None:
    if num_seeds is None:
        return
    if num_seeds < 1:
        raise ValueError(f"--num-seeds must be >= 1, got {num_seeds}")
    _check_seed((seed or 0) + num_seeds - 1)
    if several_processes:
        raise ValueError(
            "--num-seeds trains in one process: leave out --coordinator and --distributed, and give each process "
            "seeds of its own (--seed) and an --out of its own"
        )


def _refuse_differences(run: Any, task: str, wanted: Any, seed: int) -> None:
    """A resumed run keeps its settings: raises ValueError naming the first that differs."""
    was = {"task": run.task.name, "seed": run.seed, **dataclasses.asdict(run.config)}
    now = {"task": task, "seed": seed, **dataclasses.asdict(wanted)}
    for name, value in was.items():
        if now[name] != value:
            raise ValueError(
                f"--resume: {name} is {value!r} in {run.folder}, the command says {now[name]!r}; "
                "leave it out, or start a new run with another --out"
            )


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained run.")],
    num_tasks: Annotated[int, typer.Option(help="Fresh tasks to play, one trial each.")],
    seed: Annotated[int, typer.Option(help="Seed of the tasks; its stream is disjoint from training's.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a list with one row here.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Take the most likely action instead of a sample.")
    ] = False,
) -> None:
    """Evaluate a trained agent on fresh tasks."""
    from rl2jax.experiment import evaluate_run
    from rl2jax.report import format_score, write_rows
    from rl2jax.runs import open_run

    _check_seed(seed)
    if num_tasks < 1:
        raise ValueError(f"--num-tasks must be >= 1, got {num_tasks}")
    run = open_run(run_folder)
    _check_json(json_file)
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed, deterministic=deterministic)
    if json_file is not None:
        write_rows(json_file, [row])
    typer.echo(f"{row['task']}: mean total reward {format_score(row)}, {num_tasks} tasks, seed {seed}")


@app.command()
def ship(
    run_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained run.")],
    recipe: Annotated[str, typer.Option(help="How it was trained: best, best-scratch or paper.")],
    num_tasks: Annotated[int, typer.Option(help="Fresh tasks on which it is evaluated.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of those tasks.")] = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="It takes the most likely action instead of a sample.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the file, OUT/RECIPE; default the package's own.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of rows of other agents and limits, to hold the score against.")
    ] = None,
) -> None:
    """Evaluate a trained agent and write it as one file, which rl2jax.load_agent loads."""
    from rl2jax import shipped, tables
    from rl2jax.compare import command_line
    from rl2jax.experiment import evaluate_run
    from rl2jax.report import format_score
    from rl2jax.runs import open_run

    _check_seed(seed)
    if num_tasks < 2:
        raise ValueError(f"--num-tasks must be >= 2, got {num_tasks}")
    run = open_run(run_folder)
    shipped.require_shippable(run, recipe, out)
    known = {} if results is None else tables.opponents(tables.read_results(results), run.task.name)
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed, deterministic=deterministic)
    row |= {"command": command_line(run.task, num_tasks, seed, [], [recipe]), **known}
    path = shipped.ship(run, recipe, row, out)
    typer.echo(f"{path}: mean total reward {format_score(row)}, {path.stat().st_size / 1e6:.2f} MB")


def _check_json(path: Path | None) -> None:
    """Refuses a file that cannot be written before the work that would fill it."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--json: the folder {path.parent} does not exist")
    if path is not None and path.is_dir():
        raise ValueError(f"--json must be a file, {path} is a folder")


def _check_seed(seed: int | None) -> None:
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"--seed must be an integer from 0 to {2**32 - 1}, got {seed}")


@app.command()
def compare(
    task: Annotated[str, typer.Argument(help=TASK_HELP)],
    agents: Annotated[
        str | None, typer.Option(help='Names with commas between; default: all that need no training. "" for none.')
    ] = None,
    run: Annotated[list[Path] | None, typer.Option(help="Folder of a trained run; may be given several times.")] = None,
    shipped: Annotated[
        str | None, typer.Option(help="Recipes of the package's own trained agents, commas between: best,best-scratch.")
    ] = None,
    num_tasks: Annotated[
        int | None,
        typer.Option(
            help="Tasks, the same for all (default 10000); agents that draw very many random numbers play fewer."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the tasks.")] = 0,
    protocol: Annotated[
        str, typer.Option(help="large: tests in pairs; paper: 1000 tasks and unpaired t-tests, as published.")
    ] = "large",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here, and the tests beside it (.tests.json).")
    ] = None,
) -> None:
    """Play agents on the same tasks: means, standard errors, and which differences are significant."""
    from rl2jax.compare import run_contenders, select_agents, shipped_contender
    from rl2jax.experiment import compare_with_progress
    from rl2jax.report import format_score, write_comparison
    from rl2jax.runs import open_run
    from rl2jax.tasks import parse_task

    _check_seed(seed)
    parsed = parse_task(task)
    if protocol not in ("large", "paper"):
        raise ValueError(f"--protocol must be large or paper, got {protocol!r}")
    if protocol == "paper" and num_tasks not in (None, 1000):
        raise ValueError(f"--num-tasks must be 1000 with --protocol paper, got {num_tasks}")
    count = num_tasks if num_tasks is not None else 1000 if protocol == "paper" else 10_000
    if count < 1:
        raise ValueError(f"--num-tasks must be >= 1, got {count}")
    _check_json(json_file)
    chosen = select_agents(parsed, None if agents is None else _names(agents))
    trained = run_contenders([open_run(folder) for folder in run or []], parsed)
    trained += [shipped_contender(recipe, parsed) for recipe in _names(shipped or "")]
    if not chosen and not trained:
        raise ValueError("--agents: nothing to compare; name agents, runs with --run, or recipes with --shipped")
    result = compare_with_progress(parsed, chosen, trained, count, seed, protocol, console)
    if json_file is not None:
        write_comparison(json_file, result.rows, result.tests)
    typer.echo(f"{parsed.name}, seed {seed}")
    for row in sorted(result.rows, key=lambda row: -row["mean"]):
        mark = "*" if row["not_below_best"] else " "
        typer.echo(f"{mark} {row['agent']:<24}{format_score(row)}, {row['num_tasks']} tasks")
    typer.echo("* best, or not significantly below the best (one-sided t-test, p >= 0.05, each test on its own).")
    if len(result.tests) > 1:
        different = sum(test.p_holm < 0.05 for test in result.tests)
        typer.echo(f"After Holm's adjustment for all pairs, {different} of {len(result.tests)} differ at 0.05.")


def _names(text: str) -> list[str]:
    """Of "gittins, ucb1", both."""
    return [name.strip() for name in text.split(",") if name.strip()]


@app.command()
def limits(
    task: Annotated[str, typer.Argument(help="bandit:k=5,n=10 or mdp:n=10 (s=, a=, t= optional).")],
    num_tasks: Annotated[int, typer.Option(help="Tasks on which the best known policy is played.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the tasks, and of bounds that are sampled.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a list with one row here.")] = None,
) -> None:
    """The most that any agent can score: exact where that can be computed, else an upper bound."""
    from rl2jax.limit_rows import limit_row
    from rl2jax.report import write_rows
    from rl2jax.tasks import parse_task

    _check_seed(seed)
    parsed = parse_task(task)
    _check_json(json_file)
    if num_tasks < 2:
        raise ValueError(f"--num-tasks must be >= 2, got {num_tasks}")
    row = limit_row(parsed, num_tasks, seed)
    if json_file is not None:
        write_rows(json_file, [row])
    if row["exact"] is not None:
        typer.echo(f"{row['task']}: Bayes-optimal value {row['exact']:.6f} ({row['method']})")
    else:
        error = row["upper_bound_standard_error"]
        typer.echo(f"{row['task']}: no agent exceeds {row['upper_bound']:.3f} +- {error:.3f} ({row['method']})")
    if row["best_policy"]:
        typer.echo(
            f"best known policy: {row['best_policy']}, {row['best_policy_mean']:.3f} "
            f"+- {row['best_policy_standard_error']:.3f} over {num_tasks} tasks"
        )


for reads_rows in (cli_results.agents, cli_results.table, cli_results.figure):
    app.command()(reads_rows)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("rl2jax"))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Common options."""
    del version


def main(arguments: list[str] | None = None) -> None:
    """Entry point: what the user can mend is one line on standard error and exit code 2, never a traceback."""
    host.prepare()
    try:
        app(args=arguments)
    except (ValueError, RuntimeError, OSError) as error:
        if not is_for_the_user(error):
            raise
        typer.echo(f"rl2jax: error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def is_for_the_user(error: Exception) -> bool:
    """Errors whose text was written for users: ours, and the operating system's."""
    from rl2jax.checkpoint import CheckpointError
    from rl2jax.runs import RunError
    from rl2jax.shipped import ShippedAgentError
    from rl2jax.train import NonFiniteError

    ours = (CheckpointError, processes.ProcessError, RunError, ShippedAgentError, NonFiniteError)
    if isinstance(error, (*ours, OSError)):
        return True
    # A ValueError of ours comes from a module of ours; one from inside JAX is a bug and keeps its traceback.
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return isinstance(error, ValueError) and module.startswith("rl2jax")
