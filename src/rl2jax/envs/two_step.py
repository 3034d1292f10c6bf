"""The two-step task (Daw et al. 2011), as changed by Wang et al. 2016, section 3.2.1, and Wang et al. 2018."""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
from flax import struct

from rl2jax.envs.base import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.kinds import Choice, Kind
from rl2jax.settings import require

# States, and with `fixation` a fourth that shows the cue; actions, and with `fixation` a third.
FIRST, SECOND_A, SECOND_B, CUE = 0, 1, 2, 3
LEFT, RIGHT, FIXATE = 0, 1, 2
INVALID_REWARD = -1.0


@struct.dataclass
class TwoStepState(EnvState):
    """Where the agent is.

    Attributes:
      state: FIRST, SECOND_A, SECOND_B or CUE; int32 [].
      decisions: two-step decisions completed; int32 [].
      time: steps taken; int32 [].
    """

    state: chex.Array
    decisions: chex.Array
    time: chex.Array


@struct.dataclass
class TwoStepParams(EnvParams):
    """One task, with every switch that will come.

    Attributes:
      better: which second-stage state pays better during each decision, 0 for SECOND_A or 1 for SECOND_B;
        int32 [num_decisions].
      max_steps_in_episode: steps.
    """

    better: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@dataclass(frozen=True)
class TwoStep(TaskDistribution[TwoStepState, TwoStepParams]):
    """Left or right leads to one of two states, mostly but not always to its own, where there is a reward or none.

    Left leads to SECOND_A with the common probability, else to SECOND_B; right the other way round. There any action
    pays 1 with 90 percent in the better of the two states, with 10 percent in the other, and leads back to FIRST.
    Which state is the better one is a fair draw; after each decision it switches with `switch_permille`.

    Wang et al. 2016: common 75 percent, no switch, no fixation: the defaults. The journal version of 2018: common 80
    percent, switch 25 per mille. There a cue comes first that asks for an action of its own (`fixation`); whatever is
    no answer to what is shown costs 1, and (our choice: the papers do not say what follows) is shown again.

    The papers' trials are our decisions. One episode holds all of them, because what switches must outlive a decision
    and an episode's reset knows nothing but the task. The way of the switches is drawn with the task (`params.better`)
    rather than while it is played: it is the same for every agent of one key.

    Attributes:
      num_decisions: the least number of steps divided by steps in a decision; 100 in the papers.
      common_percent: of the common transition; in [50, 100].
      switch_permille: probability, in thousandths, that the states change roles after a decision; in [0, 1000].
      better_percent: of a reward in the better state, 100 minus that in the other; in [50, 100]. At 50 nothing is to be
        learned, and what an agent does after a reward says only how it credits rewards.
      fixation: whether each decision starts with the cue.
    """

    num_decisions: int = 100
    common_percent: float = 75.0
    switch_permille: float = 0.0
    better_percent: float = 90.0
    fixation: bool = False

    def __post_init__(self):
        require(self.num_decisions >= 1, "num_decisions (trials)", self.num_decisions, "an integer >= 1")
        require(50 <= self.common_percent <= 100, "common_percent (common)", self.common_percent, "in [50, 100]")
        require(0 <= self.switch_permille <= 1000, "switch_permille (switch)", self.switch_permille, "in [0, 1000]")
        require(50 <= self.better_percent <= 100, "better_percent (p)", self.better_percent, "in [50, 100]")

    @property
    def steps_per_decision(self) -> int:
        """Of one without invalid actions."""
        return 3 if self.fixation else 2

    @property
    def episode_length(self) -> int:  # type: ignore[override]
        """Steps of all decisions; invalid actions leave fewer of those."""
        return self.steps_per_decision * self.num_decisions

    def sample_params(self, key: chex.PRNGKey) -> TwoStepParams:
        """Draws the better state and its switches."""
        key_start, key_switches = jax.random.split(key)
        switches = jax.random.bernoulli(key_switches, self.switch_permille / 1000.0, (self.num_decisions - 1,))
        flips = jnp.append(jax.random.bernoulli(key_start), switches)
        return TwoStepParams(
            better=jnp.cumsum(flips.astype(jnp.int32)) % 2,
            max_steps_in_episode=self.episode_length,
        )

    def reset_env(self, key: chex.PRNGKey, params: TwoStepParams):
        """The first decision."""
        del key, params
        zero = jnp.zeros((), jnp.int32)
        start = jnp.full((), self._start, jnp.int32)
        return start, TwoStepState(state=start, decisions=zero, time=zero)

    @property
    def _start(self) -> int:
        return CUE if self.fixation else FIRST

    def step_env(self, key: chex.PRNGKey, state: TwoStepState, action, params: TwoStepParams):
        """The cue's answer, a choice, or what a second-stage state pays."""
        key_reward, key_transition = jax.random.split(key)
        at_second = (state.state == SECOND_A) | (state.state == SECOND_B)
        valid = self._is_valid(state, action)
        rewarded = jax.random.bernoulli(key_reward, self._reward_probability(state, params))
        reward = jnp.where(valid, (rewarded & at_second).astype(jnp.float32), INVALID_REWARD)
        common = jax.random.bernoulli(key_transition, self.common_percent / 100.0)
        second = jnp.where((action == RIGHT) == common, SECOND_B, SECOND_A)
        following = jnp.where(at_second, self._start, jnp.where(state.state == CUE, FIRST, second))
        decided = at_second & valid
        new_state = TwoStepState(
            state=jnp.where(valid, following, state.state).astype(jnp.int32),
            decisions=state.decisions + decided.astype(jnp.int32),
            time=state.time + 1,
        )
        return new_state.state, new_state, reward, self.is_terminated(new_state, params), {}

    def expected_reward(self, state: TwoStepState, action: chex.Array, params: TwoStepParams) -> chex.Array:
        """The second stage's reward probability, 0 elsewhere; -1 for an invalid action."""
        at_second = (state.state == SECOND_A) | (state.state == SECOND_B)
        mean = jnp.where(at_second, self._reward_probability(state, params), 0.0)
        return jnp.where(self._is_valid(state, action), mean, INVALID_REWARD)

    def _is_valid(self, state: TwoStepState, action: chex.Array) -> chex.Array:
        if not self.fixation:
            return jnp.ones((), bool)
        return (action == FIXATE) == (state.state == CUE)

    def _reward_probability(self, state: TwoStepState, params: TwoStepParams) -> chex.Array:
        """Of the second-stage state that this is; float32 []."""
        better = params.better[jnp.minimum(state.decisions, self.num_decisions - 1)]
        probability = self.better_percent / 100.0
        return jnp.where(state.state == SECOND_A + better, probability, 1.0 - probability)

    def is_terminated(self, state: TwoStepState, params: TwoStepParams) -> chex.Array:
        """After the last step."""
        del params
        return state.time >= self.episode_length

    def task_features(self, params: TwoStepParams) -> chex.Array:
        """Which state is the better one at first, 0 or 1; float32 [1]."""
        return params.better[:1].astype(jnp.float32)

    @property
    def num_actions(self) -> int:
        """Left and right, and the cue's answer."""
        return 3 if self.fixation else 2

    def action_space(self, params: TwoStepParams | None = None) -> spaces.Discrete:
        """Left, right, and with `fixation` the cue's answer."""
        del params
        return spaces.Discrete(self.num_actions)

    def observation_space(self, params: TwoStepParams | None = None) -> spaces.Discrete:
        """The state; networks see it as a one-hot vector."""
        del params
        return spaces.Discrete(4 if self.fixation else 3)


TWO_STEP = Kind(
    "two-step",
    TwoStep,
    {
        "trials": "num_decisions",
        "common": "common_percent",
        "switch": "switch_permille",
        "p": "better_percent",
        "fixation": Choice("fixation"),
    },
    defaults={"trials": 100, "common": 75, "switch": 0},
    unspelled={"p": 90, "fixation": 0},
    num_episodes=1,
    words="two-step task",
    agents="rl2jax.agents.two_step:TWO_STEP_AGENTS",
)
