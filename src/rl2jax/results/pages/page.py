"""Self-contained HTML pages made of rows: tables, figures in both themes, how every number was made."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure

from rl2jax.envs.names import read_name
from rl2jax.results.pages import figures
from rl2jax.results.pages.figures import DARK, LIGHT
from rl2jax.results.pages.papers import TABLES, build_table
from rl2jax.results.pages.table3 import Picture
from rl2jax.results.pages.tables import Cell, FewerTasks, Section, Table, readable_tasks, score_text, short
from rl2jax.results.published import SCORES, TRAINED, agent_name
from rl2jax.results.rows import LIMIT, Row, ScoredRow, documented
from rl2jax.settings import InputError

FILES = Path(__file__).parent / "files"

# Letters as text, not as outlines: a third of the size.
_SVG: dict[Any, Any] = {"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"]}
# Pictures are drawn once: what is light in the one theme and dark in the other is a variable of the page's style. A map
# of colours has no such variables, so one is taken that is seen on both.
PAGE = LIGHT._replace(background=None, colour_map="cividis")
# Variable of the style -> its colour (light, dark).
_COLOURS = {"ink": (LIGHT.ink, DARK.ink), "line": (LIGHT.grid, DARK.grid)} | {
    f"c{number}": pair for number, pair in enumerate(zip(LIGHT.lines, DARK.lines, strict=True))
}


def svg(figure: matplotlib.figure.Figure, description: str) -> str:
    """A figure as an SVG element for a page, drawn with the theme `PAGE`.

    Its colours are the page's variables, with the light ones where there is no page. Coordinates keep two digits after
    the point, hundredths of a point: half the size.

    Args:
      figure: to be drawn.
      description: what it shows, for those who do not see it; different for every figure of a page.
    """
    text = io.StringIO()
    with matplotlib.rc_context({**_SVG, "svg.hashsalt": description}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    drawn = re.sub(r"<(metadata)>.*?</\1>|<defs>\s*</defs>", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawn))
    drawn = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", drawn)
    drawn = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", drawn)
    drawn = re.sub(r"<[^>]*>", lambda tag: _shorter(tag[0]), drawn)
    for name, (light, _) in _COLOURS.items():
        drawn = drawn.replace(light, f"var(--{name}, {light})")
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    drawn = re.sub(r">\s+<", "><", drawn.strip())
    return drawn.replace("<svg", f'<svg {namespaces} role="img" aria-label="{escape(description)}"', 1)


def _shorter(tag: str) -> str:
    rounded = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    return re.sub(r"\s+", " ", rounded)


def figure_element(content: str, description: str, caption: str = "") -> str:
    """Any picture with its caption (HTML); one that is wider than the screen can be moved under it."""
    return (
        f'<figure><div class="wide" tabindex="0" role="group" aria-label="{escape(description)}">{content}</div>'
        f"<figcaption>{caption or escape(description)}</figcaption></figure>"
    )


def how_made(rows: Iterable[Row]) -> str:
    """Of a figure's rows: over how many tasks, the largest standard error, the commands; HTML."""
    rows = list(rows)
    tasks = {row.num_tasks for row in rows}
    errors = [row.standard_error for row in rows if isinstance(row, ScoredRow) and row.standard_error]
    commands = list(dict.fromkeys(row.command for row in rows if row.command))
    texts = []
    if tasks:
        texts.append(f"Means over {_range(tasks)} tasks")
    if errors:
        texts.append(f"standard errors of the totals at most {max(errors):.2g}")
    if commands:
        others = len(commands) - 1
        more = f" and {others} other command{'s' if others > 1 else ''}" if others else ""
        texts.append(f"made by <code>{escape(commands[0])}</code>{more}")
    return "; ".join(texts) + "." if texts else ""


def embedded(path: Path, description: str, caption: str) -> str:
    """A picture on disk, inside the page; caption as HTML."""
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{path.suffix.removeprefix('.')};base64,{data}"
    return figure_element(f'<img alt="{escape(description)}" src="{source}">', description, caption)


def wide_table(caption: str, head: Iterable[str], lines: Iterable[str], *, is_shown: bool = True) -> str:
    """A table that can be moved under a narrow screen.

    Args:
      caption: what it shows; where it stands above the table anyway, for those who do not see.
      head: texts of the heading cells.
      lines: of the body, HTML.
      is_shown: whether the caption is.
    """
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    shown = f"<caption>{escape(caption)}</caption>" if is_shown else ""
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(caption)}"><table>{shown}'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def bullets(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _section(section: Section, caption: str) -> str:
    """A section as a table: ours, below it the standard error, below that the paper's."""
    body = []
    for line, cells in section.grid():
        texts = "".join("<td></td>" if cell is None else _cell(section, cell) for cell in cells)
        texts += "".join(f"<td>{share}</td>" for share in section.shares(line))
        label = escape(line.heading) if line.is_ours else f"<em>{escape(line.heading)}</em>"
        body.append(f'<tr><th scope="row">{label}</th>{texts}</tr>')
    return wide_table(caption, [section.corner or "agent", *section.head[1:]], body)


def _cell(section: Section, cell: Cell) -> str:
    names = " ".join(name for name, on in (("best", cell.bold), ("ours", cell.trained)) if on)
    error = section.error_text(cell)
    below = f"<small>± {error}</small>" if error else ""
    paper = "" if cell.published is None else f"<small><em>{cell.published:g}</em></small>"
    return f'<td class="{names}">{section.mean_text(cell)}{below}{paper}</td>'


def provenance(rows: Sequence[Row], name: Callable[[str], str] = agent_name) -> str:
    """How every number was made, one line a row, to be unfolded."""
    return f"<details><summary>{len(rows)} rows</summary>{rows_table(rows, name=name)}</details>"


def rows_table(
    rows: Sequence[Row], caption: str = "How each row was made", name: Callable[[str], str] = agent_name
) -> str:
    """Any rows: their scores, and how they were made.

    Args:
      rows: with task and agent.
      caption: for those who do not see what stands above.
      name: an agent's name for people.
    """
    lines = []
    one_kind = len({read_name(row.task)[0].name for row in rows}) == 1
    for row in rows:
        task = short(row.task) if one_kind else readable_tasks(row.task)
        score = score_text(row.mean, row.standard_error) if isinstance(row, ScoredRow) else ""
        seeds = ", ".join(str(seed) for seed in (row.seed, row.training_seed) if seed is not None)
        settings = escape(json.dumps(row.hyperparameters or {}))
        lines.append(
            f'<tr><th scope="row">{escape(task)}</th><td>{escape(name(row.agent))}</td>'
            f"<td>{score}</td><td>{row.num_tasks}</td><td>{seeds}</td>"
            f"<td>{escape(row.commit or '')}</td><td>{escape(row.preset or '')}</td>"
            f"<td><details><summary>settings</summary><code>{escape(row.command or '')} {settings}"
            "</code></details></td></tr>"
        )
    heads = ("setup", "agent", "score", "tasks", "seeds: tasks, training", "commit", "preset", "settings")
    return wide_table(caption, heads, lines, is_shown=False)


def table_parts(number: int, rows: Sequence[ScoredRow], level: int = 2, pictures: Iterable[Picture] = ()) -> list[str]:
    """What a page says of table `number`, from rows and pictures on disk alone.

    Scores come first, then what happens in training and inside a trial, pictures, and how every number was made.

    Args:
      number: one of `papers.TABLES`.
      rows: as from `rows.read_results`.
      level: of its headings.
      pictures: PNG or GIF files; those that do not exist are left out.

    Raises:
      ValueError: if there is no such table, or no row of it.
    """
    table, paper = build_table(number, rows), TABLES[number]
    if not table.sections:
        raise InputError(f"there is no row of table {number}")
    parts = []
    for heading, sections in groupby(table.sections, key=lambda section: section.heading):
        parts += [_heading(heading, level)] if heading else []
        parts += [_section(section, section.title or f"{table.title}. {_READING}") for section in sections]
    parts.append(bullets(map(readable_tasks, _notes(table))))
    if number in SCORES:
        parts += [*_beyond(number, table, rows, level), *_learning_curves(number, rows, level)]
        parts.append(_heading("Inside a trial", level))
        parts += [_inside(number, task, rows) for task in table.sections[0].lines]
    for text, how, path in pictures:
        if path.exists():
            caption = f"<b>{escape(text)}</b>: {escape(how)} Made by <code>make reproduce-table{number}</code>."
            parts.append(embedded(path, text, caption))
    shown = [row for (task, _), row in documented(rows).items() if task in paper.tasks]
    return [*parts, _heading("How every number was made", level), provenance(shown, paper.agent_name)]


_READING = "± is one standard error, in italics the paper's number."


def _beyond(number: int, table: Table, rows: Sequence[ScoredRow], level: int) -> list[str]:
    """The agents that the paper does not have, beside the trained ones; nothing where there are none."""
    (section,), columns = build_table(number, rows, everything=True).sections, SCORES[number].columns
    if section.columns.keys() == table.sections[0].columns.keys():
        return []
    beyond = {agent: head for agent, head in section.columns.items() if agent not in columns or agent in TRAINED}
    shown = _section(section._replace(columns=beyond), f"The same tasks. {_READING}")
    return [_heading("Agents that the paper does not have", level), shown]


def _learning_curves(number: int, rows: Sequence[ScoredRow], level: int) -> list[str]:
    """Figure 2 or 3; nothing without a trained agent."""
    published = SCORES[number]
    description = f"Learning curves: mean return in training, {published.upper} = 1, {published.lower} = 0"
    made = how_made(row for row in rows if row.agent == "rl2" and row.learning_curve)
    caption = (
        f"<b>Learning curves</b> (the paper's figure {published.figure}): mean return of each training batch with "
        f"actions sampled, {agent_name(published.upper)} = 1 and {agent_name(published.lower)} = 0; one training seed "
        f"a line, or the mean and range of several. {made}"
    )
    try:
        drawn = svg(figures.learning_curves(published.figure, rows, PAGE), description)
    except ValueError:
        return []
    title = f"Learning curves (the paper's figure {published.figure})"
    return [_heading(title, level), figure_element(drawn, description, caption)]


def _inside(number: int, task: str, rows: Sequence[ScoredRow]) -> str:
    """A task's own figures, to be unfolded; what its rows do not allow is left out."""
    label = short(task)
    if number == 1:
        num_arms = read_name(task)[1]["k"]
        best = f"from what the best arm pays on average, {num_arms}/{num_arms + 1} a pull"
        wanted = [
            ("Cumulative regret", f"{best}; the legend has the totals.", partial(figures.regret_over_time, task)),
            (
                "Arms pulled over a trial",
                "by how good they are: the best on top. The number is the agent's total reward.",
                partial(figures.pull_heat_maps, task),
            ),
        ]
    else:
        wanted = [("Return of each episode", "learning inside a trial.", partial(figures.reward_per_episode, task))]
    made = how_made(row for (of, agent), row in documented(rows).items() if of == task and agent != LIMIT)
    drawn = []
    for what, more, draw in wanted:
        description = f"{what}, {label}"
        caption = f"<b>{escape(description)}</b>: {escape(more)} {made}"
        try:
            drawn.append(figure_element(svg(draw(rows, PAGE), description), description, caption))
        except ValueError:
            continue
    return f"<details><summary>{escape(label)}</summary>{''.join(drawn)}</details>" if drawn else ""


def _notes(table: Table) -> list[str]:
    """The notes of a table, those on fewer tasks as one."""
    fewer: dict[str, set[int]] = {}
    found = [note for note in table.notes if isinstance(note, FewerTasks)]
    for note in found:
        fewer.setdefault(note.agent, set()).add(note.num_tasks)
    listed = "; ".join(f"{agent} {_range(counts)}" for agent, counts in fewer.items())
    most = _range(note.most for note in found) if found else ""
    joined = [f"Fewer tasks than the {most} of the others: {listed}."] if found else []
    return [note for note in table.notes if isinstance(note, str)] + joined


def _range(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return " to ".join(f"{count:,}" for count in dict.fromkeys((ordered[0], ordered[-1])))


def _heading(text: str, level: int) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def build_page(number: int, rows: Sequence[ScoredRow], pictures: Iterable[Picture] = ()) -> str:
    """The page of table `number`; opens offline, in light and dark. Arguments and errors as of `table_parts`."""
    parts = table_parts(number, rows, pictures=pictures)
    return document(TABLES[number].title, [f"<h1>{escape(TABLES[number].title)}</h1>", *parts])


def document(title: str, parts: list[str], style: str = "", script: str = "") -> str:
    """A page of HTML with this content, in the style of all; opens offline, in light and dark.

    Args:
      title: of the page.
      parts: HTML.
      style: beside that of every page.
      script: the same.
    """
    colours = {**_COLOURS, "paper": (LIGHT.background, DARK.background)}
    variables = "".join(f"--{name}:light-dark({light},{dark});" for name, (light, dark) in colours.items())
    style = f":root{{{variables}}}\n{(FILES / 'page.css').read_text()}{style}"
    script = (FILES / "theme.js").read_text() + script
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        '<button id="theme" type="button" hidden>Dark</button>'
        f"<main>{''.join(parts)}</main><script>{script}</script></body></html>\n"
    )
