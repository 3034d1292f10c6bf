"""Table 3 of the paper beside ours: what it is made of, and the pictures that go with it. Reads rows only."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rl2jax.envs.names import read_name
from rl2jax.results.pages.tables import Cell, Line, Section, Table
from rl2jax.results.published import MAZES, PUBLISHED_MAZE_NAMES, PublishedMazes
from rl2jax.results.rows import MazeRow, Row, documented

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


class Picture(NamedTuple):
    """A picture that `reproduction.mazes` draws: what it shows, how it was made, its file."""

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


def all_pictures(folder: Path) -> list[Picture]:
    """The pictures of all sizes of mazes."""
    return [picture for task in MAZES for picture in pictured(folder, task).values()]


def size_name(task: str) -> str:
    """Of the mazes of a task: small or large."""
    return SIZES[read_name(task)[1]["size"]].lower()


def agent_title(agent: str) -> str:
    """An agent's name for people."""
    for name, title in _TRAINED.items():
        if agent == name or agent.startswith(f"{name}-"):
            return agent.replace(name, title, 1)
    return _NAMES.get(agent, agent.replace("_", " "))


def build(rows: Iterable[Row], everything: bool = False) -> Table:
    """Table 3: for each size of maze that has rows 3a to 3c, and two more: all episodes, and how far from optimal.

    Args:
      rows: of any tasks.
      everything: changes nothing; all agents are shown.
    """
    del everything
    chosen = documented(row for row in rows if isinstance(row, MazeRow) and row.task in MAZES)
    found: dict[str, dict[str, MazeRow]] = {task: {} for task in MAZES}
    for (task, agent), row in chosen.items():
        found[task][agent] = row
    sections = [section for task, ours in found.items() if ours for section in _sections(task, ours)]
    return Table(TITLE, ("task", "measure", "agent", "column"), sections, [*NOTES, *_how(chosen.values())])


def _sections(task: str, found: dict[str, MazeRow]) -> list[Section]:
    """All of one size of maze; `found` by agent."""
    ours = {a: found[a] for a in sorted(found, key=lambda agent: (not agent.startswith("rl2"), _order(agent)))}
    episodes = {str(n): f"episode {n}" for n in range(1, max(len(row.length) for row in ours.values()) + 1)}
    made = []
    for name, (title, unit) in _MEASURES.items():
        columns = _IMPROVED if name == "improved_percent" else episodes
        lines = {agent: Line(agent_title(agent), _cells(row, name, columns)) for agent, row in ours.items()}
        for agent, scores in MAZES[task].items():
            if cells := [Cell(*pair) for pair in _published(scores, name)]:
                padded = dict(zip(columns, cells, strict=False))  # of fewer episodes, or of more
                lines[f"published {agent}"] = Line(PUBLISHED_MAZE_NAMES[agent], padded, is_ours=False)
        key, heading = (task, name), _heading(task, ours.values())
        made.append(Section(columns, lines, key, heading, title, unit=unit, decimals=1))
    return made


_MEASURES = {
    "success_length": ("(a) Average length of successful trajectories, in steps", ""),
    "success_percent": ("(b) Success", "%"),
    "improved_percent": ("(c) Improved", "%"),
    "length": ("Average length of all episodes", ""),
    "excess": ("Steps beyond the shortest path, successful trajectories", ""),
}
_IMPROVED = {"improved_percent": "no longer than the first", "found_again_percent": "and reaches the target"}


def _order(agent: str) -> tuple[int, str]:
    return (list(_NAMES).index(agent) if agent in _NAMES else -1, agent)


def _cells(row: MazeRow, name: str, columns: Iterable[str]) -> dict[str, Cell]:
    """A line of ours, by column."""
    if name == "improved_percent":
        pairs = [(getattr(row, column), getattr(row, f"{column}_error")) for column in _IMPROVED]
    else:
        pairs = list(zip(getattr(row, name), getattr(row, f"{name}_error"), strict=True))
    trained = row.agent.startswith("rl2")
    cells = [Cell(mean, error, num_tasks=row.num_tasks, trained=trained) for mean, error in pairs]
    return dict(zip(columns, cells, strict=False))


def _published(scores: PublishedMazes, name: str) -> Sequence[tuple[float, float | None]]:
    """What is published of a measure, and its standard error, by column."""
    if name == "success_length":
        return scores.success_length
    percents = {"success_percent": scores.success_percent, "improved_percent": (scores.improved_percent,)}
    return [(value, None) for value in percents.get(name, ()) if value is not None]


def _heading(task: str, rows: Collection[MazeRow]) -> str:
    """A size of maze and how it was played."""
    settings = read_name(task)[1]
    size, horizon = settings["size"], settings["t"]
    engines = {"vizdoom": "in ViZDoom", "twin": "in its twin on the device"}
    played = " and ".join(text for engine, text in engines.items() if any(row.engine == engine for row in rows))
    mazes = " or ".join(map(str, sorted({row.num_tasks for row in rows})))
    of_size = f"{SIZES[size]} mazes ({size} x {size}, {horizon} steps at most)"
    return f"{of_size}: {mazes} test mazes, {played}"


def _how(rows: Iterable[MazeRow]) -> list[str]:
    """How trained agents were trained, a note for each; the same one in both sizes has one."""
    notes = []
    for row in rows:
        if row.trained_on is not None:
            training = f"{row.trained_on}, seed {row.training_seed}, {row.iteration} iterations"
            if stages := row.started_from:
                algorithms = " and ".join(dict.fromkeys(stage["algorithm"] for stage in stages))
                iterations = sum(stage["iteration"] for stage in stages)
                training += f" after {len(stages)} earlier stages, {iterations} iterations of {algorithms}"
            notes.append(f"{agent_title(row.agent)}: {training}; actions: {row.action_selection}.")
    return list(dict.fromkeys(notes))
