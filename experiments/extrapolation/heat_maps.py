"""Shares of the best reference agent's score as tables and heat maps; reads rows only."""

from typing import Any, NamedTuple

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.patches
import numpy as np
from matplotlib.patheffects import withStroke

from experiments.extrapolation.shares import Row, Share, best_reference, by_task, shares
from rl2jax.envs import BernoulliBandit
from rl2jax.tables import Cell, score_text
from rl2jax.tasks import Task, parse_task

TITLES = {"bandit": "Bandits", "mdp": "Tabular MDPs"}
_COLOURS = "cividis"  # its lightness grows throughout: the same order in shades of grey
_FRAME = "#c2410c"


class Panel(NamedTuple):
    """Agents of one size against the lengths of trials of one prior.

    Attributes:
      size: "k=5", or "s=10, a=5, t=10".
      prior: what the arms are drawn from; empty for MDPs.
      trained: names of the tasks trained on, shortest trials first.
      tested: tasks tested on, shortest trials first.
    """

    size: str
    prior: str
    trained: list[str]
    tested: list[Task]


def _size(task: Task) -> tuple[int, ...]:
    """What an agent's network fits."""
    env: Any = task.env
    return (env.num_arms,) if task.kind == "bandit" else (env.num_states, env.num_actions, env.episode_length)


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
    """The panels of "bandit" or "mdp": a line for each size, in it one for each prior."""
    tested = [task for task in map(parse_task, by_task(rows)) if task.kind == kind]
    trained = [parse_task(name) for name in {row["trained_on"] for row in rows if "trained_on" in row}]
    trained = [task for task in trained if task.kind == kind]
    lines = []
    for size in sorted(set(map(_size, tested))):
        names = "k" if kind == "bandit" else "sat"
        text = ", ".join(f"{name}={value}" for name, value in zip(names, size, strict=True))
        of_size = sorted((task for task in trained if _size(task) == size), key=_episodes)
        line = []
        for prior in sorted({_prior(task) for task in tested if _size(task) == size}):
            columns = [task for task in tested if (_size(task), _prior(task)) == (size, prior)]
            line.append(Panel(text, prior[1], [task.name for task in of_size], sorted(columns, key=_episodes)))
        lines.append(line)
    return lines


def _episodes(task: Task) -> int:
    return task.num_episodes


def to_markdown(rows: list[Row]) -> str:
    """A table for each panel: shares with standard errors, bold where the task is the one trained on."""
    found, rows_of = shares(rows), by_task(rows)
    lines = ["Score in percent of the best reference agent's on the same tasks, with standard errors.", ""]
    for kind, title in TITLES.items():
        for panel in (panel for line in panels(kind, rows) for panel in line):
            heading = ", ".join(filter(None, (title, panel.size, panel.prior)))
            lines += [f"### {heading}", ""]
            lines.append("| trained on | " + " | ".join(f"n={task.num_episodes}" for task in panel.tested) + " |")
            lines.append("|---" + "|---:" * len(panel.tested) + "|")
            for name in panel.trained:
                texts = []
                for task in panel.tested:
                    cell = found.get((name, task.name))
                    text = "–" if cell is None else score_text(Cell(*cell))
                    texts.append(f"**{text}**" if name == task.name else text)
                lines.append(f"| n={parse_task(name).num_episodes} | " + " | ".join(texts) + " |")
            best = [best_reference(rows_of[task.name]) for task in panel.tested]
            scores = [f"{row['agent']} {score_text(Cell(row['mean'], row['standard_error']))}" for row in best]
            lines.append("| best reference agent | " + " | ".join(scores) + " |")
            lines.append("| tasks | " + " | ".join(f"{row['num_tasks']}" for row in best) + " |")
            lines.append("")
    return "\n".join(lines)


def heat_maps(kind: str, rows: list[Row]) -> matplotlib.figure.Figure:
    """Trained on against tested on, in percent of the best reference agent; a frame where both are the same.

    Args:
      kind: "bandit" or "mdp".
      rows: of all settings.

    Raises:
      ValueError: if there is no row of a trained agent of this kind.
    """
    grid, found = panels(kind, rows), shares(rows)
    percents = [s.percent for (trained, _), s in found.items() if parse_task(trained).kind == kind]
    if not percents:
        raise ValueError(f"there is no row of an agent that was trained on tasks of kind {kind!r}")
    widths = [max(len(line[i].tested) for line in grid if i < len(line)) for i in range(max(map(len, grid)))]
    heights = [len(line[0].trained) for line in grid]
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
            _draw(axis, panel, found, limits, leftmost=place == 0)
    image = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(*limits), _COLOURS)
    bar = figure.colorbar(image, ax=axes, pad=0.01, extend="min" if min(percents) < limits[0] else "neither")
    bar.set_label("% of the best reference agent", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure


def _draw(axis: Any, panel: Panel, found: dict[tuple[str, str], Share], limits: tuple[float, float], leftmost: bool):
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
    axis.set_xticks(range(len(panel.tested)), [f"{task.num_episodes}" for task in panel.tested], fontsize=8)
    labels = [f"{parse_task(name).num_episodes}" for name in panel.trained] if leftmost else [""] * len(panel.trained)
    axis.set_yticks(range(len(panel.trained)), labels, fontsize=8)
    axis.set_xlabel("tested on n", fontsize=8)
    if leftmost:
        axis.set_ylabel("trained on n", fontsize=8)
