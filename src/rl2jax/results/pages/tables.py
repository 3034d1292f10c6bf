"""The paper's tables beside ours, as text; reads rows only."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import rich.table

from rl2jax.envs.names import read_name
from rl2jax.kinds import KINDS, find_kind
from rl2jax.results.published import PAPERS_BATCH, RECIPE_COLUMNS, TABLES, TRAINED, PublishedTable, agent_name
from rl2jax.results.rows import read_rows

Row = dict[str, Any]
FORMATS = ("terminal", "markdown", "latex", "csv")
# Rows that are not the paper's columns, in the order in which they are shown after them.
LIMIT = "limit"
PAPERS_PRESETS = ("paper", "paper-first-order")
_ONE_SIDED = NormalDist().inv_cdf(0.95)


class Cell(NamedTuple):
    """One entry of a table.

    Attributes:
      mean: ours; None where there is no row.
      standard_error: of the mean; None for a value without one.
      published: the paper's; None where the paper has none.
      bold: best, or not significantly below the best of its line.
      of_limit: mean as a share of the line's limit; None without one.
      note: a mark to be explained below the table, such as fewer tasks.
    """

    mean: float | None
    standard_error: float | None = None
    published: float | None = None
    bold: bool = False
    of_limit: float | None = None
    note: str = ""


class Table(NamedTuple):
    """A table, before any format.

    Attributes:
      title: what it shows.
      columns: agent -> heading.
      lines: task -> agent -> cell.
      notes: sentences below the table.
    """

    title: str
    columns: dict[str, str]
    lines: dict[str, dict[str, Cell]]
    notes: list[str]


def read_results(folder: Path) -> list[Row]:
    """All rows of a folder's JSON files; files of tests and of other things beside them are skipped.

    Raises:
      ValueError: if there is no such folder, a file in it is not JSON, or a row in it is damaged.
    """
    if not folder.is_dir():
        raise ValueError(f"--results must be a folder with rows, got {str(folder)!r}")
    return [row for path in sorted(folder.glob("*.json")) for row in read_file(path)]


def read_file(path: Path) -> list[Row]:
    """The rows of one JSON file, as `read_results`."""
    try:
        content = read_rows(path)
    except ValueError as error:
        raise ValueError(f"--results: {error}") from None
    if not isinstance(content, list):
        return []
    rows = []
    for number, row in enumerate(content, 1):
        if not (isinstance(row, dict) and {"task", "agent"} <= row.keys()):
            continue
        if "mean" not in row:
            if "standard_error" in row:
                raise ValueError(f"--results: {path}, row {number}: mean is missing")
            continue
        for name, allowed, is_allowed in _FIELDS:
            if name in row and not is_allowed(row[name]):
                raise ValueError(f"--results: {path}, row {number}: {name} must be {allowed}, got {row[name]!r:.60}")
        rows.append(row)
    return rows


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


# What tables and figures compute with: (field, what is allowed, whether a value is).
_FIELDS: list[tuple[str, str, Callable[[Any], bool]]] = [
    ("task", "a text", lambda x: isinstance(x, str)),
    ("agent", "a text", lambda x: isinstance(x, str)),
    ("mean", "a finite number", _is_number),
    ("standard_error", "a number >= 0, or null", lambda x: x is None or (_is_number(x) and x >= 0)),
    ("num_tasks", "a whole number >= 1", lambda x: isinstance(x, int) and x >= 1),
    ("seed", "a whole number", lambda x: isinstance(x, int)),
    ("training_seed", "a whole number", lambda x: isinstance(x, int)),
    ("reward_curve", "a list of numbers", lambda x: isinstance(x, list) and all(map(_is_number, x))),
    ("significantly_better", "a list of agents", lambda x: isinstance(x, list) and all(isinstance(a, str) for a in x)),
]


def best_documented(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """(task, agent) -> row; of several one of the paper's preset, then over the most tasks, then the first seed."""
    chosen: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = (row["task"], row["agent"])
        if place not in chosen or _rank(row) > _rank(chosen[place]):
            chosen[place] = row
    return chosen


def _rank(row: Row) -> tuple[bool, int, int]:
    return row.get("preset") in PAPERS_PRESETS, row.get("num_tasks", 0), -row.get("training_seed", 0)


def opponents(rows: list[Row], task: str) -> dict[str, Row]:
    """What a trained agent's score on a task is held against, of what there are rows.

    Args:
      rows: as from `read_results`.
      task: its name.

    Returns:
      {"best_reference": {"agent", "mean"}, of those that need no training, "limit": {"method", "mean"}}.
    """
    chosen = {agent: row for (of, agent), row in best_documented(rows).items() if of == task}
    limit = chosen.pop(LIMIT, None)
    untrained = [row for row in chosen.values() if "trained_on" not in row]
    found = {}
    if untrained:
        best = max(untrained, key=lambda row: row["mean"])
        found["best_reference"] = {"agent": best["agent"], "mean": best["mean"]}
    if limit is not None:
        found["limit"] = {"method": limit["method"], "mean": limit["mean"]}
    return found


def build_table(number: int, rows: list[Row], *, everything: bool = False) -> Table:
    """The paper's table `number` from rows; lines without any row are left out.

    Args:
      number: 1 or 2.
      rows: as from `read_results`.
      everything: also the agents that the paper does not have.

    Raises:
      ValueError: if there is no such table.
    """
    if number not in TABLES:
        raise ValueError(f"table must be one of {', '.join(map(str, TABLES))}, got {number}")
    published = TABLES[number]
    chosen = best_documented(rows)
    present = {agent for task, agent in chosen if task in published.scores}
    columns = published.columns | {agent: head for agent, head in RECIPE_COLUMNS.items() if agent in present}
    extra = sorted(present - {*columns, LIMIT})
    if everything:
        columns |= {agent: agent_name(agent) for agent in extra}
    columns[LIMIT] = "limit"
    lines, notes = {}, []
    for task in published.scores:
        found = {agent: chosen[task, agent] for agent in columns if (task, agent) in chosen}
        if not found:
            continue
        most = max((row.get("num_tasks", 0) for agent, row in found.items() if agent != LIMIT), default=0)
        limit = found.get(LIMIT, {}).get("mean")
        best = _best(found, [row for row in rows if row["task"] == task])
        lines[task] = {
            agent: _cell(agent, found.get(agent), published.scores[task].get(agent), limit, agent in best)
            for agent in columns
        }
        for agent, row in found.items():
            if agent != LIMIT and row.get("num_tasks", 0) < most:
                notes.append(f"{columns[agent]}, {short(task)}: {row['num_tasks']} tasks, the others {most}.")
            if (part := trained_part(row)) is not None:
                notes.append(f"{columns[agent]}, {short(task)}: after {part[0]} of {part[1]} iterations.")
            if cuts := shortcuts(row):
                listed = " and ".join([", ".join(cuts[:-1]), cuts[-1]] if len(cuts) > 1 else cuts)
                notes.append(f"{columns[agent]}, {short(task)}: trained with {listed}.")
    notes += _provenance(lines, chosen, published)
    return Table(published.title, columns, lines, notes)


def trained_part(row: Row) -> tuple[int, int] | None:
    """(iterations done, iterations of its settings) of an agent whose training was not finished; else None."""
    done, wanted = row.get("iteration"), row.get("hyperparameters", {}).get("iterations")
    return (done, wanted) if done is not None and wanted is not None and done < wanted else None


def shortcuts(row: Row) -> list[str]:
    """What made the training of an agent by the paper's recipe cheaper than the recipe is; of other agents nothing."""
    if row["agent"] != "rl2_paper" and row.get("preset") not in PAPERS_PRESETS:
        return []
    settings, cuts = row.get("hyperparameters", {}), []
    if (steps := settings.get("batch.size", PAPERS_BATCH)) < PAPERS_BATCH:
        cuts.append(f"batches of {steps} steps")
    if (share := settings.get("trpo.fisher_fraction", 1.0)) < 1:
        cuts.append(f"Fisher products of {share:g} of the trials")
    if settings.get("network.matmul_precision") == "bfloat16":
        cuts.append("products rounded to bfloat16")
    return cuts


def _best(line: dict[str, Row], rows: list[Row]) -> set[str]:
    """Of the agents that are shown, those that none of them is significantly better than; none without tests.

    An agent may have been in several comparisons (`rows`, of one task): it is below whatever beat it in one of them.
    Agents that never met are held against each other by their means and standard errors.
    """
    tested = {agent: row for agent, row in line.items() if "significantly_better" in row}
    if not tested:
        return set()
    better: dict[str, set[str]] = {agent: set() for agent in tested}
    for row in rows:
        shown = tested.get(row["agent"])
        if shown is not None and row.get("parameters_sha256") == shown.get("parameters_sha256"):  # the same agent
            better[row["agent"]].update(row.get("significantly_better", []))
    for agent, row in tested.items():
        better[agent] |= {other for other in tested if _is_above(tested[other], row)}
    return {agent for agent, names in better.items() if not names & tested.keys()}


def _is_above(row: Row, other: Row) -> bool:
    """Whether a mean is significantly larger than another, one-sided and unpaired.

    On common tasks, where scores rise and fall together, this finds less than a test in pairs, and nothing else.
    """
    error, other_error = row.get("standard_error"), other.get("standard_error")
    if error is None or other_error is None:
        return False
    return row["mean"] - other["mean"] > _ONE_SIDED * math.hypot(error, other_error)


def _cell(agent: str, row: Row | None, published: float | None, limit: float | None, bold: bool) -> Cell:
    if row is None:
        return Cell(None, published=published)
    of_limit = None if limit is None or agent == LIMIT else row["mean"] / limit
    return Cell(row["mean"], row.get("standard_error"), published, bold, of_limit)


def _provenance(lines: dict[str, Any], chosen: dict[tuple[str, str], Row], published: PublishedTable) -> list[str]:
    notes = []
    trained = [row for (task, _), row in chosen.items() if task in lines and "training_seed" in row]
    for how, seed in sorted(
        {(row.get("preset") or row.get("recipe"), row["training_seed"]) for row in trained}, key=str
    ):
        notes.append(f"RL² trained with {'settings of its own' if how is None else f'preset {how}'}, seed {seed}.")
    protocols = {row.get("protocol") for (task, agent), row in chosen.items() if task in lines and agent != LIMIT}
    if "large" in protocols:
        notes.append(
            "Bold: no other agent of the line is significantly better (one-sided paired t-test on common tasks, of two "
            "agents that were never compared an unpaired test of their means; p < 0.05, not adjusted for the number of "
            "agents)."
        )
    if "paper" in protocols:
        notes.append("Bold, paper's protocol: the same with an unpaired t-test on 1000 tasks.")
    return notes


def short(task: str) -> str:
    """A task's name without its kind and the paper's MDP sizes: "k=5, n=10" or "n=10"; for people."""
    kind, settings = read_name(task)
    return kind.title(settings)


def readable_tasks(text: str) -> str:
    """A text for people: names of tasks in it as words, "bandit, k=5, n=10" for "bandit:k=5,n=10"."""
    pattern = rf"\b({'|'.join(KINDS)}):(\w+=\w+(?:,\w+=\w+)*)"
    return re.sub(pattern, lambda found: f"{find_kind(found[1]).words}, {short(found[0])}", text)


def decimals(cell: Cell) -> int:
    """Digits after the point that a cell's standard error supports: its first two, at most 3."""
    if cell.standard_error is None or cell.standard_error <= 0:
        return 3
    return min(3, max(0, 1 - math.floor(math.log10(cell.standard_error))))


def score_text(cell: Cell) -> str:
    """The mean and its standard error, as many digits as the error supports."""
    if cell.mean is None:
        return "–"
    digits = decimals(cell)
    error = f" ± {cell.standard_error:.{digits}f}" if cell.standard_error else ""  # exact values have none
    return f"{cell.mean:.{digits}f}{error}"


def _shown_columns(table: Table) -> list[str]:
    """The limit only where a line has one."""
    return [
        agent for agent in table.columns if agent != LIMIT or any(line[LIMIT].mean for line in table.lines.values())
    ]


def trained_share(line: dict[str, Cell]) -> str:
    """Percent of the limit, of the trained agents of a line in the order of its columns."""
    shares = [line[agent].of_limit for agent in TRAINED if agent in line]
    return " / ".join("–" if share is None else f"{100 * share:.2f}" for share in shares) or "–"


def to_terminal(table: Table) -> rich.table.Table:
    """A rich table: ours, below it the paper's; bold by the test."""
    agents = _shown_columns(table)
    shown = rich.table.Table(title=table.title, caption="\n".join(["second line: the paper", *table.notes]))
    shown.add_column("setup", no_wrap=True)
    for heading in [*(table.columns[agent] for agent in agents), "% of limit"]:
        shown.add_column(heading, justify="right")
    for task, line in table.lines.items():
        texts = []
        for agent in agents:
            cell = line[agent]
            ours = f"[bold]{score_text(cell)}[/bold]" if cell.bold else score_text(cell)
            texts.append(ours if cell.published is None else f"{ours}\n[dim]{cell.published:g}[/dim]")
        shown.add_row(short(task), *texts, trained_share(line))
    return shown


def to_markdown(table: Table) -> str:
    """A Markdown table: ours with standard error, the paper's below in parentheses, bold by the test."""
    agents = _shown_columns(table)
    header = ["setup", *(table.columns[agent] for agent in agents), "RL², % of limit"]
    body = []
    for task, line in table.lines.items():
        texts = []
        for agent in agents:
            cell = line[agent]
            text = f"**{score_text(cell)}**" if cell.bold else score_text(cell)
            texts.append(text if cell.published is None else f"{text} ({cell.published:g})")
        body.append([short(task), *texts, trained_share(line)])
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    notes = "\n".join(f"- {note}" for note in ["In parentheses: the paper's number.", *table.notes])
    return f"### {table.title}\n\n{text}\n\n{notes}\n"


def _latex(text: str) -> str:
    for old, new in {"%": r"\%", "ε": r"$\varepsilon$", "²": r"\textsuperscript{2}", "±": r"$\pm$", "–": "--"}.items():
        text = text.replace(old, new)
    return text


def to_latex(table: Table) -> str:
    """A table in booktabs' style; the document needs that package."""
    agents = _shown_columns(table)
    head = " & ".join(["setup", *(table.columns[agent] for agent in agents), "RL², % of limit"])
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(agents) + 1)}}}", r"\toprule", _latex(head) + r" \\", r"\midrule"]
    for task, line in table.lines.items():
        ours = [_latex(score_text(line[agent])) for agent in agents]
        ours = [rf"\textbf{{{text}}}" if line[agent].bold else text for agent, text in zip(agents, ours, strict=True)]
        paper = ["" if line[agent].published is None else f"({line[agent].published:g})" for agent in agents]
        share = _latex(trained_share(line))
        lines += [" & ".join([short(task), *ours, share]) + r" \\", " & ".join(["", *paper, ""]) + r" \\"]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {_latex(note)}" for note in table.notes)]) + "\n"


def to_csv(table: Table) -> str:
    """One line per setup and agent: task, agent, mean, standard_error, published, bold, share_of_limit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "agent", "mean", "standard_error", "published", "bold", "share_of_limit"])
    for task, line in table.lines.items():
        for agent, cell in line.items():
            if cell.mean is not None or cell.published is not None:
                values = (cell.mean, cell.standard_error, cell.published, int(cell.bold), cell.of_limit)
                writer.writerow([task, agent, *("" if value is None else value for value in values)])
    return text.getvalue()
