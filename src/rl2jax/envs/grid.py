"""Find a place on a grid once, then go back to it from anywhere (after Wang et al. 2016, section 3.2.3)."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Choice, Kind
from rl2jax.settings import require

LAYOUTS = ("i-maze", "open")
GOAL_REWARD = 1.0
# North, east, south, west, in (row, column).
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


@struct.dataclass
class GridState(EnvState):
    """The agent's cell, int32 [], as an index of `GridNavigation.cells`, and the steps taken."""

    cell: chex.Array
    time: chex.Array


@struct.dataclass
class GridParams(EnvParams):
    """One task: `goal`, an index of `GridNavigation.cells`, int32 []; `max_steps_in_episode` the number of steps."""

    goal: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


class GridPrivileged(NamedTuple):
    """The agent's cell and the goal's, for planners and teachers; int32 [] each."""

    cell: chex.Array
    goal: chex.Array


@dataclass(frozen=True)
class GridNavigation(TaskDistribution[GridState, GridParams]):
    """The goal cannot be seen: whoever enters it gets 1 and is put back to a random cell, until the steps are over.

    Layout and goal stay; the goal is drawn anew for each task. "i-maze": a corridor of one cell's width between two
    bars, the goal in one of the four ends (Mirowski et al. 2016, which the paper's section refers to, in a world of
    three dimensions). "open": an open field with the goal in any cell, a water maze on a grid. Starts and the cells an
    agent is put back to are drawn from all free cells but the goal; walking into a wall does nothing. There is no cost
    per step: the sooner the goal is found, the more often it is. One episode holds all steps, as being put back is no
    end of anything the agent should be told of.

    Attributes:
      layout: "i-maze" or "open".
      size: cells along a side, at least 3; odd for the I-maze.
      episode_length: steps.
      view_radius: 0: the observation is the place, its row and its column as one-hot vectors; float32 [2 size]. Else
        the free cells within so many rows and columns, north up; float32 [(2 view_radius + 1)^2]. Ends of the I-maze
        all look different, the rest of it in part alike: then the way must be remembered too.
    """

    layout: str = "i-maze"
    size: int = 7
    episode_length: int = 200
    view_radius: int = 0

    def __post_init__(self):
        require(self.layout in LAYOUTS, "layout", self.layout, f"one of {', '.join(LAYOUTS)}")
        allowed = "an odd integer >= 3" if self.layout == "i-maze" else "an integer >= 3"
        odd = self.size % 2 == 1 or self.layout == "open"
        require(self.size >= 3 and odd, "size", self.size, allowed)
        require(self.episode_length >= 1, "episode_length (t)", self.episode_length, "an integer >= 1")
        require(self.view_radius >= 0, "view_radius (view)", self.view_radius, "an integer >= 0")

    @property
    def free(self) -> np.ndarray:
        """Which cells of the grid are free; bool numpy [size, size]."""
        free = np.ones((self.size, self.size), bool)
        if self.layout == "i-maze":
            free[1:-1] = False
            free[:, self.size // 2] = True
        return free

    @cached_property
    def cells(self) -> np.ndarray:
        """Row and column of every free cell; int numpy [num_cells, 2]."""
        return np.argwhere(self.free)

    @cached_property
    def goals(self) -> np.ndarray:
        """Cells that can be the goal, as indices of `cells`; int numpy [num_goals]."""
        if self.layout == "open":
            return np.arange(len(self.cells))
        ends = (0, self.size - 1)
        return np.flatnonzero(np.isin(self.cells[:, 0], ends) & np.isin(self.cells[:, 1], ends))

    @cached_property
    def next_cell(self) -> np.ndarray:
        """Where each move leads; int numpy [num_cells, 4], the cell itself for a wall."""
        index = {tuple(cell): i for i, cell in enumerate(self.cells.tolist())}
        return np.array(
            [
                [index.get((row + down, column + right), i) for down, right in MOVES]
                for (row, column), i in index.items()
            ]
        )

    @cached_property
    def _views(self) -> np.ndarray:
        """The observation in each cell; float32 numpy [num_cells, size of it]."""
        if self.view_radius == 0:
            return np.eye(self.size, dtype=np.float32)[self.cells].reshape(len(self.cells), -1)
        r = self.view_radius
        padded = np.pad(self.free, r)
        windows = [padded[row : row + 2 * r + 1, column : column + 2 * r + 1].ravel() for row, column in self.cells]
        return np.array(windows, np.float32)

    def sample_params(self, key: chex.PRNGKey) -> GridParams:
        """Draws the goal."""
        return GridParams(
            goal=jax.random.choice(key, jnp.asarray(self.goals, jnp.int32)),
            max_steps_in_episode=self.episode_length,
        )

    def reset_env(self, key: chex.PRNGKey, params: GridParams):
        """Any cell but the goal."""
        state = GridState(cell=self._random_cell(key, params), time=jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(self, key: chex.PRNGKey, state: GridState, action, params: GridParams):
        """One step; on the goal, back to a random cell."""
        reached = self._reaches(state, action, params)
        entered = jnp.asarray(self.next_cell, jnp.int32)[state.cell, action]
        cell = jnp.where(reached, self._random_cell(key, params), entered)
        new_state = GridState(cell=cell, time=state.time + 1)
        reward = GOAL_REWARD * reached.astype(jnp.float32)
        return self._observe(new_state), new_state, reward, self.is_terminated(new_state, params), {}

    def expected_reward(self, state: GridState, action: chex.Array, params: GridParams) -> chex.Array:
        """The reward: only where the agent is put back to is left to chance."""
        return GOAL_REWARD * self._reaches(state, action, params).astype(jnp.float32)

    def is_terminated(self, state: GridState, params: GridParams) -> chex.Array:
        """After the last step."""
        del params
        return state.time >= self.episode_length

    def task_features(self, params: GridParams) -> chex.Array:
        """The goal's row and column, from -1 to 1; float32 [2]."""
        place = jnp.asarray(self.cells, jnp.float32)[params.goal]
        return 2.0 * place / (self.size - 1) - 1.0

    def privileged(self, state: GridState, params: GridParams) -> GridPrivileged:
        """Both cells, for planners and teachers."""
        return GridPrivileged(state.cell, params.goal)

    def _reaches(self, state: GridState, action: chex.Array, params: GridParams) -> chex.Array:
        return jnp.asarray(self.next_cell, jnp.int32)[state.cell, action] == params.goal

    def _random_cell(self, key: chex.PRNGKey, params: GridParams) -> chex.Array:
        cell = jax.random.randint(key, (), 0, len(self.cells) - 1)
        return (cell + (cell >= params.goal)).astype(jnp.int32)

    def _observe(self, state: GridState) -> chex.Array:
        return jnp.asarray(self._views)[state.cell]

    @property
    def num_actions(self) -> int:
        """Four."""
        return len(MOVES)

    def action_space(self, params: GridParams | None = None) -> spaces.Discrete:
        """North, east, south, west."""
        del params
        return spaces.Discrete(len(MOVES))

    def observation_space(self, params: GridParams | None = None) -> spaces.Box:
        """A place, or what is near it."""
        del params
        return spaces.Box(0.0, 1.0, (self._views.shape[1],), jnp.float32)


GRID = Kind(
    "grid",
    GridNavigation,
    {"open": Choice("layout", LAYOUTS), "size": "size", "t": "episode_length", "view": "view_radius"},
    defaults={"size": 7, "t": 200},
    unspelled={"open": 0, "view": 0},
    num_episodes=1,
    words="grid",
    agents="rl2jax.agents.grid:GRID_AGENTS",
)
