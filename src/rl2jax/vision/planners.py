"""Agents that find their way by planning, for the limit of what can be learned in a maze.

They know where they are and see walls as they are (`TrialObservation.privileged`), which a trained agent must make
out from frames; what they do not know is what lies behind the walls. All plan in cells and quarter turns, with what a
cell and a turn cost in steps.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import random_agent
from rl2jax.types import TrialObservation
from rl2jax.vision.kinematics import CELL, FORWARD, TURN_LEFT, TURN_RIGHT, UNIT, Pose, cell_of
from rl2jax.vision.mazes import HEADINGS, Maze

_CELL_STEPS = 5  # steps forward along a cell
_QUARTER = HEADINGS // 4
# East, north, west, south: rows, columns.
_DIRECTIONS = ((0, 1), (1, 0), (0, -1), (-1, 0))
# So far from the middle line of a passage, in units, the player's box still fits through with 8 to spare.
_SLACK = 40.0
_HALF_VIEW = math.pi / 4


class Knowledge(NamedTuple):
    """What an explorer remembers of a trial: the cells it has seen, with their walls; bool [size, size]."""

    seen: chex.Array


def passages(maze: Maze) -> chex.Array:
    """Whether one can go from a cell to the next, by direction; bool [4, size, size]."""
    return jnp.stack(
        [~maze.east_walls[:, 1:], ~maze.north_walls[1:], ~maze.east_walls[:, :-1], ~maze.north_walls[:-1]]
    )


def steps_to_go(maze: Maze, seen: chex.Array, goal: chex.Array, turn: int) -> chex.Array:
    """Steps from each cell and direction to the nearest goal, through cells whose walls were seen.

    Args:
      maze: its walls; those of cells that were not seen have no effect.
      seen: bool [size, size].
      goal: bool [size, size].
      turn: sixteenths of a turn of one turning action.

    Returns:
      float32 [4, size, size]; infinite where no goal can be reached.
    """
    open_ways = passages(maze) & seen
    quarter_steps = _QUARTER / turn
    start = jnp.where(goal, 0.0, jnp.inf) * jnp.ones((4, 1, 1))

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
    middle = (jnp.arange(size) + 0.5) * (CELL / UNIT)
    x, y = pose.x / UNIT, pose.y / UNIT
    to_x, to_y = middle[None, :] - x, middle[:, None] - y
    angle = pose.heading * (2 * math.pi / HEADINGS)
    ahead = to_x * jnp.cos(angle) + to_y * jnp.sin(angle)
    aside = to_y * jnp.cos(angle) - to_x * jnp.sin(angle)
    in_view = (ahead > 0) & (jnp.abs(aside) <= ahead * math.tan(_HALF_VIEW) + 1e-3)
    lines = jnp.arange(size + 1) * (CELL / UNIT)

    def crosses(position, to, other, other_to, walls):
        """Whether the way to each cell's middle crosses a wall of one family; walls [cells along, lines]."""
        to, other_to = jnp.broadcast_arrays(to, other_to)
        share = (lines - position) / jnp.where(jnp.abs(to) < 1e-6, 1e-6, to)[..., None]
        cell = jnp.clip(jnp.floor((other + share * other_to[..., None]) / (CELL / UNIT)), 0, size - 1).astype(jnp.int32)
        return jnp.any((share > 0) & (share < 1) & walls[cell, jnp.arange(size + 1)], axis=-1)

    hidden = crosses(x, to_x, y, to_y, maze.east_walls) | crosses(y, to_y, x, to_x, maze.north_walls.T)
    row, column = cell_of(pose)
    return (in_view & ~hidden).at[row, column].set(True)


def _control(pose: Pose, maze: Maze, costs: chex.Array, turn: int) -> chex.Array:
    """The action that follows `steps_to_go` from anywhere in a cell; int32 []."""
    row, column = cell_of(pose)
    ahead = jnp.stack([_neighbour(costs[d], d, jnp.inf)[row, column] for d in range(4)])
    open_ways = passages(maze)[:, row, column]
    sixteenths = (jnp.arange(4) * _QUARTER - pose.heading) % HEADINGS
    turns = jnp.minimum(sixteenths, HEADINGS - sixteenths) / turn
    direction = jnp.argmin(jnp.where(open_ways, turns + ahead, jnp.inf))

    x, y = pose.x / UNIT, pose.y / UNIT
    cell = CELL / UNIT
    own_x, own_y = (column + 0.5) * cell, (row + 0.5) * cell
    rows, columns = jnp.asarray(_DIRECTIONS)[direction]
    off_line = jnp.where(rows == 0, jnp.abs(y - own_y), jnp.abs(x - own_x))
    through = off_line <= _SLACK
    to_x = own_x + jnp.where(through, columns * cell, 0.0) - x
    to_y = own_y + jnp.where(through, rows * cell, 0.0) - y
    error = jnp.arctan2(to_y, to_x) - pose.heading * (2 * math.pi / HEADINGS)
    error = (error + math.pi) % (2 * math.pi) - math.pi
    straight = jnp.abs(error) <= math.pi / HEADINGS * turn + 1e-3
    return jnp.where(straight, FORWARD, jnp.where(error > 0, TURN_LEFT, TURN_RIGHT)).astype(jnp.int32)


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
        goal = jnp.where(jnp.any(seen & target), target, ~seen)
        costs = steps_to_go(maze, seen, goal, env.turn)
        return Knowledge(seen), _control(pose, maze, costs, env.turn), ()

    return Agent(init, step)


def shortest_path(env: Any, num_episodes: int) -> Agent:
    """Knows the maze and the target from the start: the floor for every episode, up to a step at a corner."""
    del num_episodes
    return _planner(env, knows_maze=True, sight=False)


def explorer(env: Any, num_episodes: int, *, sight: bool = True) -> Agent:
    """Goes to the nearest cell that it has not seen, until it sees the target; remembers what it saw.

    Without sight it knows a cell once it has been there, and the target once it has reached it: a depth-first search.
    """
    del num_episodes
    return _planner(env, knows_maze=False, sight=sight)


MAZE_AGENTS: dict[str, ReferenceAgent] = {
    "random": ReferenceAgent(lambda env, num_episodes: random_agent(env.action_space(None))),
    "depth_first": ReferenceAgent(partial(explorer, sight=False)),
    "explorer": ReferenceAgent(explorer),
    "shortest_path": ReferenceAgent(shortest_path),
}
