"""Training under a progress bar."""

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rl2jax.runs.run import Run
from rl2jax.runs.session import train_run
from rl2jax.training.loop import ChunkReport


def progress_bar(console: Console) -> Progress:
    """A bar with rate, time left and the current return."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def train_with_progress(
    run: Run,
    console: Console,
    *,
    resume: bool,
    checkpoint_minutes: float = 5.0,
    until: Callable[[ChunkReport], bool] = lambda report: False,
) -> bool:
    """`train_run` under a progress bar, until `until` says True; returns whether all iterations are done."""
    with progress_bar(console) as progress:
        bar = progress.add_task("compiling", total=run.config.iterations, note="")

        def on_chunk(report: ChunkReport) -> bool:
            note = f"{report.steps_per_second:,.0f} steps/s  return {report.metrics.mean_return[-1]:.2f}"
            done = int(report.state.iteration)
            progress.update(bar, description="training", completed=done, note=note)
            return until(report)

        return train_run(run, resume=resume, checkpoint_minutes=checkpoint_minutes, on_chunk=on_chunk).finished
