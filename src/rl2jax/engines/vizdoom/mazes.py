"""`MazeNavigation` played in the real ViZDoom on the host.

The mazes, moves, rewards and episodes are the twin's; `twin_check` says so.
"""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.engines.base import HostEngine
from rl2jax.engines.vizdoom import wad
from rl2jax.engines.vizdoom.engine import IDLE, RESET, STEP, GameSettings, VizdoomMissingError, import_vizdoom
from rl2jax.engines.vizdoom.workers import Workers
from rl2jax.envs.base import TaskDistribution
from rl2jax.envs.maze import world
from rl2jax.envs.maze.kinematics import CELL, FORWARD, NUM_ACTIONS, STEPS, TURN_LEFT, TURN_RIGHT, Pose
from rl2jax.envs.maze.mazes import HEADINGS, Maze
from rl2jax.envs.maze.navigation import MazeNavigation, NavigationParams, reward_of
from rl2jax.envs.maze.raycast import OFFSET, STRIDE
from rl2jax.files import cache_folder
from rl2jax.settings import InputError, require
from rl2jax.types import PyTree


class VizdoomMazes(HostEngine):
    """Games of the real engine, in lockstep, each in one of `env.mazes`.

    Engines that die or hang are replaced and brought to where they were: they play exactly as they did, so that nothing
    shows of it but time (and `engines_replaced`, `last_failure`).

    Attributes:
      env: the task distribution.
      num_slots: how many games there are.
      workers: the processes that play them.
      mazes: `env.mazes`.
      maze: which of them each game is in; int32 [num_slots].
    """

    def __init__(self, env: MazeNavigation, num_workers: int = 2, games_per_worker: int = 16, timeout_s: float = 30.0):
        """Writes the mazes' WAD into the cache, if it is not there, and starts the games.

        Args:
          env: the task; of a fixed set of mazes, with fixed starts, seen in frames.
          num_workers: processes, about as many as cores.
          games_per_worker: engines in each; 8 to 20 MB each.
          timeout_s: within which a step returns even if an engine hangs, in seconds. An engine that has not answered
            after a third of it is taken to hang. The rest is for its worker to start anew and to replay its episodes,
            which is not cut short: with 16 games about 7 s, measured on two cores at a load of 8. One that dies is
            noticed at once; one that hangs while it starts, after 120 s.

        Raises:
          ValueError: naming the argument.
          VizdoomMissingError: saying what to install.
          EngineError: if the games do not start.
        """
        require(num_workers >= 1, "num_workers", num_workers, "an integer >= 1")
        require(games_per_worker >= 1, "games_per_worker", games_per_worker, "an integer >= 1")
        require(timeout_s > 0, "timeout_s", timeout_s, "> 0")
        import_vizdoom()
        if reason := self.refuses(env):
            raise InputError(reason)
        self.env, self.mazes = env, env.mazes
        self._index = {content: index for index, content in enumerate(_contents(self.mazes))}
        self.workers = Workers(settings_of(env), num_workers, games_per_worker, timeout_s)
        self.num_slots = self.workers.num_games
        self.maze = np.zeros(self.num_slots, np.int32)
        self._started, self._time = np.zeros(self.num_slots, bool), np.zeros(self.num_slots, np.int32)
        self._rewards = np.asarray(reward_of(*jnp.meshgrid(jnp.arange(2.0), jnp.arange(2.0), indexing="ij")))
        # What the players see and where they are, as of the last step: "frame", "x", "y", "heading"; [num_slots].
        self._views = self.workers.play(np.full(self.num_slots, IDLE), self.maze)

    @classmethod
    def refuses(cls, env: TaskDistribution) -> str | None:
        """All but mazes of a fixed set, with fixed starts, seen in frames; and where ViZDoom is not installed."""
        if not isinstance(env, MazeNavigation):
            return f"it plays mazes only, such as maze:size=5, got {type(env).__name__}"
        try:
            require(env.split != "fresh", "split", env.split, "train or test in ViZDoom, whose maps are made first")
            require(not env.redraw_start, "redraw_start", True, "False in ViZDoom, whose maps hold the start")
            require(env.observation == "frame", "observation", env.observation, "frame in ViZDoom")
            import_vizdoom()
        except (ValueError, VizdoomMissingError) as error:
            return str(error)
        return None

    @property
    def engines_replaced(self) -> int:
        """How many engines died or hung so far, with those that went with them."""
        return self.workers.replaced

    @property
    def last_failure(self) -> str:
        """Why an engine was last replaced: that it hung, or what it or its worker last said. At first ""."""
        return self.workers.last_failure

    def assign(self, slots: np.ndarray, params: NavigationParams, seeds: np.ndarray | None = None) -> None:
        """Sends games to mazes of the set; nothing there is left to chance.

        Raises:
          ValueError: for a maze that is none of `env.mazes`.
        """
        del seeds
        known = [self._index.get(content) for content in _contents(params.maze)]
        require(None not in known, "params.maze", "another", "one of env.mazes")
        self.place(slots, known)

    def place(self, slots: np.ndarray, indices: Any) -> None:
        """`assign` by numbers, each from 0 to the size of the set; int [n]."""
        self._check_open()
        self.maze[slots] = _checked("maze_indices", indices, len(slots), len(self._index))

    def reset(self, slots: np.ndarray) -> np.ndarray:
        """Starts episodes; returns frames, uint8 [n, 30, 40, 3]."""
        self._check_open()
        which = np.zeros(self.num_slots, bool)
        which[slots] = True
        self._time[which] = 0
        self._started |= which
        self.workers.play(np.where(which, RESET, IDLE), self.maze)
        return self._views["frame"][slots]

    def step(self, action: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One tic; rewards and ends of games that do not play are zero. Frames are uint8 [num_slots, 30, 40, 3].

        Raises:
          ValueError: naming the argument; or if an active game was not reset.
        """
        self._check_open()
        action = _checked("action", action, self.num_slots, NUM_ACTIONS)
        new = np.flatnonzero(active & ~self._started)
        require(len(new) == 0, "games", new.tolist(), "reset before their first step")
        before = self.poses()
        self.workers.play(np.where(active, STEP, IDLE), action)
        self._time += active
        after = self.poses()
        place, moved = (np.stack([pose.x, pose.y], axis=1) for pose in (after, before))
        hit = (action == FORWARD) & (place - moved != STEPS[before.heading]).any(axis=1)
        reached = (place[:, ::-1] // CELL == self.mazes.target[self.maze]).all(axis=1) & active
        reward = np.where(active, self._rewards[reached.astype(int), hit.astype(int)], 0)
        return np.array(self._views["frame"]), reward, reached, (self._time >= self.env.episode_length) & active

    def poses(self) -> Pose:
        """A copy of where the players are; leaves int32 [num_slots]."""
        return Pose(*(self._views[name].copy() for name in Pose._fields))

    def privileged(self) -> PyTree:
        """Poses and mazes."""
        return self.poses(), self.mazes.at(self.maze)

    def close(self) -> None:
        """Ends all games; does nothing the second time."""
        self.workers.close()

    def _check_open(self) -> None:
        require(not self.workers.closed, "VizdoomMazes", "closed", "open")


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


def _contents(mazes: Maze) -> list[bytes]:
    """Each maze as something to find it by."""
    leaves = jax.tree.map(np.asarray, tuple(mazes))
    return [b"".join(leaf[index].tobytes() for leaf in leaves) for index in range(len(mazes.target))]


def _checked(name: str, values: Any, count: int, bound: int) -> np.ndarray:
    """As int32 [count], each from 0 to `bound` - 1."""
    array = np.asarray(values)
    require(array.shape == (count,), f"{name}'s shape", list(array.shape), f"[{count}]")
    require(np.issubdtype(array.dtype, np.integer), f"{name}'s type", str(array.dtype), "integers")
    inside = (array >= 0) & (array < bound)
    require(bool(inside.all()), name, array[~inside][:1].tolist(), f"between 0 and {bound - 1}")
    return array.astype(np.int32)
