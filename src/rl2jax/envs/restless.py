"""Two-armed bandits that change while they are played, slowly or quickly (Wang et al. 2016, section 3.1.4)."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Choice, Kind
from rl2jax.settings import require


@struct.dataclass
class RestlessState(EnvState):
    """Pulls made, int32 []."""

    time: chex.Array


@struct.dataclass
class RestlessParams(EnvParams):
    """One bandit, with all that will become of it.

    Attributes:
      arm_means: success probability of each arm at each pull; float32 [episode_length, 2].
      is_high: whether the volatility is the high one, at each pull; bool [episode_length].
      max_steps_in_episode: pulls.
    """

    arm_means: chex.Array = struct.field(kw_only=True)
    is_high: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@dataclass(frozen=True)
class RestlessBandit(TaskDistribution[RestlessState, RestlessParams]):
    """Arms of success probabilities p and 1 - p; p moves after every pull, with low or with high volatility.

    An episode is all the pulls, and the way p will go is drawn with the task: agents of one key meet the same changes,
    and a second episode of a trial starts the same way again. Which volatility a task starts with is a fair draw.

    Two kinds of change. Without jumps p is a random walk: Gaussian steps whose standard deviation is the volatility,
    reflected at 0 and 1, from a uniform start (section 3.1.4: Thompson sampling there knows of a Gaussian random walk).
    With `jump` it stays as it is but for jumps, whose probability at each pull is the volatility, as in studies of
    learning rates (Behrens et al. 2007; Wang et al. 2018, figure 3): from p to 1 - p where `better_percent` says which
    values p has, else to a value that is uniform on [0, 1].

    Numbers are ours, as the paper's text has none of how volatile its bandits are. With these the best fixed learning
    rate of Rescorla and Wagner is about 0.05 where the volatility is low and 0.3 or more where it is high; with jumps
    between 0.8 and 0.2, 0.2 at 1 percent and 0.5 at 10.

    Attributes:
      episode_length: pulls.
      low_percent: the low volatility, in percent: a standard deviation, or a probability; in [0, 100].
      high_percent: the high one; at least the low one, at most 100.
      jump: whether p jumps.
      better_percent: with jumps, p is this or the rest to 100; in (50, 100]. None: p is anything.
      block_length: the volatility changes, from low to high or back, after every so many pulls; None: never.
    """

    episode_length: int = 100
    low_percent: float = 2.0
    high_percent: float = 20.0
    jump: bool = False
    better_percent: float | None = None
    block_length: int | None = None

    def __post_init__(self):
        require(self.episode_length >= 1, "episode_length (t)", self.episode_length, "an integer >= 1")
        require(0 <= self.low_percent <= 100, "low_percent (low)", self.low_percent, "in [0, 100]")
        allowed = f"from low_percent (low), {self.low_percent}, to 100"
        require(self.low_percent <= self.high_percent <= 100, "high_percent (high)", self.high_percent, allowed)
        if self.better_percent is not None:
            require(self.jump, "better_percent (p)", self.better_percent, "left out without jumps (jump=1)")
            require(50 < self.better_percent <= 100, "better_percent (p)", self.better_percent, "in (50, 100]")
        if self.block_length is not None:
            require(self.block_length >= 1, "block_length (block)", self.block_length, "an integer >= 1")

    @property
    def num_arms(self) -> int:
        """Two."""
        return 2

    def sample_params(self, key: chex.PRNGKey) -> RestlessParams:
        """Draws the volatility and the way of p."""
        key_volatility, key_start, key_moves = jax.random.split(key, 3)
        is_high = jnp.broadcast_to(jax.random.bernoulli(key_volatility), (self.episode_length,))
        if self.block_length is not None:
            is_high = is_high ^ (jnp.arange(self.episode_length) // self.block_length % 2 == 1)
        volatility = jnp.where(is_high, self.high_percent, self.low_percent) / 100.0
        path = self._jumps if self.jump else self._walk
        first = path(key_start, key_moves, volatility)
        return RestlessParams(
            arm_means=jnp.stack([first, 1.0 - first], axis=-1),
            is_high=is_high,
            max_steps_in_episode=self.episode_length,
        )

    def _walk(self, key_start: chex.PRNGKey, key_moves: chex.PRNGKey, volatility: chex.Array) -> chex.Array:
        """A reflected random walk; float32 [episode_length]."""
        # The free walk folded into [0, 1] is the reflected one.
        moves = volatility[1:] * jax.random.normal(key_moves, (self.episode_length - 1,))
        free = jnp.cumsum(jnp.append(jax.random.uniform(key_start), moves))
        return 1.0 - jnp.abs(free % 2.0 - 1.0)

    def _jumps(self, key_start: chex.PRNGKey, key_moves: chex.PRNGKey, volatility: chex.Array) -> chex.Array:
        """A piecewise constant path; float32 [episode_length]."""
        key_when, key_where = jax.random.split(key_moves)
        jumps = jax.random.bernoulli(key_when, volatility[1:])
        if self.better_percent is not None:
            better = self.better_percent / 100.0
            flips = jnp.append(jax.random.bernoulli(key_start), jumps).astype(jnp.int32)
            return jnp.where(jnp.cumsum(flips) % 2 == 1, better, 1.0 - better)
        values = jnp.append(jax.random.uniform(key_start), jax.random.uniform(key_where, jumps.shape))
        since = jax.lax.cummax(jnp.where(jnp.append(True, jumps), jnp.arange(self.episode_length), 0))
        return values[since]

    def reset_env(self, key: chex.PRNGKey, params: RestlessParams):
        """The first pull of the path; the observation is a constant zero."""
        del key, params
        return jnp.zeros((1,), jnp.float32), RestlessState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key: chex.PRNGKey, state: RestlessState, action, params: RestlessParams):
        """Pulls arm `action`; the reward is 0 or 1."""
        reward = jax.random.bernoulli(key, params.arm_means[state.time, action]).astype(jnp.float32)
        state = RestlessState(time=state.time + 1)
        return jnp.zeros((1,), jnp.float32), state, reward, self.is_terminated(state, params), {}

    def expected_reward(self, state: RestlessState, action: chex.Array, params: RestlessParams) -> chex.Array:
        """The arm's success probability at this pull."""
        return params.arm_means[state.time, action]

    def is_terminated(self, state: RestlessState, params: RestlessParams) -> chex.Array:
        """After the last pull."""
        del params
        return state.time >= self.episode_length

    def task_features(self, params: RestlessParams) -> chex.Array:
        """Whether the volatility is high at first, 1 or 0; float32 [1]."""
        return params.is_high[:1].astype(jnp.float32)

    @property
    def num_actions(self) -> int:
        """Number of arms."""
        return self.num_arms

    def action_space(self, params: RestlessParams | None = None) -> spaces.Discrete:
        """One action per arm."""
        del params
        return spaces.Discrete(self.num_arms)

    def observation_space(self, params: RestlessParams | None = None) -> spaces.Box:
        """A constant zero, as of every bandit."""
        del params
        return spaces.Box(0.0, 0.0, (1,), jnp.float32)


RESTLESS = Kind(
    "restless",
    RestlessBandit,
    {
        "t": "episode_length",
        "low": "low_percent",
        "high": "high_percent",
        "jump": Choice("jump"),
        "p": "better_percent",
        "block": "block_length",
    },
    defaults={"t": 100, "low": 2, "high": 20},
    unspelled={"jump": 0},
    num_episodes=1,
    words="restless arms",
    agents="rl2jax.agents.restless:RESTLESS_AGENTS",
)
