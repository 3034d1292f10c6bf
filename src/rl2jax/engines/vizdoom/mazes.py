"""`MazeNavigation` played in the real ViZDoom on the host: a vector of games, and trials of them.

The mazes, moves, rewards and episodes are the twin's; `twin_check` says so. Trials are collected into the same
`Trajectory` that a rollout on the device gives.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import numpy as np

from rl2jax.agents.base import Agent, AgentOf
from rl2jax.engines.collection import Collection, Player, compiled
from rl2jax.engines.vizdoom.engine import import_vizdoom
from rl2jax.engines.vizdoom.games import Games
from rl2jax.envs.maze.kinematics import NUM_ACTIONS
from rl2jax.envs.maze.navigation import MazeNavigation
from rl2jax.settings import require
from rl2jax.trials.trial import Trial
from rl2jax.types import PyTree, Trajectory


class VizdoomMazes:
    """A vector of games in the real engine, in lockstep; a context manager.

    Each game plays one of `env.mazes`. Engines that die or hang are replaced and brought to where they were: they
    play exactly as they did, so that nothing shows of it but time (and `engines_replaced`, `last_failure`).

    A game whose episode ends starts the next in the same maze within the same step (Gymnasium's "same step"
    autoreset): `step` returns the first frame of the new episode, the last one of the old is in the infos.
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
        require(env.split != "fresh", "split", env.split, "train or test in ViZDoom, whose maps are made beforehand")
        require(not env.redraw_start, "redraw_start", env.redraw_start, "False in ViZDoom, whose maps hold the start")
        require(env.observation == "frame", "observation", env.observation, "frame in ViZDoom")
        require(num_workers >= 1, "num_workers", num_workers, "an integer >= 1")
        require(games_per_worker >= 1, "games_per_worker", games_per_worker, "an integer >= 1")
        require(timeout_s > 0, "timeout_s", timeout_s, "> 0")
        import_vizdoom()
        self.env = env
        self._games = Games(env, num_workers, games_per_worker, timeout_s)
        self._player: tuple[tuple, Player] | None = None

    @property
    def num_games(self) -> int:
        """How many games there are."""
        return self._games.num_games

    @property
    def engines_replaced(self) -> int:
        """How many engines died or hung so far, with those that went with them."""
        return self._games.workers.replaced

    @property
    def last_failure(self) -> str:
        """Why an engine was last replaced: that it hung, or what it or its worker last said. At first ""."""
        return self._games.workers.last_failure

    def reset(self, maze_indices: Any, which: Any = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Starts episodes.

        Args:
          maze_indices: for each game into `env.mazes`; int [num_games].
          which: games to start an episode in, the others go on; bool [num_games], default all.

        Returns:
          (frames, uint8 [num_games, 30, 40, 3]; infos). Infos hold where the players are that see these frames: "x"
          and "y" in 1/65536 of a map unit and "heading" in sixteenths of a turn, counter-clockwise from east; int32
          [num_games].

        Raises:
          ValueError: naming the argument.
        """
        self._check_open()
        indices = self._check("maze_indices", maze_indices, self.num_games, len(self._games.mazes.target))
        chosen = np.ones(self.num_games, bool) if which is None else np.asarray(which)
        require(chosen.shape == (self.num_games,), "which's shape", chosen.shape, f"({self.num_games},)")
        self._games.reset(indices, chosen.astype(bool))
        return self._games.frames(), self._poses("")

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """One step of each game.

        Args:
          actions: int [num_games].

        Returns:
          (frames, rewards, terminated, truncated, infos): uint8 [num_games, 30, 40, 3]; float32 and bool [num_games].
          Infos are those of `reset`, "hit" for a step that a wall cut short, and "final_frame", "final_x", "final_y"
          and "final_heading" for the end of the step, before a new episode was started.

        Raises:
          ValueError: naming the argument; or if a game was not reset.
        """
        self._check_open()
        acts = self._check("actions", actions, self.num_games, NUM_ACTIONS)
        new = np.flatnonzero(~self._games.started)
        require(len(new) == 0, "games", new.tolist(), "reset before their first step")
        everyone = np.ones(self.num_games, bool)
        rewards, terminated, truncated, hit = self._games.step(acts, everyone)
        infos = {"hit": hit, "final_frame": self._games.frames(), **self._poses("final_")}
        self._games.reset(self._games.maze, terminated | truncated)
        return self._games.frames(), rewards, terminated, truncated, {**self._poses(""), **infos}

    def collect(
        self,
        agent: Agent | AgentOf,
        trial: Trial,
        key: chex.PRNGKey,
        maze_indices: Any,
        num_steps: int | None = None,
        params: PyTree = None,
    ) -> Trajectory:
        """Plays one trial in each of some mazes, as `jax.vmap(rollout)` over `jax.random.split(key, num_trials)` does.

        Games take a new trial as soon as they have finished one. All random numbers are those of the rollout, so that
        an agent plays the same trials in the twin, as far as it sees the same.

        Args:
          agent: who acts; or, with `params`, a function from them to who acts, which is compiled once only.
          trial: of `env`.
          key: all its randomness.
          maze_indices: one for each trial, into `env.mazes`; int [num_trials].
          num_steps: length of the trajectory, default `trial.num_steps`; trials that last longer are cut off.
          params: of the agent.

        Returns:
          A trajectory as the device's: numpy leaves [num_steps, num_trials, ...], time-major, but for its task
          features [num_trials, ...]. After the end of a trial, where `mask` is 0, there are zeros.

        Raises:
          ValueError: naming the argument.
        """
        self._check_open()
        require(trial.env == self.env, "trial.env", trial.env, f"{self.env}, which these games play")
        indices = self._check("maze_indices", maze_indices, None, len(self._games.mazes.target))
        require(len(indices) >= 1, "maze_indices", maze_indices, "at least one")
        num_steps = trial.num_steps if num_steps is None else num_steps
        require(num_steps >= 1, "num_steps", num_steps, "an integer >= 1")
        identity = agent, str(jax.random.key_impl(key))
        if self._player is None or self._player[0] != identity:
            self._player = identity, compiled(*identity)
        return Collection(self._games, self._player[1], trial, key, indices, num_steps, params).run()

    def _poses(self, prefix: str) -> dict[str, np.ndarray]:
        return {prefix + name: value for name, value in self._games.poses()._asdict().items()}

    def _check(self, name: str, values: Any, count: int | None, bound: int) -> np.ndarray:
        """As int32 [count], each from 0 to `bound` - 1."""
        array = np.asarray(values)
        shape = "[any]" if count is None else f"[{count}]"
        require(array.ndim == 1 and count in (None, len(array)), f"{name}'s shape", list(array.shape), shape)
        require(np.issubdtype(array.dtype, np.integer), f"{name}'s type", str(array.dtype), "integers")
        inside = (array >= 0) & (array < bound)
        require(bool(inside.all()), name, array[~inside][:1].tolist(), f"between 0 and {bound - 1}")
        return array.astype(np.int32)

    def _check_open(self) -> None:
        require(not self._games.workers.closed, "VizdoomMazes", "closed", "open")

    def close(self) -> None:
        """Ends all games; does nothing the second time."""
        self._games.workers.close()

    def __enter__(self) -> "VizdoomMazes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def make_collect(
    games: VizdoomMazes, trial: Trial, agent_of: AgentOf, num_trials: int
) -> Callable[[chex.PRNGKey, PyTree], Trajectory]:
    """`learner.make_collect` on the host: collect(key, params) plays the same tasks with the same random numbers.

    Args:
      games: that play them.
      trial: of `games.env`.
      agent_of: from the params to who acts.
      num_trials: in a batch, one task each.
    """

    def collect(key: chex.PRNGKey, params: PyTree) -> Trajectory:
        key_tasks, key_rollouts = jax.random.split(key)
        indices = drawn_mazes(games.env, key_tasks, num_trials)
        return games.collect(agent_of, trial, key_rollouts, indices, params=params)

    return collect


def drawn_mazes(env: MazeNavigation, key: chex.PRNGKey, num_trials: int) -> np.ndarray:
    """Which mazes `env.sample_params` draws with `jax.random.split(key, num_trials)`; int32 [num_trials]."""
    keys = jax.random.split(key, num_trials)
    return np.asarray(jax.vmap(env.sample_maze_index)(keys))
