"""Multi-armed bandits with Bernoulli arms (Duan et al. 2016, section 3.1)."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, require, spaces


@struct.dataclass
class BanditState(EnvState):
    """Steps taken; a pull is an episode of one step, so this is 0 or 1."""

    time: chex.Array


@struct.dataclass
class BanditParams(EnvParams):
    """One bandit: `probs`, the success probability of each arm; float32 [num_arms]."""

    probs: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = 1


@dataclass(frozen=True)
class BernoulliBandit(TaskDistribution[BanditState, BanditParams]):
    """`num_arms` arms whose success probabilities are independent and uniform on [0, 1]."""

    num_arms: int

    def __post_init__(self):
        require(self.num_arms >= 1, "num_arms (k)", self.num_arms, "an integer >= 1")

    def sample_params(self, key: chex.PRNGKey) -> BanditParams:
        """Draws the arms' success probabilities."""
        return BanditParams(probs=jax.random.uniform(key, (self.num_arms,)))

    @property
    def episode_length(self) -> int:  # type: ignore[override]
        """A pull is a whole episode."""
        return 1

    def reset_env(self, key: chex.PRNGKey, params: BanditParams):
        """The observation is a constant zero; there is no state."""
        del key, params
        return jnp.zeros((1,), jnp.float32), BanditState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key: chex.PRNGKey, state: BanditState, action, params: BanditParams):
        """Pulls arm `action`; the reward is 0 or 1."""
        reward = jax.random.bernoulli(key, params.probs[action]).astype(jnp.float32)
        state = BanditState(time=state.time + 1)
        return jnp.zeros((1,), jnp.float32), state, reward, self.is_terminated(state, params), {}

    def is_terminated(self, state: BanditState, params: BanditParams) -> chex.Array:
        """Every pull ends its episode."""
        del params
        return state.time >= 1

    def task_features(self, params: BanditParams) -> chex.Array:
        """The success probabilities; float32 [num_arms]."""
        return params.probs

    @property
    def num_actions(self) -> int:
        """Number of arms."""
        return self.num_arms

    def action_space(self, params: BanditParams | None = None) -> spaces.Discrete:
        """One action per arm."""
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: BanditParams | None = None) -> spaces.Box:
        """A constant zero (appendix A.1)."""
        return spaces.Box(0.0, 0.0, (1,), jnp.float32)
