"""Trials of an agent in games of the real engine: the same `Trajectory` that a rollout on the device gives."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, AgentOf
from rl2jax.engines.vizdoom.games import Games
from rl2jax.envs.maze.mazes import Maze
from rl2jax.envs.maze.navigation import MazeNavigation
from rl2jax.trials.trial import Trial
from rl2jax.types import PyTree, Trajectory, TrialObservation


class Player(NamedTuple):
    """An agent compiled for all games at once.

    Attributes:
      init: (params, the agent's keys as data) -> states.
      act: (params, states, which are made anew, (the agent's keys, the step's keys), TrialObservation) ->
        (states, actions, infos).
    """

    init: Callable
    act: Callable


def compiled(agent: Agent | AgentOf, key_impl: str) -> Player:
    """A player of an agent, or of the agent that params make; for keys of one implementation."""
    as_key = partial(jax.random.wrap_key_data, impl=key_impl)
    agent_of = (lambda params: agent) if isinstance(agent, Agent) else agent

    def init(params, key_agent):
        return agent_of(params).init(as_key(key_agent))

    def act(params, state, fresh, keys, trial_obs):
        key_agent, key_step = (as_key(key) for key in keys)
        agent = agent_of(params)
        state = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), agent.init(key_agent), state)
        key_act, _ = jax.random.split(key_step)
        return agent.step(key_act, state, trial_obs)

    return Player(jax.jit(jax.vmap(init, (None, 0))), jax.jit(jax.vmap(act, (None, 0, 0, 0, 0))))


class Collection:
    """Trials on their way through the games: each game takes a new one as soon as it has finished one."""

    def __init__(self, games: Games, player: Player, trial: Trial, key, indices, num_steps, params):
        """As the arguments of `VizdoomMazes.collect`, checked; `player` is of its agent."""
        self._games = games
        self._trial = trial
        self._indices = indices
        self._num_steps = num_steps
        self._params = params
        self._player = player
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
        self._state = player.init(params, self._keys_agent[np.zeros(num_games, int)])

        def leaf(like):
            return np.zeros((num_steps, num_trials, *like.shape[1:]), like.dtype)

        self._leaf = leaf
        self._obs, self._prev_action = leaf(games.frames()), leaf(self._action)
        self._prev_reward, self._prev_done = leaf(self._reward), leaf(self._reward)
        self._poses = jax.tree.map(leaf, games.poses())
        self._actions, self._rewards = leaf(self._action), leaf(self._reward)
        self._episode_done, self._mask = leaf(self._reward), leaf(self._reward)
        self._info: PyTree = None

    def run(self) -> Trajectory:
        """Plays all of them."""
        games = self._games
        idle = np.ones(games.num_games, bool)
        games.reset(*self._hand_out(idle))
        while (active := self._trial_of >= 0).any():
            now = self._step_of[active], self._trial_of[active]
            frames = self._note_inputs(now, active)
            actions = self._decide(now, active, frames)
            rewards, terminated, truncated, _ = games.step(actions, active)
            ended = terminated | truncated
            self._actions[now], self._rewards[now] = actions[active], rewards[active]
            self._episode_done[now], self._mask[now] = ended[active], 1.0
            self._action, self._reward, self._done = actions, rewards, ended.astype(np.float32)
            self._step_of += active
            self._episodes += ended
            finished = active & ((self._episodes >= self._trial.num_episodes) | (self._step_of >= self._num_steps))
            maze, start = self._hand_out(finished)
            games.reset(maze, start | (ended & ~finished))
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
        maze = np.where(self._trial_of >= 0, self._indices[self._trial_of], self._games.maze)
        return maze, self._fresh.copy()

    def _note_inputs(self, now: tuple[np.ndarray, np.ndarray], active: np.ndarray) -> np.ndarray:
        frames = self._games.frames()
        self._obs[now], self._prev_action[now] = frames[active], self._action[active]
        self._prev_reward[now], self._prev_done[now] = self._reward[active], self._done[active]
        for leaf, value in zip(self._poses, self._games.poses(), strict=True):
            leaf[now] = value[active]
        return frames

    def _decide(self, now: tuple[np.ndarray, np.ndarray], active: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """The agent's step in all games at once, those that wait along with the others; their actions."""
        trial = np.maximum(self._trial_of, 0)
        privileged = self._games.poses(), self._games.mazes.at(self._games.maze)
        trial_obs = TrialObservation(frames, self._action, self._reward, self._done, privileged)
        keys = self._keys_agent[trial], self._keys_steps[trial, np.minimum(self._step_of, self._num_steps - 1)]
        self._state, action, info = self._player.act(self._params, self._state, self._fresh, keys, trial_obs)
        actions, info = jax.device_get((action, info))
        if self._info is None:
            self._info = jax.tree.map(self._leaf, info)
        for leaf, value in zip(jax.tree.leaves(self._info), jax.tree.leaves(info), strict=True):
            leaf[now] = value[active]
        return np.array(actions)  # one that can be written to

    def _trajectory(self) -> Trajectory:
        mazes = self._games.mazes.at(self._indices)
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
            np.asarray(_task_features(self._games.env, mazes)),
        )


@partial(jax.jit, static_argnames=("num_trials", "num_steps"))
def _keys(key: chex.PRNGKey, num_trials: int, num_steps: int) -> tuple[chex.Array, chex.Array]:
    """Those of `rollout`, as data: (the agent's, [num_trials, ...]; those of steps, [num_trials, num_steps, ...])."""

    def split(key_trial):
        key_agent, _, key_steps = jax.random.split(key_trial, 3)
        return jax.random.key_data(key_agent), jax.random.key_data(jax.random.split(key_steps, num_steps))

    return jax.vmap(split)(jax.random.split(key, num_trials))


@partial(jax.jit, static_argnames="env")
def _task_features(env: MazeNavigation, mazes: Maze) -> chex.Array:
    return jax.vmap(lambda maze: env.task_features(env.params_of(maze)))(mazes)
