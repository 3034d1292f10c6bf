"""The paper's visual navigation task, simulated on the device (Duan et al. 2016, section 3.3)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.envs.maze import kinematics
from rl2jax.envs.maze.kinematics import CELL, UNIT, Pose
from rl2jax.envs.maze.mazes import HEADINGS, NUM_START_HEADINGS, Maze, check_size, generate_maze, maze_set, more_mazes
from rl2jax.envs.maze.raycast import HEIGHT, WIDTH, render
from rl2jax.kinds import Choice, Kind
from rl2jax.settings import require

TARGET_REWARD, WALL_REWARD, STEP_REWARD = 1.0, -0.001, -0.04
SPLITS = ("train", "test", "fresh")
OBSERVATIONS = ("frame", "symbols")


@struct.dataclass
class NavigationState(EnvState):
    """The player's pose, and the steps taken in this episode."""

    pose: Pose
    time: chex.Array


@struct.dataclass
class NavigationParams(EnvParams):
    """One maze with its target and start; `max_steps_in_episode` is the horizon."""

    maze: Maze = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@dataclass(frozen=True)
class MazeNavigation(TaskDistribution[NavigationState, NavigationParams]):
    """Find the target of a maze, again and again: +1 on reaching it, -0.001 for a wall, -0.04 for every step.

    Three actions: forward (25.6 units; a cell has 128), turn left, turn right. An episode ends in the target's cell
    or after `episode_length` steps. Maze, target and start stay as they are during a trial.

    Attributes:
      size: cells along a side.
      episode_length: the horizon.
      thin: whether walls have no width (every cell is a room), rather than being solid blocks of a cell.
      turn: sixteenths of a full turn of one turning action: 1, 2 or 4 (22.5, 45, 90 degrees).
      split: "train" or "test", the mazes of a fixed set; or "fresh", any maze.
      num_mazes: in the training set, and in the test set.
      num_more: further ones in the training set, none of which is a test maze; the test set does not depend on it.
      maze_seed: of both sets.
      redraw_start: whether each episode starts in a free cell of its own, with a heading of its own.
      observation: "frame", what the player sees, uint8 [30, 40, 3]; or "symbols", the map near the player and its
        pose in its cell, float32 [39].

    Raises:
      ValueError: naming the field, its value and what is allowed.
    """

    size: int = 5
    episode_length: int = 250
    thin: bool = False
    turn: int = 1
    split: str = "train"
    num_mazes: int = 1000
    num_more: int = 0
    maze_seed: int = 0
    redraw_start: bool = False
    observation: str = "frame"

    ends_early: ClassVar[bool] = True

    def __post_init__(self):
        check_size(self.size, self.thin)
        require(self.episode_length >= 1, "episode_length (t)", self.episode_length, "an integer >= 1")
        require(self.turn in (1, 2, 4), "turn", self.turn, "1, 2 or 4 sixteenths of a full turn")
        require(self.split in SPLITS, "split", self.split, f"one of {', '.join(SPLITS)}")
        require(self.num_mazes >= 1, "num_mazes", self.num_mazes, "an integer >= 1")
        require(self.num_more >= 0, "num_more", self.num_more, "an integer >= 0")
        require(self.observation in OBSERVATIONS, "observation", self.observation, f"one of {', '.join(OBSERVATIONS)}")

    @property
    def mazes(self) -> Maze:
        """The configurations that tasks are drawn from; numpy leaves [set's size, ...]. Not for "fresh"."""
        sets = (self.size, self.thin, self.maze_seed, self.num_mazes, self.num_mazes)
        train, test = maze_set(*sets)
        if self.split == "test":
            return test
        if self.num_more == 0:
            return train
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), train, more_mazes(*sets, self.num_more))

    def params_of(self, maze: Maze) -> NavigationParams:
        """The task of one maze."""
        return NavigationParams(maze=maze, max_steps_in_episode=self.episode_length)

    def sample_params(self, key: chex.PRNGKey) -> NavigationParams:
        """Draws one configuration, uniformly from the set, or a new one."""
        if self.split == "fresh":
            return self.params_of(generate_maze(key, self.size, self.thin))
        return self.params_of(jax.tree.map(jnp.asarray, self.mazes).at(self.sample_maze_index(key)))

    def sample_maze_index(self, key: chex.PRNGKey) -> chex.Array:
        """Which of `mazes` `sample_params` draws with this key; int32 []."""
        more = self.num_more if self.split == "train" else 0
        return jax.random.randint(key, (), 0, self.num_mazes + more)

    @partial(jax.jit, static_argnames="self")
    def step(self, key: chex.PRNGKey, state: NavigationState, action, params: NavigationParams):
        """As gymnax's, but that one frame is drawn and not two: not the step's own where it ends an episode."""
        key_step, key_reset = jax.random.split(key)
        del key_step  # moving is not random
        moved, reward, reached = self._move(state, action, params)
        truncated = self.is_truncated(moved, params)
        next_state = jax.tree.map(partial(jnp.where, reached | truncated), self._start(key_reset, params), moved)
        info = {"terminated": reached, "truncated": truncated, "final_observation": self.observe(moved, params)}
        return self.observe(next_state, params), next_state, reward, reached, truncated, info

    def reset_env(self, key: chex.PRNGKey, params: NavigationParams):
        """In the middle of the start's cell."""
        state = self._start(key, params)
        return self.observe(state, params), state

    def step_env(self, key: chex.PRNGKey, state: NavigationState, action, params: NavigationParams):
        """One tic of the engine."""
        del key
        new_state, reward, reached = self._move(state, action, params)
        return self.observe(new_state, params), new_state, reward, reached, {}

    def _start(self, key: chex.PRNGKey, params: NavigationParams) -> NavigationState:
        pose = self._random_pose(key, params.maze) if self.redraw_start else kinematics.start_pose(params.maze)
        return NavigationState(pose=pose, time=jnp.zeros((), jnp.int32))

    def _move(self, state: NavigationState, action, params: NavigationParams):
        """(state, reward, whether the target is reached)."""
        pose, hit = kinematics.move(state.pose, action, params.maze, self.turn)
        new_state = NavigationState(pose=pose, time=state.time + 1)
        reached = self.is_terminated(new_state, params)
        return new_state, reward_of(reached, hit), reached

    def is_terminated(self, state: NavigationState, params: NavigationParams) -> chex.Array:
        """Whether the player is in the target's cell."""
        return jnp.all(kinematics.cell_of(state.pose) == params.maze.target)

    def observe(self, state: NavigationState, params: NavigationParams) -> chex.Array:
        """What the agent is shown."""
        if self.observation == "frame":
            return render(state.pose, params.maze)
        return symbols(state.pose, params.maze)

    def held_out(self) -> "MazeNavigation":
        """The test mazes, where training is on the training mazes."""
        return dataclasses.replace(self, split="test") if self.split == "train" else self

    def privileged(self, state: NavigationState, params: NavigationParams) -> tuple[Pose, Maze]:
        """Pose and maze, for planners and teachers."""
        return state.pose, params.maze

    def task_features(self, params: NavigationParams) -> chex.Array:
        """The target relative to the start in cells, in the frame of the start's heading; float32 [2]."""
        row, column = (params.maze.target - params.maze.start).astype(jnp.float32)
        angle = params.maze.start_heading * (2 * jnp.pi / HEADINGS)
        ahead = column * jnp.cos(angle) + row * jnp.sin(angle)
        left = row * jnp.cos(angle) - column * jnp.sin(angle)
        return jnp.stack([ahead, left])

    @property
    def num_task_features(self) -> int:
        """Known without drawing a set of mazes."""
        return 2

    def action_space(self, params: NavigationParams | None = None) -> spaces.Discrete:
        """Forward, turn left, turn right."""
        del params
        return spaces.Discrete(kinematics.NUM_ACTIONS)

    def observation_space(self, params: NavigationParams | None = None) -> spaces.Box:
        """A frame, or the map around the player."""
        del params
        if self.observation == "frame":
            return spaces.Box(0, 255, (HEIGHT, WIDTH, 3), jnp.uint8)
        return spaces.Box(-1.0, 1.0, (NUM_SYMBOLS,), jnp.float32)

    def _random_pose(self, key: chex.PRNGKey, maze: Maze) -> Pose:
        """In the middle of a cell that can be reached and is not the target's, looking along an axis."""
        key_cell, key_heading = jax.random.split(key)
        free = ~(maze.east_walls[:, :-1] & maze.east_walls[:, 1:] & maze.north_walls[:-1] & maze.north_walls[1:])
        free = free.at[tuple(maze.target)].set(False)
        cell = jax.random.categorical(key_cell, jnp.where(free.ravel(), 0.0, -jnp.inf))
        quarter = jax.random.randint(key_heading, (), 0, NUM_START_HEADINGS)
        start = jnp.stack(jnp.divmod(cell, self.size)).astype(jnp.int32)
        return kinematics.start_pose(
            maze._replace(start=start, start_heading=quarter * (HEADINGS // NUM_START_HEADINGS))
        )


def reward_of(reached: chex.Array, hit: chex.Array) -> chex.Array:
    """The reward of one step; float32, any shape."""
    return STEP_REWARD + TARGET_REWARD * reached + WALL_REWARD * hit


_WINDOW = 3
NUM_SYMBOLS = _WINDOW * (_WINDOW + 1) * 2 + _WINDOW * _WINDOW + 6


def symbols(pose: Pose, maze: Maze) -> chex.Array:
    """The 3 x 3 cells around the player, north up: walls and target; then where it is in its cell and looks.

    Returns:
      float32 [24 + 9 + 6]: 1 for each wall and for the target's cell; x and y in the cell and in the maze, from -1 to
      1; cosine and sine of the heading. Outside the maze everything is wall.
    """
    size = maze.north_walls.shape[1]
    row, column = kinematics.cell_of(pose)
    window = partial(jax.lax.dynamic_slice, start_indices=(row, column))
    east = window(jnp.pad(maze.east_walls, 1, constant_values=True), slice_sizes=(_WINDOW, _WINDOW + 1))
    north = window(jnp.pad(maze.north_walls, 1, constant_values=True), slice_sizes=(_WINDOW + 1, _WINDOW))
    target = jnp.zeros((size + 2, size + 2)).at[maze.target[0] + 1, maze.target[1] + 1].set(1.0)
    seen = window(target, slice_sizes=(_WINDOW, _WINDOW))
    position = jnp.stack([pose.x, pose.y])
    in_cell = 2.0 * (position % CELL) / CELL - 1.0
    in_maze = 2.0 * (position / UNIT) / (CELL / UNIT * size) - 1.0
    angle = pose.heading * (2 * jnp.pi / HEADINGS)
    facing = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    parts = [east.ravel(), north.ravel(), seen.ravel(), in_cell, in_maze, facing]
    return jnp.concatenate([part.astype(jnp.float32) for part in parts])


def _paper_horizon(given: Mapping[str, int]) -> dict[str, int]:
    """The paper's: 250 steps for small mazes, four times as many for large ones."""
    return {"t": 250 if given["size"] <= 5 else 1000}


_PAPER = {"iterations": 5_000, "batch.size": 50_000, "objective.gae_lambda": 0.99}
MAZE = Kind(
    "maze",
    MazeNavigation,
    {
        "size": "size",
        "t": "episode_length",
        "thin": Choice("thin"),
        "turn": "turn",
        "mazes": "num_mazes",
        "more": "num_more",
        "redraw": Choice("redraw_start"),
        "map": Choice("observation", OBSERVATIONS),
    },
    defaults={"size": 5},
    unspelled={"thin": 0, "turn": 1, "mazes": 1000, "more": 0, "redraw": 0, "map": 0},
    derived=_paper_horizon,
    num_episodes=2,
    words="maze",
    aside=("more",),
    presets={
        "paper": _PAPER,
        "paper-first-order": _PAPER,
        # One network for policy and values: their gradients are clipped, and where the target is helps both.
        "cpu": {
            "objective.gae_lambda": 0.95,
            "slow_rl.learning_rate": 5e-4,
            "objective.entropy_coefficient": 0.01,
            "optimiser.clip": 0.5,
            "objective.task_inference_coefficient": 0.5,
        },
    },
    teacher="explorer",
    recipes={
        "best": "rl2jax.training.recipes:imitated_maze",
        "best-scratch": "rl2jax.training.recipes:reinforced_maze",
    },
    agents="rl2jax.agents.maze:MAZE_AGENTS",
    evaluation="rl2jax.results.evaluations:evaluate_in_mazes",
    recording="rl2jax.results.pages.recordings:maze_recordings",
)
