"""Trials in the test mazes, on the device or in ViZDoom, and what Table 3 of Duan et al. 2016 says of them."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent
from rl2jax.agents.maze import shortest_path
from rl2jax.engines.base import DEVICE, HostEngine, find_engine
from rl2jax.engines.collection import collect
from rl2jax.envs.maze.navigation import MazeNavigation, NavigationParams
from rl2jax.envs.maze.raycast import HEIGHT, WIDTH
from rl2jax.files import git_commit
from rl2jax.results.rows import MazeRow
from rl2jax.settings import InputError, require
from rl2jax.trials.rollout import advance, begin
from rl2jax.trials.trial import Trial
from rl2jax.types import Trajectory

ENGINES = {"vizdoom": "vizdoom", "twin": DEVICE}  # Table 3's words for who plays, and the engines' names
_STEPS_AT_ONCE = 125  # between looks at whether all trials are over
_FRAME_BYTES = 2**30  # at most, of the frames of a batch of trials in ViZDoom


class Episodes(NamedTuple):
    """How the episodes of many trials went.

    Attributes:
      lengths: in steps; int64 [num_trials, num_episodes].
      reached: whether it ended in the target, and not by the horizon; bool [num_trials, num_episodes].
    """

    lengths: np.ndarray
    reached: np.ndarray


class Scores(NamedTuple):
    """Tables 3a to 3c, each with its standard error, and what else tells how good an agent is.

    Attributes:
      success_length: mean length of the episodes that reached the target (Table 3a); float64 [num_episodes], nan
        where there is none.
      success_length_error: float64 [num_episodes].
      success_percent: of all episodes (Table 3b); float64 [num_episodes].
      success_percent_error: float64 [num_episodes].
      improved_percent: of mazes, where the second episode is no longer than the first (Table 3c). An episode that
        fails is as long as the horizon, so two failures count. nan with one episode.
      improved_percent_error: of it.
      found_again_percent: the same, but only second episodes that reach the target count.
      found_again_percent_error: of it.
      length: mean over all episodes, those that fail too; float64 [num_episodes].
      length_error: float64 [num_episodes].
      excess: mean of the steps beyond the shortest way, over the episodes that reached the target; float64
        [num_episodes].
      excess_error: float64 [num_episodes].
    """

    success_length: np.ndarray
    success_length_error: np.ndarray
    success_percent: np.ndarray
    success_percent_error: np.ndarray
    improved_percent: float
    improved_percent_error: float
    found_again_percent: float
    found_again_percent_error: float
    length: np.ndarray
    length_error: np.ndarray
    excess: np.ndarray
    excess_error: np.ndarray


def episodes_of(trajectory: Trajectory, num_episodes: int) -> Episodes:
    """Cuts trials into their episodes.

    The reward of an episode's last step tells how it ended: reaching the target is worth more than a step and a wall
    cost together.

    Args:
      trajectory: of complete trials; leaves [num_steps, num_trials, ...].
      num_episodes: in each trial.

    Raises:
      ValueError: if a trial has fewer episodes.
    """
    mask, reward = np.asarray(trajectory.mask) > 0, np.asarray(trajectory.reward)
    ends = (np.asarray(trajectory.episode_done) > 0) & mask
    chex.assert_equal_shape([mask, reward, ends])
    found = ends.sum(axis=0)
    if np.any(found != num_episodes):
        raise InputError(f"every trial must have {num_episodes} episodes, there are {found.min()} to {found.max()}")
    episode: np.ndarray = np.cumsum(ends, axis=0) - ends  # of each step
    of_episode = [mask & (episode == number) for number in range(num_episodes)]
    lengths = [steps.sum(axis=0) for steps in of_episode]
    reached = [np.any(ends & steps & (reward > 0), axis=0) for steps in of_episode]
    return Episodes(np.stack(lengths, axis=1), np.stack(reached, axis=1))


def score(episodes: Episodes, shortest: np.ndarray | None = None) -> Scores:
    """Tables 3a to 3c of one agent.

    Args:
      episodes: one trial in each maze.
      shortest: steps of the shortest way in each maze, from `shortest_lengths`; int [num_trials].
    """
    lengths, reached = episodes
    num_episodes = lengths.shape[1]
    if shortest is None:
        excess = np.full(lengths.shape, np.nan)
    else:
        chex.assert_shape(shortest, lengths.shape[:1])
        excess = lengths - np.asarray(shortest)[:, None]

    numbers = range(num_episodes)
    improved = again = (math.nan, math.nan)
    if num_episodes > 1:
        no_longer = lengths[:, 1] <= lengths[:, 0]
        improved, again = _percent(no_longer), _percent(no_longer & reached[:, 1])
    success_length = _columns(_mean(lengths[reached[:, number], number]) for number in numbers)
    success = _columns(_percent(reached[:, number]) for number in numbers)
    length = _columns(_mean(lengths[:, number]) for number in numbers)
    beyond = _columns(_mean(excess[reached[:, number], number]) for number in numbers)
    return Scores(*success_length, *success, *improved, *again, *length, *beyond)


def _columns(pairs: Iterable[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Means and errors, each by episode."""
    means, errors = zip(*pairs, strict=True)
    return np.array(means), np.array(errors)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean and its standard error; nan where there are too few values."""
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _percent(hits: np.ndarray) -> tuple[float, float]:
    """Share and its standard error, in percent."""
    share = float(hits.mean())
    return 100 * share, 100 * math.sqrt(share * (1 - share) / len(hits))


def maze_row(trajectory: Trajectory, num_episodes: int, shortest: np.ndarray | None, **context: Any) -> MazeRow:
    """The row of an agent's trials.

    Args:
      trajectory: as of `episodes_of`.
      num_episodes: in each trial.
      shortest: as of `score`.
      **context: the row's other fields: task, agent, engine, seed, ...
    """
    mean, error = _mean(np.asarray(trajectory.reward, np.float64).sum(axis=0))
    scores = score(episodes_of(trajectory, num_episodes), shortest)
    return MazeRow(
        **context,
        num_tasks=trajectory.reward.shape[1],
        mean=mean,
        standard_error=_for_json(error),
        **{name: _for_json(value) for name, value in scores._asdict().items()},
        commit=git_commit(),
    )


def _for_json(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, np.ndarray):
        return [_for_json(float(x)) for x in value]
    return round(value, 4) if math.isfinite(value) else None


def without_frames(trajectory: Trajectory) -> Trajectory:
    """What statistics and pictures need: observations are dropped, and of what was privileged all but the pose."""
    pose, _ = trajectory.trial_obs.privileged
    seen = trajectory.trial_obs._replace(obs=(), privileged=(pose, ()))
    return trajectory._replace(trial_obs=seen, agent_info=())


def play_twin(
    agent: Agent,
    trial: Trial,
    mazes: Sequence[int] | np.ndarray,
    key: chex.PRNGKey,
    *,
    progress: Callable[[float], object] | None = None,
) -> Trajectory:
    """One trial on the device in each of some mazes of a set, all at once.

    The random numbers are those of `play_on`: an agent plays the same trials there, as far as it sees the same.
    It ends when the last trial has ended, however many steps the horizon allows.

    Args:
      agent: who acts.
      trial: in mazes of a set (`MazeNavigation.split` "train" or "test").
      mazes: which of the set.
      key: randomness of agent and environment.
      progress: called with the share of the episodes that are over.

    Returns:
      A trajectory `without_frames`; numpy leaves [num_steps, num_trials, ...].
    """
    env = _maze_env(trial)
    num_steps = trial.num_steps
    params = _tasks(env, np.asarray(mazes))

    @jax.jit
    def start(params, keys):
        return jax.vmap(lambda params, key: begin(key, agent, trial, params, num_steps))(params, keys)

    @jax.jit
    def play_on(params, carry, keys):
        def step(params, carry, key_step):
            carry, transition = advance(key_step, agent, trial, params, carry)
            return carry, without_frames(transition)

        return jax.lax.scan(lambda carry, key: jax.vmap(step)(params, carry, key), carry, jnp.swapaxes(keys, 0, 1))

    carry, keys = start(params, _trial_keys(key, trial, len(mazes)))
    parts = []
    for first in range(0, num_steps, _STEPS_AT_ONCE):
        carry, part = play_on(params, carry, keys[:, first : first + _STEPS_AT_ONCE])
        parts.append(jax.tree.map(np.asarray, part))
        if progress is not None:
            done = np.minimum(np.asarray(carry.trial_state.episodes_done), trial.num_episodes)
            progress(float(done.mean()) / trial.num_episodes)
        if np.all(carry.trial_done):
            break
    played = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    features = jax.vmap(env.task_features)(params)
    return played._replace(task_features=np.asarray(features))


def play_on(
    engine: HostEngine,
    agent: Agent,
    trial: Trial,
    mazes: Sequence[int] | np.ndarray,
    key: chex.PRNGKey,
    *,
    progress: Callable[[float], object] | None = None,
) -> Trajectory:
    """The same on an engine."""
    env, mazes, parts = _maze_env(trial), np.asarray(mazes), []
    for batch, key_batch in _batches(key, trial, len(mazes)):
        tasks, keys = _tasks(env, mazes[batch]), jax.random.split(key_batch, len(mazes[batch]))
        parts.append(jax.tree.map(np.asarray, without_frames(collect(engine, agent, trial, keys, tasks))))
        if progress is not None:
            progress(min(1.0, batch.stop / len(mazes)))
    return side_by_side(parts)


def _tasks(env: MazeNavigation, mazes: np.ndarray) -> NavigationParams:
    """Some of the set; leaves [num_trials, ...]."""
    return jax.vmap(env.params_of)(env.mazes.at(mazes))


def _batches(key: chex.PRNGKey, trial: Trial, num_trials: int) -> list[tuple[slice, chex.PRNGKey]]:
    """Trials that are in memory at once with all their frames, and the key of each batch."""
    at_once = max(1, _FRAME_BYTES // (trial.num_steps * WIDTH * HEIGHT * 3))
    return [
        (slice(first, min(first + at_once, num_trials)), jax.random.fold_in(key, first))
        for first in range(0, num_trials, at_once)
    ]


def _trial_keys(key: chex.PRNGKey, trial: Trial, num_trials: int) -> chex.PRNGKey:
    """Keys of the rollouts; [num_trials]."""
    batches = _batches(key, trial, num_trials)
    return jnp.concatenate([jax.random.split(key_batch, batch.stop - batch.start) for batch, key_batch in batches])


def play(
    agent: Agent,
    trial: Trial,
    mazes: Sequence[int] | np.ndarray,
    key: chex.PRNGKey,
    engine: str = "vizdoom",
    *,
    progress: Callable[[float], object] | None = None,
) -> Trajectory:
    """One trial in each of some mazes of a set, on an engine or on the device.

    Args:
      agent: who acts.
      trial: in mazes of a set.
      mazes: which of the set.
      key: randomness of agent and environment.
      engine: as `engines.base.find_engine` names them.
      progress: called with the share that is done.

    Returns:
      A trajectory `without_frames`; numpy leaves [num_steps, num_trials, ...].

    Raises:
      ValueError: if there is no such engine, or it refuses.
    """
    make = find_engine(engine, _maze_env(trial))
    if make is None:
        return play_twin(agent, trial, mazes, key, progress=progress)
    with make(trial.env) as opened:
        return play_on(opened, agent, trial, mazes, key, progress=progress)


def shortest_lengths(env: MazeNavigation, mazes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Steps from each maze's start to its target, for who knows the way; int64 [num_mazes]."""
    require(not env.redraw_start, "redraw_start", env.redraw_start, "False: else there is no one shortest way")
    trial = Trial(without_looking(env), 1)
    played = play_twin(shortest_path(env, 1), trial, mazes, jax.random.key(0))
    return episodes_of(played, 1).lengths[:, 0]


def without_looking(env: MazeNavigation) -> MazeNavigation:
    """The same mazes for agents that do not look at what they are shown: no frames are drawn."""
    return dataclasses.replace(env, observation="symbols")


def side_by_side(parts: list[Trajectory]) -> Trajectory:
    """Batches of trials as one; steps after the end of the shorter ones have mask 0."""
    most = max(len(part.mask) for part in parts)

    def padded(leaf):
        return np.concatenate([leaf, np.zeros((most - len(leaf), *leaf.shape[1:]), leaf.dtype)])

    features = np.concatenate([part.task_features for part in parts])
    in_time = [jax.tree.map(padded, part._replace(task_features=())) for part in parts]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *in_time)
    return joined._replace(task_features=features)


def _maze_env(trial: Trial) -> MazeNavigation:
    env = trial.env
    require(isinstance(env, MazeNavigation), "task", type(env).__name__, "a maze")
    require(env.split != "fresh", "split", env.split, "train or test")
    return env
