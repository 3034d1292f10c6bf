"""One trial by `lax.scan`, or one after another in a lane; `jax.vmap` over trials or lanes stays outside.

But for `rollout_queue`, whose lanes share what is left to be played.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.trials.trial import Trial, TrialState, starts_alike
from rl2jax.types import PyTree, Trajectory, TrialObservation

_SHORT_TRIAL = 20  # steps; of longer ones two are too few to show, and every step apart is compiled anew
_STEPS_BETWEEN_TASKS = 10  # fewer: new tasks are made for all lanes more often; more: lanes wait


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


def rollout(
    key: chex.PRNGKey, agent: Agent, trial: Trial, params: PyTree, num_steps: int | None = None, apart: int = 0
) -> Trajectory:
    """Plays one trial of the task `params`.

    The agent's state is made by `agent.init` once and is never reset at an episode's end.

    Args:
      key: randomness of agent and environment.
      agent: who acts.
      trial: the task distribution and the number of episodes.
      params: the task, as drawn by `trial.env.sample_params`.
      num_steps: static length; default `trial.num_steps`, the most a trial can last.
      apart: how many of the first steps, at most, are outside the scan over time, which has an agent's state for each
        trial: under `jax.vmap` what all trials have in common there is computed once (`steps_apart`).

    Returns:
      A trajectory with leaves [num_steps, ...]; steps after the trial's end have mask 0 and reward 0.
    """
    start, keys = begin(key, agent, trial, params, trial.num_steps if num_steps is None else num_steps)

    def step(carry: RolloutCarry, key_step: chex.PRNGKey):
        return advance(key_step, agent, trial, params, carry)

    carry, first = start, []
    for key_step in keys[:apart]:
        carry, transition = step(carry, key_step)
        first.append(jax.tree.map(lambda x: x[None], transition))
    _, transitions = jax.lax.scan(step, carry, keys[apart:])
    if first:
        transitions = jax.tree.map(lambda *parts: jnp.concatenate(parts), *first, transitions)
    return transitions._replace(task_features=trial.env.task_features(params))


def steps_apart(trial: Trial) -> int:
    """How many steps are worth a program of their own at the start of trials that start alike: 2 of short ones, or 0.

    A policy then acts from one state at the first step, and what its gates receive from the state is one at the second.
    """
    return 2 if trial.num_steps <= _SHORT_TRIAL and starts_alike(trial) else 0


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
        first=first,
        reward=jnp.where(mask > 0, transitions.reward, 0.0),
        episode_done=transitions.episode_done * mask,
        mask=mask,
        expected_reward=jnp.where(mask > 0, transitions.expected_reward, 0.0),
    )


class QueueCarry(NamedTuple):
    """Lanes of `rollout_queue` and what they have played; all but `next_task` and `totals` have an axis of lanes first.

    Attributes:
      lanes: each lane's task and where its trial stands; one that is over makes room for the next.
      keys: of the trial's steps, [num_lanes, trial.num_steps].
      task: number of the lane's task; int32. From the number of wanted tasks on: there is none left for this lane.
      time: steps of the trial so far; int32.
      total: their reward; float32.
      curve: reward at each step of a trial, summed over the lane's trials; float32 [num_lanes, trial.num_steps].
      next_task: the first that no lane has begun; int32 [].
      totals: total reward of the trials that ended; float32 [num_tasks].
    """

    lanes: LaneCarry
    keys: chex.PRNGKey
    task: chex.Array
    time: chex.Array
    total: chex.Array
    curve: chex.Array
    next_task: chex.Array
    totals: chex.Array


def rollout_queue(
    task_of: Callable[[chex.Array], tuple[chex.PRNGKey, PyTree]],
    num_tasks: int,
    num_wanted: chex.Array,
    agent: Agent,
    trial: Trial,
    num_lanes: int,
) -> tuple[chex.Array, chex.Array]:
    """Rewards of one trial on each of many tasks, for trials that end early: a lane that has ended takes the next task.

    A trial is what `rollout` makes of the same key and task. Lanes look for the next task every ten steps.

    Args:
      task_of: number of a task, int32 [], to the key of its rollout and the task.
      num_tasks: static size of what is returned.
      num_wanted: how many of them are played, from the first; int32 [].
      agent: who acts.
      trial: the task distribution and the number of episodes.
      num_lanes: how many trials at a time.

    Returns:
      Total reward of each trial, float32 [num_tasks], 0 where none was played; reward at each step of a trial, summed
      over trials, float32 [trial.num_steps].
    """

    def begin_trials(task: chex.Array) -> tuple[LaneCarry, chex.PRNGKey]:
        """Each lane's; over at once where there is no task."""

        def begin_trial(index: chex.Array):
            key, params = task_of(jnp.minimum(index, num_tasks - 1))
            start, keys = begin(key, agent, trial, params, trial.num_steps)
            return LaneCarry(params, start._replace(trial_done=index >= num_wanted)), keys

        return jax.vmap(begin_trial)(task)

    def play_on(queue: QueueCarry) -> QueueCarry:
        free = queue.lanes.rollout.trial_done
        task = jnp.where(free, queue.next_task + jnp.cumsum(free) - 1, queue.task)
        started = jnp.where(free, 0, queue.time)
        lanes, keys = jax.tree.map(partial(_where_lane, free), begin_trials(task), (queue.lanes, queue.keys))
        times = started + jnp.arange(_STEPS_BETWEEN_TASKS)[:, None]

        def step(rollouts: RolloutCarry, time: chex.Array):
            # Beyond a trial's end the last key, unused.
            now = jax.vmap(lambda keys, t: keys[t])(keys, jnp.minimum(time, trial.num_steps - 1))
            rollouts, transitions = jax.vmap(lambda key, params, carry: advance(key, agent, trial, params, carry))(
                now, lanes.params, rollouts
            )
            # As `rollout` is cut there, whatever time limit the task itself has.
            over = rollouts.trial_done | (time + 1 >= trial.num_steps)
            return rollouts._replace(trial_done=over), transitions.reward

        rollouts, rewards = jax.lax.scan(step, lanes.rollout, times)
        total = jnp.where(free, 0.0, queue.total) + rewards.sum(axis=0)
        return QueueCarry(
            lanes=LaneCarry(lanes.params, rollouts),
            keys=keys,
            task=task,
            time=started + _STEPS_BETWEEN_TASKS,
            total=total,
            curve=queue.curve.at[jnp.arange(num_lanes), times].add(rewards, mode="drop"),
            next_task=queue.next_task + free.sum(),
            totals=queue.totals.at[jnp.where(rollouts.trial_done, task, num_tasks)].set(total, mode="drop"),
        )

    def unfinished(queue: QueueCarry) -> chex.Array:
        return (queue.next_task < num_wanted) | ~jnp.all(queue.lanes.rollout.trial_done)

    nobody = jnp.zeros(num_lanes, jnp.int32)
    # Of the right shapes, and over: the program that begins trials is compiled once, in the loop.
    lanes, keys = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(begin_trials, nobody))
    queue = QueueCarry(
        lanes=lanes._replace(rollout=lanes.rollout._replace(trial_done=jnp.ones(num_lanes, bool))),
        keys=keys,
        task=nobody,
        time=nobody,
        total=jnp.zeros(num_lanes),
        curve=jnp.zeros((num_lanes, trial.num_steps)),
        next_task=jnp.zeros((), jnp.int32),
        totals=jnp.zeros(num_tasks),
    )
    played = jax.lax.while_loop(unfinished, play_on, queue)
    return played.totals, played.curve.sum(axis=0)


def _where_lane(condition: chex.Array, new: chex.Array, old: chex.Array) -> chex.Array:
    """`jnp.where` by the first axis; keys have no shape of their numbers."""
    return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 1)), new, old)


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
