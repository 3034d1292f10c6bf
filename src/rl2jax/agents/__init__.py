"""Agents that are not trained."""

from rl2jax.agents.base import Agent
from rl2jax.agents.random import random_agent

__all__ = ["Agent", "random_agent"]
