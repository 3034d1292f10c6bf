"""One trial by `lax.scan`, or one after another in a lane; `jax.vmap` over trials or lanes stays outside."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.trial import Trial, TrialState
from rl2jax.types import PyTree, Trajectory, TrialObservation


class RolloutCarry(NamedTuple):
    """What one step hands to the next."""

    agent_state: PyTree
    trial_obs: TrialObservation
    trial_state: TrialState
    trial_done: chex.Array


class LaneCarry(NamedTuple):
    """The same in a lane: the present trial's task, from `TaskDistribution.sample_params`, and its carry."""

    params: PyTree
    rollout: RolloutCarry


def rollout(key: chex.PRNGKey, agent: Agent, trial: Trial, params: PyTree, num_steps: int | None = None) -> Trajectory:
    """Plays one trial of the task `params`.

    The agent's state is made by `agent.init` once and is never reset at an episode's end.

    Args:
      key: randomness of agent and environment.
      agent: who acts.
      trial: the task distribution and the number of episodes.
      params: the task, as drawn by `trial.env.sample_params`.
      num_steps: static length; default `trial.num_steps`, the most a trial can last.

    Returns:
      A trajectory with leaves [num_steps, ...]; steps after the trial's end have mask 0 and reward 0.
    """
    start, keys = begin(key, agent, trial, params, trial.num_steps if num_steps is None else num_steps)

    def step(carry: RolloutCarry, key_step: chex.PRNGKey):
        return advance(key_step, agent, trial, params, carry)

    _, transitions = jax.lax.scan(step, start, keys)
    return transitions._replace(task_features=trial.env.task_features(params))


def rollout_lane(key: chex.PRNGKey, agent: Agent, trial: Trial, num_steps: int) -> Trajectory:
    """Plays trial after trial, each of a task of its own, for `num_steps` steps in all.

    The step after a trial's last is the first of the next, whose agent's state `agent.init` makes anew. The lane's end
    cuts the last trial, unless that ends there.

    Args:
      key: randomness of tasks, agent and environment.
      agent: who acts.
      trial: the task distribution and the number of episodes.
      num_steps: static length.

    Returns:
      A trajectory with leaves [num_steps, ...], task features too. If a trial is cut, its last step has mask 0 and
      reward 0; every other step counts.
    """
    key_first, key_steps = jax.random.split(key)

    def new_trial(key_trial: chex.PRNGKey) -> LaneCarry:
        key_task, key_rollout = jax.random.split(key_trial)
        params = trial.env.sample_params(key_task)
        return LaneCarry(params, begin(key_rollout, agent, trial, params, 1)[0])  # the keys of steps are the lane's

    def step(lane: LaneCarry, keys: chex.PRNGKey):
        carry, transition = advance(keys[0], agent, trial, lane.params, lane.rollout)
        done = carry.trial_done
        transition = transition._replace(
            task_features=trial.env.task_features(lane.params),
            trial_done=done.astype(jnp.float32),
        )
        lane = jax.tree.map(partial(jnp.where, done), new_trial(keys[1]), LaneCarry(lane.params, carry))
        return lane, transition

    keys = jax.random.split(key_steps, (num_steps, 2))
    _, transitions = jax.lax.scan(step, new_trial(key_first), keys)
    first = jnp.append(1.0, transitions.trial_done[:-1])
    mask = jnp.ones(num_steps).at[-1].set(transitions.trial_done[-1])
    return transitions._replace(
        trial_obs=transitions.trial_obs._replace(first=first),
        reward=jnp.where(mask > 0, transitions.reward, 0.0),
        episode_done=transitions.episode_done * mask,
        mask=mask,
        expected_reward=jnp.where(mask > 0, transitions.expected_reward, 0.0),
    )


def begin(
    key: chex.PRNGKey, agent: Agent, trial: Trial, params: PyTree, num_steps: int
) -> tuple[RolloutCarry, chex.PRNGKey]:
    """What `rollout` starts from, and the keys of its steps, [num_steps]."""
    key_agent, key_reset, key_steps = jax.random.split(key, 3)
    trial_state, trial_obs = trial.reset(key_reset, params)
    start = RolloutCarry(agent.init(key_agent), trial_obs, trial_state, jnp.zeros((), bool))
    return start, jax.random.split(key_steps, num_steps)


def advance(
    key: chex.PRNGKey, agent: Agent, trial: Trial, params: PyTree, carry: RolloutCarry
) -> tuple[RolloutCarry, Trajectory]:
    """One step of `rollout`; the trajectory's leaves have no time, and `task_features` is empty."""
    key_act, key_env = jax.random.split(key)
    agent_state, action, agent_info = agent.step(key_act, carry.agent_state, carry.trial_obs)
    trial_state, trial_obs, reward, episode_done, trial_done = trial.step(key_env, carry.trial_state, action, params)
    mask = 1.0 - carry.trial_done.astype(jnp.float32)
    expected = trial.env.expected_reward(carry.trial_state.env_state, action, params)
    expected = reward if expected is None else expected
    transition = Trajectory(
        trial_obs=carry.trial_obs,
        action=action,
        reward=jnp.where(carry.trial_done, 0.0, reward),  # not a product: 0 * inf is nan
        episode_done=episode_done.astype(jnp.float32) * mask,
        mask=mask,
        expected_reward=jnp.where(carry.trial_done, 0.0, expected),
        agent_info=agent_info,
        task_features=(),
    )
    trial_done = jnp.logical_or(carry.trial_done, trial_done)
    return RolloutCarry(agent_state, trial_obs, trial_state, trial_done), transition
