"""Two examples of `GymnaxTasks`: CartPole and Pendulum with random physics."""

from typing import Any

import chex
import jax
from gymnax.environments.classic_control.cartpole import CartPole
from gymnax.environments.classic_control.cartpole import EnvParams as CartPoleParams
from gymnax.environments.classic_control.pendulum import EnvParams as PendulumParams
from gymnax.environments.classic_control.pendulum import Pendulum

from rl2jax.envs.adapter import GymnaxTasks
from rl2jax.kinds import Kind


def random_cartpole_params(key: chex.PRNGKey) -> CartPoleParams:
    """Masses, length and force, each within a factor of 2 of the usual; derived fields recomputed."""
    factor = 2.0 ** jax.random.uniform(key, (4,), minval=-1.0, maxval=1.0)
    usual = CartPoleParams()
    masscart, masspole = usual.masscart * factor[0], usual.masspole * factor[1]
    length, force_mag = usual.length * factor[2], usual.force_mag * factor[3]
    return usual.replace(
        masscart=masscart,
        masspole=masspole,
        total_mass=masscart + masspole,
        length=length,
        polemass_length=masspole * length,
        force_mag=force_mag,
    )


def random_pendulum_params(key: chex.PRNGKey) -> PendulumParams:
    """Gravity, mass and length, each within a factor of 1.5 of the usual."""
    factor = 1.5 ** jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
    usual = PendulumParams()
    return usual.replace(g=usual.g * factor[0], m=usual.m * factor[1], l=usual.l * factor[2])


def random_cartpole(episode_length: int = 100) -> GymnaxTasks:
    """CartPole whose physics is drawn anew for each trial; discrete actions."""
    return GymnaxTasks(CartPole(), random_cartpole_params, episode_length)


def random_pendulum(episode_length: int = 100) -> GymnaxTasks:
    """Pendulum whose physics is drawn anew for each trial; continuous actions."""
    return GymnaxTasks(Pendulum(), random_pendulum_params, episode_length)


_LENGTH: dict[str, Any] = {"settings": {"t": "episode_length"}, "defaults": {"t": 100}, "num_episodes": 4}
CARTPOLE = Kind("cartpole", random_cartpole, words="cart-pole", **_LENGTH)
PENDULUM = Kind("pendulum", random_pendulum, words="pendulum", **_LENGTH)
