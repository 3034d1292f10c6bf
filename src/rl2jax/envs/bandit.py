"""Multi-armed bandits with Bernoulli arms (Duan et al. 2016, section 3.1), with arms of other priors, and dependent."""

import math
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Kind
from rl2jax.settings import require


@struct.dataclass
class BanditState(EnvState):
    """Steps taken; a pull is an episode of one step, so this is 0 or 1."""

    time: chex.Array


@struct.dataclass
class BanditParams(EnvParams):
    """One bandit: `probs`, the success probability of each arm; float32 [num_arms]."""

    probs: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = 1

    @property
    def arm_means(self) -> chex.Array:
        """Expected reward of each arm; float32 [num_arms]."""
        return self.probs


class BernoulliArms(TaskDistribution[BanditState, BanditParams]):
    """Arms that pay 1 with a probability of their own, else 0; how those are drawn is up to the subclass.

    A subclass provides `sample_params` and `num_arms`.
    """

    # A field or a property of the subclass, as `episode_length` in the base class.
    num_arms: int

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

    def expected_reward(self, state: BanditState, action: chex.Array, params: BanditParams) -> chex.Array:
        """The arm's success probability."""
        return params.probs[action]

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


@dataclass(frozen=True)
class BernoulliBandit(BernoulliArms):
    """Arms whose success probabilities are independent; uniform on [0, 1], as in the paper, unless told otherwise.

    Other priors are for agents that meet what they were not trained on. Good arms are Beta(alpha, beta), the others
    never pay ("spike and slab"). With `good_percent` their number is left to chance: sparse good arms. With
    `num_good` it is fixed: a bandit of fewer arms for an agent with `num_arms` actions. Which arms those are is drawn
    with the task, or else agents that try arms in the order of their index would be told.

    Attributes:
      num_arms: k.
      alpha: of the good arms' Beta distribution, > 0.
      beta: of the good arms' Beta distribution, > 0.
      good_percent: probability that an arm is good, each on its own; in (0, 100].
      num_good: how many arms are good, 1 to k; None leaves that to `good_percent`.
    """

    num_arms: int
    alpha: float = 1.0
    beta: float = 1.0
    good_percent: float = 100.0
    num_good: int | None = None

    def __post_init__(self):
        require(self.num_arms >= 1, "num_arms (k)", self.num_arms, "an integer >= 1")
        require(0.0 < self.alpha < math.inf, "alpha", self.alpha, "> 0 and finite")
        require(0.0 < self.beta < math.inf, "beta", self.beta, "> 0 and finite")
        require(0.0 < self.good_percent <= 100.0, "good_percent (good)", self.good_percent, "in (0, 100]")
        if self.num_good is not None:
            allowed = f"an integer from 1 to num_arms (k), {self.num_arms}"
            require(1 <= self.num_good <= self.num_arms, "num_good (j)", self.num_good, allowed)
            allowed = "100 where num_good (j) says how many arms are good"
            require(self.good_percent == 100.0, "good_percent (good)", self.good_percent, allowed)

    @property
    def is_uniform(self) -> bool:
        """Whether all arms are uniform on [0, 1]: the prior that limits and reference agents are derived for."""
        all_good = self.good_percent == 100.0 and self.num_good in (None, self.num_arms)
        return self.alpha == self.beta == 1.0 and all_good

    def sample_params(self, key: chex.PRNGKey) -> BanditParams:
        """Draws the arms' success probabilities."""
        shape = (self.num_arms,)
        if self.is_uniform:  # from the key itself: a seed's tasks are those of every version
            return BanditParams(probs=jax.random.uniform(key, shape))
        key_probs, key_good = jax.random.split(key)
        if self.alpha == self.beta == 1.0:  # compiles in no time
            probs = jax.random.uniform(key_probs, shape)
        else:
            probs = jax.random.beta(key_probs, self.alpha, self.beta, shape)
        if self.num_good is None:
            good = jax.random.bernoulli(key_good, self.good_percent / 100.0, shape)
        else:
            good = jax.random.permutation(key_good, self.num_arms) < self.num_good
        return BanditParams(probs=jnp.where(good, probs, 0.0))


@dataclass(frozen=True)
class DependentBandit(BernoulliArms):
    """Two arms of which what one gains the other loses: p2 = 1 - p1 (Wang et al. 2016, section 3.1.2).

    The paper's distributions: p1 uniform on [0, 1] ("uniform"), or one of {0.1, 0.9} ("easy"), {0.25, 0.75} ("medium")
    or {0.4, 0.6} ("hard"), either with probability 1/2. Two independent arms are `BernoulliBandit(2)`.

    Attributes:
      better_percent: of the two values that p1 can have, the greater, in percent: 90 is easy, 75 medium, 60 hard;
        greater than 50 and at most 100. None: uniform.
    """

    better_percent: float | None = None

    def __post_init__(self):
        if self.better_percent is not None:
            require(50 < self.better_percent <= 100, "better_percent (p)", self.better_percent, "in (50, 100]")

    @property
    def num_arms(self) -> int:  # type: ignore[override]
        """Two."""
        return 2

    def sample_params(self, key: chex.PRNGKey) -> BanditParams:
        """Draws p1."""
        if self.better_percent is None:
            first = jax.random.uniform(key)
        else:
            better = self.better_percent / 100.0
            first = jnp.where(jax.random.bernoulli(key), better, 1.0 - better)
        return BanditParams(probs=jnp.stack([first, 1.0 - first]))


BANDIT = Kind(
    "bandit",
    BernoulliBandit,
    {"k": "num_arms", "alpha": "alpha", "beta": "beta", "good": "good_percent", "j": "num_good"},
    defaults={"k": 5},
    unspelled={"alpha": 1, "beta": 1, "good": 100},
    num_episodes=10,
    words="bandit",
    # Beyond the paper: what a trial tells of the task is learned faster when training says what there is to tell.
    presets={"cpu": {"objective.discount": 1.0, "objective.task_inference_coefficient": 1.0}},
    short_trials={"cpu": {"iterations": 400}},  # there is little to learn
    teacher="gittins_finite_horizon",
    recipes={
        "best": "rl2jax.training.recipes:imitated_bandit",
        "best-scratch": "rl2jax.training.recipes:reinforced_bandit",
    },
    agents="rl2jax.agents.bandit:BANDIT_AGENTS",
    limit="rl2jax.limits:BANDIT_LIMIT",
    statistics={"pull_frequencies": "rl2jax.trials.behaviour.pulls:pull_shares"},
    recording="rl2jax.results.pages.recordings:bandit_recordings",
)
DEPENDENT = Kind(
    "dependent",
    DependentBandit,
    {"p": "better_percent"},
    num_episodes=100,
    words="dependent arms",
    agents="rl2jax.agents.dependent:DEPENDENT_AGENTS",
    limit="rl2jax.limits.dependent:DEPENDENT_LIMIT",
)
