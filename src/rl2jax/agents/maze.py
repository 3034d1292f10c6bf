"""Agents that find their way by planning, for the limit of what can be learned in a maze.

They know where they are and see walls as they are (`TrialObservation.privileged`), which a trained agent must make
out from frames; what they do not know is what lies behind the walls. All plan in cells and quarter turns, with what a
cell and a turn cost in steps, and choose the next straight stretch of the way with the player's own motion: corners
are cut.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM
from rl2jax.envs.maze.kinematics import CELL, FORWARD, STEPS, TURN_LEFT, TURN_RIGHT, UNIT, Pose, blocked, cell_of
from rl2jax.envs.maze.mazes import HEADINGS, Maze
from rl2jax.types import TrialObservation

_CELL_STEPS = 5  # steps forward along a cell
_CELL_UNITS = CELL / UNIT
_STEP_UNITS = _CELL_UNITS / _CELL_STEPS
_QUARTER = HEADINGS // 4
# East, north, west, south: rows, columns.
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# So far from the middle line of a passage, in units, the player's box still fits through with 8 to spare.
_SLACK = 40.0
_AT_GOAL = -_CELL_STEPS / 2  # cost of a goal's middle: it is reached at the edge of its cell
_LATER = 1e4  # cost of unknown cells where the target is known: to be looked at only if there is no way to it yet
_MOST_STRAIGHT = 10  # steps ahead that a straight stretch is looked for
_HALF_VIEW = math.pi / 4
_CORNER = 0.5  # units: what is seen past a wall's end so closely is not seen


class Knowledge(NamedTuple):
    """What an explorer remembers of a trial: the cells it has seen, with their walls; bool [size, size]."""

    seen: chex.Array


def passages(maze: Maze) -> chex.Array:
    """Whether one can go from a cell to the next, by direction; bool [4, size, size]."""
    return jnp.stack([~maze.east_walls[:, 1:], ~maze.north_walls[1:], ~maze.east_walls[:, :-1], ~maze.north_walls[:-1]])


def known_walls(maze: Maze, seen: chex.Array) -> Maze:
    """The maze as far as one knows it: between two cells that were not seen there is a wall.

    Args:
      maze: as it is.
      seen: cells whose walls were seen; bool [size, size].
    """
    around = jnp.pad(seen, 1)
    east = around[1:-1, 1:] | around[1:-1, :-1]
    north = around[1:, 1:-1] | around[:-1, 1:-1]
    return maze._replace(east_walls=maze.east_walls | ~east, north_walls=maze.north_walls | ~north)


def steps_to_go(maze: Maze, seen: chex.Array, goal: chex.Array, turn: int) -> chex.Array:
    """Steps from the middle of each cell, by direction, to the nearest goal, through cells whose walls were seen.

    Args:
      maze: its walls; those between cells that were not seen have no effect.
      seen: bool [size, size].
      goal: what is still to go from the middle of a goal; float32 [size, size], infinite where there is none.
      turn: sixteenths of a turn of one turning action.

    Returns:
      float32 [4, size, size]; infinite where no goal can be reached.
    """
    open_ways = passages(maze) & seen[None]
    quarter_steps = _QUARTER / turn
    start = jnp.broadcast_to(goal[None], (4, *goal.shape))

    def sweep(costs):
        ahead = jnp.stack([_neighbour(costs[d], d, jnp.inf) for d in range(4)])
        forward = jnp.where(open_ways, _CELL_STEPS + ahead, jnp.inf)
        turned = quarter_steps + jnp.minimum(jnp.roll(costs, 1, axis=0), jnp.roll(costs, -1, axis=0))
        return jnp.minimum(costs, jnp.minimum(forward, turned))

    def unfinished(carry):
        return carry[1]

    def again(carry):
        new = sweep(carry[0])
        return new, jnp.any(new < carry[0])

    costs, _ = jax.lax.while_loop(unfinished, again, (start, jnp.ones((), bool)))
    return costs


def _neighbour(x: chex.Array, direction: int, outside: float) -> chex.Array:
    """What the cell next to each one holds; [size, size]."""
    rows, columns = _DIRECTIONS[direction]
    padded = jnp.pad(x, 1, constant_values=outside)
    size = x.shape[0]
    return jax.lax.dynamic_slice(padded, (1 + rows, 1 + columns), (size, size))


def visible(pose: Pose, maze: Maze) -> chex.Array:
    """Cells whose middle is in view, and the player's own; bool [size, size]."""
    size = maze.north_walls.shape[1]
    middle = (jnp.arange(size) + 0.5) * _CELL_UNITS
    x, y = pose.x / UNIT, pose.y / UNIT
    to_x, to_y = middle[None, :] - x, middle[:, None] - y
    angle = pose.heading * (2 * math.pi / HEADINGS)
    ahead = to_x * jnp.cos(angle) + to_y * jnp.sin(angle)
    aside = to_y * jnp.cos(angle) - to_x * jnp.sin(angle)
    in_view = (ahead > 0) & (jnp.abs(aside) <= ahead * math.tan(_HALF_VIEW) + 1e-3)
    lines = jnp.arange(size + 1) * _CELL_UNITS

    def crosses(position, to, other, other_to, walls):
        """Whether the way to each cell's middle crosses a wall of one family; walls [cells along, lines]."""
        to, other_to = jnp.broadcast_arrays(to, other_to)
        share = (lines - position)[None, None, :] / jnp.where(jnp.abs(to) < 1e-6, 1e-6, to)[..., None]
        at = other + share * other_to[..., None]
        line = jnp.arange(size + 1)[None, None, :]
        # Through a corner itself one sees only if there is no wall on either side.
        wall = jnp.zeros(at.shape, bool)
        for aside in (-_CORNER, _CORNER):
            cell = jnp.clip(jnp.floor((at + aside) / _CELL_UNITS), 0, size - 1).astype(jnp.int32)
            wall |= walls[cell, line]
        return jnp.any((share > 0) & (share < 1) & wall, axis=-1)

    hidden = crosses(x, to_x, y, to_y, maze.east_walls) | crosses(y, to_y, x, to_x, maze.north_walls.T)
    row, column = cell_of(pose)
    return (in_view & ~hidden).at[row, column].set(True)


def _control(pose: Pose, maze: Maze, goal: chex.Array, costs: chex.Array, turn: int) -> chex.Array:
    """The first action of the best way to turn, go straight and then follow `steps_to_go`; int32 [].

    Whatever is best, a step of it leaves the rest of it to be chosen next time: what is to go falls at every step.
    """
    headings, straight = jnp.arange(HEADINGS), jnp.arange(1, _MOST_STRAIGHT + 1)
    sixteenths = (headings - pose.heading) % HEADINGS
    turns = jnp.minimum(sixteenths, HEADINGS - sixteenths)
    turns = jnp.where(turns % turn == 0, turns / turn, jnp.inf)
    steps = jnp.asarray(STEPS)[:, None] * straight[None, :, None]
    halves = steps - jnp.asarray(STEPS)[:, None] + _half(jnp.asarray(STEPS))[:, None]
    x, y = pose.x + steps[..., 0], pose.y + steps[..., 1]
    hit = blocked(x, y, maze) | blocked(pose.x + halves[..., 0], pose.y + halves[..., 1], maze)
    clear = jnp.cumsum(hit, axis=1) == 0
    to_go = _to_go(x, y, jnp.broadcast_to(headings[:, None], x.shape), maze, goal, costs, turn)
    in_all = jnp.where(clear, turns[:, None] + straight[None] + to_go, jnp.inf)
    heading = jnp.argmin(in_all) // _MOST_STRAIGHT
    left = (heading - pose.heading) % HEADINGS
    turning = jnp.where(left <= HEADINGS // 2, TURN_LEFT, TURN_RIGHT)
    return jnp.where(left == 0, FORWARD, turning).astype(jnp.int32)


def _to_go(x, y, heading, maze: Maze, goal: chex.Array, costs: chex.Array, turn: int) -> chex.Array:
    """About how many steps it is from poses to a goal, by way of the middle of the next cell; any shape."""
    row, column = y // CELL, x // CELL
    best = goal[row, column] - _AT_GOAL
    behind = jnp.stack([_neighbour(costs[d], d, jnp.inf) for d in range(4)])
    behind = jnp.where(passages(maze), behind, jnp.inf)[:, row, column]
    for d, (rows, columns) in enumerate(_DIRECTIONS):
        to_x, to_y = (column + columns + 0.5) * _CELL_UNITS - x / UNIT, (row + rows + 0.5) * _CELL_UNITS - y / UNIT
        off_line = jnp.abs(to_y if rows == 0 else to_x)
        sixteenths = (d * _QUARTER - heading) % HEADINGS
        turns = jnp.minimum(sixteenths, HEADINGS - sixteenths) / turn
        distance = (jnp.hypot(to_x, to_y) + 2 * jnp.maximum(0.0, off_line - _SLACK)) / _STEP_UNITS
        best = jnp.minimum(best, turns + distance + behind[d])
    return best


def _half(step: chex.Array) -> chex.Array:
    """Half a step, rounded towards zero as the engine does."""
    return jnp.sign(step) * (jnp.abs(step) // 2)


def _planner(env: Any, knows_maze: bool, sight: bool) -> Agent:
    size = env.size

    def init(key):
        del key
        return Knowledge(jnp.full((size, size), knows_maze))

    def step(key, state: Knowledge, trial_obs: TrialObservation):
        del key
        pose, maze = trial_obs.privileged
        row, column = cell_of(pose)
        now = visible(pose, maze) if sight else jnp.zeros((size, size), bool).at[row, column].set(True)
        # An episode ends on entering the target's cell, before anything is seen from there.
        reached = jnp.where(trial_obs.prev_done * (trial_obs.prev_reward > 0) > 0, True, False)
        now = now | (reached & jnp.zeros((size, size), bool).at[tuple(maze.target)].set(True))
        seen = state.seen | now
        target = jnp.zeros((size, size), bool).at[tuple(maze.target)].set(True)
        unknown = jnp.where(seen, jnp.inf, _LATER * jnp.any(seen & target))
        goal = _AT_GOAL + jnp.where(seen & target, 0.0, unknown)
        known = known_walls(maze, seen)
        return Knowledge(seen), _control(pose, known, goal, steps_to_go(known, seen, goal, env.turn), env.turn), ()

    return Agent(init, step)


def shortest_path(env: Any, num_episodes: int) -> Agent:
    """Knows the maze and the target from the start: the floor for every episode, up to a step (see the tests)."""
    del num_episodes
    return _planner(env, knows_maze=True, sight=False)


def explorer(env: Any, num_episodes: int, *, sight: bool = True) -> Agent:
    """Goes to the nearest cell that it has not seen, until it sees the target; remembers what it saw.

    Without sight it knows a cell once it has been there, and the target once it has reached it: a depth-first search.
    """
    del num_episodes
    return _planner(env, knows_maze=False, sight=sight)


MAZE_AGENTS: dict[str, ReferenceAgent] = {
    "random": RANDOM,
    "depth_first": ReferenceAgent(partial(explorer, sight=False)),
    "explorer": ReferenceAgent(explorer),
    "shortest_path": ReferenceAgent(shortest_path),
}
