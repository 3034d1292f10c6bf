"""Games of one `MazeNavigation` in the real engine, in lockstep: their mazes, clocks, rewards; knows no trials."""

import hashlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rl2jax.engines.vizdoom import wad
from rl2jax.engines.vizdoom.engine import IDLE, RESET, STEP, GameSettings
from rl2jax.engines.vizdoom.workers import Workers
from rl2jax.envs.maze import world
from rl2jax.envs.maze.kinematics import CELL, FORWARD, NUM_ACTIONS, STEPS, TURN_LEFT, TURN_RIGHT, Pose
from rl2jax.envs.maze.mazes import HEADINGS, Maze
from rl2jax.envs.maze.navigation import MazeNavigation, reward_of
from rl2jax.envs.maze.raycast import OFFSET, STRIDE
from rl2jax.files import cache_folder


class Games:
    """A vector of games, each with an episode of its own; what they are asked to do has been checked.

    Attributes:
      env: the task.
      mazes: `env.mazes`.
      num_games: how many.
      workers: the processes that play them.
      maze: which of the mazes each game is in; int32 [num_games].
      started: which games have begun an episode; bool [num_games].
      views: what the players see and where they are, as of the last step: "frame", "x", "y", "heading"; [num_games].
    """

    def __init__(self, env: MazeNavigation, num_workers: int, games_per_worker: int, timeout_s: float):
        """Writes the mazes' WAD into the cache, if it is not there, and starts the games.

        Args:
          env: of a fixed set of mazes, with fixed starts, seen in frames.
          num_workers: processes.
          games_per_worker: engines in each.
          timeout_s: as in `Workers`.

        Raises:
          EngineError: if the games do not start.
        """
        self.env = env
        self.mazes = env.mazes
        self.workers = Workers(settings_of(env), num_workers, games_per_worker, timeout_s)
        self.num_games = self.workers.num_games
        self.maze = np.zeros(self.num_games, np.int32)
        self.started = np.zeros(self.num_games, bool)
        self._rewards = np.asarray(reward_of(*jnp.meshgrid(jnp.arange(2.0), jnp.arange(2.0), indexing="ij")))
        self._time = np.zeros(self.num_games, np.int32)
        self.views = self.workers.play(np.full(self.num_games, IDLE), np.zeros(self.num_games, np.int32))

    def frames(self) -> np.ndarray:
        """A copy of what the players see; uint8 [num_games, 30, 40, 3]."""
        return np.ascontiguousarray(self.views["frame"])

    def poses(self) -> Pose:
        """A copy of where they are; leaves int32 [num_games]."""
        return Pose(*(self.views[name].copy() for name in Pose._fields))

    def reset(self, indices: np.ndarray, which: np.ndarray) -> None:
        """Starts episodes: mazes int32 [num_games], games that take them bool [num_games]."""
        if which.any():
            self.maze = np.where(which, indices, self.maze)
            self._time[which] = 0
            self.started |= which
            self.workers.play(np.where(which, RESET, IDLE), self.maze)

    def step(self, actions: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of some games: actions int32 [num_games], games that take them bool [num_games].

        Returns:
          (rewards, terminated, truncated, hit): float32 and bool [num_games]; zero for games that did not play.
        """
        views = self.views
        before, heading = np.stack([views["x"], views["y"]], axis=1), views["heading"].copy()
        self.workers.play(np.where(which, STEP, IDLE), actions)
        self._time += which
        after = np.stack([views["x"], views["y"]], axis=1)
        hit = (actions == FORWARD) & (after - before != STEPS[heading]).any(axis=1) & which
        reached = (after[:, ::-1] // CELL == self.mazes.target[self.maze]).all(axis=1) & which
        truncated = (self._time >= self.env.episode_length) & which
        return np.where(which, self._rewards[reached.astype(int), hit.astype(int)], 0), reached, truncated, hit


def settings_of(env: MazeNavigation) -> GameSettings:
    """What an engine must know to play the mazes of a task, which are written to the cache if they are not there."""
    degrees = env.turn * 360 / HEADINGS
    buttons = {FORWARD: [1.0, 0.0], TURN_LEFT: [0.0, -degrees], TURN_RIGHT: [0.0, degrees]}
    return GameSettings(
        wad=str(_cached_wad(env.mazes)),
        maps=[wad.map_name(index) for index in range(len(env.mazes.target))],
        buttons=[buttons[action] for action in range(NUM_ACTIONS)],
        num_headings=HEADINGS,
        stride=STRIDE,
        offset=OFFSET,
    )


def _cached_wad(mazes: Maze) -> Path:
    """The WAD of these mazes, by the contents of both and of what writes it."""
    content = hashlib.sha256(Path(wad.__file__).read_bytes() + Path(world.__file__).read_bytes())
    for leaf in mazes:
        array = np.ascontiguousarray(leaf)
        content.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    path = cache_folder() / "wads" / f"{content.hexdigest()[:32]}.wad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        wad.write_wad(path, mazes)
    return path
