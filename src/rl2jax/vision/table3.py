"""Table 3 of the paper beside ours, as Markdown and as a page; reads rows only."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rl2jax.page import document, provenance
from rl2jax.published import MAZES, PUBLISHED_MAZE_NAMES, PublishedMazes
from rl2jax.tables import Row

TITLE = "Table 3: visual navigation in mazes that were never trained on"
_NAMES = {
    "random": "random",
    "depth_first": "depth-first search",
    "explorer": "explorer that sees",
    "shortest_path": "shortest path",
}
SIZES = {5: "Small", 9: "Large"}
NOTES = [
    "Every agent plays one trial of 5 episodes in each maze of the test set, whose walls and target together are in no "
    "training maze; agents are trained on trials of 2 episodes. ± is one standard error, over mazes.",
    "(c) follows the paper: a maze is improved if its second episode is no longer than its first. An episode that "
    "fails is as long as the horizon, so a maze where both fail counts as improved: hence the random agent's large "
    "share. Beside it the share of mazes whose second episode also reaches the target.",
    "Shortest path knows the maze and the target beforehand: the floor for every episode. The explorer that sees goes "
    "to the nearest cell whose middle it has not seen, until it sees the target; depth-first search knows a cell only "
    "when it has stood in it. Both know where they are, see walls as they are and forget nothing, so that their second "
    "episode is the shortest path. What a trained agent's first episode takes longer than the explorer's, and its "
    "second longer than the shortest path, is about what it could still learn.",
    "The paper's mazes are others of the same kind; its small share of successes in episode 2 is hard to read in the "
    "scan. SNAIL's numbers are of episodes 1 and 2.",
]


class Section(NamedTuple):
    """One of the tables: what it shows, its headings, and lines of a name and cells; ours or published."""

    title: str
    headings: list[str]
    lines: list[tuple[str, list[str], bool]]


def documented(rows: Iterable[Row]) -> dict[tuple[str, str], Row]:
    """(task, agent) -> row; of several the one over most mazes, then the one of the real engine."""
    chosen: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = row["task"], row["agent"]
        of_table = row["task"] in MAZES and "success_length" in row
        if of_table and (place not in chosen or _rank(row) > _rank(chosen[place])):
            chosen[place] = row
    return chosen


def _rank(row: Row) -> tuple[int, bool]:
    return row.get("num_tasks", 0), row.get("engine") == "vizdoom"


def agent_title(agent: str) -> str:
    """An agent's name for people."""
    return _NAMES.get(agent, agent.replace("rl2", "RL², ours", 1).replace("_", " "))


def sections(task: str, rows: Iterable[Row]) -> list[Section]:
    """Tables 3a to 3c of one size of maze, and two more: all episodes, and how far from optimal."""
    found = {agent: row for (of, agent), row in documented(rows).items() if of == task}
    published = MAZES[task]
    ours = sorted(found, key=lambda agent: (not agent.startswith("rl2"), _order(agent)))
    num_episodes = max([len(row["success_length"]) for row in found.values()], default=5)
    episodes = [f"episode {number}" for number in range(1, num_episodes + 1)]

    def by_episode(title: str, name: str, unit: str, of_paper: bool) -> Section:
        lines = [
            (agent_title(a), [_text(*pair, unit) for pair in zip(found[a][name], found[a][f"{name}_error"])], True)  # noqa: B905
            for a in ours
        ]
        if of_paper:
            lines += [
                (PUBLISHED_MAZE_NAMES[a], _padded(_published(scores, name), num_episodes), False)
                for a, scores in published.items()
                if _published(scores, name)
            ]
        return Section(title, episodes, lines)

    improved = [
        (agent_title(a), [_text(found[a][x], found[a][f"{x}_error"], "%") for x in _IMPROVED], True) for a in ours
    ]
    improved += [
        (PUBLISHED_MAZE_NAMES[a], [f"{scores.improved_percent:g}%", ""], False)
        for a, scores in published.items()
        if scores.improved_percent is not None
    ]
    return [
        by_episode("(a) Average length of successful trajectories, in steps", "success_length", "", True),
        by_episode("(b) Success", "success_percent", "%", True),
        Section("(c) Improved", ["no longer than the first", "and reaches the target"], improved),
        by_episode("Average length of all episodes", "length", "", False),
        by_episode("Steps beyond the shortest path, successful trajectories", "excess", "", False),
    ]


_IMPROVED = ("improved_percent", "found_again_percent")


def _order(agent: str) -> tuple[int, str]:
    return (list(_NAMES).index(agent) if agent in _NAMES else -1, agent)


def _published(scores: PublishedMazes, name: str) -> list[str]:
    if name == "success_percent":
        return [f"{value:g}%" for value in scores.success_percent]
    return [f"{mean:.1f}" if error is None else f"{mean:.1f} ± {error:.1f}" for mean, error in scores.success_length]


def _padded(texts: list[str], length: int) -> list[str]:
    return (texts + [""] * length)[:length]


def _text(value: float | None, error: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}{unit}" + (f" ± {error:.1f}" if error else "")


def heading(task: str, rows: Iterable[Row]) -> str:
    """A size of maze and how it was played."""
    size, horizon = (int(part.partition("=")[2]) for part in task.partition(":")[2].split(",")[:2])
    found = [row for (of, _), row in documented(rows).items() if of == task]
    engines = {"vizdoom": "in ViZDoom", "twin": "in its twin on the device"}
    played = " and ".join(text for engine, text in engines.items() if any(row.get("engine") == engine for row in found))
    counts = sorted({row["num_tasks"] for row in found})
    mazes = " or ".join(map(str, counts))
    return f"{SIZES[size]} mazes ({size} x {size}, {horizon} steps at most): {mazes} test mazes, {played}"


def to_markdown(rows: Sequence[Row]) -> str:
    """All of it; sizes without any row are left out."""
    parts = [f"### {TITLE}"]
    for task in _tasks(rows):
        parts.append(f"#### {heading(task, rows)}")
        for section in sections(task, rows):
            header = ["", *section.headings]
            lines = [header, ["---", *["---:"] * len(section.headings)]]
            lines += [[name if is_ours else f"*{name}*", *cells] for name, cells, is_ours in section.lines]
            parts += [f"{section.title}:", "\n".join("| " + " | ".join(line) + " |" for line in lines)]
    parts.append("\n".join(f"- {note}" for note in [*NOTES, *_how(rows)]))
    return "\n\n".join(parts) + "\n"


def _tasks(rows: Iterable[Row]) -> list[str]:
    present = {task for task, _ in documented(rows)}
    return [task for task in MAZES if task in present]


def _how(rows: Iterable[Row]) -> list[str]:
    """How trained agents were trained."""
    notes = []
    for (task, agent), row in documented(rows).items():
        if "trained_on" in row:
            notes.append(
                f"{agent_title(agent)}, {SIZES[int(task.partition('size=')[2].partition(',')[0])].lower()} mazes: "
                f"{row['trained_on']}, seed {row['training_seed']}, {row['iteration']} iterations; actions: "
                f"{row['action_selection']}."
            )
    return notes


def build_page(rows: Sequence[Row], pictures: Sequence[tuple[str, Path]] = ()) -> str:
    """The page, from rows and pictures on disk alone; opens offline, in light and dark.

    Args:
      rows: as from `tables.read_results`.
      pictures: (what it shows, PNG or GIF); those that do not exist are left out.

    Raises:
      ValueError: if there is no row of Table 3.
    """
    if not _tasks(rows):
        raise ValueError("there is no row of table 3")
    parts = [f"<h1>{escape(TITLE)}</h1>"]
    for task in _tasks(rows):
        parts.append(f"<h2>{escape(heading(task, rows))}</h2>")
        parts += [_html(section) for section in sections(task, rows)]
    parts.append("<ul>" + "".join(f"<li>{escape(note)}</li>" for note in [*NOTES, *_how(rows)]) + "</ul>")
    for text, path in pictures:
        if path.exists():
            kind = path.suffix.removeprefix(".")
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<picture><img alt="{escape(text)}" src="data:image/{kind};base64,{data}"></picture>'
            parts.append(f"<h2>{escape(text)}</h2>{image}")
    shown: list[Any] = list(documented(rows).values())
    parts += ["<h2>How every number was made</h2>", provenance(shown)]
    return document(TITLE, parts)


def _html(section: Section) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in section.headings)
    body = []
    for name, texts, is_ours in section.lines:
        style = ' class="ours"' if is_ours and name.startswith("RL²") else ""
        cells = "".join(f"<td{style}>{escape(text)}</td>" for text in texts)
        label = escape(name) if is_ours else f"<em>{escape(name)}</em>"
        body.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><caption>{escape(section.title)}</caption>'
        f'<thead><tr><th scope="col">agent</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )
