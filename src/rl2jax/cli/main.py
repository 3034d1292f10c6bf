"""The command line: train. What plays is in play.py, what only shows files in show.py."""

import sys
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console

from rl2jax import xla
from rl2jax.cli import play as cli_scores
from rl2jax.cli import show as cli_results
from rl2jax.cli.options import ENGINE_HELP, TASK_HELP, check_seed, console
from rl2jax.engines.base import DEVICE, find_engine
from rl2jax.runs import processes
from rl2jax.settings import InputError, UserError, name_of

app = typer.Typer(
    help="Learning to reinforcement learn (RL^2) on JAX: train a recurrent policy over a distribution of tasks; "
    "its activations become the learner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


# The options of train.
_Task = Annotated[str, typer.Argument(help=TASK_HELP)]
_Out = Annotated[Path, typer.Option(help="Folder of the run; new or empty, or with --resume an earlier run's.")]
_Preset = Annotated[
    str | None,
    typer.Option(
        help="paper (default; the paper's numbers), paper-first-order, cpu (for a laptop), quick (minutes), "
        "wang (A2C with an LSTM); or a recipe beyond the paper's, trained in stages in OUT: best-scratch, best."
    ),
]
_Algorithm = Annotated[
    str | None,
    typer.Option(help="trpo, ppo, a2c or imitation (with --set imitation.teacher=AGENT); default as preset."),
]
_Iterations = Annotated[int | None, typer.Option(help="Training iterations; default as the preset says.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override any field of TrainConfig."),
]
_Seed = Annotated[int | None, typer.Option(help="Seed of everything random (default 0).")]
_Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out to the same result.")]
_Start = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Run whose parameters the new one starts from; or RECIPE/NAME of a shipped agent."
    ),
]
_Engine = Annotated[str, typer.Option(help=ENGINE_HELP + " A resumed run may change it.")]
_CheckpointMinutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
_Devices = Annotated[
    int | None,
    typer.Option(
        help="Devices of this machine (of a processor, cores) that share the batch; default as many as divide it."
    ),
]
_NumSeeds = Annotated[
    int | None, typer.Option(help="Train this many seeds, from --seed on, at once; a run each in OUT/seed-S.")
]
_Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIELD=VALUE,VALUE",
        help="Train with each value of a number at once; a run each in OUT/FIELD=VALUE.",
    ),
]
_Coordinator = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Train with other processes; where process 0 listens.")
]
_NumProcesses = Annotated[int | None, typer.Option(help="With --coordinator: how many processes.")]
_ProcessId = Annotated[int | None, typer.Option(help="With --coordinator: which this is, from 0.")]
_Distributed = Annotated[
    bool, typer.Option("--distributed", help="Train with the processes that SLURM or Open MPI started.")
]


class _Wanted(NamedTuple):
    """What `train` was asked for; fields are its options."""

    task: str
    out: Path
    preset: str | None
    algorithm: str | None
    iterations: int | None
    set_: list[str]
    seed: int | None
    resume: bool
    start: str | None
    engine: str
    checkpoint_minutes: float
    devices: int | None
    num_seeds: int | None
    vary: list[str]
    several: bool

    @property
    def many(self) -> bool:
        """Whether several trainings are one program."""
        return self.num_seeds is not None or bool(self.vary)


@app.command()
def train(
    task: _Task,
    out: _Out,
    preset: _Preset = None,
    algorithm: _Algorithm = None,
    iterations: _Iterations = None,
    set_: _Set = None,
    seed: _Seed = None,
    resume: _Resume = False,
    start: _Start = None,
    engine: _Engine = DEVICE,
    checkpoint_minutes: _CheckpointMinutes = 5.0,
    devices: _Devices = None,
    num_seeds: _NumSeeds = None,
    vary: _Vary = None,
    coordinator: _Coordinator = None,
    num_processes: _NumProcesses = None,
    process_id: _ProcessId = None,
    distributed: _Distributed = False,
) -> None:
    """Train an agent; Ctrl-C saves and exits, --resume continues to the same bits."""
    check_seed(seed)
    if not checkpoint_minutes >= 0:
        raise InputError(f"--checkpoint-minutes must be >= 0 (0: after every chunk), got {checkpoint_minutes:g}")
    several = distributed or not (coordinator is num_processes is process_id is None)
    _check_together(num_seeds, vary, seed, several)
    xla.split_processor(devices)
    processes.join(coordinator, num_processes, process_id, distributed)  # before imports that start JAX's backend
    from rl2jax.training.recipes import RECIPES

    wanted = _Wanted(
        *(task, out, preset, algorithm, iterations, set_ or [], seed, resume, start, engine, checkpoint_minutes),
        *(devices, num_seeds, vary or [], several),
    )
    if preset in RECIPES:
        _refuse_with_recipe(preset, wanted)
        _train_recipe(task, out, preset, seed or 0, resume, checkpoint_minutes)
    else:
        _train(wanted)


def _train(wanted: _Wanted) -> None:
    """Prepares runs, says what is trained, trains, and says how it ended."""
    from rl2jax.runs.many import train_seeds_with_progress
    from rl2jax.runs.progress import train_with_progress

    with processes.together("preparing the run"):
        changes, settings = _changes(wanted)
        if wanted.resume:
            runs, mesh = _earlier_runs(wanted, changes, settings)
        else:
            runs, mesh = _new_runs(wanted, changes, settings)
    shown = console if processes.is_first() else Console(quiet=True)
    _announce(wanted, runs, mesh, settings, shown)
    options: Any = {"resume": wanted.resume, "checkpoint_minutes": wanted.checkpoint_minutes}
    if wanted.many:
        finished = train_seeds_with_progress(runs, mesh, shown, **options)
    else:
        finished = train_with_progress(runs[0]._replace(engine=wanted.engine), shown, **options)
    if not finished:
        shown.print(_stopped(runs[0]))
        return
    if wanted.vary:
        shown.print(_last_returns(runs, settings))
    shown.print(f"done; now `rl2jax evaluate {runs[0].folder} --num-tasks 10000`")


def _changes(wanted: _Wanted) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """(settings that options change, those of each member of a sweep); refused before a folder is made."""
    from rl2jax.envs.names import parse_task
    from rl2jax.training.config import parse_overrides
    from rl2jax.training.sweeps import parse_settings

    parsed = parse_task(wanted.task)
    base = _settings_before(wanted.out, parsed, wanted.preset, wanted.resume)
    if wanted.algorithm is not None:
        base = base.replace({"slow_rl": wanted.algorithm})
    changes: dict[str, Any] = parse_overrides(wanted.set_, base)
    for option, name, value in (
        ("--algorithm", "slow_rl", wanted.algorithm),
        ("--iterations", "iterations", wanted.iterations),
    ):
        if value is not None and changes.setdefault(name, value) != value:
            raise InputError(f"{option} {value} and --set {name}={changes[name]} contradict each other; give one")
    config = base.replace(changes)
    alone = not (wanted.many or wanted.several)
    find_engine(wanted.engine, parsed.env, lane_steps=config.batch.lane_steps, alone=alone)
    if wanted.start is not None and (wanted.resume or wanted.many):
        raise InputError("--start is for one new run: it cannot be combined with --resume, --num-seeds or --vary")
    settings = parse_settings(wanted.vary, config)
    for name in (name for name in settings[0] if name in changes):
        raise InputError(f"--vary {name} and --set {name}={changes[name]} contradict each other; give one")
    return changes, settings


def _announce(wanted: _Wanted, runs: list[Any], mesh: Any, settings: list[dict[str, float]], shown: Console) -> None:
    """Says what is trained, and on which devices."""
    from rl2jax.devices import SEEDS, TRIALS, describe

    learner, config = runs[0].learner, runs[0].config
    rows = "lanes" if config.batch.lane_steps else TRIALS
    network = f"{config.network.title}-{config.network.units}"
    seeds = f"seed {runs[0].seed}" if wanted.num_seeds is None else f"seeds {runs[0].seed} to {runs[-1].seed}"
    varied = f"{len(settings)} settings of {', '.join(settings[0])}, " if wanted.vary else ""
    shown.print(
        f"{runs[0].task.name}  {name_of(config.slow_rl)}, {config.iterations} iterations of "
        f"{learner.num_trials} {rows} x {learner.lane_steps} steps, {network}, {varied}{seeds}, in {wanted.out}"
    )
    shared = (len(runs), "trainings" if wanted.vary else SEEDS) if wanted.many else (learner.num_trials, rows)
    if used := describe(mesh, *shared):
        shown.print(used)


def _settings_before(out: Path, task: Any, preset: str | None, resume: bool) -> Any:
    """The settings that --set changes: the preset's, or of a resumed run its own."""
    from rl2jax.runs.run import RUN_FILE, open_run
    from rl2jax.training.presets import preset_for

    folders = [path.parent for path in (out / RUN_FILE, *sorted(out.glob(f"**/{RUN_FILE}"))) if path.exists()]
    if resume and preset is None and folders:
        return open_run(folders[0]).config
    return preset_for(task, preset or "paper")


def _last_returns(runs: list[Any], settings: list[dict[str, float]]) -> Any:
    """A table of what each setting's trainings had at last: the mean over a tenth of the iterations, and over seeds."""
    import numpy as np
    from rich.table import Table

    from rl2jax.runs.session import read_metrics

    last = max(1, runs[0].config.iterations // 10)
    num_seeds = len(runs) // len(settings)
    table = Table(*settings[0], "mean return", title=f"in training, mean of the last {last} of the iterations")
    if num_seeds > 1:
        table.add_column("deviation of seeds")
    for number, setting in enumerate(settings):
        own = runs[number * num_seeds : (number + 1) * num_seeds]
        means = [np.mean([row["mean_return"] for row in read_metrics(run.folder)[-last:]]) for run in own]
        spread = [f"{np.std(means, ddof=1):.2f}"] if num_seeds > 1 else []
        table.add_row(*(f"{value:g}" for value in setting.values()), f"{np.mean(means):.2f}", *spread)
    return table


def _stopped(run: Any) -> str:
    """What is told of a session that a signal ended."""
    from rl2jax.runs.run import last_iteration

    if last_iteration(run) == 0:
        return "stopped before the first iteration was done, there was nothing to save; start again with --resume"
    return "stopped and saved; continue with --resume"


def _refuse_with_recipe(recipe: str, wanted: _Wanted) -> None:
    options = {
        "--algorithm": wanted.algorithm,
        "--iterations": wanted.iterations,
        "--set": wanted.set_ or None,
        "--devices": wanted.devices,
        "--engine": None if wanted.engine == DEVICE else wanted.engine,
        "--num-seeds": wanted.num_seeds,
        "--vary": wanted.vary or None,
        "--start": wanted.start,
        "--coordinator and --distributed": wanted.several or None,
    }
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(f"{given[0]} cannot be combined with --preset {recipe}, whose stages have their own settings")


def _train_recipe(task: str, out: Path, recipe: str, seed: int, resume: bool, checkpoint_minutes: float) -> None:
    """All stages, each a run of its own in `out`; what is done already is not done again."""
    from rl2jax.runs.stages import Interrupted, has_stages, train_recipe

    if resume and not has_stages(out, task, recipe):
        raise InputError(f"--out {out} holds no training by recipe {recipe}; leave --resume out to start one")
    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out} is not empty; continue what it holds with --resume, or choose another")
    try:
        options: Any = {"training_seed": seed, "console": console, "checkpoint_minutes": checkpoint_minutes}
        run = train_recipe(out, task, recipe, **options)
    except Interrupted:
        console.print("stopped and saved; continue with --resume")
        return
    console.print(f"done; now `rl2jax evaluate {run.folder} --num-tasks 10000`")


def _new_runs(wanted: _Wanted, changes: dict[str, Any], settings: list[dict[str, float]]) -> tuple[list[Any], Any]:
    """The run in `out`, or one for each seed and setting; and the devices that share its trials, or the runs."""
    from rl2jax.devices import SEEDS, TRIALS, choose_mesh
    from rl2jax.envs.names import parse_task
    from rl2jax.runs.many import create_seed_runs
    from rl2jax.runs.run import Run, create_run
    from rl2jax.training.presets import preset_for

    task, out, num_seeds, devices = wanted.task, wanted.out, wanted.num_seeds, wanted.devices
    seed = wanted.seed or 0
    parsed = parse_task(task)
    config = preset_for(parsed, wanted.preset or "paper").replace(changes)
    if config.trial.num_episodes != parsed.num_episodes:
        raise InputError(f"set the number of episodes in the task: n={config.trial.num_episodes} in {task!r}")
    if num_seeds is not None or settings[0]:
        mesh = choose_mesh((num_seeds or 1) * len(settings), SEEDS, devices)
        return create_seed_runs(out, parsed, config, seed, num_seeds, mesh, settings), mesh
    mesh = choose_mesh(Run(out, parsed, config, seed).learner.num_trials, TRIALS, devices)
    started_from = None if wanted.start is None else _start(wanted.start)
    return [create_run(out, parsed, config, seed, mesh, started_from)], mesh


def _start(text: str) -> Any:
    """The parameters of a run's folder, or else those of a shipped agent."""
    from rl2jax.runs.run import open_run, start_of
    from rl2jax.runs.shipped import RECIPES, start_of_agent

    recipe, _, name = text.partition("/")
    if name and recipe in RECIPES and not Path(text).exists():
        return start_of_agent(name, recipe)
    return start_of(open_run(Path(text)))


def _earlier_runs(wanted: _Wanted, changes: dict[str, Any], settings: list[dict[str, float]]) -> tuple[list[Any], Any]:
    """The same of runs that exist; refuses settings that differ from theirs."""
    from rl2jax.devices import SEEDS, TRIALS, choose_mesh
    from rl2jax.envs.names import parse_task
    from rl2jax.runs.many import open_seed_runs
    from rl2jax.runs.run import open_run
    from rl2jax.training.presets import preset_for

    out, seed, num_seeds, devices = wanted.out, wanted.seed, wanted.num_seeds, wanted.devices
    parsed = parse_task(wanted.task)
    many = num_seeds is not None or bool(settings[0])
    runs = open_seed_runs(out, seed, num_seeds, settings) if many else [open_run(out)]
    for number, run in enumerate(runs):
        setting, offset = settings[number // (num_seeds or 1)], number % (num_seeds or 1)
        now = (run.config if wanted.preset is None else preset_for(parsed, wanted.preset)).replace(
            {**changes, **setting}
        )
        _refuse_differences(run, parsed.name, now, run.seed if seed is None else seed + offset)
    if many:
        return runs, choose_mesh(len(runs), SEEDS, devices)
    mesh = choose_mesh(runs[0].learner.num_trials, TRIALS, devices)
    return [runs[0]._replace(mesh=mesh)], mesh


def _check_together(num_seeds: int | None, vary: list[str] | None, seed: int | None, several_processes: bool) -> None:
    """Refuses what many trainings in one program cannot do."""
    if num_seeds is not None:
        if num_seeds < 1:
            raise InputError(f"--num-seeds must be >= 1, got {num_seeds}")
        check_seed((seed or 0) + num_seeds - 1)
    if several_processes and (num_seeds is not None or vary):
        raise InputError(
            f"{'--vary' if vary else '--num-seeds'} trains in one process: leave out --coordinator and --distributed, "
            "and give each process seeds of its own (--seed) and an --out of its own"
        )


def _refuse_differences(run: Any, task: str, wanted: Any, seed: int) -> None:
    """A resumed run keeps its settings: raises ValueError naming the first that differs."""
    was = {"task": run.task.name, "seed": run.seed, **run.config.flat()}
    now = {"task": task, "seed": seed, **wanted.flat()}
    for name, value in was.items():
        if now.get(name) != value:
            raise InputError(
                f"--resume: {name} is {value!r} in {run.folder}, the command says {now.get(name)!r}; "
                "leave it out, or start a new run with another --out"
            )


for plays in (cli_scores.evaluate, cli_scores.ship, cli_scores.compare, cli_scores.limits):
    app.command()(plays)
app.command("twin-check")(cli_scores.twin_check)
for reads_rows in (cli_results.agents, cli_results.settings, cli_results.table, cli_results.figure, cli_results.report):
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
    xla.prepare()
    try:
        app(args=arguments)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if not is_for_the_user(error):
            raise
        typer.echo(f"rl2jax: error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


def is_for_the_user(error: Exception) -> bool:
    """Errors whose text was written for users: ours, and the operating system's."""
    return isinstance(error, UserError | OSError)
