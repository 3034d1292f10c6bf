"""Random tabular MDPs (Duan et al. 2016, section 3.2)."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Kind
from rl2jax.settings import require


@struct.dataclass
class MDPState(EnvState):
    """The tabular state, int32 [], and the steps taken in this episode."""

    state: chex.Array
    time: chex.Array


@struct.dataclass
class MDPParams(EnvParams):
    """One MDP.

    Attributes:
      reward_mean: mean reward of each state-action pair; float32 [num_states, num_actions].
      transition_cdf: cumulative transition probabilities over next states;
        float32 [num_states, num_actions, num_states], last entry 1.
      max_steps_in_episode: the horizon T.
    """

    reward_mean: chex.Array = struct.field(kw_only=True)
    transition_cdf: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)

    @property
    def transition_probs(self) -> chex.Array:
        """Transition probabilities; float32 [num_states, num_actions, num_states]."""
        return jnp.diff(self.transition_cdf, axis=-1, prepend=0.0)


@dataclass(frozen=True)
class TabularMDP(TaskDistribution[MDPState, MDPParams]):
    """Reward means N(1, 1) with unit noise, flat Dirichlet transitions, start in state 0, horizon T."""

    num_states: int = 10
    num_actions: int = 5
    episode_length: int = 10

    def __post_init__(self):
        require(self.num_states >= 1, "num_states (s)", self.num_states, "an integer >= 1")
        require(self.num_actions >= 1, "num_actions (a)", self.num_actions, "an integer >= 1")
        require(self.episode_length >= 1, "episode_length (t)", self.episode_length, "an integer >= 1")

    def sample_params(self, key: chex.PRNGKey) -> MDPParams:
        """Draws reward means and transition probabilities."""
        key_reward, key_transition = jax.random.split(key)
        shape = (self.num_states, self.num_actions)
        reward_mean = 1.0 + jax.random.normal(key_reward, shape)
        # A flat Dirichlet is a normalised vector of exponentials; the cumulative sum is what a step needs.
        weights = jax.random.exponential(key_transition, (*shape, self.num_states))
        cdf = jnp.cumsum(weights, axis=-1)
        cdf = (cdf / cdf[..., -1:]).at[..., -1].set(1.0)
        return MDPParams(reward_mean=reward_mean, transition_cdf=cdf, max_steps_in_episode=self.episode_length)

    def reset_env(self, key: chex.PRNGKey, params: MDPParams):
        """Every episode starts in state 0."""
        del key, params
        zero = jnp.zeros((), jnp.int32)
        return zero, MDPState(state=zero, time=zero)

    def step_env(self, key: chex.PRNGKey, state: MDPState, action, params: MDPParams):
        """Reward N(reward_mean[s, a], 1), next state from the transition row."""
        key_reward, key_transition = jax.random.split(key)
        reward = params.reward_mean[state.state, action] + jax.random.normal(key_reward)
        cdf = params.transition_cdf[state.state, action]
        next_state = jnp.sum(jax.random.uniform(key_transition) >= cdf).astype(jnp.int32)
        new_state = MDPState(state=next_state, time=state.time + 1)
        return next_state, new_state, reward, self.is_terminated(new_state, params), {}

    def expected_reward(self, state: MDPState, action: chex.Array, params: MDPParams) -> chex.Array:
        """The mean of the reward's distribution."""
        return params.reward_mean[state.state, action]

    def is_terminated(self, state: MDPState, params: MDPParams) -> chex.Array:
        """Episodes end by the time limit only."""
        del params
        return jnp.zeros_like(state.time, dtype=bool)

    def task_features(self, params: MDPParams) -> chex.Array:
        """Reward means, flattened; float32 [S*A].

        Without the transitions: they are ten times as many numbers, of which a trial reveals little, and
        inferring them too slowed learning (docs/appendix_recipes.md).
        """
        return params.reward_mean.ravel()

    def action_space(self, params: MDPParams | None = None) -> spaces.Discrete:
        """A tabular action."""
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: MDPParams | None = None) -> spaces.Discrete:
        """A tabular state."""
        return spaces.Discrete(self.num_states)


_LONG_TRAINING = {"iterations": 10_000}
MDP = Kind(
    "mdp",
    TabularMDP,
    {"s": "num_states", "a": "num_actions", "t": "episode_length"},
    defaults={"s": 10, "a": 5, "t": 10},
    num_episodes=10,
    words="tabular MDP",
    usual={"s": 10, "a": 5, "t": 10},
    presets={
        "paper": _LONG_TRAINING,
        "paper-first-order": _LONG_TRAINING,
        # Remembering 50 state-action pairs takes many gradient steps.
        "cpu": {
            "iterations": 3_000,
            "objective.discount": 1.0,
            "slow_rl.learning_rate": 2e-3,
            "baseline.epochs": 2,
            "objective.task_inference_coefficient": 1.0,
        },
    },
    policy_minibatch_steps=1_000,
    teacher="beb_true_prior",
    recipes={
        "best": "rl2jax.training.recipes:planned_mdp",
        "best-scratch": "rl2jax.training.recipes:reinforced_mdp",
    },
    agents="rl2jax.agents.mdp:MDP_AGENTS",
    limit="rl2jax.limits.mdp:MDP_LIMIT",
)
