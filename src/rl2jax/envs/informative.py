"""A bandit with an arm that is worth pulling for what it tells (Wang et al. 2016, section 3.1.3)."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Kind
from rl2jax.settings import require

TARGET_REWARD, OTHER_REWARD = 5.0, 1.0


@struct.dataclass
class InformativeState(EnvState):
    """Pulls made, int32 []."""

    time: chex.Array


@struct.dataclass
class InformativeParams(EnvParams):
    """One bandit.

    Attributes:
      target: the arm that pays 5; int32 [], from 0.
      arm_means: what each arm pays, every time; float32 [num_targets + 1].
      max_steps_in_episode: pulls.
    """

    target: chex.Array = struct.field(kw_only=True)
    arm_means: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@dataclass(frozen=True)
class InformativeBandit(TaskDistribution[InformativeState, InformativeParams]):
    """One arm among `num_targets` pays 5, the others 1; the last arm, on top of those, pays what names the target.

    It pays (index of the target, from 1) / num_targets: with the paper's ten, a tenth of the index, 0.1 to 1. All
    payouts are certain. An episode is all the pulls, the paper's five, as an episode's first observation follows every
    end of an episode and would hide what the observation here shows: the last reward as a one-hot vector, which the
    paper found to make learning easier. An index of 10 and an arm that is not the target both pay 1; the action tells
    them apart.

    Attributes:
      num_targets: arms that can be the target.
      episode_length: pulls.
    """

    num_targets: int = 10
    episode_length: int = 5

    def __post_init__(self):
        require(self.num_targets >= 2, "num_targets (k)", self.num_targets, "an integer >= 2")
        require(self.episode_length >= 1, "episode_length (t)", self.episode_length, "an integer >= 1")

    @property
    def num_arms(self) -> int:
        """Arms in all; the informative one is the last."""
        return self.num_targets + 1

    def sample_params(self, key: chex.PRNGKey) -> InformativeParams:
        """Draws the target, uniformly."""
        return self.params_of(jax.random.randint(key, (), 0, self.num_targets))

    def params_of(self, target: chex.Array) -> InformativeParams:
        """The task of one target, int32 [] from 0."""
        payouts = jnp.where(jnp.arange(self.num_targets) == target, TARGET_REWARD, OTHER_REWARD)
        tells = (target + 1.0) / self.num_targets
        return InformativeParams(
            target=target,
            arm_means=jnp.append(payouts, tells).astype(jnp.float32),
            max_steps_in_episode=self.episode_length,
        )

    def reset_env(self, key: chex.PRNGKey, params: InformativeParams):
        """No reward yet: zeros."""
        del key, params
        return jnp.zeros((self.num_arms,), jnp.float32), InformativeState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key: chex.PRNGKey, state: InformativeState, action, params: InformativeParams):
        """Pulls arm `action`."""
        del key
        reward = params.arm_means[action]
        # The places are those of 1/k, 2/k, ..., 1, then 5.
        place = jnp.where(
            reward > OTHER_REWARD, self.num_targets, jnp.round(reward * self.num_targets).astype(jnp.int32) - 1
        )
        state = InformativeState(time=state.time + 1)
        return jax.nn.one_hot(place, self.num_arms), state, reward, self.is_terminated(state, params), {}

    def expected_reward(self, state: InformativeState, action: chex.Array, params: InformativeParams) -> chex.Array:
        """The arm's payout."""
        return params.arm_means[action]

    def is_terminated(self, state: InformativeState, params: InformativeParams) -> chex.Array:
        """After the last pull."""
        del params
        return state.time >= self.episode_length

    def task_features(self, params: InformativeParams) -> chex.Array:
        """The target, one-hot; float32 [num_targets]."""
        return jax.nn.one_hot(params.target, self.num_targets)

    @property
    def num_actions(self) -> int:
        """Number of arms."""
        return self.num_arms

    def action_space(self, params: InformativeParams | None = None) -> spaces.Discrete:
        """One action per arm."""
        del params
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: InformativeParams | None = None) -> spaces.Box:
        """The last reward, one-hot."""
        del params
        return spaces.Box(0.0, 1.0, (self.num_arms,), jnp.float32)


INFORMATIVE = Kind(
    "informative",
    InformativeBandit,
    {"k": "num_targets", "t": "episode_length"},
    defaults={"k": 10, "t": 5},
    num_episodes=1,
    words="informative arm",
    agents="rl2jax.agents.dependent:INFORMATIVE_AGENTS",
)
