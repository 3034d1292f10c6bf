"""Commands that play: evaluate, ship, compare, limits, twin-check."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rl2jax.cli.options import (
    ENGINE_HELP,
    TASK_HELP,
    check_file,
    check_num_tasks,
    check_seed,
    console,
    names,
)
from rl2jax.engines.base import DEVICE, find_engine
from rl2jax.settings import InputError

_MEAN_FRAME_ERROR, _MOST_FRAME_ERROR = 0.5, 3.0  # of 255; a twin stays below


def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a trained run.")],
    num_tasks: Annotated[int, typer.Option(help="Fresh tasks to play, one trial each.")],
    seed: Annotated[int, typer.Option(help="Seed of the tasks; its stream is disjoint from training's.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a list with one row here.")] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Take the most likely action instead of a sample.")
    ] = False,
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = DEVICE,
) -> None:
    """Evaluate a trained agent on fresh tasks; in mazes, on those of the test set."""
    from rl2jax.kinds import load
    from rl2jax.results.rows import EvaluationRow, MazeRow, format_score, write_rows
    from rl2jax.runs.run import open_run

    check_seed(seed)
    check_num_tasks(num_tasks)
    run = open_run(run_folder)
    check_file("--json", json_file)
    settings: dict[str, Any] = {"num_tasks": num_tasks, "seed": seed, "deterministic": deterministic, "engine": engine}
    row: EvaluationRow | MazeRow = load(run.task.kind.evaluation)(run, console, **settings)
    if json_file is not None:
        write_rows(json_file, [row])
    typer.echo(
        f"{row.task}: mean total reward {format_score(row.mean, row.standard_error)}, {num_tasks} tasks, seed {seed}"
    )
    episodes = zip(row.length, row.length_error, row.success_percent, strict=True) if isinstance(row, MazeRow) else ()
    for episode, (length, error, success) in enumerate(episodes):
        typer.echo(f"episode {episode + 1}: {length:.1f} +- {error:.1f} steps, target reached in {success:.1f}%")


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
    from rl2jax.results.compare import command_line
    from rl2jax.results.evaluations import evaluate_run
    from rl2jax.results.rows import format_score, opponents, read_results
    from rl2jax.runs import shipped
    from rl2jax.runs.run import open_run

    check_seed(seed)
    check_num_tasks(num_tasks, least=2)
    run = open_run(run_folder)
    shipped.require_shippable(run, recipe, out)
    known = {} if results is None else opponents(read_results(results), run.task.name)
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed, deterministic=deterministic)
    described = row.to_json() | {"command": command_line(run.task, num_tasks, seed, [], [recipe]), **known}
    path = shipped.ship(run, recipe, described, out)
    typer.echo(
        f"{path}: mean total reward {format_score(row.mean, row.standard_error)}, {path.stat().st_size / 1e6:.2f} MB"
    )


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
    engine: Annotated[str, typer.Option(help=ENGINE_HELP)] = DEVICE,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the rows here, and the tests beside it (.tests.json).")
    ] = None,
) -> None:
    """Play agents on the same tasks: means, standard errors, and which differences are significant."""
    from rl2jax.envs.names import parse_task
    from rl2jax.results.compare import run_contenders, select_agents, shipped_contender
    from rl2jax.results.evaluations import compare_with_progress
    from rl2jax.results.rows import format_score, write_comparison
    from rl2jax.runs.run import open_run

    check_seed(seed)
    parsed = parse_task(task)
    if protocol not in ("large", "paper"):
        raise InputError(f"--protocol must be large or paper, got {protocol!r}")
    if protocol == "paper" and num_tasks not in (None, 1000):
        raise InputError(f"--num-tasks must be 1000 with --protocol paper, got {num_tasks}")
    count = num_tasks if num_tasks is not None else 1000 if protocol == "paper" else 10_000
    check_num_tasks(count)
    check_file("--json", json_file)
    chosen = select_agents(parsed, None if agents is None else names(agents))
    if len({folder.resolve() for folder in run or []}) < len(run or []):
        raise InputError("--run: a folder is given twice")
    trained = run_contenders([open_run(folder) for folder in run or []], parsed)
    trained += [shipped_contender(recipe, parsed) for recipe in names(shipped or "")]
    if not chosen and not trained:
        raise InputError("--agents: nothing to compare; name agents, runs with --run, or recipes with --shipped")
    result = compare_with_progress(parsed, chosen, trained, count, seed, protocol, console, engine)
    if json_file is not None:
        write_comparison(json_file, result.rows, result.tests)
    typer.echo(f"{parsed.name}, seed {seed}")
    for row in sorted(result.rows, key=lambda row: -row.mean):
        mark = "*" if row.not_below_best else " "
        typer.echo(f"{mark} {row.agent:<24}{format_score(row.mean, row.standard_error)}, {row.num_tasks} tasks")
    typer.echo("* best, or not significantly below the best (one-sided t-test, p >= 0.05, each test on its own).")
    if len(result.tests) > 1:
        different = sum(test.p_holm < 0.05 for test in result.tests)
        typer.echo(f"After Holm's adjustment for all pairs, {different} of {len(result.tests)} differ at 0.05.")


def limits(
    task: Annotated[str, typer.Argument(help="bandit:k=5,n=10 or mdp:n=10 (s=, a=, t= optional).")],
    num_tasks: Annotated[int, typer.Option(help="Tasks on which the best known policy is played.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the tasks, and of bounds that are sampled.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a list with one row here.")] = None,
) -> None:
    """The most that any agent can score: exact where that can be computed, else an upper bound."""
    from rl2jax.envs.names import parse_task
    from rl2jax.results.limit_rows import limit_row
    from rl2jax.results.rows import write_rows

    check_seed(seed)
    parsed = parse_task(task)
    check_file("--json", json_file)
    check_num_tasks(num_tasks, least=2)
    row = limit_row(parsed, num_tasks, seed)
    if json_file is not None:
        write_rows(json_file, [row])
    if row.exact is not None:
        typer.echo(f"{row.task}: Bayes-optimal value {row.exact:.6f} ({row.method})")
    else:
        error = row.upper_bound_standard_error
        typer.echo(f"{row.task}: no agent exceeds {row.upper_bound:.3f} +- {error:.3f} ({row.method})")
    typer.echo(
        f"best known policy: {row.best_policy}, {row.best_policy_mean:.3f} "
        f"+- {row.best_policy_standard_error:.3f} over {num_tasks} tasks"
    )


def twin_check(
    task: Annotated[str, typer.Argument(help="maze:size=5, maze:size=9 (t=, thin=, turn= optional).")] = "maze:size=5",
    steps: Annotated[int, typer.Option(help="Random steps.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the steps.")] = 0,
) -> None:
    """Replay random actions in ViZDoom and in its twin: poses must be the same, frames nearly so."""
    from rl2jax.engines.vizdoom.twin_check import twin_check as check
    from rl2jax.envs.names import parse_task
    from rl2jax.runs.progress import progress_bar

    check_seed(seed)
    parsed = parse_task(task)
    find_engine("vizdoom", parsed.env)
    if steps < 1:
        raise InputError(f"--steps must be >= 1, got {steps}")
    with progress_bar(console) as progress:
        bar = progress.add_task("replaying", total=steps, note="")
        report = check(parsed.env, steps, seed, progress=lambda done: progress.update(bar, completed=done))
    typer.echo(
        f"{parsed.name}, {report.steps} steps, seed {seed}: {report.pose_mismatches} poses and "
        f"{report.reward_mismatches} rewards differ; frames differ by {report.mean_frame_error:.3f} of 255 on average, "
        f"by {report.max_frame_error:.2f} at most"
    )
    alike = report.mean_frame_error < _MEAN_FRAME_ERROR and report.max_frame_error < _MOST_FRAME_ERROR
    if report.pose_mismatches or report.reward_mismatches or not alike:
        raise typer.Exit(1)
