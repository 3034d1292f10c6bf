"""Any gymnax environment, with a sampler of its parameters, as a task distribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp

from rl2jax.envs.base import Environment, EnvParams, EnvState, TaskDistribution
from rl2jax.settings import require


@dataclass(frozen=True)
class GymnaxTasks(TaskDistribution[EnvState, EnvParams]):
    """Tasks that differ in the `EnvParams` of one gymnax environment.

    The environment must keep everything that distinguishes tasks in its `EnvParams`; some of gymnax's own
    (BernoulliBandit, MetaMaze, PointRobot) keep it in the state and draw it anew at every reset, so they
    cannot serve.

    Attributes:
      env: the gymnax environment.
      sampler: key -> EnvParams of `env`. A module-level function (or functools.partial), so that equal
        distributions compare equal. Fields computed from others must be recomputed by the sampler.
      episode_length: the time limit of an episode, in steps; overrides `max_steps_in_episode`.
    """

    env: Environment
    sampler: Callable[[chex.PRNGKey], Any]
    episode_length: int

    ends_early: ClassVar[bool] = True  # some do: CartPole's fall

    def __post_init__(self):
        require(self.episode_length >= 1, "episode_length", self.episode_length, "an integer >= 1")

    def __eq__(self, other: object) -> bool:
        """Equal if the sampler, the length and the environment (by type and configuration) are."""
        return isinstance(other, GymnaxTasks) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple:
        # gymnax environments compare by object; their configuration is what their constructor stored.
        configuration = tuple(sorted((name, repr(value)) for name, value in vars(self.env).items()))
        return type(self.env), configuration, self.sampler, self.episode_length

    def sample_params(self, key: chex.PRNGKey) -> EnvParams:
        """Draws the environment's parameters."""
        params = self.sampler(key)
        return params.replace(max_steps_in_episode=self.episode_length)

    def reset_env(self, key: chex.PRNGKey, params: EnvParams):
        """A fresh episode with the same parameters."""
        obs, state = self.env.reset_env(key, params)
        return obs, _strong(state)

    def step_env(self, key: chex.PRNGKey, state: EnvState, action, params: EnvParams):
        """One step of the wrapped environment."""
        obs, state, reward, terminated, info = self.env.step_env(key, state, action, params)
        return obs, _strong(state), jnp.asarray(reward, jnp.float32), terminated, info

    def is_terminated(self, state: EnvState, params: EnvParams) -> chex.Array:
        """As the wrapped environment says."""
        return self.env.is_terminated(state, params)

    @property
    def name(self) -> str:
        """The wrapped environment's name, marked as a distribution."""
        return f"GymnaxTasks({self.env.name})"

    @property
    def num_actions(self) -> int:
        """As the wrapped environment says."""
        return self.env.num_actions

    def action_space(self, params: EnvParams | None = None):
        """As the wrapped environment says, for its default parameters."""
        return self.env.action_space(self.env.default_params)

    def observation_space(self, params: EnvParams | None = None):
        """As the wrapped environment says, for its default parameters."""
        return self.env.observation_space(self.env.default_params)


def _strong(state: EnvState) -> EnvState:
    """Python scalars in a state (gymnax writes `time=0`) as strongly typed arrays, as a scan's carry needs."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), state)
