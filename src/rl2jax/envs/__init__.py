"""Task distributions, one per file."""

from rl2jax.envs.adapter import GymnaxTasks
from rl2jax.envs.bandit import BanditParams, BernoulliBandit
from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.envs.classic_control import random_cartpole, random_pendulum
from rl2jax.envs.tabular_mdp import MDPParams, TabularMDP

__all__ = [
    "BanditParams",
    "BernoulliBandit",
    "EnvParams",
    "EnvState",
    "GymnaxTasks",
    "MDPParams",
    "TabularMDP",
    "TaskDistribution",
    "random_cartpole",
    "random_pendulum",
    "spaces",
]
