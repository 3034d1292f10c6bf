"""Pictures of mazes and of what agents do in them: figures 4, 5 and 6 of Duan et al. 2016, and a trial that moves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw

from rl2jax.envs.maze.kinematics import CELL, HEADINGS, Pose, start_pose
from rl2jax.envs.maze.mazes import Maze, free_cells
from rl2jax.envs.maze.raycast import HEIGHT, WIDTH, render
from rl2jax.envs.maze.world import TARGET
from rl2jax.results.mazes import Episodes
from rl2jax.results.pages.figures import LIGHT, Theme
from rl2jax.settings import require
from rl2jax.types import Trajectory

_FREE, _SOLID, _WALL = "#ffffff", "#c5cad3", "#1f2430"
_TARGET, _START, _VIEW = "#dc2626", "#3b82f6", "#f59e0b"
_ROUTE = "viridis"
_CURVE_POINTS = 200


class Route(NamedTuple):
    """Where the player was in an episode.

    Attributes:
      x, y: in cells, before each step; float64 [length].
      reached: whether it ended in the target.
      length: steps.
    """

    x: np.ndarray
    y: np.ndarray
    reached: bool
    length: int


class Case(NamedTuple):
    """A trial to be shown: what it is an example of, and its place in the batch."""

    title: str
    trial: int


def draw_map(axis: matplotlib.axes.Axes, maze: Maze, heading: bool = True) -> None:
    """A maze from above, north up: walls, the target's cell red, the start's cell blue, with its heading if wanted."""
    free = free_cells(maze)
    size = len(free)
    for row, column in np.ndindex(size, size):
        colour = _FREE if free[row, column] else _SOLID
        axis.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="none"))
    for cell, colour in ((maze.target, _TARGET), (maze.start, _START)):
        row, column = (int(v) for v in cell)
        axis.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="none", alpha=0.9))
    axis.add_collection(LineCollection(wall_lines(maze, free), colors=_WALL, linewidths=1.6, capstyle="projecting"))
    if heading:
        row, column = (int(v) for v in maze.start)
        angle = int(maze.start_heading) * 2 * np.pi / HEADINGS
        x, y, along, up = column + 0.5, row + 0.5, 0.38 * np.cos(angle), 0.38 * np.sin(angle)
        arrow = {"arrowstyle": "-|>", "color": "white", "lw": 1.4, "shrinkA": 0}
        axis.annotate("", (x + along, y + up), (x - along, y - up), arrowprops=arrow)
    axis.set_xlim(-0.08, size + 0.08)
    axis.set_ylim(-0.08, size + 0.08)
    axis.set_aspect("equal")
    axis.set_axis_off()


def wall_lines(maze: Maze, free: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Walls that a free cell has, as lines between points (x, y) in cells; `free` as from `mazes.free_cells`."""
    around = np.pad(free, 1)
    east = np.asarray(maze.east_walls) & (around[1:-1, 1:] | around[1:-1, :-1])
    north = np.asarray(maze.north_walls) & (around[1:, 1:-1] | around[:-1, 1:-1])
    upright = [((int(c), int(r)), (int(c), int(r) + 1)) for r, c in np.argwhere(east)]
    return upright + [((int(c), int(r)), (int(c) + 1, int(r))) for r, c in np.argwhere(north)]


def view(pose: Pose, maze: Maze) -> np.ndarray:
    """What is seen from a pose, rendered again; uint8 [30, 40, 3]."""
    return np.asarray(jax.jit(render)(pose, maze))


def first_sight(maze: Maze, trajectory: Trajectory, trial: int, share: float = 0.03) -> Pose:
    """Where a trial first has the target in so large a share of its picture; its start if it never has."""
    poses = Pose(*(np.asarray(leaf[:, trial]) for leaf in trajectory.trial_obs.privileged[0]))
    frames = np.asarray(jax.jit(jax.vmap(render, (0, None)))(poses, maze))
    red = np.mean(np.all(frames == np.array(TARGET, np.uint8), axis=-1), axis=(1, 2))
    return Pose(*(leaf[int(np.argmax(red >= share))] for leaf in poses))


def views_and_maps(places: Sequence[tuple[str, Maze, Pose | None]], theme: Theme = LIGHT) -> matplotlib.figure.Figure:
    """Figure 4: what the agent sees (40 x 30 pixels), and the maze from above, for each place.

    Args:
      places: (title, maze, where the player stands; None: at the start).
      theme: colours.
    """
    figure = matplotlib.figure.Figure(figsize=(6.6, 2.9 * len(places)), layout="constrained")
    figure.patch.set_facecolor(theme.background or "none")
    axes = figure.subplots(len(places), 2, squeeze=False, width_ratios=(4, 3))
    for (left, right), (title, maze, given) in zip(axes, places, strict=True):
        pose = start_pose(maze) if given is None else given
        left.imshow(view(pose, maze), interpolation="nearest", aspect=1.0)
        left.set_axis_off()
        left.set_title(f"{title}: what the agent sees", fontsize=10, color=theme.ink)
        draw_map(right, maze, heading=False)
        right.set_title("from above", fontsize=10, color=theme.ink)
        x, y, angle = int(pose.x) / CELL, int(pose.y) / CELL, int(pose.heading) * 2 * np.pi / HEADINGS
        edges = [(x + 1.3 * np.cos(angle + turn), y + 1.3 * np.sin(angle + turn)) for turn in (-np.pi / 4, np.pi / 4)]
        right.fill(*zip((x, y), *edges, strict=True), color=_VIEW, alpha=0.5, linewidth=0, zorder=3)
        right.plot(x, y, "o", color=_WALL, markersize=5, zorder=4)
    return figure


def routes(trajectory: Trajectory, episodes: Episodes, trial: int) -> list[Route]:
    """Where the player was in each episode of a trial of `episodes.play`."""
    pose = trajectory.trial_obs.privileged[0]
    found, first = [], 0
    for length, reached in zip(episodes.lengths[trial], episodes.reached[trial], strict=True):
        x, y = (np.asarray(axis[first : first + length, trial], np.float64) / CELL for axis in (pose.x, pose.y))
        found.append(Route(x, y, bool(reached), int(length)))
        first += length
    return found


def typical_cases(episodes: Episodes) -> list[Case]:
    """A trial of the intended behaviour and one where it fails, chosen by rule; those that there are.

    Intended: both episodes reach the target and the second is shorter. Failed: the first reaches the target and the
    second is longer or does not. Of each kind, the trial at the third quartile of the difference in length: what
    happens is clear, and is no rarity.
    """
    (first, second), (found, found_again) = episodes.lengths[:, :2].T, episodes.reached[:, :2].T
    kinds = {
        "intended: finds its way back": (found & found_again & (second < first), first - second),
        "failed: searches again": (found & ((second > first) | ~found_again), second - first),
    }
    cases = []
    for title, (chosen, difference) in kinds.items():
        trials = np.flatnonzero(chosen)
        by_difference = trials[np.argsort(difference[trials], kind="stable")]
        if len(trials):
            cases.append(Case(title, int(by_difference[3 * (len(trials) - 1) // 4])))
    return cases


def behaviour(
    mazes: Maze,
    trajectory: Trajectory,
    episodes: Episodes,
    cases: Sequence[Case],
    shown: int = 2,
    theme: Theme = LIGHT,
) -> matplotlib.figure.Figure:
    """Figure 6: the first episodes of some trials side by side, from above.

    Args:
      mazes: of the trials, leaves [num_trials, ...].
      trajectory: of `episodes.play`.
      episodes: the same, cut into episodes.
      cases: one line each.
      shown: episodes of each.
      theme: colours.
    """
    require(len(cases) > 0, "cases", list(cases), "at least one trial")
    figure = matplotlib.figure.Figure(figsize=(3.3 * shown + 0.9, 3.5 * len(cases)), layout="constrained")
    figure.patch.set_facecolor(theme.background or "none")
    axes = figure.subplots(len(cases), shown, squeeze=False)
    for line, case in zip(axes, cases, strict=True):
        maze = mazes.at(case.trial)
        of_trial = routes(trajectory, episodes, case.trial)[:shown]
        longest = max(route.length for route in of_trial)
        for number, (axis, route) in enumerate(zip(line, of_trial, strict=True), 1):
            draw_map(axis, maze)
            drawn = _draw_route(axis, route, longest)
            end = "" if route.reached else ", not reached"
            axis.set_title(f"episode {number}: {route.length} steps{end}", fontsize=9, color=theme.ink)
        bar = figure.colorbar(drawn, ax=list(line), shrink=0.75, pad=0.02)
        bar.set_label("step", color=theme.ink, fontsize=8)
        bar.ax.tick_params(colors=theme.ink, labelsize=7)
        bar.outline.set_visible(False)
        line[0].text(
            -0.06, 0.5, case.title, transform=line[0].transAxes, rotation=90, va="center", ha="right", color=theme.ink
        )
    return figure


def _draw_route(axis: matplotlib.axes.Axes, route: Route, longest: int) -> LineCollection:
    """The way, coloured by step; a ring where it starts and a disc where it ends."""
    points = np.stack([route.x, route.y], axis=1)
    segments = np.stack([points[:-1], points[1:]], axis=1)
    lines = LineCollection(list(segments), cmap=_ROUTE, linewidths=2.2, capstyle="round", zorder=3)
    lines.set_array(np.arange(len(segments)))
    lines.set_clim(0, longest)
    axis.add_collection(lines)
    axis.plot(*points[0], "o", markerfacecolor="white", markeredgecolor=_WALL, markersize=6, zorder=4)
    axis.plot(*points[-1], "o", color=_WALL, markersize=6, zorder=4)
    return lines


def training_curves(
    groups: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    *,
    metric: str = "mean_return",
    label: str = "total reward of a trial",
    references: Mapping[str, float] | None = None,
    theme: Theme = LIGHT,
) -> matplotlib.figure.Figure:
    """Figure 5: training of several seeds; a thin line each, their mean, and the band from the worst to the best.

    Args:
      groups: name -> for each seed its rows, as from `sessions.read_metrics`.
      metric: what is drawn.
      label: what that is.
      references: name -> level to be marked, such as what agents without training reach.
      theme: colours.

    Raises:
      ValueError: if there is nothing to draw.
    """
    drawable = {name: [rows for rows in seeds if rows] for name, seeds in groups.items()}
    require(any(drawable.values()), "groups", list(groups), "at least one run with metrics")
    figure = matplotlib.figure.Figure(figsize=(6.6, 3.6), layout="constrained")
    figure.patch.set_facecolor(theme.background or "none")
    axis = figure.subplots()
    for place, (name, seeds) in enumerate((name, seeds) for name, seeds in drawable.items() if seeds):
        colour = theme.lines[place % len(theme.lines)]
        curves = [_thinned(rows, metric) for rows in seeds]
        common = max((x for x, _ in curves), key=len)
        common = common[common <= min(x[-1] for x, _ in curves)]
        values = np.stack([np.interp(common, x, y) for x, y in curves])
        several = f" ({len(seeds)} seeds)" if len(seeds) > 1 else ""
        axis.plot(common, values.mean(axis=0), color=colour, linewidth=2.0, label=name + several)
        if len(seeds) > 1:
            axis.fill_between(common, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
            for x, y in curves:
                axis.plot(x, y, color=colour, linewidth=0.6, alpha=0.8)
    for name, level in (references or {}).items():
        axis.axhline(level, color=theme.ink, linewidth=0.8, linestyle=":")
        axis.annotate(name, (1.01, level), xycoords=("axes fraction", "data"), fontsize=8, color=theme.ink, va="center")
    axis.set_xlabel("iteration", fontsize=9, color=theme.ink)
    axis.set_ylabel(label, fontsize=9, color=theme.ink)
    axis.set_facecolor(theme.background or "none")
    axis.tick_params(colors=theme.ink, labelsize=8)
    axis.grid(color=theme.grid, linewidth=0.5)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    axis.legend(frameon=False, fontsize=8, labelcolor=theme.ink, loc="best")
    return figure


def _thinned(rows: Sequence[Mapping[str, Any]], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(iteration, value), at most 200 points, each a mean over its stretch of iterations."""
    stretches = np.array_split(np.arange(len(rows)), min(_CURVE_POINTS, len(rows)))
    iteration = np.array([rows[int(s[-1])]["iteration"] for s in stretches], np.float64)
    return iteration, np.array([np.mean([rows[int(i)][metric] for i in s]) for s in stretches])


def write_gif(
    path: Path,
    maze: Maze,
    trajectory: Trajectory,
    episodes: Episodes,
    trial: int,
    shown: int = 2,
    *,
    scale: int = 6,
    milliseconds: int = 60,
) -> None:
    """A trial as the agent sees it, beside the map with the way so far; its first episodes.

    Args:
      path: of the file.
      maze: of the trial.
      trajectory: of `episodes.play`.
      episodes: the same, cut into episodes.
      trial: which.
      shown: episodes.
      scale: screen pixels to one of the agent's.
      milliseconds: per step; the last picture of an episode stays for a second.
    """
    pose = trajectory.trial_obs.privileged[0]
    num_steps = int(episodes.lengths[trial, :shown].sum())
    of_trial = Pose(*(np.asarray(leaf[:num_steps, trial]) for leaf in pose))
    frames = np.asarray(jax.jit(jax.vmap(render, (0, None)))(of_trial, maze))
    number = np.repeat(np.arange(shown), episodes.lengths[trial, :shown])
    height, size = HEIGHT * scale, np.asarray(maze.east_walls).shape[0]
    unit = (height - 2) // size
    base = _small_map(maze, unit)
    pictures, durations, first = [], [], 0
    for step in range(num_steps):
        if step and number[step] != number[step - 1]:
            first = step
        canvas = Image.new("RGB", (WIDTH * scale + base.width + 8, height + 18), "#ffffff")
        canvas.paste(Image.fromarray(frames[step]).resize((WIDTH * scale, height), Image.Resampling.NEAREST), (0, 18))
        plan = base.copy()
        pencil = ImageDraw.Draw(plan)
        way = [
            (x / CELL * unit, base.height - 1 - y / CELL * unit)
            for x, y in zip(of_trial.x[first : step + 1], of_trial.y[first : step + 1], strict=True)
        ]
        if len(way) > 1:
            pencil.line(way, fill="#7e22ce", width=2)
        x, y = way[-1]
        angle = int(of_trial.heading[step]) * 2 * np.pi / HEADINGS
        pencil.line([(x, y), (x + unit / 3 * np.cos(angle), y - unit / 3 * np.sin(angle))], fill=_WALL, width=2)
        pencil.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_WALL)
        canvas.paste(plan, (WIDTH * scale + 8, 18))
        ImageDraw.Draw(canvas).text((2, 3), f"episode {number[step] + 1}, step {step - first + 1}", fill=_WALL)
        pictures.append(canvas.quantize(32, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
        last = step + 1 == num_steps or number[step + 1] != number[step]
        durations.append(1000 if last else milliseconds)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)


def _small_map(maze: Maze, unit: int) -> Image.Image:
    """A map for the screen, `unit` pixels to a cell."""
    free = free_cells(maze)
    size = len(free)
    picture = Image.new("RGB", (size * unit + 2, size * unit + 2), _SOLID)
    pencil = ImageDraw.Draw(picture)
    bottom = picture.height - 1

    def box(row: int, column: int) -> list[int]:
        return [column * unit, bottom - (row + 1) * unit, (column + 1) * unit, bottom - row * unit]

    for row, column in np.argwhere(free):
        pencil.rectangle(box(row, column), fill=_FREE)
    for cell, colour in ((maze.target, _TARGET), (maze.start, _START)):
        pencil.rectangle(box(int(cell[0]), int(cell[1])), fill=colour)
    for line in wall_lines(maze, free):
        pencil.line([(x * unit, bottom - y * unit) for x, y in line], fill=_WALL, width=2)
    return picture
