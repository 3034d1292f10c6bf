"""Agents that are not trained."""

from typing import Any

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.dependent import DEPENDENT_AGENTS, INFORMATIVE_AGENTS
from rl2jax.agents.grid import GRID_AGENTS
from rl2jax.agents.harlow import HARLOW_AGENTS
from rl2jax.agents.mdp import MDP_AGENTS
from rl2jax.agents.random import RANDOM, random_agent
from rl2jax.agents.restless import RESTLESS_AGENTS
from rl2jax.agents.two_step import TWO_STEP_AGENTS
from rl2jax.envs import (
    BernoulliBandit,
    DependentBandit,
    GridNavigation,
    Harlow,
    InformativeBandit,
    RestlessBandit,
    TabularMDP,
    TwoStep,
)

__all__ = ["BANDIT_AGENTS", "MDP_AGENTS", "Agent", "ReferenceAgent", "random_agent", "reference_agents"]

_AGENTS: dict[type, dict[str, ReferenceAgent]] = {
    BernoulliBandit: BANDIT_AGENTS,
    # Agents for independent arms play dependent ones, too, as in Wang et al. 2016, figure 2.
    DependentBandit: {**BANDIT_AGENTS, **DEPENDENT_AGENTS},
    InformativeBandit: INFORMATIVE_AGENTS,
    RestlessBandit: RESTLESS_AGENTS,
    TabularMDP: MDP_AGENTS,
    TwoStep: TWO_STEP_AGENTS,
    Harlow: HARLOW_AGENTS,
    GridNavigation: GRID_AGENTS,
}


def reference_agents(env: Any) -> dict[str, ReferenceAgent]:
    """The agents that play a task distribution without training, by name; for one's own, the random agent."""
    # Here, not above: the maze's planners are agents, so importing them first would go round in a circle.
    from rl2jax.agents.maze import MAZE_AGENTS
    from rl2jax.envs.maze import MazeNavigation

    for kind, agents in {**_AGENTS, MazeNavigation: MAZE_AGENTS}.items():
        if isinstance(env, kind):
            return agents
    return {"random": RANDOM}
