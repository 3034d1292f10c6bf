"""Trials step by step, for those who want to look: what a trained agent saw, thought likely, did and got."""

import base64
import io
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rl2jax.agents import reference_agents
from rl2jax.agents.base import Agent
from rl2jax.envs.maze.kinematics import CELL
from rl2jax.envs.maze.mazes import Maze, free_cells
from rl2jax.envs.maze.raycast import HEIGHT, WIDTH
from rl2jax.envs.names import Task, parse_task
from rl2jax.kinds import load
from rl2jax.results.pages.maze_pictures import wall_lines
from rl2jax.runs.shipped import ShippedAgent, ShippedAgentError, describe, load_agent
from rl2jax.settings import InputError
from rl2jax.trials.evaluate import Played, evaluation_key, play_tasks
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import tuned_or_tune
from rl2jax.types import TrialObservation

SEED = 1  # of the tasks, as in the tables: these are the first trials of those evaluations
# Asked agents draw from a stream of their own: the i-th key of `split` is that of the i-th trial (`evaluate`).
_BESIDE = 0xBE51DE
THOMPSON_DRAWS = 1000
_FRAMES_ACROSS = 16
_Recording = dict[str, Any]


class Wanted(NamedTuple):
    """What to record: a shipped agent, how it was trained, and how many trials."""

    agent: str
    recipe: str
    num_trials: int


SHOWN = (
    Wanted("bandit-k5-n100", "best", 3),
    Wanted("bandit-k5-n10", "best", 3),
    Wanted("maze-size5-t250-n2", "best", 4),
)


def record(wanted: Wanted, seed: int = SEED, folder: Path | None = None) -> list[_Recording]:
    """The first trials of a shipped agent's evaluation with this seed, as JSON has them.

    Args:
      wanted: an agent of Bernoulli bandits or of mazes.
      seed: of the tasks and of all randomness, as of `evaluate`.
      folder: of shipped agents; default the package's own.

    Returns:
      one for each trial: "kind" ("bandit" or "maze"), "agent", "recipe", "task", "seed", "trial" (its number in the
      stream, from 0), "actions", "rewards" and "probabilities" (the policy's, of all actions, at each step), and what
      `bandit_recordings` or `maze_recordings` adds.

    Raises:
      ValueError: if there is no such agent, or it is of another kind of task.
      shipped.ShippedAgentError: if its file is damaged.
    """
    shipped = describe(wanted.agent, wanted.recipe, folder)
    task = parse_task(shipped.task)
    if not task.kind.recording:
        raise InputError(f"trials of {shipped.task} cannot be shown; of Bernoulli bandits and mazes they can")
    agent = load_agent(wanted.agent, wanted.recipe, folder)
    trial = Trial(task.env, task.num_episodes, shipped.config.trial.first_step_flag)
    played = play_tasks(agent, trial, wanted.num_trials, evaluation_key(seed), agent_info=True)
    context = _context(shipped, seed)
    return [
        {**context, "trial": number, **recording}
        for number, recording in enumerate(load(task.kind.recording)(task, played, evaluation_key(seed)))
    ]


def record_all(
    shown: Iterable[Wanted] = SHOWN, folder: Path | None = None, progress: Callable[[str], object] | None = None
) -> tuple[list[_Recording], list[str]]:
    """Trials of all agents that are there, and a sentence for each that is not.

    Args:
      shown: what to record.
      folder: of shipped agents; default the package's own.
      progress: called with the name of each agent before it plays.
    """
    recordings, missing = [], []
    for wanted in shown:
        if progress is not None:
            progress(wanted.agent)
        try:
            recordings += record(wanted, folder=folder)
        except (ValueError, ShippedAgentError) as error:
            missing.append(f"No trials of {wanted.agent}: {' '.join(str(error).split())}.")
    return recordings, missing


def _context(shipped: ShippedAgent, seed: int) -> _Recording:
    return {"agent": shipped.name, "recipe": shipped.recipe, "task": shipped.task, "seed": seed}


def _rounded(values: Any, digits: int = 4) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def probabilities(played: Played) -> np.ndarray:
    """The policy's probabilities of all actions, from its own logits; float64 [num_steps, num_tasks, num_actions]."""
    logits = np.asarray(played.trajectory.agent_info.dist_params, np.float64)
    return np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)


def _steps(played: Played, number: int, length: int) -> _Recording:
    """What every kind of recording has."""
    return {
        "actions": played.trajectory.action[:length, number].tolist(),
        "rewards": _rounded(played.trajectory.reward[:length, number]),
        "probabilities": _rounded(probabilities(played)[:length, number]),
    }


# --- Bandits.


def bandit_recordings(task: Task, played: Played, key: chex.PRNGKey) -> list[_Recording]:
    """Beside the steps: "arms", "gittins" (the arm it would pull), "thompson" (its share of each arm).

    Both are asked at each step what they would do, had they made the pulls that the trained agent made.
    """

    def asked(name: str, num_draws: int) -> np.ndarray:
        shares = partial(shares_beside, _reference(task, name), num_draws=num_draws, num_actions=task.env.num_actions)
        keys = jax.random.split(jax.random.fold_in(key, _BESIDE), len(played.params.probs))
        return np.asarray(jax.jit(jax.vmap(shares, (0, 1)))(keys, played.trajectory.trial_obs))

    gittins_arm, thompson_share = np.argmax(asked("gittins", 1), axis=-1), asked("thompson", THOMPSON_DRAWS)
    return [
        {
            "kind": "bandit",
            "arms": _rounded(played.params.probs[number]),
            **_steps(played, number, len(played.trajectory.mask)),
            "gittins": gittins_arm[number].tolist(),
            "thompson": _rounded(thompson_share[number], 3),
        }
        for number in range(len(played.params.probs))
    ]


def _reference(task: Task, name: str) -> Agent:
    spec = reference_agents(task.env)[name]
    settings = {**spec.fixed, **tuned_or_tune(task, name, spec).hyperparameters}
    return spec.make(task.env, task.num_episodes, **settings)


def shares_beside(
    agent: Agent, key: chex.PRNGKey, trial_obs: TrialObservation, *, num_draws: int, num_actions: int
) -> chex.Array:
    """How often an agent would choose each action, had it seen what another saw and done what that one did.

    Args:
      agent: whose state depends on what it saw alone, not on its own draws, as Gittins' and Thompson's do.
      key: of its draws.
      trial_obs: of one trial, leaves [num_steps, ...].
      num_draws: at each step.
      num_actions: of the task.

    Returns:
      float32 [num_steps, num_actions]; rows sum to 1.
    """
    key_init, key_steps = jax.random.split(key)

    def step(state, inputs):
        seen, key_step = inputs
        keys = jax.random.split(key_step, num_draws)
        states, actions, _ = jax.vmap(agent.step, (0, None, None))(keys, state, seen)
        share = jnp.mean(jax.nn.one_hot(actions, num_actions), axis=0)
        return jax.tree.map(lambda leaf: leaf[0], states), share

    keys = jax.random.split(key_steps, len(trial_obs.prev_reward))
    return jax.lax.scan(step, agent.init(key_init), (trial_obs, keys))[1]


# --- Mazes.


def maze_recordings(task: Task, played: Played, key: chex.PRNGKey) -> list[_Recording]:
    """Beside the steps: the map, where the player stood before each step, and its frames in one picture.

    "free" [size][size] (row from the south, column from the west), "walls" (lines between two points x, y), "target"
    and "start" (row, column), "x" and "y" in cells, "heading" in sixteenths of a turn counter-clockwise from east,
    "episode" of each step, "frames" (a PNG as a data URI of pictures of 40 x 30 pixels, "frames_across" in a line).
    """
    del key
    pose, mazes = played.trajectory.trial_obs.privileged
    recordings = []
    for number in range(played.trajectory.mask.shape[1]):
        length = int(played.trajectory.mask[:, number].sum())
        done = played.trajectory.episode_done[:length, number] > 0
        recordings.append(
            {
                "kind": "maze",
                **_steps(played, number, length),
                **_map(Maze(*(leaf[0, number] for leaf in mazes))),
                "x": _rounded(pose.x[:length, number] / CELL, 3),
                "y": _rounded(pose.y[:length, number] / CELL, 3),
                "heading": pose.heading[:length, number].tolist(),
                "episode": (np.cumsum(done) - done).astype(int).tolist(),
                "frames": frame_sheet(played.trajectory.trial_obs.obs[:length, number]),
                "frames_across": _FRAMES_ACROSS,
            }
        )
    return recordings


def _map(maze: Maze) -> _Recording:
    free = free_cells(maze)
    return {
        "free": free.astype(int).tolist(),
        "walls": [[list(point) for point in line] for line in wall_lines(maze, free)],
        "target": np.asarray(maze.target).tolist(),
        "start": np.asarray(maze.start).tolist(),
    }


def frame_sheet(frames: np.ndarray) -> str:
    """Frames side by side, `_FRAMES_ACROSS` in a line, as the data URI of a PNG without loss.

    Args:
      frames: uint8 [num_frames, 30, 40, 3], of at most 256 colours.
    """
    lines = -(-len(frames) // _FRAMES_ACROSS)
    padded = np.zeros((lines * _FRAMES_ACROSS, HEIGHT, WIDTH, 3), np.uint8)
    padded[: len(frames)] = frames
    sheet = padded.reshape(lines, _FRAMES_ACROSS, HEIGHT, WIDTH, 3).swapaxes(1, 2)
    picture = Image.fromarray(sheet.reshape(lines * HEIGHT, _FRAMES_ACROSS * WIDTH, 3))
    content = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
