"""Shares of the best reference agent's score as tables and heat maps; reads rows only."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import numpy as np
from matplotlib.patheffects import withStroke

from experiments.extrapolation.shares import Row, Share, best_reference, by_task, shares
from rl2jax.envs import BernoulliBandit
from rl2jax.envs.names import Task, parse_task
from rl2jax.results.pages.tables import Cell, score_text

TITLES = {"bandit": "Bandits", "arms": "Bandits, other numbers of arms", "mdp": "Tabular MDPs"}
_COLOURS = "cividis"  # its lightness grows throughout: the same order in shades of grey
_FRAME = "#c2410c"


class Panel(NamedTuple):
    """Agents against where they were tested: what is common to all, and what varies.

    Attributes:
      size: common to all: "k=5", "s=10, a=5, t=10", or where the number of arms varies the length, "n=100".
      prior: what the arms are drawn from in tests; empty for MDPs.
      varied: "n", the length of a trial, or "k", the number of arms.
      trained: names of the tasks trained on, smallest first.
      tested: tasks tested on, smallest first.
    """

    size: str
    prior: str
    varied: str
    trained: list[str]
    tested: list[Task]

    def value(self, task: Task) -> int:
        """A task's length or number of arms, whichever varies."""
        return _VARIED[self.varied](task)


def _episodes(task: Task) -> int:
    return task.num_episodes


def _arms(task: Task) -> int:
    env: Any = task.env
    return env.num_arms


_VARIED = {"n": _episodes, "k": _arms}


def _size(task: Task) -> tuple[tuple[str, int], ...]:
    """Arms, or states, actions and steps of an episode."""
    return tuple(item for item in task.settings.items() if item[0] in ("k", "s", "a", "t"))


def _prior(task: Task) -> tuple[int, str]:
    """Its place among the priors, and its name."""
    env = task.env
    if not isinstance(env, BernoulliBandit):
        return 0, ""
    if env.is_uniform:
        return 0, "uniform arms"
    if env.num_good is not None:
        return 3, f"{env.num_good} of {env.num_arms} arms good"
    if env.good_percent < 100:
        return 2, f"each arm good with {env.good_percent:g}%"
    return 1, f"Beta({env.alpha:g}, {env.beta:g}) arms"


def panels(kind: str, rows: list[Row]) -> list[list[Panel]]:
    """The panels of one figure.

    Args:
      kind: "bandit" or "mdp", agents at other lengths and priors: a line for each size, in it a panel for each prior.
        "arms", bandit agents at other numbers of arms: one line, a panel for each length.
      rows: of all settings.
    """
    names = dict.fromkeys((row["trained_on"], row["task"]) for row in rows if "trained_on" in row)
    pairs = [(parse_task(trained), parse_task(tested)) for trained, tested in names]
    return _panels_of_arms(pairs) if kind == "arms" else _panels_of_lengths(kind, pairs)


def _panels_of_lengths(kind: str, pairs: list[tuple[Task, Task]]) -> list[list[Panel]]:
    pairs = [
        pair for pair in pairs if pair[0].kind.name == pair[1].kind.name == kind and _size(pair[0]) == _size(pair[1])
    ]
    lines = []
    for size in sorted({_size(tested) for _, tested in pairs}):
        text = ", ".join(f"{letter}={value}" for letter, value in size)
        of_size = [pair for pair in pairs if _size(pair[1]) == size]
        agents = _ordered((trained for trained, _ in of_size), _episodes)
        line = []
        for prior in sorted({_prior(tested) for _, tested in of_size}):
            columns = _ordered((tested for _, tested in of_size if _prior(tested) == prior), _episodes)
            line.append(Panel(text, prior[1], "n", [task.name for task in agents], columns))
        lines.append(line)
    return lines


def _panels_of_arms(pairs: list[tuple[Task, Task]]) -> list[list[Panel]]:
    """One line; none of a length at which nobody fits other arms."""
    uniform = [pair for pair in pairs if all(map(_is_uniform, pair))]
    line = []
    for n in sorted({tested.num_episodes for _, tested in uniform}):
        of_length = [pair for pair in uniform if all(task.num_episodes == n for task in pair)]
        if all(_arms(trained) == _arms(tested) for trained, tested in of_length):
            continue
        agents, columns = (_ordered(tasks, _arms) for tasks in zip(*of_length, strict=True))
        line.append(Panel(f"n={n}", _prior(columns[0])[1], "k", [task.name for task in agents], columns))
    return [line] if line else []


def _is_uniform(task: Task) -> bool:
    """Whether it is a bandit of uniform arms."""
    return isinstance(task.env, BernoulliBandit) and task.env.is_uniform


def _ordered(tasks: Iterable[Task], value: Callable[[Task], int]) -> list[Task]:
    """Each task once."""
    return sorted(dict.fromkeys(tasks), key=value)


def to_markdown(rows: list[Row]) -> str:
    """A table for each panel: shares with standard errors, bold where the task is the one trained on."""
    found, rows_of = shares(rows), by_task(rows)
    lines = ["Score in percent of the best reference agent's on the same tasks, with standard errors.", ""]
    for kind, title in TITLES.items():
        for panel in (panel for line in panels(kind, rows) for panel in line):
            heading = ", ".join(filter(None, (title, panel.size, panel.prior)))
            lines += [f"### {heading}", ""]
            columns = [f"{panel.varied}={panel.value(task)}" for task in panel.tested]
            lines.append("| trained on | " + " | ".join(columns) + " |")
            lines.append("|---" + "|---:" * len(panel.tested) + "|")
            for name in panel.trained:
                texts = []
                for task in panel.tested:
                    cell = found.get((name, task.name))
                    text = "–" if cell is None else score_text(Cell(*cell))
                    texts.append(f"**{text}**" if name == task.name else text)
                lines.append(f"| {panel.varied}={panel.value(parse_task(name))} | " + " | ".join(texts) + " |")
            best = [best_reference(rows_of[task.name]) for task in panel.tested]
            scores = [f"{row['agent']} {score_text(Cell(row['mean'], row['standard_error']))}" for row in best]
            lines.append("| best reference agent | " + " | ".join(scores) + " |")
            lines.append("| tasks | " + " | ".join(f"{row['num_tasks']}" for row in best) + " |")
            lines.append("")
    return "\n".join(lines)


def heat_maps(kind: str, rows: list[Row]) -> matplotlib.figure.Figure:
    """Trained on against tested on, in percent of the best reference agent; a frame where both are the same.

    Args:
      kind: "bandit", "arms" or "mdp", as of `panels`.
      rows: of all settings.

    Raises:
      ValueError: if there is no row of a trained agent for these.
    """
    grid, found = panels(kind, rows), shares(rows)
    if not grid:
        raise ValueError(f"there is no row of an agent for heat maps of kind {kind!r}")
    cells = [(name, task.name) for line in grid for panel in line for name in panel.trained for task in panel.tested]
    percents = [found[cell].percent for cell in cells if cell in found]
    widths = [max(len(line[i].tested) for line in grid if i < len(line)) for i in range(max(map(len, grid)))]
    heights = [max(len(panel.trained) for panel in line) for line in grid]
    figure = matplotlib.figure.Figure(
        figsize=(0.52 * sum(widths) + 0.6 * len(widths) + 1.4, 0.36 * sum(heights) + 0.9 * len(heights) + 0.3),
        layout="constrained",
    )
    axes = figure.subplots(
        len(grid), len(widths), squeeze=False, gridspec_kw={"width_ratios": widths, "height_ratios": heights}
    )
    # Nine tenths and less are all dark: differences near the best would not show on the whole range.
    limits = max(90.0, min(percents)), max(100.0, *percents)
    for axis in axes.flat:
        axis.set_visible(False)
    for line, of_line in zip(grid, axes, strict=True):
        for place, (panel, axis) in enumerate(zip(line, of_line, strict=False)):
            _draw(axis, panel, found, limits)
            if place and _agents(panel) == _agents(line[0]):
                axis.set_yticklabels([])
            if not place:
                axis.set_ylabel(f"trained on {panel.varied}", fontsize=8)
    image = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(*limits), _COLOURS)
    bar = figure.colorbar(image, ax=axes, pad=0.01, extend="min" if min(percents) < limits[0] else "neither")
    bar.set_label("% of the best reference agent", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _agents(panel: Panel) -> list[str]:
    """The rows' labels."""
    return [f"{panel.value(parse_task(name))}" for name in panel.trained]


def _draw(axis: Any, panel: Panel, found: dict[tuple[str, str], Share], limits: tuple[float, float]) -> None:
    """One panel: a number in each cell, white on dark; blank where there is no row."""
    nothing = Share(np.nan, np.nan)
    values = np.array(
        [[found.get((name, task.name), nothing).percent for task in panel.tested] for name in panel.trained]
    )
    image = axis.imshow(values, cmap=_COLOURS, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = image.norm(value) < 0.5
            axis.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color="white" if dark else "black")
        if panel.trained[i] == panel.tested[j].name:
            frame = matplotlib.patches.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=_FRAME, linewidth=2)
            frame.set_path_effects([withStroke(linewidth=4, foreground="white")])  # seen on any cell, in grey too
            axis.add_patch(frame)
    axis.set_visible(True)
    axis.set_title(", ".join(filter(None, (panel.size, panel.prior))), fontsize=9)
    axis.set_xticks(range(len(panel.tested)), [f"{panel.value(task)}" for task in panel.tested], fontsize=8)
    axis.set_yticks(range(len(panel.trained)), _agents(panel), fontsize=8)
    axis.set_xlabel(f"tested on {panel.varied}", fontsize=8)
