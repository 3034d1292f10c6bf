"""Task distributions, one per file."""

from rl2jax.envs.adapter import GymnaxTasks
from rl2jax.envs.bandit import BanditParams, BernoulliArms, BernoulliBandit, DependentBandit
from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.envs.classic_control import random_cartpole, random_pendulum
from rl2jax.envs.grid import GridNavigation, GridParams
from rl2jax.envs.harlow import Harlow, HarlowParams
from rl2jax.envs.informative import InformativeBandit, InformativeParams
from rl2jax.envs.restless import RestlessBandit, RestlessParams
from rl2jax.envs.tabular_mdp import MDPParams, TabularMDP
from rl2jax.envs.two_step import TwoStep, TwoStepParams

__all__ = [
    "BanditParams",
    "BernoulliArms",
    "BernoulliBandit",
    "DependentBandit",
    "EnvParams",
    "EnvState",
    "GridNavigation",
    "GridParams",
    "GymnaxTasks",
    "Harlow",
    "HarlowParams",
    "InformativeBandit",
    "InformativeParams",
    "MDPParams",
    "RestlessBandit",
    "RestlessParams",
    "TabularMDP",
    "TaskDistribution",
    "TwoStep",
    "TwoStepParams",
    "random_cartpole",
    "random_pendulum",
    "spaces",
]
