"""One self-contained HTML page of a table: scores, curves, how agents explore, how every number was made."""

import base64
import io
import json
from collections.abc import Callable
from html import escape
from typing import Any

import matplotlib
import matplotlib.figure

from rl2jax import figures
from rl2jax.published import TABLES, TRAINED
from rl2jax.tables import LIMIT, Row, Table, best_documented, build_table, score_text, short, trained_share

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5b6272; --line: #d9dce3; --paper: #ffffff; --mark: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ee; --soft: #a2a9b8; --line: #3a4050; --paper: #14171f; --mark: #fb923c; }
}
body { margin: 0 auto; max-width: 78rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
p, li { max-width: 46rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.4rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td details { border: 0; padding: 0; }
td small { display: block; color: var(--soft); }
td.best { font-weight: 700; } td.ours { color: var(--mark); }
picture img { max-width: 100%; height: auto; }
details { border-top: 1px solid var(--line); padding: 0.5rem 0; }
summary { cursor: pointer; font-weight: 600; }
code { display: block; max-width: 40rem; font-size: 0.8rem; text-align: left; white-space: normal;
  overflow-wrap: anywhere; }
"""

# Letters as text, not as outlines: a third of the size.
_SVG: dict[Any, Any] = {"svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans", "Verdana"]}


def image(draw: Callable[[figures.Theme], matplotlib.figure.Figure], description: str) -> str:
    """A figure in both themes, the reader's preference deciding, as inline SVG data."""

    def source(theme: figures.Theme) -> str:
        text = io.BytesIO()
        with matplotlib.rc_context(_SVG):
            draw(theme).savefig(text, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue()).decode()

    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{source(figures.DARK)}">'
        f'<img alt="{escape(description)}" src="{source(figures.LIGHT)}"></picture>'
    )


def _score_table(table: Table) -> str:
    agents = [agent for agent in table.columns if agent != LIMIT or any(x[LIMIT].mean for x in table.lines.values())]
    head = "".join(f'<th scope="col">{escape(table.columns[agent])}</th>' for agent in agents)
    body = []
    for task, line in table.lines.items():
        cells = []
        for agent in agents:
            cell = line[agent]
            names = " ".join(name for name, on in (("best", cell.bold), ("ours", agent in TRAINED)) if on)
            paper = "" if cell.published is None else f"<small>{cell.published:g}</small>"
            cells.append(f'<td class="{names}">{escape(score_text(cell))}{paper}</td>')
        cells.append(f"<td>{trained_share(line)}</td>")
        body.append(f'<tr><th scope="row">{escape(short(task))}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="wide"><table><caption>{escape(table.title)}; small: the paper</caption><thead><tr>'
        f'<th scope="col">setup</th>{head}<th scope="col">RL², % of limit</th></tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def provenance(rows: list[Row]) -> str:
    """How every number was made, one line a row."""
    lines = []
    for row in rows:
        settings = json.dumps(row.get("hyperparameters", {}))
        lines.append(
            f"<tr><td>{escape(short(row['task']))}</td><td>{escape(row['agent'])}</td>"
            f"<td>{row.get('num_tasks', '')}</td>"
            f"<td>{row.get('seed', '')}</td><td>{escape(str(row.get('commit') or ''))}</td>"
            f"<td>{escape(str(row.get('preset') or ''))}</td>"
            f"<td><details><summary>settings</summary><code>{escape(row.get('command') or '')} {escape(settings)}"
            "</code></details></td></tr>"
        )
    heads = "".join(f"<th>{x}</th>" for x in ("setup", "agent", "tasks", "seed", "commit", "preset", "settings"))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<details><summary>{len(rows)} rows</summary><div class="wide">{table}</div></details>'


def _details(number: int, task: str, rows: list[Row]) -> str:
    """A task's own figures; what its rows do not allow is left out."""
    label = short(task)
    if number == 1:
        num_arms = int(task.partition("k=")[2].partition(",")[0])
        pictures = [
            (lambda theme: figures.regret_over_time(task, num_arms, rows, theme), f"Cumulative regret, {label}"),
            (lambda theme: figures.pull_heat_maps(task, rows, theme), f"Arms pulled over a trial, {label}"),
        ]
    else:
        length = int(task.partition("t=")[2].partition(",")[0])
        pictures = [
            (lambda theme: figures.reward_per_episode(task, length, rows, theme), f"Return of each episode, {label}")
        ]
    drawn = []
    for draw, description in pictures:
        try:
            drawn.append(image(draw, description))
        except ValueError:
            continue
    return f"<details><summary>{escape(label)}</summary>{''.join(drawn)}</details>" if drawn else ""


def build_page(number: int, rows: list[Row]) -> str:
    """The page of table `number`, from rows alone; opens offline, in light and dark.

    Raises:
      ValueError: if there is no such table, or no row of it.
    """
    table = build_table(number, rows)
    if not table.lines:
        raise ValueError(f"there is no row of table {number}")
    published = TABLES[number]
    parts = [f"<h1>{escape(published.title)}</h1>", _score_table(table)]
    parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in table.notes) + "</ul>")
    everything = build_table(number, rows, everything=True)
    if set(everything.columns) != set(table.columns):
        beyond = {a: h for a, h in everything.columns.items() if a not in published.columns or a in TRAINED}
        parts += ["<h2>Agents that the paper does not have</h2>", _score_table(everything._replace(columns=beyond))]
    try:
        picture = image(
            lambda theme: figures.learning_curves(published.figure, rows, theme),
            f"Learning curves: mean return in training, {published.upper} = 1, {published.lower} = 0",
        )
        parts += [f"<h2>Learning curves (the paper's figure {published.figure})</h2>", picture]
    except ValueError:
        pass  # no trained agent among the rows
    parts += ["<h2>Inside a trial</h2>", *(_details(number, task, rows) for task in table.lines)]
    documented = [row for (task, _), row in best_documented(rows).items() if task in table.lines]
    parts += ["<h2>How every number was made</h2>", provenance(documented)]
    return document(published.title, parts)


def document(title: str, parts: list[str]) -> str:
    """A page of HTML with this content, in the style of all; opens offline, in light and dark."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
