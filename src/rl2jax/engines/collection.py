"""Trials of an agent on an engine: the same `Trajectory` that a rollout on the device gives."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, AgentOf
from rl2jax.engines.base import HostEngine
from rl2jax.envs.base import TaskDistribution, spaces
from rl2jax.settings import require
from rl2jax.trials.collect import Collect, draw_tasks
from rl2jax.trials.trial import Trial
from rl2jax.types import PyTree, Trajectory, TrialObservation


def make_collect(
    engine: HostEngine, trial: Trial, agent_of: AgentOf, num_trials: int, trials_per_task: int = 1
) -> Collect:
    """`trials.collect.make_collect` on the host: collect(key, params) plays the same tasks by the same random numbers.

    Args:
      engine: that plays them.
      trial: of `engine.env`.
      agent_of: from the params to who acts.
      num_trials: in a batch.
      trials_per_task: a divisor of it.
    """

    def collect_batch(key: chex.PRNGKey, params: PyTree) -> Trajectory:
        key_tasks, key_rollouts = jax.random.split(key)
        tasks = draw_tasks(trial.env, key_tasks, num_trials, trials_per_task)
        return collect(engine, agent_of, trial, jax.random.split(key_rollouts, num_trials), tasks, params=params)

    return collect_batch


def collect(
    engine: HostEngine,
    agent: Agent | AgentOf,
    trial: Trial,
    keys: chex.PRNGKey,
    tasks: PyTree,
    num_steps: int | None = None,
    params: PyTree = None,
) -> Trajectory:
    """Plays one trial of each of some tasks, as `jax.vmap(rollout)` does.

    Slots take a new trial as soon as they have finished one. The agent's random numbers are those of the rollout, so
    that it plays the same trials on the device, as far as it sees the same.

    Args:
      engine: that plays them.
      agent: who acts; or, with `params`, a function from them to who acts, which is compiled once only.
      trial: of `engine.env`.
      keys: all randomness of each trial; [num_trials].
      tasks: from `trial.env.sample_params`; leaves [num_trials, ...].
      num_steps: length of the trajectory, default `trial.num_steps`; trials that last longer are cut off.
      params: of the agent.

    Returns:
      A trajectory as the device's: numpy leaves [num_steps, num_trials, ...], time-major, but for its task features
      [num_trials, ...]. After the end of a trial, where `mask` is 0, there are zeros.

    Raises:
      ValueError: naming the argument, or what the engine returned in another shape than the task distribution says.
    """
    require(trial.env == engine.env, "trial.env", trial.env, f"{engine.env}, which this engine plays")
    require(len(keys) >= 1, "trials", len(keys), "at least one")
    num_steps = trial.num_steps if num_steps is None else num_steps
    require(num_steps >= 1, "num_steps", num_steps, "an integer >= 1")
    return _Collection(engine, agent, trial, keys, jax.device_get(tasks), num_steps, params).run()


class _Collection:
    """Trials on their way through the slots of an engine; a slot without a trial waits."""

    def __init__(self, engine, agent, trial, keys, tasks, num_steps, params):
        self._engine, self._trial, self._tasks, self._params = engine, trial, tasks, params
        self._num_trials, self._num_steps = len(keys), num_steps
        init, self._act = _compiled(agent, str(jax.random.key_impl(keys)))
        self._keys_agent, self._seeds, self._keys_steps = jax.device_get(_keys(keys, num_steps))
        slots = engine.num_slots
        self._next = 0
        self._trial_of = np.full(slots, -1)
        self._step_of, self._episodes = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self._fresh = np.zeros(slots, bool)
        sees, does = trial.env.observation_space(None), trial.env.action_space(None)
        self._box = does if isinstance(does, spaces.Box) else None
        obs, action = (np.zeros((slots, *space.shape), space.dtype) for space in (sees, does))
        self._seen = TrialObservation(obs, action, np.zeros(slots, np.float32), np.zeros(slots, np.float32))
        self._state = init(params, self._keys_agent[np.zeros(slots, int)])
        self._played: Any = None  # the trajectory, as soon as its leaves are known

    def run(self) -> Trajectory:
        """Plays all of them."""
        self._hand_out(np.ones(self._engine.num_slots, bool))
        self._start_episodes(self._fresh)
        while (active := self._trial_of >= 0).any():
            ended = self._step(active)
            self._step_of += active
            self._episodes += ended
            finished = active & ((self._episodes >= self._trial.num_episodes) | (self._step_of >= self._num_steps))
            self._hand_out(finished)
            self._start_episodes(self._fresh | (ended & ~finished))
        return self._played._replace(task_features=np.asarray(_task_features(self._trial.env, self._tasks)))

    def _hand_out(self, free: np.ndarray) -> None:
        """Gives free slots, bool [num_slots], their next trials while there are any."""
        self._trial_of[free] = -1
        slots = np.flatnonzero(free)[: self._num_trials - self._next]
        trials = self._next + np.arange(len(slots))
        self._next += len(slots)
        self._trial_of[slots], self._step_of[slots], self._episodes[slots] = trials, 0, 0
        self._seen.prev_action[slots] = self._seen.prev_reward[slots] = 0
        self._seen.prev_done[slots] = self._trial.first_step_flag
        self._fresh[:] = False
        self._fresh[slots] = True
        if len(slots):
            self._engine.assign(slots, jax.tree.map(lambda leaf: leaf[trials], self._tasks), self._seeds[trials])

    def _start_episodes(self, which: np.ndarray) -> None:
        slots = np.flatnonzero(which)
        if len(slots):
            self._seen.obs[slots] = self._checked("reset", self._engine.reset(slots), len(slots), self._seen.obs)

    def _step(self, active: np.ndarray) -> np.ndarray:
        """A step of the agent in all slots and of the engine in the active ones; which episodes ended."""
        seen = self._seen._replace(privileged=jax.tree.map(np.array, self._engine.privileged()))
        now = self._step_of[active], self._trial_of[active]
        action, info = self._decide(seen)
        applied = action if self._box is None else np.clip(action, self._box.low, self._box.high)
        expected = self._engine.expected_reward(applied)
        expected = None if expected is None else np.array(expected, np.float32)
        obs, *outcome = self._engine.step(applied, active)
        reward, terminated, truncated = (
            self._checked("step", part, len(active), like)
            for part, like in zip(outcome, (seen.prev_reward, active, active), strict=True)
        )
        ended = (terminated | truncated) & active
        done, mask = ended.astype(np.float32), active.astype(np.float32)
        mean_reward = reward if expected is None else expected
        self._note(now, active, Trajectory(seen, action, reward, done, mask, mean_reward, info, ()))
        self._seen = TrialObservation(self._checked("step", obs, len(active), seen.obs), action, reward, done)
        return ended

    def _decide(self, seen: TrialObservation) -> tuple[np.ndarray, PyTree]:
        """The agent's actions, those of slots that wait along with the others, and what it says of them."""
        trial, step = np.maximum(self._trial_of, 0), np.minimum(self._step_of, self._num_steps - 1)
        keys = self._keys_agent[trial], self._keys_steps[trial, step]
        self._state, *decided = self._act(self._params, self._state, self._fresh, keys, seen)
        action, info = jax.device_get(decided)
        return np.array(action), info  # an array that can be written to

    def _note(self, now: tuple[np.ndarray, np.ndarray], active: np.ndarray, transition: Trajectory) -> None:
        """Writes what active slots did into the trajectory, at (steps, trials)."""
        if self._played is None:
            shape = self._num_steps, self._num_trials
            self._played = jax.tree.map(lambda leaf: np.zeros((*shape, *leaf.shape[1:]), leaf.dtype), transition)
        for leaf, value in zip(jax.tree.leaves(self._played), jax.tree.leaves(transition), strict=True):
            leaf[now] = value[active]

    def _checked(self, call: str, value: Any, length: int, like: np.ndarray) -> np.ndarray:
        """A copy of what the engine returned, of the type of `like`, if it has its shape but for the first axis."""
        array = np.array(value, like.dtype)
        shape = length, *like.shape[1:]
        require(array.shape == shape, f"{type(self._engine).__name__}.{call}'s shape", array.shape, str(shape))
        return array


@lru_cache(maxsize=2)  # each holds an agent's parameters and two programs
def _compiled(agent: Agent | AgentOf, key_impl: str) -> tuple[Callable, Callable]:
    """An agent, or the agent that params make, for all slots at once; for keys of one implementation.

    Returns:
      init: (params, the agent's keys as data) -> states.
      act: (params, states, which are made anew, (the agent's keys, the step's keys), TrialObservation) ->
        (states, actions, infos).
    """
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

    return jax.jit(jax.vmap(init, (None, 0))), jax.jit(jax.vmap(act, (None, 0, 0, 0, 0)))


@partial(jax.jit, static_argnames="num_steps")
def _keys(keys: chex.PRNGKey, num_steps: int) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Those of `rollout` of each trial: the agent's as data, a seed of what is left to chance, the steps' as data."""

    def split(key_trial):
        key_agent, key_reset, key_steps = jax.random.split(key_trial, 3)
        steps = jax.random.key_data(jax.random.split(key_steps, num_steps))
        return jax.random.key_data(key_agent), jax.random.bits(key_reset), steps

    return jax.vmap(split)(keys)


@partial(jax.jit, static_argnames="env")
def _task_features(env: TaskDistribution, tasks: PyTree) -> chex.Array:
    return jax.vmap(env.task_features)(tasks)
