"""All results on disk as one self-contained HTML page, with a player of recorded trials."""

import json
import xml.etree.ElementTree
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rl2jax.results.pages import markdown, table3
from rl2jax.results.pages.deviations import deviations_markdown
from rl2jax.results.pages.page import (
    FILES,
    bullets,
    document,
    embedded,
    figure_element,
    how_made,
    provenance,
    rows_table,
    table_parts,
)
from rl2jax.results.pages.papers import TABLES, build_table
from rl2jax.results.pages.tables import readable_tasks
from rl2jax.results.published import MAZES, RECIPE_COLUMNS, SCORES, TRAINED, agent_name
from rl2jax.results.rows import LimitRow, MazeRow, Row, ScoredRow, documented, read_results, read_rows
from rl2jax.settings import InputError

TITLE = "RL² on JAX: results"
_LEAD = (
    "Duan et al. 2016 train a recurrent network over many tasks, so that its activations become a learning algorithm "
    "for a task it has never seen. This page holds every result that this reproduction has on disk, beside the "
    "published numbers, the classical agents and the limits that no agent can pass."
)
_READING = (
    "± is one standard error over fresh tasks, which no training has seen. RL² is trained by reinforcement "
    "learning alone, with the preset that its row names; RL² (paper's recipe) with the paper's numbers, as far as it "
    "went; RL² (best-scratch) and RL² (best) by recipes beyond the paper's, from random weights or beginning with a "
    "teacher or as a planner. They are never mixed. "
    "Scores are means over tasks that were drawn: by chance, a share of the limit can pass 100%."
)
_DOCUMENTS = {
    "extrapolation": (
        "Other lengths, other priors, other numbers of arms",
        "Agents on trials of other lengths, on arms of other distributions and, where their network fits, on other "
        "numbers of arms than they were trained on. Made by <code>make extrapolation</code>.",
        "extrapolation.md",
        ("extrapolation-bandit.png", "extrapolation-arms.png", "extrapolation-mdp.png"),
    ),
    "candidates": (
        "What else to train with",
        "Changes of the training, each for as long as the base: differences to it are paired over tasks; the first "
        "error is over training seeds, the second over tasks. Made by <code>make candidates</code>.",
        "candidates/candidates.md",
        (),
    ),
    "benchmarks": (
        "Speed",
        "What an iteration takes, beside its floor: the time that its operations and bytes need at the device's peak "
        "rates, measured while it ran. Made by <code>make benchmark</code>.",
        "benchmarks/cpu.md",
        ("benchmarks/cpu-roofline.png",),
    ),
}


class Report(NamedTuple):
    """A report, and what is not in it.

    Attributes:
      html: the page.
      left_out: a sentence for each section that was left out because something is wrong with it.
    """

    html: str
    left_out: list[str]


class _Section(NamedTuple):
    anchor: str
    title: str
    build: Callable[[], list[str]]


def build_report(
    results: Path, recordings: Sequence[dict[str, Any]] = (), missing: Sequence[str] = (), made: str = ""
) -> Report:
    """The page of a folder of results, from rows and documents on disk alone; opens offline, in light and dark.

    Args:
      results: as experiments/results: table1, table2, table3, wang, ... are shown if they are in it.
      recordings: trials for the player, as from `recordings.record`.
      missing: a sentence for each agent that could not be recorded.
      made: who made the page: version and commit.

    Raises:
      ValueError: if the folder has no results.
    """
    require_results(results)
    built, left_out = [], []
    for section in _sections(results):
        try:
            parts = section.build()
        except ValueError as error:
            left_out.append(f"{section.title} is left out: {' '.join(str(error).split())}.")
            parts = [f"<p>{escape(left_out[-1])}</p>"]
        if parts:
            built.append((section, parts))
    bodies = [_player(recordings, missing)] + [
        f'<section aria-labelledby="{s.anchor}"><h2 id="{s.anchor}">{escape(s.title)}</h2>{"".join(parts)}</section>'
        for s, parts in built
    ]
    entries = [("player", "Watch an agent learn"), *((s.anchor, s.title) for s, _ in built)]
    links = "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in entries)
    top = [
        f"<h1>{escape(TITLE)}</h1><p>{escape(_LEAD)}</p>",
        bullets(_glance(results)),
        f'<p class="soft">{escape(_READING)}</p>',
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>',
    ]
    foot = (
        f"<footer class='soft'><p>Made by <code>rl2jax report</code>{escape(made)}: tables and figures from rows on "
        "disk alone, trials as they were played for this page.</p></footer>"
    )
    # "</" would end the element that holds the trials.
    data = json.dumps(list(recordings), separators=(",", ":")).replace("</", "<\\/")
    holder = f'<script type="application/json" id="recordings">{data}</script>' if recordings else ""
    style, script = ((FILES / name).read_text() for name in ("player.css", "player.js"))
    html = document(TITLE, [*top, *bodies, foot, holder], style, script if recordings else "")
    return Report(html, left_out)


def require_results(results: Path) -> None:
    """Refuses what is no folder of results, before anything is played or drawn.

    Raises:
      ValueError: if the folder does not exist, or has no file of rows, its own or in one of its folders.
    """
    if not results.is_dir():
        raise InputError(f"--results must be a folder with results, got {str(results)!r}")
    if not any(results.glob("*.json")) and not any(results.glob("*/*.json")):
        raise InputError(f"--results must be a folder with results, as experiments/results is; {results} has no rows")


def _sections(results: Path) -> list[_Section]:
    documents = [_Section(name, text[0], partial(_document, results, name)) for name, text in _DOCUMENTS.items()]
    return [
        *(_Section(f"table{n}", paper.title, partial(_table, results, n)) for n, paper in TABLES.items()),
        _Section("wang", "Deep meta-RL: Wang et al. 2016 and 2018", partial(_wang, results)),
        _Section("evaluations", "Other evaluations", partial(_evaluations, results)),
        *documents,
    ]


def _table(results: Path, number: int) -> list[str]:
    folder = results / f"table{number}"
    rows = read_results(folder) if folder.is_dir() else []
    if not rows:
        return []
    pictures = [p for p in TABLES[number].pictures(results) if p.path.suffix != ".gif"]  # the player takes their place
    parts = table_parts(number, rows, 3, pictures)
    if number in SCORES:
        against = markdown.to_html(deviations_markdown(number, rows), 4)
        title = "Every reference agent against the published number, with the cause where they differ"
        parts.append(f"<details><summary>{title}</summary>{against}</details>")
    return parts


def _wang(results: Path) -> list[str]:
    text = _read(results / "wang.md")
    if not text:
        return []
    rows_of = {path.stem: read_rows(path) for path in sorted((results / "wang").glob("*.json"))}
    made = {name: _how_studied(rows) for name, rows in rows_of.items() if rows}
    lead = (
        "Claims of the papers (yes: it is so here, too), with the figures of ours that decide them. Made by "
        "<code>make reproduce-wang</code>; rules, seeds and tasks are in the rows below."
    )

    def picture(description: str, file: str) -> str:
        return _picture(results, description, file, made.get(Path(file).stem, ""))

    body = markdown.to_html(text, 3, picture)
    everything = [row for rows in rows_of.values() for row in rows]
    return [f"<p>{lead}</p>", body, "<h3>How every number was made</h3>", provenance(everything)]


def _how_studied(rows: list[Row]) -> str:
    """How a figure of Wang et al. was made: tasks, training seeds, command; standard errors are in the claims."""
    seeds = {row.training_seed for row in rows if row.training_seed is not None}
    count = f"{len(seeds)} training seed{'s' if len(seeds) != 1 else ''} for each task trained on."
    return f"{how_made(rows)} {count if seeds else ''}"


def _evaluations(results: Path) -> list[str]:
    groups: dict[str, list[Row]] = {}
    for path in sorted(results.glob("*.json")):
        title = next((title for start, title in _EVALUATIONS if path.name.startswith(start)), _SINGLE)
        groups.setdefault(title, []).extend(read_rows(path))
    return [f"<h3>{title}</h3>{rows_table(rows, title)}" for title, rows in groups.items() if rows]


_EVALUATIONS = (
    ("imitation", "Supervised: the same network fitted to a reference agent's actions (section 3.1)"),
    ("quickstart", "Quickstart: five arms, ten pulls, three training seeds"),
)
_SINGLE = "Agents of preset cpu, one training seed each"


def _document(results: Path, name: str) -> list[str]:
    _, lead, file, pictures = _DOCUMENTS[name]
    text = _read(results / file)
    if not text:
        return []
    made = lead[lead.index("Made by") :]
    shown = [_picture(results, picture, picture, made=made) for picture in pictures if (results / picture).exists()]
    tables = markdown.to_html(readable_tasks(text), 3)
    return [f"<p>{lead}</p>", *shown, f"<details><summary>All of it as tables</summary>{tables}</details>"]


def _read(path: Path) -> str:
    try:
        return path.read_text() if path.is_file() else ""
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text") from None


_SHOWN_AS = {
    "extrapolation-bandit.png": "Bandits: score in percent of the best reference agent's on the same tasks",
    "extrapolation-arms.png": "Bandits with other numbers of arms: score in percent of the best reference agent's",
    "extrapolation-mdp.png": "Tabular MDPs: score in percent of the best reference agent's on the same tasks",
    "benchmarks/cpu-roofline.png": "Parts of an iteration: share of the matrix-product peak over operations per byte",
}


def _picture(results: Path, description: str, file: str, made: str) -> str:
    """A picture on disk: as lines in the page's colours where there is such a file beside it, else as it is."""
    description = _SHOWN_AS.get(description, description)
    path = results / file
    drawing, caption = path.with_suffix(".svg"), f"<b>{escape(description)}</b>. {made}"
    if drawing.is_file():
        content = _read(drawing)
        try:
            xml.etree.ElementTree.fromstring(content)
        except xml.etree.ElementTree.ParseError as error:
            raise InputError(f"{drawing} is damaged ({error})") from None
    elif path.is_file():
        return embedded(path, description, caption)
    else:
        return ""
    return figure_element(content, description, caption)


# --- What came of it, in a few lines.


def _glance(results: Path) -> list[str]:
    """Sentences on the trained agents of each table; what cannot be read is left out."""
    texts = []
    for number in TABLES:
        try:
            rows = read_results(results / f"table{number}")
        except ValueError:
            continue
        texts += _of_table(number, rows) if number in SCORES else _of_mazes(rows)
    return texts


def _of_table(number: int, rows: Sequence[ScoredRow]) -> list[str]:
    texts, lines = [], {name: line for s in build_table(number, rows).sections for name, line in s.lines.items()}
    methods = {row.method for row in rows if isinstance(row, LimitRow)}
    limit = "what an oracle gets that knows the task" if methods == {"oracle"} else "the limit"
    for agent in TRAINED:
        found = {task: line.cells[agent] for task, line in lines.items() if agent in line.cells}
        cells = {task: cell for task, cell in found.items() if cell.mean is not None}
        shares = [cell.of_limit for cell in cells.values() if cell.of_limit is not None]
        if shares:
            paper = {task: SCORES[number].scores[task]["rl2"] for task in cells}
            reached = sum(round(cell.mean or 0.0, 1) >= paper[task] for task, cell in cells.items())
            low, high = (f"{100 * share:.1f}%" for share in (min(shares), max(shares)))
            of_limit = low if len(shares) == 1 else f"{low} to {high}"
            where = f" ({lines[next(iter(cells))].heading})" if len(cells) == 1 else ""
            texts.append(
                f"Table {number}, {agent_name(agent)}: {of_limit} of {limit}, in {len(cells)} of "
                f"{len(SCORES[number].scores)} setups{where}; "
                f"the paper's RL² is reached or passed in {reached or 'none'}."
            )
    return texts


def _of_mazes(rows: Sequence[ScoredRow]) -> list[str]:
    texts = []
    for (task, agent), row in documented(row for row in rows if isinstance(row, MazeRow) and row.task in MAZES).items():
        if not agent.startswith("rl2") or len(row.success_length) < 2 or None in row.success_length[:2]:
            continue
        paper = MAZES[task]["rl2"]
        (first, _), (second, _) = paper.success_length[:2]
        texts.append(
            f"Table 3, {table3.agent_title(agent)}, {table3.size_name(task)} mazes: the target is reached in "
            f"{row.success_percent[0]:.1f}% of first episodes (paper {paper.success_percent[0]:g}%), in "
            f"{row.success_length[0]:.1f} steps, then {row.success_length[1]:.1f} (paper {first:g}, then {second:g})."
        )
    return texts


# --- The player.


def _player(recordings: Sequence[dict[str, Any]], missing: Iterable[str]) -> str:
    head = '<section aria-labelledby="player"><h2 id="player">Watch an agent learn</h2>'
    notes = "".join(f"<p>{escape(text)}</p>" for text in missing)
    if not recordings:
        return f"{head}{notes}<p>No trial was recorded.</p></section>"
    return f"{head}{notes}<p>{_WATCH}</p>{_PLAYER.replace('TRIALS', _options(recordings))}</section>"


def _options(recordings: Sequence[dict[str, Any]]) -> str:
    groups: dict[str, list[str]] = {}
    for number, recording in enumerate(recordings):
        recipe = RECIPE_COLUMNS.get(f"rl2_{recording['recipe'].replace('-', '_')}", "RL²")
        group = f"{readable_tasks(recording['task'])}, {recipe}"
        label = f"{recording['trial'] + 1}: {group}"
        groups.setdefault(group, []).append(f'<option value="{number}">{escape(label)}</option>')
    return "".join(
        f'<optgroup label="{escape(group)}">{"".join(options)}</optgroup>' for group, options in groups.items()
    )


_WATCH = (
    "Trained agents as they come with the package, each on the first tasks of the evaluation's stream of seed 1: none "
    "was chosen for how it went. Probabilities are the policy's own. Gittins and Thompson sampling, with the "
    "hyperparameters of Table 1, are asked at every pull what they would do after the same pulls and rewards; Thompson "
    "sampling's share is of 1000 draws (standard error at most 0.016). The agent sees neither true probabilities nor "
    "the map."
)
_PLAYER = """
<div class="player" tabindex="0" role="group" aria-label="Trial player" aria-describedby="keys">
<noscript><p>The player needs JavaScript.</p></noscript>
<div class="controls">
<label>Trial <select id="trial">TRIALS</select></label>
<label>Speed <select id="speed"><option value="1">1 step a second</option><option value="4" selected>4 a second</option>
<option value="12">12 a second</option><option value="30">30 a second</option></select></label>
</div>
<div class="controls" style="margin-top:0.7rem">
<span class="steps"><button id="first" type="button" aria-label="To the first step">⇤</button>
<button id="back" type="button" aria-label="One step back">←</button>
<button id="play" type="button">Play</button>
<button id="forward" type="button" aria-label="One step forward">→</button>
<button id="last" type="button" aria-label="To the end">⇥</button></span>
<input id="step" type="range" min="0" max="1" value="0" aria-label="Step">
</div>
<p class="say" id="say" role="status" aria-live="polite"></p>
<div id="bandit" hidden>
<div class="labels" aria-hidden="true"><span></span><span>probability that the agent pulls it</span>
<span>belief, from 0 to 1: density, mean (line), truth (dashes)</span><span>its mean, and the pulls</span>
<span>Thompson sampling’s share, Gittins’ choice</span></div>
<ul id="arms" aria-label="Arms"></ul>
<div class="history" id="pulls"></div>
</div>
<div id="maze" hidden>
<div class="sights"><div><h4>From above</h4><div id="map"></div>
<p class="small">Red: the target. Blue: the start. Purple: the way in this episode; dashed: in the one before.</p></div>
<div><h4>What the agent sees (40 × 30 pixels)</h4><div id="frame"></div></div>
<div><h4>What it will do</h4><ul id="choices" class="choices" aria-label="Actions"></ul></div></div>
<div class="history" id="moves"></div>
</div>
<p class="keys" id="keys">Keys: ← and → step, space plays and pauses, Home and End go to the first step and the end.</p>
</div>
"""
