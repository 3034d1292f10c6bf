"""Agents that are not trained."""

from typing import Any

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.mdp import MDP_AGENTS
from rl2jax.agents.random import random_agent
from rl2jax.kinds import kind_of, load

__all__ = ["BANDIT_AGENTS", "MDP_AGENTS", "Agent", "ReferenceAgent", "random_agent", "reference_agents"]


def reference_agents(env: Any) -> dict[str, ReferenceAgent]:
    """The agents that play a task distribution without training, by name; for one's own, the random agent."""
    return load(kind_of(env).agents)
