"""How the player of `wad` moves in a maze, exactly as in ZDoom: 16.16 fixed point in int32.

ZDoom moves a player in two sub-steps, each of which happens whole or not at all: it does not if the player's box,
32 units wide, would then contain a part of a wall. There is no sliding and no momentum.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from rl2jax.envs.maze.mazes import HEADINGS, Maze

UNIT = 1 << 16  # a map unit
CELL = 128 * UNIT
RADIUS = 16 * UNIT  # of the player's box

FORWARD, TURN_LEFT, TURN_RIGHT = 0, 1, 2
NUM_ACTIONS = 3


class Pose(NamedTuple):
    """Where the player stands and looks.

    Attributes:
      x: towards the east, in 1/65536 of a map unit; int32 [].
      y: towards the north; int32 [].
      heading: sixteenths of a turn, counter-clockwise from east; int32 [].
    """

    x: chex.Array
    y: chex.Array
    heading: chex.Array


# What a tic forward adds to x and y at each heading, as measured: about 25.6 units, by the engine's table of sines.
STEPS = np.array(
    [
        (1677720, 0),
        (1549515, 642021),
        (1185406, 1186302),
        (640844, 1550001),
        (0, 1677720),
        (-642022, 1549515),
        (-1186303, 1185406),
        (-1550002, 640844),
        (-1677720, 0),
        (-1549516, -642022),
        (-1185407, -1186303),
        (-640845, -1550002),
        (0, -1677720),
        (642021, -1549516),
        (1186302, -1185407),
        (1550001, -640845),
    ],
    np.int32,
)


def start_pose(maze: Maze) -> Pose:
    """In the middle of the start's cell."""
    row, column = maze.start
    return Pose(column * CELL + CELL // 2, row * CELL + CELL // 2, maze.start_heading)


def cell_of(pose: Pose) -> chex.Array:
    """Row and column of the cell a pose is in; int32 [2]."""
    return jnp.stack([pose.y // CELL, pose.x // CELL])


def blocked(x: chex.Array, y: chex.Array, maze: Maze) -> chex.Array:
    """Whether the player's box at (x, y) would contain a part of a wall; bool []."""
    size = maze.north_walls.shape[1]

    def line_inside(position):
        """The grid line in the open interval of the box, which is narrower than a cell, and whether there is one."""
        line = (position + RADIUS - 1) // CELL
        return jnp.clip(line, 0, size), line * CELL > position - RADIUS

    def cells_touched(position):
        """The one or two cells that the open interval of the box overlaps."""
        low, high = (position - RADIUS) // CELL, (position + RADIUS - 1) // CELL
        return jnp.clip(low, 0, size - 1), jnp.clip(high, 0, size - 1)

    (column_line, crosses_x), (row_line, crosses_y) = line_inside(x), line_inside(y)
    (left, right), (below, above) = cells_touched(x), cells_touched(y)
    east = maze.east_walls[below, column_line] | maze.east_walls[above, column_line]
    north = maze.north_walls[row_line, left] | maze.north_walls[row_line, right]
    return (crosses_x & east) | (crosses_y & north)


def move(pose: Pose, action: chex.Array, maze: Maze, turn: int = 1) -> tuple[Pose, chex.Array]:
    """One tic.

    Args:
      pose: before.
      action: FORWARD, TURN_LEFT or TURN_RIGHT; int32 [].
      maze: its walls.
      turn: sixteenths of a full turn that a turning action makes.

    Returns:
      (pose, whether a wall cut a step forward short; bool []).
    """
    step = jnp.asarray(STEPS)[pose.heading]
    half = jnp.sign(step) * (jnp.abs(step) // 2)
    forward = action == FORWARD
    half_free = ~blocked(pose.x + half[0], pose.y + half[1], maze)
    free = half_free & ~blocked(pose.x + step[0], pose.y + step[1], maze)
    moved = jnp.where(free, step, jnp.where(half_free, half, 0)) * forward
    turned = turn * ((action == TURN_LEFT).astype(jnp.int32) - (action == TURN_RIGHT))
    return Pose(pose.x + moved[0], pose.y + moved[1], (pose.heading + turned) % HEADINGS), forward & ~free
