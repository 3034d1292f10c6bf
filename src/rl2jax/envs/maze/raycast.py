"""What the player sees, point by point as ZDoom's software renderer draws it: 40 x 30 pixels of flat colours.

The engine renders 160 x 120 pixels, of which every fourth in each direction is kept. A ray meets the nearest wall;
how far away that is says how many rows it covers; the rest is floor and ceiling.
"""

import chex
import jax.numpy as jnp
import numpy as np

from rl2jax.envs.maze import world
from rl2jax.envs.maze.kinematics import UNIT, Pose
from rl2jax.envs.maze.mazes import HEADINGS, Maze

WIDTH, HEIGHT = 40, 30
STRIDE, OFFSET = 4, 2  # rendered pixels per kept one, and the first kept
_RENDERED_WIDTH, _RENDERED_HEIGHT = 160, 120
_FOCAL_X, _FOCAL_Y = 80.0, 96.0  # in rendered pixels: 90 degrees wide, pixels 1.2 times as high as wide
_NEAREST_TARGET = 0.75  # map units
# Where in its pixel a ray passes. The engine rounds the column of a corner down, and on the right half adds one.
_RAY_X_LEFT, _RAY_X_RIGHT, _RAY_Y = 0.99, -0.01, 1.0


def _rays() -> tuple[np.ndarray, np.ndarray]:
    """(rightward per unit forward, float32 [40]; upward per unit forward, float32 [30])."""
    columns = OFFSET + STRIDE * np.arange(WIDTH)
    rows = OFFSET + STRIDE * np.arange(HEIGHT)
    middle = _RENDERED_WIDTH // 2
    right = (columns + np.where(columns < middle, _RAY_X_LEFT, _RAY_X_RIGHT) - middle) / _FOCAL_X
    up = (_RENDERED_HEIGHT / 2 - rows - _RAY_Y) / _FOCAL_Y
    return right.astype(np.float32), up.astype(np.float32)


_RIGHT, _UP = _rays()
_ANGLES = np.arange(HEADINGS) * 2 * np.pi / HEADINGS
_FORWARD = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1).astype(np.float32)
_COLOURS = np.array([world.FLOOR, world.CEILING_COLOUR, world.EAST_WALL, world.NORTH_WALL, world.TARGET], np.uint8)
_FLOOR, _CEILING, _EAST, _NORTH, _TARGET = range(5)


def render(pose: Pose, maze: Maze) -> chex.Array:
    """The view from a pose; uint8 [30, 40, 3], RGB."""
    depth, surface = cast(pose, maze)
    height = _UP[:, None] * depth[None]  # of the ray's point above the eye, where it meets the wall
    background = jnp.where(_UP > 0, _CEILING, _FLOOR)[:, None]
    on_wall = (height < world.CEILING - world.EYE) & (height >= -world.EYE)
    return jnp.asarray(_COLOURS)[jnp.where(on_wall, surface[None], background)]


def cast(pose: Pose, maze: Maze) -> tuple[chex.Array, chex.Array]:
    """The nearest surface in each column of pixels.

    Returns:
      (depth along the heading in map units, float32 [40]; which surface, int32 [40]).
    """
    size = maze.north_walls.shape[1]
    forward_x, forward_y = jnp.asarray(_FORWARD)[pose.heading]
    x, y = pose.x / UNIT, pose.y / UNIT
    direction_x = forward_x + _RIGHT * forward_y
    direction_y = forward_y - _RIGHT * forward_x
    east_solid, north_solid, east_target, north_target = _surfaces(pose, maze)
    lines = jnp.arange(size + 1, dtype=jnp.float32) * world.CELL

    def meet(position, along, other_position, other_along, solid):
        """Depths at which rays meet the lines of one family, infinite where there is no surface; [40, size + 1]."""
        depth = (lines - position)[None, :] / _away_from_zero(along)[:, None]
        cell = jnp.floor((other_position + depth * other_along[:, None]) / world.CELL).astype(jnp.int32)
        inside = (cell >= 0) & (cell < size)
        index = jnp.clip(cell, 0, size - 1), jnp.arange(size + 1)[None, :]
        return jnp.where((depth > 0) & inside & solid[index], depth, jnp.inf), index

    depth_east, index_east = meet(x, direction_x, y, direction_y, east_solid)
    depth_north, index_north = meet(y, direction_y, x, direction_x, north_solid.T)
    depths = jnp.concatenate([depth_east, depth_north], axis=1)
    surfaces = jnp.concatenate(
        [
            jnp.where(east_target[index_east], _TARGET, _EAST),
            jnp.where(north_target.T[index_north], _TARGET, _NORTH),
        ],
        axis=1,
    )
    nearest = jnp.argmin(depths, axis=1)
    columns = jnp.arange(WIDTH)
    return depths[columns, nearest], surfaces[columns, nearest]


def _away_from_zero(x: chex.Array) -> chex.Array:
    """The same, but never so small that a quotient overflows."""
    return jnp.where(jnp.abs(x) < 1e-6, jnp.where(x < 0, -1e-6, 1e-6), x)


def _surfaces(pose: Pose, maze: Maze) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array]:
    """Edges that stop a ray (east, north), and those of them that are the target's open sides (east, north)."""
    row, column = maze.target
    west, east, south, north = _far_enough(pose, maze)
    east_lines = jnp.zeros_like(maze.east_walls).at[row, column].set(west).at[row, column + 1].set(east)
    north_lines = jnp.zeros_like(maze.north_walls).at[row, column].set(south).at[row + 1, column].set(north)
    east_lines, north_lines = east_lines & ~maze.east_walls, north_lines & ~maze.north_walls
    return maze.east_walls | east_lines, maze.north_walls | north_lines, east_lines, north_lines


def _far_enough(pose: Pose, maze: Maze) -> chex.Array:
    """Whether the engine draws the target's west, east, south and north side; bool [4].

    It leaves out a side that can be entered if any part of it in view is nearer than 0.75 units (as measured; where
    a pixel would be magnified 128 times): one looks into the target just before one steps into it.
    """
    row, column = maze.target * float(world.CELL)
    corner_x = column + world.CELL * jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    corner_y = row + world.CELL * jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    forward_x, forward_y = jnp.asarray(_FORWARD)[pose.heading]
    to_x, to_y = corner_x - pose.x / UNIT, corner_y - pose.y / UNIT
    depth = to_x * forward_x + to_y * forward_y
    right = to_x * forward_y - to_y * forward_x
    # In view is where depth - right and depth + right are positive; along a side both are linear.
    start, end = jnp.zeros(4), jnp.ones(4)
    for limit in (depth - right, depth + right):
        slope = limit[:, 1] - limit[:, 0]
        crossing = -limit[:, 0] / _away_from_zero(slope)
        outside = (slope == 0) & (limit[:, 0] < 0)
        start = jnp.where(outside, 1.0, jnp.where(slope > 0, jnp.maximum(start, crossing), start))
        end = jnp.where(outside, 0.0, jnp.where(slope < 0, jnp.minimum(end, crossing), end))
    at = depth[:, :1] + (depth[:, 1:] - depth[:, :1]) * jnp.stack([start, end], axis=1)
    return (start >= end) | (jnp.min(at, axis=1) >= _NEAREST_TARGET)
