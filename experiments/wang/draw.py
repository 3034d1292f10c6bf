"""The three kinds of figure: lines, bars, a matrix."""

import matplotlib.figure
import numpy as np

from rl2jax.results.pages.figures import Theme, add_legend, new_figure

TRAINED = "rl2"
_MARKED = 10  # points, at most, that are worth a mark each
_NAMES = {
    "rl2": "trained",
    "ucb1": "UCB1, c = 1",
    "ucb1_tuned": "UCB1, tuned",
    "thompson": "Thompson",
    "gittins": "Gittins",
    "ucb": "UCB",
    "rescorla_wagner": "Rescorla-Wagner",
    "discounted_ucb": "discounted UCB",
    "bayes_optimal": "Bayes-optimal",
}


def display(agent: str, what: str = "") -> str:
    """An agent's name as readers see it, and what is shown of it."""
    return ", ".join(filter(None, (_NAMES.get(agent, agent.replace("_", " ")), what)))


def lines(theme: Theme, shown: list[tuple[str, str, list[float]]], across: str, up: str) -> matplotlib.figure.Figure:
    """A line for each (agent, what is shown of it, values), counted from 1; an agent has a colour, the second a dash.

    Lines of one name, such as seeds, share a place in the legend. Trained agents' are thick, and behind the others.
    """
    figure, axes = new_figure(theme, 1, 1, 6.8, 3.6)
    axis = axes[0, 0]
    agents = list(dict.fromkeys(agent for agent, _, _ in shown))
    whats = list(dict.fromkeys(what for _, what, _ in shown))
    longest = max(len(values) for _, _, values in shown)
    for agent, what, values in shown:
        name, trained = display(agent, what), agent == TRAINED
        axis.plot(
            np.arange(1, len(values) + 1),
            values,
            label=None if name in axis.get_legend_handles_labels()[1] else name,
            color=theme.lines[agents.index(agent) % len(theme.lines)],
            linestyle=("-", "--", ":")[whats.index(what) % 3],
            linewidth=4.0 if trained else 1.4,
            alpha=0.55 if trained else 1.0,
            zorder=2 if trained else 3,
            marker="o" if longest <= _MARKED else None,
            markersize=3,
        )
    if longest <= _MARKED:
        axis.set_xticks(range(1, longest + 1))
    axis.set_xlabel(across, fontsize=9)
    axis.set_ylabel(up, fontsize=9)
    axis.set_ylim(bottom=0)
    axis.grid(color=theme.grid, linewidth=0.5)
    add_legend(axis, theme, *axis.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def bars(
    theme: Theme,
    groups: list[str],
    kinds: list[str],
    means: list[list[float]],
    errors: list[list[float]],
    up: str,
    bottom: float | None = None,
) -> matplotlib.figure.Figure:
    """A group of bars for each agent, one bar for each kind with two standard errors; means [kinds][groups]."""
    figure, axes = new_figure(theme, 1, 1, max(5.0, 1.2 * len(groups) + 2.4), 3.6)
    axis = axes[0, 0]
    width = 0.8 / len(kinds)
    for number, (kind, mean, error) in enumerate(zip(kinds, means, errors, strict=True)):
        places = np.arange(len(groups)) + (number - (len(kinds) - 1) / 2) * width
        colour = theme.lines[number % len(theme.lines)]
        axis.bar(places, mean, width * 0.92, yerr=2 * np.array(error), color=colour, ecolor=theme.ink, label=kind)
    axis.set_xticks(range(len(groups)), [display(group) for group in groups], fontsize=8)
    axis.set_ylabel(up, fontsize=9)
    if bottom is not None:
        axis.set_ylim(bottom=bottom)
    axis.grid(axis="y", color=theme.grid, linewidth=0.5)
    axis.set_axisbelow(True)
    add_legend(axis, theme, *axis.get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def matrix(
    theme: Theme,
    values: np.ndarray,
    halves: np.ndarray,
    rows: list[str],
    columns: list[str],
    across: str,
    label: str,
) -> matplotlib.figure.Figure:
    """Numbers in cells with half their intervals, shaded within each column; nan leaves a cell empty."""
    figure, axes = new_figure(theme, 1, 1, 1.15 * len(columns) + 2.6, 0.46 * len(rows) + 1.1)
    axis = axes[0, 0]
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    shade = (values - low) / np.where(high > low, high - low, 1.0)
    image = axis.imshow(np.ma.masked_invalid(shade), cmap=theme.colour_map, vmin=0, vmax=2.0, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = f"{value:.2f} ± {halves[row, column]:.2f}"
            luminance = np.dot(image.cmap(image.norm(shade[row, column]))[:3], (0.299, 0.587, 0.114))
            colour = "white" if luminance < 0.5 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(columns)), columns, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xlabel(across, fontsize=9)
    axis.set_title(label, fontsize=9, color=theme.ink)
    return figure
