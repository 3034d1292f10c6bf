"""Whether the twin is one: random actions in the real ViZDoom and in `MazeNavigation`, step by step."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.engines.vizdoom.mazes import VizdoomMazes
from rl2jax.envs.maze.kinematics import FORWARD, TURN_LEFT, TURN_RIGHT, Pose
from rl2jax.envs.maze.navigation import MazeNavigation, NavigationParams, NavigationState
from rl2jax.settings import require

_SHARES = {FORWARD: 0.6, TURN_LEFT: 0.2, TURN_RIGHT: 0.2}
_CHUNK = 128  # steps of all games that are compared at once


class TwinReport(NamedTuple):
    """How far the twin is from the engine.

    Attributes:
      steps: that were compared.
      pose_mismatches: steps after which the players do not stand and look alike.
      reward_mismatches: steps whose rewards, or whether they end the episode, differ.
      mean_frame_error: absolute difference of colour values, of 255; over all frames.
      max_frame_error: the same, of the worst frame.
      worst: maze's index, x, y and heading of that frame.
    """

    steps: int
    pose_mismatches: int
    reward_mismatches: int
    mean_frame_error: float
    max_frame_error: float
    worst: tuple[int, int, int, int]


def twin_check(
    env: MazeNavigation,
    num_steps: int,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    num_workers: int = 2,
    games_per_worker: int = 8,
) -> TwinReport:
    """Plays random actions, mostly forward, in the engine and in the twin; each episode in another random maze.

    The twin is never told where the engine's player is: a mismatch goes on until the episode ends.

    Args:
      env: whose mazes to play; as `VizdoomMazes` wants it.
      num_steps: at least so many steps are compared, over all games.
      seed: of actions and mazes.
      progress: called with the steps done, now and then.
      num_workers: of `VizdoomMazes`.
      games_per_worker: of `VizdoomMazes`.

    Raises:
      ValueError, VizdoomMissingError, EngineError: as `VizdoomMazes`.
    """
    require(num_steps >= 1, "num_steps", num_steps, "an integer >= 1")
    rng = np.random.default_rng(seed)
    actions_and_shares = list(_SHARES), list(_SHARES.values())
    follow = _make_follow(env)
    with VizdoomMazes(env, num_workers, games_per_worker) as games:
        num_games, num_mazes = games.num_slots, len(env.mazes.target)
        everyone = np.ones(num_games, bool)
        maze = rng.integers(num_mazes, size=num_games)
        games.place(np.arange(num_games), maze)
        games.reset(np.arange(num_games))
        state = _start(env, maze)
        chunks: list[_Comparison] = []
        done = 0
        while done < num_steps:
            steps = []
            for _ in range(min(_CHUNK, -(-(num_steps - done) // num_games))):
                action = rng.choice(actions_and_shares[0], p=actions_and_shares[1], size=num_games)
                frame, reward, terminated, truncated = games.step(action, everyone)
                pose, first_frame, ended = games.poses(), frame.copy(), terminated | truncated
                next_maze = np.where(ended, rng.integers(num_mazes, size=num_games), maze)
                over = np.flatnonzero(ended)
                games.place(over, next_maze[over])
                if len(over):
                    first_frame[over] = games.reset(over)
                steps.append(
                    _Step(maze, action, reward, terminated, truncated, pose, frame, ended, next_maze, first_frame)
                )
                maze = next_maze
            state, comparison = follow(state, jax.tree.map(lambda *leaves: np.stack(leaves), *steps))
            chunks.append(jax.device_get(comparison))
            done += len(steps) * num_games
            if progress is not None:
                progress(done)
    return _report(jax.tree.map(lambda *leaves: np.concatenate(leaves), *chunks), done)


class _Step(NamedTuple):
    """What the engine's games did; leaves [num_games, ...] or [num_steps, num_games, ...]."""

    maze: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    pose: Pose
    frame: np.ndarray
    ended: np.ndarray
    next_maze: np.ndarray
    first_frame: np.ndarray  # of the next episode, where this one has ended


class _Comparison(NamedTuple):
    """Of each step; leaves [num_steps, num_games]. `first_error` is nan but for the first frames of episodes."""

    wrong_pose: chex.Array
    wrong_reward: chex.Array
    error: chex.Array
    first_error: chex.Array
    maze: chex.Array
    next_maze: chex.Array
    pose: Pose
    first_pose: Pose


def _start(env: MazeNavigation, maze: chex.Array) -> NavigationState:
    return jax.jit(jax.vmap(lambda index: env.reset_env(jax.random.key(0), _params(env, index))[1]))(maze)


def _params(env: MazeNavigation, index: chex.Array) -> NavigationParams:
    return env.params_of(jax.tree.map(jnp.asarray, env.mazes).at(index))


def _make_follow(env: MazeNavigation) -> Callable[[NavigationState, _Step], tuple[NavigationState, _Comparison]]:
    """The twin's side: does the same steps, whatever the engine came to."""

    def follow_one(state: NavigationState, step: _Step) -> tuple[NavigationState, _Comparison]:
        params = _params(env, step.maze)
        frame, after, reward, terminated, _ = env.step_env(jax.random.key(0), state, step.action, params)
        truncated = env.is_truncated(after, params)
        same = (reward == step.reward) & (terminated == step.terminated) & (truncated == step.truncated)
        wrong_pose = jnp.stack([a != b for a, b in zip(after.pose, step.pose, strict=True)]).any()
        first_frame, start = env.reset_env(jax.random.key(0), _params(env, step.next_maze))
        first_error = jnp.where(step.ended, _difference(first_frame, step.first_frame), jnp.nan)
        error = _difference(frame, step.frame)
        comparison = _Comparison(
            wrong_pose, ~same, error, first_error, step.maze, step.next_maze, step.pose, start.pose
        )
        return jax.tree.map(lambda new, old: jnp.where(step.ended, new, old), start, after), comparison

    return jax.jit(lambda state, steps: jax.lax.scan(jax.vmap(follow_one), state, steps))


def _difference(a: chex.Array, b: chex.Array) -> chex.Array:
    return jnp.abs(a.astype(jnp.float32) - b.astype(jnp.float32)).mean()


def _report(comparison: _Comparison, steps: int) -> TwinReport:
    """Sums it up; leaves [num_steps, num_games]."""
    errors = np.stack([comparison.error, comparison.first_error])
    places = [
        np.stack([maze, *pose])
        for maze, pose in ((comparison.maze, comparison.pose), (comparison.next_maze, comparison.first_pose))
    ]
    worst = np.unravel_index(np.nanargmax(errors), errors.shape)
    maze, x, y, heading = (int(v) for v in places[worst[0]][:, worst[1], worst[2]])
    return TwinReport(
        steps,
        int(comparison.wrong_pose.sum()),
        int(comparison.wrong_reward.sum()),
        float(np.nanmean(errors)),
        float(np.nanmax(errors)),
        (maze, x, y, heading),
    )
