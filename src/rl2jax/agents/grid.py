"""Reference agents for navigation on a grid: search and remember, and know from the start."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM
from rl2jax.envs.grid import GridNavigation
from rl2jax.types import TrialObservation


class Searched(NamedTuple):
    """What an explorer knows.

    Attributes:
      possible: which cells can be the goal; bool [num_cells].
      last: the cell it acted in last; int32 [], -1 at the trial's first step.
    """

    possible: chex.Array
    last: chex.Array


def distances(env: GridNavigation) -> np.ndarray:
    """Steps from each cell to each; int numpy [num_cells, num_cells]."""
    count = len(env.cells)
    steps = np.full((count, count), count)  # more than any path has
    np.fill_diagonal(steps, 0)
    for _ in range(count):
        nearer = np.minimum(steps, 1 + steps[env.next_cell].min(axis=1))
        if (nearer == steps).all():
            break
        steps = nearer
    return steps


def explorer(env: GridNavigation, num_episodes: int) -> Agent:
    """Goes to the nearest cell that can be the goal until it finds it, then always there by a shortest path."""
    del num_episodes
    steps = distances(env)
    to_go, next_cell = jnp.asarray(steps, jnp.int32), jnp.asarray(env.next_cell, jnp.int32)
    candidates = np.isin(np.arange(len(steps)), env.goals)

    def init(key):
        del key
        return Searched(jnp.asarray(candidates), jnp.full((), -1, jnp.int32))

    def step(key, state: Searched, trial_obs: TrialObservation):
        del key
        cell, cells = trial_obs.privileged.cell, jnp.arange(len(steps))
        # The goal shows itself by a reward only, after which the agent is elsewhere.
        reached = next_cell[state.last, trial_obs.prev_action]
        found = (state.last >= 0) & (trial_obs.prev_reward > 0.0)
        possible = jnp.where(found, cells == reached, state.possible & (cells != cell))
        target = jnp.argmin(jnp.where(possible, to_go[cell], len(steps) + 1))
        action = jnp.argmin(to_go[next_cell[cell], target])
        return Searched(possible, cell), action.astype(jnp.int32), ()

    return Agent(init, step)


def shortest_path(env: GridNavigation, num_episodes: int) -> Agent:
    """Knows the goal from the start: no agent does better, but for where it is put back to."""
    del num_episodes
    to_go, next_cell = jnp.asarray(distances(env), jnp.int32), jnp.asarray(env.next_cell, jnp.int32)

    def init(key):
        del key
        return ()

    def step(key, state, trial_obs: TrialObservation):
        del key
        cell, goal = trial_obs.privileged
        return state, jnp.argmin(to_go[next_cell[cell], goal]).astype(jnp.int32), ()

    return Agent(init, step)


GRID_AGENTS = {
    "random": RANDOM,
    "explorer": ReferenceAgent(explorer),
    "shortest_path": ReferenceAgent(shortest_path),
}
