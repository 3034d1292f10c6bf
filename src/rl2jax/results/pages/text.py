"""Tables as text: for the terminal, Markdown, LaTeX, CSV."""

import csv
import io
from itertools import groupby

import rich.console
import rich.table

from rl2jax.results.pages.tables import Cell, Section, Table

FORMATS = ("terminal", "markdown", "latex", "csv")


def _published(cell: Cell | None) -> str:
    """The paper's number as it is printed there."""
    return "" if cell is None or cell.published is None else f"{cell.published:g}"


def to_terminal(table: Table) -> rich.console.Group:
    """A rich table for each section: ours, below it the paper's; bold by the test."""
    shown = []
    for section in table.sections:
        title = ": ".join(filter(None, (section.heading, section.title))) or table.title
        grid = rich.table.Table(title=title, caption="second line: the paper" if section.has_published else None)
        for place, heading in enumerate(section.head):
            grid.add_column(heading, justify="right" if place else "left", no_wrap=place == 0)
        for line, cells in section.grid():
            grid.add_row(line.heading, *(_rich(section, cell) for cell in cells), *section.shares(line))
        shown.append(grid)
    return rich.console.Group(*shown, *(f"- {note}" for note in table.notes))


def _rich(section: Section, cell: Cell | None) -> str:
    if cell is None:
        return ""
    ours = f"[bold]{section.score_text(cell)}[/bold]" if cell.bold else section.score_text(cell)
    return f"{ours}\n[dim]{_published(cell)}[/dim]" if _published(cell) else ours


def to_markdown(table: Table) -> str:
    """Markdown: ours with standard error, the paper's in parentheses, bold by the test, published lines slanted."""
    parts = [f"### {table.title}"]
    for heading, sections in groupby(table.sections, key=lambda section: section.heading):
        parts += [f"#### {heading}"] if heading else []
        for section in sections:
            lines = [section.head, ["---", *["---:"] * (len(section.head) - 1)]]
            for line, cells in section.grid():
                label = line.heading if line.is_ours else f"*{line.heading}*"
                lines.append([label, *(_markdown(section, cell) for cell in cells), *section.shares(line)])
            parts += [f"{section.title}:"] if section.title else []
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    legend = ["In parentheses: the paper's number."] if any(s.has_published for s in table.sections) else []
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in [*legend, *table.notes])]) + "\n"


def _markdown(section: Section, cell: Cell | None) -> str:
    if cell is None:
        return ""
    ours = f"**{section.score_text(cell)}**" if cell.bold else section.score_text(cell)
    return f"{ours} ({_published(cell)})" if _published(cell) else ours


def _latex(text: str) -> str:
    for old, new in {"%": r"\%", "ε": r"$\varepsilon$", "²": r"\textsuperscript{2}", "±": r"$\pm$", "–": "--"}.items():
        text = text.replace(old, new)
    return text


def to_latex(table: Table) -> str:
    """Tables in booktabs' style; the document needs that package."""
    lines = []
    for section in table.sections:
        lines += [f"% {_latex(text)}" for text in (section.heading, section.title) if text]
        head = _latex(" & ".join(section.head)) + r" \\"
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(section.head) - 1)}}}", r"\toprule", head, r"\midrule"]
        for line, cells in section.grid():
            texts = ["" if cell is None else _latex(section.score_text(cell)) for cell in cells]
            ours = [rf"\textbf{{{t}}}" if c is not None and c.bold else t for c, t in zip(cells, texts, strict=True)]
            label = _latex(line.heading) if line.is_ours else rf"\emph{{{_latex(line.heading)}}}"
            lines.append(" & ".join([label, *ours, *map(_latex, section.shares(line))]) + r" \\")
            if section.has_published:
                paper = [f"({_published(cell)})" if _published(cell) else "" for cell in cells]
                lines.append(" & ".join(["", *paper, *([""] if section.has_shares else [])]) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {_latex(str(note))}" for note in table.notes)]) + "\n"


def to_csv(table: Table) -> str:
    """A line for each cell: its place by the table's axes, then numbers; those of published lines are `published`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*table.axes, "mean", "standard_error", "published", "bold", "share_of_limit"])
    for section in table.sections:
        for name, line in section.lines.items():
            for column, cell in line.cells.items():
                mean, published = (cell.mean, cell.published) if line.is_ours else (None, cell.mean)
                if mean is not None or published is not None:
                    values = (mean, cell.standard_error, published, int(cell.bold), cell.of_limit)
                    place = [*section.key, name, column]
                    writer.writerow([*place, *("" if value is None else value for value in values)])
    return text.getvalue()
