"""Self-contained HTML pages made of rows: tables, figures in both themes, how every number was made."""

import io
import json
import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure

from rl2jax.envs.names import read_name
from rl2jax.results.pages import figures
from rl2jax.results.pages.figures import DARK, LIGHT, Theme
from rl2jax.results.pages.tables import (
    LIMIT,
    Cell,
    Row,
    Table,
    best_documented,
    build_table,
    readable_tasks,
    score_text,
    short,
    trained_share,
)
from rl2jax.results.published import TABLES, TRAINED, agent_name

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


def image(draw: Callable[[Theme], matplotlib.figure.Figure], description: str, caption: str = "") -> str:
    """A figure in both themes, with a caption (HTML) that says how it was made; by default what it shows."""
    return figure_element(svg(draw(PAGE), description), description, caption)


def figure_element(content: str, description: str, caption: str = "") -> str:
    """Any picture with its caption (HTML); one that is wider than the screen can be moved under it."""
    return (
        f'<figure><div class="wide" tabindex="0" role="group" aria-label="{escape(description)}">{content}</div>'
        f"<figcaption>{caption or escape(description)}</figcaption></figure>"
    )


def how_made(rows: Iterable[Row]) -> str:
    """Of a figure's rows: over how many tasks, the largest standard error, the commands; HTML."""
    rows = list(rows)
    tasks = {row["num_tasks"] for row in rows if row.get("num_tasks")}
    errors = [row["standard_error"] for row in rows if row.get("standard_error")]
    commands = list(dict.fromkeys(row["command"] for row in rows if row.get("command")))
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


def _score_table(table: Table, caption: str) -> str:
    agents = [agent for agent in table.columns if agent != LIMIT or any(x[LIMIT].mean for x in table.lines.values())]
    body = []
    for task, line in table.lines.items():
        cells = []
        for agent in agents:
            cell = line[agent]
            names = " ".join(name for name, on in (("best", cell.bold), ("ours", agent in TRAINED)) if on)
            mean, _, error = score_text(cell).partition(" ± ")
            below = f"<small>± {error}</small>" if error else ""
            paper = "" if cell.published is None else f"<small><em>{cell.published:g}</em></small>"
            cells.append(f'<td class="{names}">{mean}{below}{paper}</td>')
        cells.append(f"<td>{trained_share(line)}</td>")
        body.append(f'<tr><th scope="row">{escape(short(task))}</th>{"".join(cells)}</tr>')
    return wide_table(caption, ["setup", *(table.columns[agent] for agent in agents), "RL², % of limit"], body)


def provenance(rows: list[Row], name: Callable[[str], str] = agent_name) -> str:
    """How every number was made, one line a row, to be unfolded."""
    return f"<details><summary>{len(rows)} rows</summary>{rows_table(rows, name=name)}</details>"


def rows_table(rows: list[Row], caption: str = "How each row was made", name: Callable[[str], str] = agent_name) -> str:
    """Any rows: their scores, and how they were made.

    Args:
      rows: with task and agent.
      caption: for those who do not see what stands above.
      name: an agent's name for people.
    """
    lines = []
    one_kind = len({read_name(row["task"])[0].name for row in rows}) == 1
    for row in rows:
        task = short(row["task"]) if one_kind else readable_tasks(row["task"])
        settings = json.dumps(row.get("hyperparameters", {}))
        score = score_text(Cell(row["mean"], row.get("standard_error"))) if "mean" in row else ""
        seeds = ", ".join(str(row[field]) for field in ("seed", "training_seed") if field in row)
        lines.append(
            f'<tr><th scope="row">{escape(task)}</th><td>{escape(name(row["agent"]))}</td>'
            f"<td>{score}</td><td>{row.get('num_tasks', '')}</td>"
            f"<td>{seeds}</td><td>{escape(str(row.get('commit') or ''))}</td>"
            f"<td>{escape(str(row.get('preset') or ''))}</td>"
            f"<td><details><summary>settings</summary><code>{escape(row.get('command') or '')} {escape(settings)}"
            "</code></details></td></tr>"
        )
    heads = ("setup", "agent", "score", "tasks", "seeds: tasks, training", "commit", "preset", "settings")
    return wide_table(caption, heads, lines, is_shown=False)


def _details(number: int, task: str, rows: list[Row]) -> str:
    """A task's own figures; what its rows do not allow is left out."""
    label = short(task)
    shown = [row for (of, agent), row in best_documented(rows).items() if of == task and agent != LIMIT]
    made = how_made(shown)
    if number == 1:
        num_arms = read_name(task)[1]["k"]
        pictures = [
            (
                lambda theme: figures.regret_over_time(task, num_arms, rows, theme),
                f"Cumulative regret, {label}",
                f"from what the best arm pays on average, {num_arms}/{num_arms + 1} a pull; the legend has the totals.",
            ),
            (
                lambda theme: figures.pull_heat_maps(task, rows, theme),
                f"Arms pulled over a trial, {label}",
                "by how good they are: the best on top. The number is the agent's total reward.",
            ),
        ]
    else:
        length = read_name(task)[1]["t"]
        pictures = [
            (
                lambda theme: figures.reward_per_episode(task, length, rows, theme),
                f"Return of each episode, {label}",
                "learning inside a trial.",
            )
        ]
    drawn = []
    for draw, description, more in pictures:
        try:
            drawn.append(image(draw, description, f"<b>{escape(description)}</b>: {escape(more)} {made}"))
        except ValueError:
            continue
    return f"<details><summary>{escape(label)}</summary>{''.join(drawn)}</details>" if drawn else ""


def table_parts(number: int, rows: list[Row], level: int = 2) -> list[str]:
    """What a page says of table `number`, from rows alone: scores, curves, what happens inside a trial, provenance.

    Args:
      number: 1 or 2.
      rows: as from `tables.read_results`.
      level: of its headings.

    Raises:
      ValueError: if there is no such table, or no row of it.
    """
    table = build_table(number, rows)
    if not table.lines:
        raise ValueError(f"there is no row of table {number}")
    published = TABLES[number]
    parts = [_score_table(table, f"{table.title}. {_READING}"), bullets(_notes(table))]
    everything = build_table(number, rows, everything=True)
    if set(everything.columns) != set(table.columns):
        beyond = {a: h for a, h in everything.columns.items() if a not in published.columns or a in TRAINED}
        title = "Agents that the paper does not have"
        parts += [
            _heading(title, level),
            _score_table(everything._replace(columns=beyond), f"The same tasks. {_READING}"),
        ]
    try:
        description = f"Learning curves: mean return in training, {published.upper} = 1, {published.lower} = 0"
        names = agent_name(published.upper), agent_name(published.lower)
        caption = (
            f"<b>Learning curves</b> (the paper's figure {published.figure}): mean return of each training batch with "
            f"actions sampled, {names[0]} = 1 and {names[1]} = 0; one training seed a line, or the mean and range of "
            f"several. {how_made(row for row in rows if row['agent'] == 'rl2' and row.get('learning_curve'))}"
        )
        picture = image(lambda theme: figures.learning_curves(published.figure, rows, theme), description, caption)
        parts += [_heading(f"Learning curves (the paper's figure {published.figure})", level), picture]
    except ValueError:
        pass  # no trained agent among the rows
    parts += [_heading("Inside a trial", level), *(_details(number, task, rows) for task in table.lines)]
    documented = [row for (task, _), row in best_documented(rows).items() if task in table.lines]
    return [*parts, _heading("How every number was made", level), provenance(documented)]


_READING = "± is one standard error, in italics the paper's number."
_FEWER_TASKS = " tasks, the others "


def _notes(table: Table) -> list[str]:
    """The notes of a table, those on fewer tasks as one."""
    fewer: dict[str, set[int]] = {}
    most = set()
    for note in table.notes:
        if _FEWER_TASKS in note:
            told, _, others = note.removesuffix(".").partition(_FEWER_TASKS)
            place, _, tasks = told.rpartition(": ")
            agent = next(place.removesuffix(f", {short(task)}") for task in table.lines if place.endswith(short(task)))
            fewer.setdefault(agent, set()).add(int(tasks))
            most.add(int(others))
    listed = "; ".join(f"{agent} {_range(counts)}" for agent, counts in fewer.items())
    joined = [f"Fewer tasks than the {_range(most)} of the others: {listed}."] if fewer else []
    return [note for note in table.notes if _FEWER_TASKS not in note] + joined


def _range(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return " to ".join(f"{count:,}" for count in dict.fromkeys((ordered[0], ordered[-1])))


def _heading(text: str, level: int) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def build_page(number: int, rows: list[Row]) -> str:
    """The page of table `number`, from rows alone; opens offline, in light and dark.

    Raises:
      ValueError: if there is no such table, or no row of it.
    """
    parts = table_parts(number, rows)
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
