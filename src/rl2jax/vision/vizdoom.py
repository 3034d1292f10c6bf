"""`MazeNavigation` played in the real ViZDoom on the host: a vector of games, and trials of them.

The mazes, moves, rewards and episodes are the twin's; `twin_check` says so. Trials are collected into the same
`Trajectory` that a rollout on the device gives.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, AgentOf
from rl2jax.envs.base import require
from rl2jax.files import cache_folder
from rl2jax.trial import Trial
from rl2jax.types import PyTree, Trajectory, TrialObservation
from rl2jax.vision import wad
from rl2jax.vision.engine import IDLE, RESET, STEP, GameSettings, import_vizdoom
from rl2jax.vision.kinematics import CELL, FORWARD, NUM_ACTIONS, STEPS, TURN_LEFT, TURN_RIGHT, Pose
from rl2jax.vision.mazes import HEADINGS, Maze
from rl2jax.vision.navigation import MazeNavigation, reward_of
from rl2jax.vision.raycast import OFFSET, STRIDE
from rl2jax.vision.workers import Workers


class VizdoomMazes:
    """A vector of games in the real engine, in lockstep; a context manager.

    Each game plays one of `env.mazes`. Engines that die or hang are replaced and brought to where they were: they
    play exactly as they did, so that nothing shows of it but time (and `engines_replaced`).

    A game whose episode ends starts the next in the same maze within the same step (Gymnasium's "same step"
    autoreset): `step` returns the first frame of the new episode, the last one of the old is in the infos.
    """

    def __init__(self, env: MazeNavigation, num_workers: int = 2, games_per_worker: int = 8, timeout_s: float = 30.0):
        """Writes the mazes' WAD into the cache, if it is not there, and starts the games.

        Args:
          env: the task; of a fixed set of mazes, with fixed starts, seen in frames.
          num_workers: processes, about as many as cores.
          games_per_worker: engines in each; 8 to 20 MB each.
          timeout_s: how long an engine may take for a step, in seconds, before it is taken to hang.

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
        self._mazes = env.mazes
        self._rewards = np.asarray(reward_of(*jnp.meshgrid(jnp.arange(2.0), jnp.arange(2.0), indexing="ij")))
        self._workers = Workers(_settings(env), num_workers, games_per_worker, timeout_s)
        self.num_games = self._workers.num_games
        self._maze = np.zeros(self.num_games, np.int32)
        self._time = np.zeros(self.num_games, np.int32)
        self._started = np.zeros(self.num_games, bool)
        self._features = jax.jit(jax.vmap(lambda maze: env.task_features(env.params_of(maze))))
        self._compiled: tuple[tuple, Callable, Callable] | None = None
        self._views = self._idle()

    @property
    def engines_replaced(self) -> int:
        """How many engines died or hung so far, with those that went with them."""
        return self._workers.replaced

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
        indices = self._check("maze_indices", maze_indices, self.num_games, len(self._mazes.target))
        chosen = np.ones(self.num_games, bool) if which is None else np.asarray(which)
        require(chosen.shape == (self.num_games,), "which's shape", chosen.shape, f"({self.num_games},)")
        self._reset(indices, chosen.astype(bool))
        return self._frames(), self._poses("")

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
        new = np.flatnonzero(~self._started)
        require(len(new) == 0, "games", new.tolist(), "reset before their first step")
        everyone = np.ones(self.num_games, bool)
        rewards, terminated, truncated, hit = self._step(acts, everyone)
        infos = {"hit": hit, "final_frame": self._frames(), **self._poses("final_")}
        self._reset(self._maze, terminated | truncated)
        return self._frames(), rewards, terminated, truncated, {**self._poses(""), **infos}

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
        indices = self._check("maze_indices", maze_indices, None, len(self._mazes.target))
        require(len(indices) >= 1, "maze_indices", maze_indices, "at least one")
        num_steps = trial.num_steps if num_steps is None else num_steps
        require(num_steps >= 1, "num_steps", num_steps, "an integer >= 1")
        return _Collection(self, agent, trial, key, indices, num_steps, params).run()

    def _frames(self) -> np.ndarray:
        return np.ascontiguousarray(self._views["frame"])

    def _poses(self, prefix: str) -> dict[str, np.ndarray]:
        return {prefix + name: self._views[name].copy() for name in Pose._fields}

    def _idle(self) -> np.ndarray:
        return self._workers.play(np.full(self.num_games, IDLE), np.zeros(self.num_games, np.int32))

    def _reset(self, indices: np.ndarray, which: np.ndarray) -> None:
        if which.any():
            self._maze = np.where(which, indices, self._maze)
            self._time[which] = 0
            self._started |= which
            self._workers.play(np.where(which, RESET, IDLE), self._maze)

    def _step(self, actions: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """One step of some games; (rewards, terminated, truncated, hit), zero for the others."""
        views = self._views
        before, heading = np.stack([views["x"], views["y"]], axis=1), views["heading"].copy()
        self._workers.play(np.where(which, STEP, IDLE), actions)
        self._time += which
        after = np.stack([views["x"], views["y"]], axis=1)
        hit = (actions == FORWARD) & (after - before != STEPS[heading]).any(axis=1) & which
        reached = (after[:, ::-1] // CELL == self._mazes.target[self._maze]).all(axis=1) & which
        truncated = (self._time >= self.env.episode_length) & which
        return np.where(which, self._rewards[reached.astype(int), hit.astype(int)], 0), reached, truncated, hit

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
        require(not self._workers.closed, "VizdoomMazes", "closed", "open")

    def close(self) -> None:
        """Ends all games; does nothing the second time."""
        self._workers.close()

    def __enter__(self) -> "VizdoomMazes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Collection:
    """Trials on their way through the games."""

    def __init__(self, games: VizdoomMazes, agent: Agent | AgentOf, trial: Trial, key, indices, num_steps, params):
        self._games = games
        self._trial = trial
        self._indices = indices
        self._num_steps = num_steps
        self._params = params
        identity = agent, str(jax.random.key_impl(key))
        if games._compiled is None or games._compiled[0] != identity:
            agent_of = _constant(agent) if isinstance(agent, Agent) else agent
            games._compiled = (identity, *_compile(agent_of, identity[1]))
        _, init, self._act = games._compiled
        num_trials, num_games = len(indices), games.num_games
        self._keys_agent, self._keys_steps = jax.device_get(_keys(key, num_trials, num_steps))
        # What each game is at; a game without a trial waits.
        self._trial_of = np.full(num_games, -1)
        self._step_of = np.zeros(num_games, np.int64)
        self._episodes = np.zeros(num_games, np.int64)
        self._fresh = np.zeros(num_games, bool)
        self._next = 0
        space = trial.env.action_space(None)
        self._action = np.zeros(num_games, space.dtype)
        self._reward = np.zeros(num_games, np.float32)
        self._done = np.zeros(num_games, np.float32)
        self._state = init(params, self._keys_agent[np.zeros(num_games, int)])

        def leaf(like):
            return np.zeros((num_steps, num_trials, *like.shape[1:]), like.dtype)

        self._leaf = leaf
        self._obs, self._prev_action = leaf(games._frames()), leaf(self._action)
        self._prev_reward, self._prev_done = leaf(self._reward), leaf(self._reward)
        self._poses = Pose(*(leaf(games._views[name]) for name in Pose._fields))
        self._actions, self._rewards = leaf(self._action), leaf(self._reward)
        self._episode_done, self._mask = leaf(self._reward), leaf(self._reward)
        self._info: PyTree = None

    def run(self) -> Trajectory:
        games = self._games
        idle = np.ones(games.num_games, bool)
        games._reset(*self._hand_out(idle))
        while (active := self._trial_of >= 0).any():
            now = self._step_of[active], self._trial_of[active]
            frames = self._note_inputs(now, active)
            actions = self._decide(now, active, frames)
            rewards, terminated, truncated, _ = games._step(actions, active)
            ended = terminated | truncated
            self._actions[now], self._rewards[now] = actions[active], rewards[active]
            self._episode_done[now], self._mask[now] = ended[active], 1.0
            self._action, self._reward, self._done = actions, rewards, ended.astype(np.float32)
            self._step_of += active
            self._episodes += ended
            finished = active & ((self._episodes >= self._trial.num_episodes) | (self._step_of >= self._num_steps))
            maze, start = self._hand_out(finished)
            games._reset(maze, start | (ended & ~finished))
        return self._trajectory()

    def _hand_out(self, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gives free games their next trials, while there are any: (maze of each game, games that start a trial)."""
        self._trial_of[free] = -1
        starting = np.flatnonzero(free)[: len(self._indices) - self._next]
        self._trial_of[starting] = self._next + np.arange(len(starting))
        self._next += len(starting)
        self._step_of[starting] = self._episodes[starting] = 0
        self._action[starting] = self._reward[starting] = 0
        self._done[starting] = self._trial.first_step_flag
        self._fresh[:] = False
        self._fresh[starting] = True
        maze = np.where(self._trial_of >= 0, self._indices[self._trial_of], self._games._maze)
        return maze, self._fresh.copy()

    def _note_inputs(self, now: tuple[np.ndarray, np.ndarray], active: np.ndarray) -> np.ndarray:
        frames = self._games._frames()
        self._obs[now], self._prev_action[now] = frames[active], self._action[active]
        self._prev_reward[now], self._prev_done[now] = self._reward[active], self._done[active]
        for leaf, name in zip(self._poses, Pose._fields, strict=True):
            leaf[now] = self._games._views[name][active]
        return frames

    def _decide(self, now: tuple[np.ndarray, np.ndarray], active: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The agent's step in all games at once, those that wait along with the others; their actions."""
        views, trial = self._games._views, np.maximum(self._trial_of, 0)
        privileged = Pose(*(views[name].copy() for name in Pose._fields)), self._games._mazes.at(self._games._maze)
        trial_obs = TrialObservation(frames, self._action, self._reward, self._done, privileged)
        keys = self._keys_agent[trial], self._keys_steps[trial, np.minimum(self._step_of, self._num_steps - 1)]
        self._state, action, info = self._act(self._params, self._state, self._fresh, keys, trial_obs)
        actions, info = jax.device_get((action, info))
        if self._info is None:
            self._info = jax.tree.map(self._leaf, info)
        for leaf, value in zip(jax.tree.leaves(self._info), jax.tree.leaves(info), strict=True):
            leaf[now] = value[active]
        return np.array(actions)  # one that can be written to

    def _trajectory(self) -> Trajectory:
        mazes = self._games._mazes.at(self._indices)
        per_step = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (self._num_steps, *leaf.shape)), mazes)
        trial_obs = TrialObservation(
            self._obs, self._prev_action, self._prev_reward, self._prev_done, (self._poses, per_step)
        )
        rewards = self._rewards  # and what was to be expected: nothing here is left to chance
        return Trajectory(
            trial_obs,
            self._actions,
            rewards,
            self._episode_done,
            self._mask,
            rewards,
            self._info,
            np.asarray(self._games._features(mazes)),
        )


def _constant(agent: Agent) -> AgentOf:
    return lambda params: agent


@partial(jax.jit, static_argnames=("num_trials", "num_steps"))
def _keys(key: chex.PRNGKey, num_trials: int, num_steps: int) -> tuple[chex.Array, chex.Array]:
    """Those of `rollout`, as data: (the agent's, [num_trials, ...]; those of steps, [num_trials, num_steps, ...])."""

    def split(key_trial):
        key_agent, _, key_steps = jax.random.split(key_trial, 3)
        return jax.random.key_data(key_agent), jax.random.key_data(jax.random.split(key_steps, num_steps))

    return jax.vmap(split)(jax.random.split(key, num_trials))


def _compile(agent_of: AgentOf, key_impl: str) -> tuple[Callable, Callable]:
    """(the agent's `init` and its `step`, for all games at once)."""
    as_key = partial(jax.random.wrap_key_data, impl=key_impl)

    def init(params, key_agent):
        return agent_of(params).init(as_key(key_agent))

    def act(params, state, fresh, keys, trial_obs):
        key_agent, key_step = (as_key(key) for key in keys)
        agent = agent_of(params)
        state = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), agent.init(key_agent), state)
        key_act, _ = jax.random.split(key_step)
        return agent.step(key_act, state, trial_obs)

    return jax.jit(jax.vmap(init, (None, 0))), jax.jit(jax.vmap(act, (None, 0, 0, 0, 0)))


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


def _settings(env: MazeNavigation) -> GameSettings:
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
    content = hashlib.sha256(Path(wad.__file__).read_bytes())
    for leaf in mazes:
        array = np.ascontiguousarray(leaf)
        content.update(f"{array.shape}{array.dtype}".encode() + array.tobytes())
    path = cache_folder() / "wads" / f"{content.hexdigest()[:32]}.wad"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        wad.write_wad(path, mazes)
    return path
