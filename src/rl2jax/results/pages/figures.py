"""Figures from rows: normalised learning curves, regret over time, which arms an agent pulls, reward per episode."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np

from rl2jax.envs.names import read_name
from rl2jax.results.pages.tables import short
from rl2jax.results.published import SCORES, agent_name
from rl2jax.results.rows import EvaluationRow, ScoredRow, documented
from rl2jax.settings import InputError


class Theme(NamedTuple):
    """Colours of a figure: ink, grid lines, background (None: transparent), lines, and a map from 0 to 1."""

    ink: str
    grid: str
    background: str | None
    lines: tuple[str, ...]
    colour_map: str


LIGHT = Theme(
    "#1f2430",
    "#d9dce3",
    "#ffffff",
    ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#0e7490", "#a16207", "#be185d", "#4b5563", "#65a30d", "#7c2d12"),
    "Blues",
)
DARK = Theme(
    "#e6e8ee",
    "#3a4050",
    "#14171f",
    ("#fb923c", "#60a5fa", "#4ade80", "#c084fc", "#22d3ee", "#facc15", "#f472b6", "#9ca3af", "#a3e635", "#f87171"),
    "cividis",
)
# Colour and dash of an agent are the same in every figure; the trained one leads.
_ORDER = (
    "rl2",
    "gittins",
    "ucb1",
    "thompson",
    "optimistic_thompson",
    "eps_greedy",
    "greedy",
    "random",
    "gittins_finite_horizon",
    "bayes_optimal",
    "psrl",
    "opsrl",
    "ucrl2",
    "beb",
)
_DASHES = ("-", "--", "-.", ":")


def line_style(agent: str, theme: Theme) -> dict[str, Any]:
    """How an agent's line looks, in every figure."""
    place = _ORDER.index(agent) if agent in _ORDER else len(_ORDER) + sum(map(ord, agent)) % 7
    width = 2.4 if agent == "rl2" else 1.4
    colour = theme.lines[place % len(theme.lines)]
    return {"color": colour, "linestyle": _DASHES[place // len(theme.lines) % 4], "linewidth": width}


def new_figure(theme: Theme, rows: int, columns: int, width: float, height: float):
    """(a figure of so many inches, its axes [rows, columns]) in a theme's colours."""
    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_facecolor(theme.background or "none")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_facecolor(theme.background or "none")
        axis.tick_params(colors=theme.ink, labelsize=8)
        for side, spine in axis.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
        for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
            text.set_color(theme.ink)
    return figure, axes


def add_legend(owner: Any, theme: Theme, handles: list, labels: list[str], **options: Any) -> None:
    """A legend without a frame, of an axis or a figure."""
    owner.legend(handles, labels, frameon=False, fontsize=8, labelcolor=theme.ink, **options)


def _panels(tasks: list[str]) -> dict[int, list[str]]:
    """Tasks by their number of episodes, in order."""
    panels: dict[int, list[str]] = defaultdict(list)
    for task in tasks:
        panels[read_name(task)[1]["n"]].append(task)
    return dict(sorted(panels.items()))


def learning_curves(number: int, rows: Sequence[ScoredRow], theme: Theme = LIGHT) -> matplotlib.figure.Figure:
    """Figure 2 (bandits) or 3 (MDPs): mean return in training, upper reference agent = 1, random = 0.

    One panel per number of episodes. A line is the mean over training seeds of one preset, its band their range; with
    one seed there is no band. Training returns are of that iteration's batch, with actions sampled.

    Args:
      number: of the figure in the paper, 2 or 3.
      rows: as from `rows.read_results`; rows of "rl2" with a `learning_curve` are drawn.
      theme: colours.

    Raises:
      ValueError: if there is no such figure, or no row to draw.
    """
    table = next((table for table in SCORES.values() if table.figure == number), None)
    if table is None:
        raise InputError(f"figure must be one of {', '.join(str(t.figure) for t in SCORES.values())}, got {number}")
    chosen, needed = documented(rows), (table.lower, table.upper)
    trained = [row for row in rows if row.agent == "rl2" and (row.learning_curve or {}).get("iteration")]
    drawable = [
        task
        for task in table.scores
        if any(row.task == task for row in trained) and all((task, agent) in chosen for agent in needed)
    ]
    if not drawable:
        raise InputError(
            f"figure {number} needs rows of rl2 with a learning_curve, of {table.lower} and of {table.upper} "
            "for at least one task; --results has none"
        )
    panels = _panels(drawable)
    lines = list(dict.fromkeys(map(_without_episodes, drawable)))  # a colour means the same in all panels
    figure, axes = new_figure(theme, 1, len(panels), 3.6 * len(panels) + 0.6, 3.2)
    for axis, (episodes, tasks) in zip(axes.flat, panels.items(), strict=True):
        for task in tasks:
            colour = theme.lines[lines.index(_without_episodes(task)) % len(theme.lines)]
            low, high = (chosen[task, agent].mean for agent in needed)
            _training_of(axis, task, [row for row in trained if row.task == task], low, high, colour)
        axis.axhline(1.0, color=theme.ink, linewidth=0.8, linestyle=":")
        axis.set_title(f"n = {episodes}", fontsize=10, color=theme.ink)
        axis.set_xlabel("iteration", fontsize=9)
        axis.set_ylim(0.0, max(1.1, axis.get_ylim()[1]))
        axis.grid(color=theme.grid, linewidth=0.5)
        add_legend(axis, theme, *axis.get_legend_handles_labels(), loc="lower right")
    axes[0, 0].set_ylabel(f"{agent_name(table.upper)} = 1, {agent_name(table.lower)} = 0", fontsize=9)
    return figure


def _training_of(axis: Any, task: str, rows: list[ScoredRow], low: float, high: float, colour: str) -> None:
    """Lines of one task, one for each preset, with low at 0 and high at 1; [num_points] each."""
    presets = list(dict.fromkeys(row.preset for row in rows))
    for preset, style in zip(presets, itertools.cycle(("-", "--", ":"))):
        curves = [row.learning_curve for row in rows if row.preset == preset and row.learning_curve]
        steps = np.asarray(curves[0]["iteration"], float)
        values = np.stack([np.interp(steps, c["iteration"], c["mean_return"]) for c in curves])
        values = (values - low) / (high - low)
        label = _without_episodes(task) or short(task)
        label += f", {preset or 'own settings'}" if len(presets) > 1 else ""
        label += f" ({len(curves)} seeds)" if len(curves) > 1 else ""
        axis.plot(steps, values.mean(axis=0), color=colour, linestyle=style, linewidth=1.6, label=label)
        if len(curves) > 1:
            band = values.min(axis=0), values.max(axis=0)
            axis.fill_between(steps, *band, color=colour, alpha=0.25, linewidth=0)


def _without_episodes(task: str) -> str:
    """What else tasks of a table differ in: "k=5"; for MDPs nothing."""
    kind, settings = read_name(task)
    return kind.title({name: value for name, value in settings.items() if name != "n"})


def _curves_of(task: str, rows: Sequence[ScoredRow]) -> dict[str, EvaluationRow]:
    chosen = documented(row for row in rows if isinstance(row, EvaluationRow) and row.task == task)
    found = {agent: row for (_, agent), row in chosen.items() if row.reward_curve}
    if not found:
        raise InputError(f"no rows with a reward_curve for {task}")
    return dict(sorted(found.items(), key=lambda item: -item[1].mean))


def regret_over_time(task: str, rows: Sequence[ScoredRow], theme: Theme = LIGHT) -> matplotlib.figure.Figure:
    """Cumulative regret of each agent over the pulls of a trial of a uniform Bernoulli bandit.

    Regret counts from the best arm's expected success probability, k / (k + 1). Lines are labelled in the
    order of their totals.
    """
    num_arms = read_name(task)[1]["k"]
    figure, axes = new_figure(theme, 1, 1, 6.4, 3.6)
    axis = axes[0, 0]
    for agent, row in _curves_of(task, rows).items():
        rewards = np.asarray(row.reward_curve)
        pulls = np.arange(1, len(rewards) + 1)
        regret = pulls * num_arms / (num_arms + 1) - np.cumsum(rewards)
        axis.plot(
            pulls,
            regret,
            label=f"{agent_name(agent)}  {regret[-1]:.{1 if regret[-1] >= 10 else 2}f}",
            **line_style(agent, theme),
        )
    axis.set_title(short(task), fontsize=10, color=theme.ink)
    axis.set_xlabel("pull", fontsize=9)
    axis.set_ylabel("cumulative regret", fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(color=theme.grid, linewidth=0.5)
    handles, labels = axis.get_legend_handles_labels()
    add_legend(axis, theme, handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def reward_per_episode(task: str, rows: Sequence[ScoredRow], theme: Theme = LIGHT) -> matplotlib.figure.Figure:
    """Mean return of each episode of a trial, per agent: learning inside a trial."""
    length = read_name(task)[1]["t"]
    figure, axes = new_figure(theme, 1, 1, 6.4, 3.6)
    axis = axes[0, 0]
    for agent, row in _curves_of(task, rows).items():
        returns = np.asarray(row.reward_curve).reshape(-1, length).sum(axis=1)
        axis.plot(np.arange(1, len(returns) + 1), returns, label=agent_name(agent), **line_style(agent, theme))
    axis.set_title(short(task), fontsize=10, color=theme.ink)
    axis.set_xlabel("episode", fontsize=9)
    axis.set_ylabel("mean return", fontsize=9)
    axis.grid(color=theme.grid, linewidth=0.5)
    add_legend(axis, theme, *axis.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def pull_heat_maps(task: str, rows: Sequence[ScoredRow], theme: Theme = LIGHT) -> matplotlib.figure.Figure:
    """One map per agent: share of the pulls that went to the best arm, the second best, ..., over a trial."""
    curves = _curves_of(task, rows)
    found = {agent: row for agent, row in curves.items() if "pull_frequencies" in (row.statistics or {})}
    if not found:
        raise InputError(f"no rows with pull_frequencies for {task}")
    columns = min(4, len(found))
    lines = math.ceil(len(found) / columns)
    figure, axes = new_figure(theme, lines, columns, 2.3 * columns + 0.8, 1.9 * lines + 0.4)
    image = None
    for place, (agent, row) in enumerate(found.items()):
        axis = axes.flat[place]
        shares = np.asarray((row.statistics or {})["pull_frequencies"]).T
        extent = (0, len(row.reward_curve or ()), shares.shape[0] + 0.5, 0.5)
        image = axis.imshow(shares, aspect="auto", vmin=0, vmax=1, cmap=theme.colour_map, extent=extent)
        axis.set_title(f"{agent_name(agent)}  {row.mean:.1f}", fontsize=9, color=theme.ink)
        axis.set_yticks([1, shares.shape[0]], ["best", "worst"] if place % columns == 0 else ["", ""])
        lowest = place + columns >= len(found)
        axis.set_xticks(extent[:2], extent[:2] if lowest else ["", ""])
        if lowest:
            axis.set_xlabel("pull", fontsize=8)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
        bar.ax.tick_params(colors=theme.ink, labelsize=8)
        bar.set_label("share of pulls", color=theme.ink, fontsize=8)
        bar.outline.set_visible(False)
    return figure
