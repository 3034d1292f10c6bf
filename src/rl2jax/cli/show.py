"""Commands that only show what is in files: agents, table, figure, report."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from rl2jax.cli.options import check_file
from rl2jax.settings import InputError


def agents(
    folder: Annotated[Path | None, typer.Option(help="Where ship --out wrote them; default the package's own.")] = None,
) -> None:
    """List the trained agents that rl2jax.load_agent loads, with their scores on fresh tasks."""
    from rl2jax.results.rows import format_score
    from rl2jax.runs.shipped import FOLDER, list_agents

    if folder is not None and not folder.is_dir():
        raise InputError(f"--folder must be a folder with shipped agents, got {str(folder)!r}")
    found = list_agents(folder)
    if not found:
        typer.echo(f"no agents in {folder or FOLDER}")
        return
    lines = [
        (
            agent.name,
            agent.recipe,
            format_score(agent.evaluation["mean"], agent.evaluation["standard_error"]).removesuffix(
                " (standard error)"
            ),
            _shares(agent.evaluation),
            f"{agent.environment_steps:,} steps",
            f"{agent.num_bytes / 1e6:.2f} MB",
        )
        for agent in found
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    typer.echo('Mean total reward of a trial +- standard error; load one with rl2jax.load_agent("NAME", "RECIPE").')


def _shares(evaluation: dict[str, Any]) -> str:
    """The mean, as shares of what it is held against."""
    names = {"best_reference": "{agent}", "limit": "the limit ({method})"}
    held = [(evaluation[kind], name) for kind, name in names.items() if kind in evaluation]
    return ", ".join(
        f"{100 * evaluation['mean'] / other['mean']:.2f}% of {name.format(**other)}" for other, name in held
    )


RESULTS_HELP = "Folder of rows, as written by compare --json and the experiments."


def table(
    number: Annotated[int, typer.Argument(help="1 (bandits), 2 (tabular MDPs) or 3 (mazes).")],
    results: Annotated[Path | None, typer.Option(help=RESULTS_HELP + " Default: experiments/results/tableN.")] = None,
    format_: Annotated[str, typer.Option("--format", help="terminal, markdown, latex or csv.")] = "terminal",
    everything: Annotated[bool, typer.Option("--all", help="Also agents that the paper does not have.")] = False,
) -> None:
    """The paper's table beside ours, from rows on disk only."""
    from rl2jax.results.pages import text
    from rl2jax.results.pages.papers import TABLES, build_table
    from rl2jax.results.rows import read_results
    from rl2jax.settings import require

    require(format_ in text.FORMATS, "--format", format_, f"one of {', '.join(text.FORMATS)}")
    require(number in TABLES, "table", number, f"one of {', '.join(map(str, TABLES))}")
    folder = _results(results, number)
    built = build_table(number, read_results(folder), everything=everything)
    if not built.sections:
        raise InputError(f"--results: {folder} has no row of table {number}")
    if format_ == "terminal":
        Console().print(text.to_terminal(built))
    else:
        write = {"markdown": text.to_markdown, "latex": text.to_latex, "csv": text.to_csv}[format_]
        typer.echo(write(built), nl=False)


def figure(
    number: Annotated[int, typer.Argument(help="2 (bandits) or 3 (tabular MDPs): normalised learning curves.")],
    results: Annotated[Path | None, typer.Option(help=RESULTS_HELP + " Default: experiments/results/tableN.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF file (default figureN.png).")] = None,
) -> None:
    """The paper's figure from our rows on disk."""
    from rl2jax.results.pages import figures
    from rl2jax.results.published import SCORES
    from rl2jax.results.rows import read_results

    figures_of = {published.figure: table for table, published in SCORES.items()}
    if number not in figures_of:
        raise InputError(f"figure must be one of {', '.join(map(str, figures_of))}, got {number}")
    out = out or Path(f"figure{number}.png")
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"--out must end in .png, .svg or .pdf, got {str(out)!r}")
    check_file("--out", out)
    rows = read_results(_results(results, figures_of[number]))
    figures.learning_curves(number, rows).savefig(out, dpi=200)
    typer.echo(f"written to {out}")


def _results(folder: Path | None, number: int) -> Path:
    return folder or Path("experiments/results") / f"table{number}"


def report(
    results: Annotated[
        Path, typer.Option(help="Folder of results, with table1, table2, ... in it, as the experiments write them.")
    ] = Path("experiments/results"),
    out: Annotated[Path | None, typer.Option(help="HTML file (default report.html in --results).")] = None,
) -> None:
    """All results on disk as one HTML page that opens offline, with a player of trials of the shipped agents."""
    from importlib.metadata import version

    from rl2jax.files import git_commit, write_atomically
    from rl2jax.results.pages.recordings import record_all
    from rl2jax.results.pages.report_page import build_report, require_results

    require_results(results)
    out = out or results / "report.html"
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {str(out)!r}")
    check_file("--out", out)
    recordings, missing = record_all(progress=lambda agent: typer.echo(f"recording trials of {agent}", err=True))
    made = f" {version('rl2jax')}, commit {git_commit() or 'unknown'}"
    built = build_report(results, recordings, missing, made)
    write_atomically(out, built.html)
    for sentence in (*missing, *built.left_out):
        typer.echo(sentence, err=True)
    typer.echo(f"written to {out}")


def settings(
    section: Annotated[
        str | None, typer.Argument(help="One section, such as ppo or network; default all of them.")
    ] = None,
) -> None:
    """List the settings that --set changes: type, default, what is allowed, what each means."""
    from rich.table import Table

    from rl2jax.settings import described, require_known
    from rl2jax.training.config import all_sections

    sections = all_sections()
    names = list(dict.fromkeys(name.partition(" ")[0] for name in sections))
    if section is not None:
        require_known(section, names, "section")
    console = Console()
    for name, kind in sections.items():
        if section not in (None, name.partition(" ")[0]):
            continue
        table = Table("setting", "type", "default", "allowed", "meaning", title=name, title_justify="left")
        for own, of_type, default, allowed, meaning in described(kind):
            prefix = f"{kind.section}." if kind.section else ""
            table.add_row(f"{prefix}{own}", of_type, default, allowed, meaning)
        console.print(table)
    console.print("Defaults are those of the paper's preset; presets and --set change them: --set ppo.clip_range=0.2")
