"""Table 3 of the paper beside ours, as Markdown and as a page; reads rows only."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rl2jax.envs.names import read_name
from rl2jax.results.pages.page import bullets, document, figure_element, provenance, wide_table
from rl2jax.results.pages.tables import Row, readable_tasks
from rl2jax.results.published import MAZES, PUBLISHED_MAZE_NAMES, PublishedMazes

TITLE = "Table 3: visual navigation in mazes that were never trained on"
_NAMES = {
    "random": "random",
    "depth_first": "depth-first search",
    "explorer": "explorer that sees",
    "shortest_path": "shortest path",
}
_TRAINED = {
    "rl2": "RL², ours",
    "rl2_best": "RL², ours (best)",
    "rl2_best_scratch": "RL², ours (best-scratch)",
}
SIZES = {5: "Small", 9: "Large"}
NOTES = [
    "Every agent plays one trial of 5 episodes in each maze of the test set. Agents are trained on small mazes, and on "
    "large ones not at all, as in the paper. ± is one standard error, over mazes.",
    "Walls and target of a test maze are together in no training maze. The paper generates its 1000 test "
    "configurations separately and speaks of no such rule; of small mazes drawn anew about a third would be among our "
    "training mazes, so ours is the harder test.",
    "RL², ours, is reinforcement learning alone, from random weights; RL², ours (best), began by imitating the "
    "explorer that sees. The paper's numbers are of the best of its runs.",
    "(c) follows the paper: a maze is improved if its second episode is no longer than its first. An episode that "
    "fails is as long as the horizon, so a maze where both fail counts as improved: hence the random agent's large "
    "share. Beside it the share of mazes whose second episode also reaches the target.",
    "Shortest path knows the maze and the target beforehand: the floor for every episode. The explorer that sees goes "
    "to the nearest cell whose middle it has not seen, until it sees the target; depth-first search knows a cell only "
    "when it has stood in it. Both know where they are, see walls as they are and forget nothing, so that their second "
    "episode is the shortest path. What a trained agent's first episode takes longer than the explorer's, and its "
    "second longer than the shortest path, is about what it could still learn.",
    "The paper's mazes are others of the same kind; its share of successes in episode 2 of small mazes is 99.5% in one "
    "copy of its text and 99.6% in another. SNAIL's numbers are of episodes 1 and 2.",
]


class Section(NamedTuple):
    """One of the tables: what it shows, its headings, and lines of a name and cells; ours or published."""

    title: str
    headings: list[str]
    lines: list[tuple[str, list[str], bool]]


class Picture(NamedTuple):
    """A picture that `vision.reproduce` draws: what it shows, how it was made, its file."""

    text: str
    how: str
    path: Path


_WHOSE = "of the trained agent where the table has one, else of the explorer that sees."


def pictured(folder: Path, task: str) -> dict[str, Picture]:
    """The pictures of a size of mazes in a folder, by kind; they need not exist."""
    size = size_name(task)
    kinds = {
        "views": (
            f"What the agent sees, and the maze from above: {size} mazes (figure 4)",
            "40 x 30 pixels; target red, start blue; a test maze.",
            f"figure4-{size}.png",
        ),
        "behaviour": (
            f"What it does in two episodes: {size} mazes (figure 6)",
            f"{_WHOSE} Of the first 100 test mazes, the trials at the third quartile of how much shorter, and of how "
            "much longer, the second episode is.",
            f"figure6-{size}.png",
        ),
        "film": (
            f"A trial of two episodes: {size} mazes",
            f"{_WHOSE} The trial of figure 6's first line.",
            f"trial-{size}.gif",
        ),
    }
    if size == SIZES[5].lower():
        text, how = "Training, on small mazes (figure 5)", "total reward of a trial in training, actions sampled."
        kinds["curves"] = text, how, "figure5-small.png"
    return {kind: Picture(text, how, folder / name) for kind, (text, how, name) in kinds.items()}


def size_name(task: str) -> str:
    """Of the mazes of a task: small or large."""
    return SIZES[_size(task)].lower()


def _size(task: str) -> int:
    return read_name(task)[1]["size"]


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
    for name, title in _TRAINED.items():
        if agent == name or agent.startswith(f"{name}-"):
            return agent.replace(name, title, 1)
    return _NAMES.get(agent, agent.replace("_", " "))


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
    settings = read_name(task)[1]
    size, horizon = settings["size"], settings["t"]
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
    """How trained agents were trained, a note for each; the same one in both sizes has one."""
    notes = []
    for (_, agent), row in documented(rows).items():
        if "trained_on" in row:
            training = f"{row['trained_on']}, seed {row['training_seed']}, {row['iteration']} iterations"
            if stages := row.get("started_from", []):
                algorithms = " and ".join(dict.fromkeys(stage["algorithm"] for stage in stages))
                iterations = sum(stage["iteration"] for stage in stages)
                training += f" after {len(stages)} earlier stages, {iterations} iterations of {algorithms}"
            notes.append(f"{agent_title(agent)}: {training}; actions: {row['action_selection']}.")
    return list(dict.fromkeys(notes))


def build_page(rows: Sequence[Row], pictures: Iterable[Picture] = ()) -> str:
    """The page, from rows and pictures on disk alone; opens offline, in light and dark. Arguments as of `page_parts`.

    Raises:
      ValueError: if there is no row of Table 3.
    """
    return document(TITLE, [f"<h1>{escape(TITLE)}</h1>", *page_parts(rows, pictures)])


def page_parts(rows: Sequence[Row], pictures: Iterable[Picture] = (), level: int = 2) -> list[str]:
    """What a page says of Table 3, from rows and pictures on disk alone.

    Args:
      rows: as from `tables.read_results`.
      pictures: PNG or GIF files; those that do not exist are left out.
      level: of its headings.

    Raises:
      ValueError: if there is no row of Table 3.
    """
    if not _tasks(rows):
        raise ValueError("there is no row of table 3")
    parts = []
    for task in _tasks(rows):
        parts.append(f"<h{level}>{escape(heading(task, rows))}</h{level}>")
        parts += [_html(section) for section in sections(task, rows)]
    parts.append(bullets([*NOTES, *map(readable_tasks, _how(rows))]))
    for text, how, path in pictures:
        if path.exists():
            kind = path.suffix.removeprefix(".")
            data = base64.b64encode(path.read_bytes()).decode()
            picture = f'<img alt="{escape(text)}" src="data:image/{kind};base64,{data}">'
            caption = f"<b>{escape(text)}</b>: {escape(how)} Made by <code>make reproduce-table3</code>."
            parts.append(figure_element(picture, text, caption))
    shown: list[Any] = list(documented(rows).values())
    return [*parts, f"<h{level}>How every number was made</h{level}>", provenance(shown, agent_title)]


def _html(section: Section) -> str:
    body = []
    for name, texts, is_ours in section.lines:
        style = ' class="ours"' if is_ours and name.startswith("RL²") else ""
        cells = "".join(f"<td{style}>{escape(text)}</td>" for text in texts)
        label = escape(name) if is_ours else f"<em>{escape(name)}</em>"
        body.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
    return wide_table(section.title, ["agent", *section.headings], body)
