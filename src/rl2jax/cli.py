"""The command line: `rl2jax train`, `rl2jax evaluate`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rl2jax import host

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
            help="paper (default; the paper's numbers), paper-first-order, cpu (for a laptop), quick (minutes)."
        ),
    ] = None,
    algorithm: Annotated[str | None, typer.Option(help="trpo or ppo; default as the preset says.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Training iterations; default as the preset says.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Override any field of TrainConfig."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. [default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same result.")] = False,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
) -> None:
    """Train an agent; Ctrl-C saves and exits, --resume continues to the same bits."""
    from rl2jax.config import parse_overrides
    from rl2jax.experiment import train_with_progress
    from rl2jax.runs import create_run, open_run
    from rl2jax.tasks import parse_task

    parsed = parse_task(task)
    changes: dict[str, Any] = parse_overrides(set_ or [])
    changes |= {k: v for k, v in {"algorithm": algorithm, "iterations": iterations}.items() if v is not None}
    if resume:
        run = open_run(out)
        wanted = run.config.replace(**changes)
        if preset is not None:
            wanted = parsed.preset(preset).replace(**changes)
        _refuse_differences(run, parsed.name, wanted, run.seed if seed is None else seed)
    else:
        config = parsed.preset(preset or "paper").replace(**changes)
        if config.num_episodes != parsed.num_episodes:
            raise ValueError(f"set the number of episodes in the task: n={config.num_episodes} in {task!r}")
        run = create_run(out, parsed, config, seed or 0)
    learner, config = run.learner, run.config
    console.print(
        f"{run.task.name}  {config.algorithm}, {config.iterations} iterations of {learner.num_trials} trials "
        f"x {learner.trial.num_steps} steps, GRU-{config.gru_units}, seed {run.seed}, in {out}"
    )
    finished = train_with_progress(run, console, resume=resume, checkpoint_minutes=checkpoint_minutes)
    if not finished:
        console.print("stopped and saved; continue with --resume")
        return
    console.print(f"done; now `rl2jax evaluate {out} --num-tasks 10000`")


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

    run = open_run(run_folder)
    if json_file is not None and not json_file.parent.is_dir():
        raise ValueError(f"--json: the folder {json_file.parent} does not exist")
    row = evaluate_run(run, console, num_tasks=num_tasks, seed=seed, deterministic=deterministic)
    if json_file is not None:
        write_rows(json_file, [row])
    typer.echo(f"{row['task']}: mean total reward {format_score(row)}, {num_tasks} tasks, seed {seed}")


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
        if not _is_for_the_user(error):
            raise
        typer.echo(f"rl2jax: error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def _is_for_the_user(error: Exception) -> bool:
    """Errors whose text was written for users: ours, and the operating system's."""
    from rl2jax.checkpoint import CheckpointError
    from rl2jax.runs import RunError
    from rl2jax.train import NonFiniteError

    if isinstance(error, (CheckpointError, RunError, NonFiniteError, OSError)):
        return True
    # A ValueError of ours comes from a module of ours; one from inside JAX is a bug and keeps its traceback.
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    module = traceback.tb_frame.f_globals.get("__name__", "") if traceback else ""
    return isinstance(error, ValueError) and module.startswith("rl2jax")
