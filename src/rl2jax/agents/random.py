"""The uniformly random agent: the zero of the paper's normalised learning curves."""

from typing import Any

from rl2jax.agents.base import Agent


def random_agent(action_space: Any) -> Agent:
    """Samples every action from `action_space`, uniformly."""

    def init(key):
        del key
        return ()

    def step(key, state, trial_obs):
        del trial_obs
        return state, action_space.sample(key), ()

    return Agent(init, step)
