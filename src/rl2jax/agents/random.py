"""The uniformly random agent, the zero of the paper's normalised learning curves, and choices by a softmax."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, ReferenceAgent


def random_agent(action_space: Any) -> Agent:
    """Samples every action from `action_space`, uniformly."""

    def init(key):
        del key
        return ()

    def step(key, state, trial_obs):
        del trial_obs
        return state, action_space.sample(key), ()

    return Agent(init, step)


RANDOM = ReferenceAgent(lambda env, num_episodes: random_agent(env.action_space(None)))
ONLY_RANDOM = {"random": RANDOM}  # of task distributions that nobody wrote agents for


def softmax_choice(key: chex.PRNGKey, values: chex.Array, inverse_temperature: float) -> chex.Array:
    """Draws an action with probability proportional to exp(inverse_temperature value); int32 [].

    Args:
      key: randomness.
      values: float32 [num_actions].
      inverse_temperature: >= 0; inf: the best action, of several as good as the best (within 1e-6) any.
    """
    if np.isinf(inverse_temperature):
        return jax.random.categorical(key, jnp.where(values >= values.max() - 1e-6, 0.0, -jnp.inf))
    return jax.random.categorical(key, inverse_temperature * values)
