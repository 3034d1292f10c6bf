"""Agents that are not trained."""

from typing import Any

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.mdp import MDP_AGENTS
from rl2jax.agents.random import random_agent
from rl2jax.envs import BernoulliBandit, TabularMDP

__all__ = ["BANDIT_AGENTS", "MDP_AGENTS", "Agent", "ReferenceAgent", "random_agent", "reference_agents"]


def reference_agents(env: Any) -> dict[str, ReferenceAgent]:
    """The agents that play a task distribution without training, by name; for one's own, the random agent."""
    # Here, not above: the maze's planners are agents, so importing them first would go round in a circle.
    from rl2jax.vision import MazeNavigation
    from rl2jax.vision.planners import MAZE_AGENTS

    if isinstance(env, BernoulliBandit):
        return BANDIT_AGENTS
    if isinstance(env, TabularMDP):
        return MDP_AGENTS
    if isinstance(env, MazeNavigation):
        return MAZE_AGENTS
    return {"random": ReferenceAgent(lambda env, num_episodes: random_agent(env.action_space(None)))}
