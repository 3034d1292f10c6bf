"""Reference agents for Harlow's task: one that learns from one choice, and one that learns the wrong thing."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM
from rl2jax.envs.harlow import FIXATE, LEFT, RIGHT, Harlow
from rl2jax.types import TrialObservation


class Choice(NamedTuple):
    """What an agent remembers.

    Attributes:
      believed: number of the object (or the side) to choose; int32 [], -1 while there is none.
      left: what was on the left when it acted last; int32 [], -1 where no objects were.
      right: on the right.
    """

    believed: chex.Array
    left: chex.Array
    right: chex.Array


def _win_stay_lose_shift(by_object: bool) -> Agent:
    """Chooses again what was rewarded, and otherwise what was not chosen; the first time anything."""

    def init(key):
        del key
        nothing = jnp.full((), -1, jnp.int32)
        return Choice(nothing, nothing, nothing)

    def step(key, state: Choice, trial_obs: TrialObservation):
        seen = trial_obs.privileged
        went_left = trial_obs.prev_action == LEFT
        rewarded_left = went_left == (trial_obs.prev_reward > 0.0)
        chose = (state.left >= 0) & (trial_obs.prev_action != FIXATE)
        believed = jnp.where(chose, jnp.where(rewarded_left, state.left, state.right), state.believed)
        left = seen.left_object if by_object else jnp.full((), LEFT, jnp.int32)
        right = seen.right_object if by_object else jnp.full((), RIGHT, jnp.int32)
        guess = jnp.where(jax.random.bernoulli(key), LEFT, RIGHT)
        side = jnp.where(believed < 0, guess, jnp.where(believed == left, LEFT, RIGHT))
        action = jnp.where(seen.shows_objects, side, FIXATE).astype(jnp.int32)
        there = seen.shows_objects
        return Choice(believed, jnp.where(there, left, -1), jnp.where(there, right, -1)), action, ()

    return Agent(init, step)


def one_shot(env: Harlow, num_episodes: int) -> Agent:
    """Guesses once, then knows: optimal, right half of the time at first and always from the second choice on."""
    del env, num_episodes
    return _win_stay_lose_shift(by_object=True)


def side(env: Harlow, num_episodes: int) -> Agent:
    """Takes the side, not the object, for what is rewarded: right half of the time."""
    del env, num_episodes
    return _win_stay_lose_shift(by_object=False)


HARLOW_AGENTS = {
    "random": RANDOM,
    "side": ReferenceAgent(side),
    "one_shot": ReferenceAgent(one_shot),
}
