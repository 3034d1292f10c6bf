"""A policy with a memory for each arm: all arms share one recurrent cell, and one readout.

The arms of a bandit are exchangeable: what is learned of one holds for all. The cell is applied to the memory of the
action just taken and to no other. A readout that is the same for all actions, one rectified layer, makes a logit of
each memory, of the mean of all, and of the time that is left. Permuted actions therefore permute the logits (Zaheer et
al. 2017, "Deep Sets", section 2). For Discrete actions; beyond the paper, whose one GRU must learn everything for each
arm anew.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.envs.base import spaces
from rl2jax.networks.cells import ACTIVATIONS, NetworkWeights, gru_step
from rl2jax.networks.exchangeable import ExchangeableNetwork, ExchangeableNetworks, mean_and_max
from rl2jax.types import PyTree, TrialObservation

_NUM_TIMES = 2  # the time left as a share, and its logarithm


class ArmsState(NamedTuple):
    """The memory of an agent with a memory for each arm.

    Attributes:
      memory: of each arm, float32 [num_arms, units]; all start at zero.
      total: sum of the memories over arms; float32 [units].
      read: memory @ arm.head of `ArmWeights`; a step changes one row. float32 [num_arms, hidden + num_inferred].
      step: index in the trial of the step to come; int32 [].
    """

    memory: chex.Array
    total: chex.Array
    read: chex.Array
    step: chex.Array


class ArmWeights(NamedTuple):
    """Effective weights of one network with a memory for each arm.

    Attributes:
      arm: the recurrent layer; its head reads one arm's memory: first for the readout's hidden layer, before the
        activation, float32 [units, hidden], then what is inferred of the arm, float32 [units, num_inferred].
      context: of what all arms share to the hidden layer; float32 [num_context, hidden].
      feature: of an arm's feature, which a baseline may be told, to the hidden layer; float32 [hidden], or [0].
      pooled: a baseline's second layer; float32 [2 * hidden + 2, units], or [2 * hidden + 2, 0].
      pooled_bias: float32 [units], or [0].
      output: float32 [hidden, 1] to an arm's logit; float32 [units, 2] to a baseline's level and rate.
      output_bias: float32 [2], or [0]: one of a logit would be the same for all arms.
    """

    arm: NetworkWeights
    context: chex.Array
    feature: chex.Array
    pooled: chex.Array
    pooled_bias: chex.Array
    output: chex.Array
    output_bias: chex.Array


class ArmNetwork(ExchangeableNetwork, kw_only=True):
    """Declares the parameters of one network; calling it returns the effective `ArmWeights`.

    Attributes:
      num_arms: actions.
      input_size: of the recurrent layer.
      num_context: numbers that all arms share.
    """

    num_arms: int
    input_size: int
    num_context: int

    @property
    def hidden(self) -> int:
        """Units of the readout's hidden layer, which is computed anew for every arm at every step: half of `units`."""
        return -(-self.units // 2)

    @property
    def num_outputs(self) -> int:
        """Numbers in all: a logit for each arm and what is inferred of it, or one value."""
        return 1 if self.is_baseline else self.num_arms * (1 + self.num_inferred)

    @nn.compact
    def __call__(self) -> ArmWeights:
        """Returns the effective weights."""
        return ArmWeights(
            arm=self.recurrent_layer("arm", self.input_size, self.hidden),
            context=self.matrix("context", self.num_context, self.hidden),
            feature=self.bias("feature", self.hidden if self.sees_task else 0),
            **self.readout(self.hidden, pooled=2 * self.hidden + _NUM_TIMES),
        )


def is_constant(space: Any) -> bool:
    """Whether an observation space has one element only, as a bandit's."""
    if isinstance(space, spaces.Discrete):
        return space.n == 1
    return isinstance(space, spaces.Box) and bool(np.all(np.asarray(space.low) == np.asarray(space.high)))


@dataclass(frozen=True)
class PerArmNetworks(ExchangeableNetworks):
    """Policy and baseline, separate networks, each with a memory for each arm.

    At a step the recurrent layer sees reward, flag and time, and changes the memory of the previous action; before a
    trial's first step there was none. Both networks always see the time that is left of a trial of `trial_steps`: what
    happened to one arm cannot tell it. After the trial's end it stays at one step.

    Attributes:
      sees_observation: whether the observation enters the recurrent layer and the readout; a constant need not.
    """

    sees_observation: bool = True

    def _network(self, **kind: Any) -> ArmNetwork:
        observed = self.observation.size if self.sees_observation else 0
        return ArmNetwork(
            num_arms=self.num_actions,
            input_size=2 + _NUM_TIMES + observed,
            num_context=self.units + _NUM_TIMES + observed,
            **self._common,
            **kind,
        )

    def initial_state(self, network: ArmNetwork | None = None) -> ArmsState:
        """The state at the start of a trial; the policy's, unless told whose."""
        network = network or self.policy_network
        return ArmsState(
            memory=jnp.zeros((self.num_actions, self.units), jnp.float32),
            total=jnp.zeros((self.units,), jnp.float32),
            read=jnp.zeros((self.num_actions, network.hidden + network.num_inferred), jnp.float32),
            step=jnp.zeros((), jnp.int32),
        )

    def time_left(self, step: chex.Array) -> chex.Array:
        """The time left at steps with these indices, int32 [...], as a share and on a logarithmic scale.

        Returns:
          float32 [..., 2]: 1 at a trial's first step; 1 / trial_steps and 0 at its last, and after it.
        """
        left = jnp.maximum(self.trial_steps - step, 1).astype(jnp.float32)
        # Of a trial of one step the logarithm is 0 throughout.
        scale = jnp.log(jnp.maximum(self.trial_steps, 2).astype(jnp.float32))
        return jnp.stack([left / self.trial_steps, jnp.log(left) / scale], axis=-1)

    def _observed(self, trial_obs: TrialObservation) -> chex.Array:
        return self.observation(trial_obs.obs) if self.sees_observation else jnp.zeros((0,))

    def remember(self, weights: ArmWeights, state: ArmsState, trial_obs: TrialObservation) -> ArmsState:
        """The state with what the previous action led to, in that arm's memory; all others stay as they are."""
        arm = trial_obs.prev_action
        before = state.memory[arm]
        told = jnp.stack([trial_obs.prev_reward, trial_obs.prev_done])
        x = jnp.concatenate([told, self.time_left(state.step), self._observed(trial_obs)])
        after = gru_step(weights.arm.cell, ACTIVATIONS[self.activation], before, x, self.matmul_precision)
        after = jnp.where(state.step > 0, after, before)  # at the first step there was no action
        return ArmsState(
            memory=state.memory.at[arm].set(after),
            total=state.total + (after - before),
            read=state.read.at[arm].set(self.product(after, weights.arm.head)),
            step=state.step + 1,
        )

    def _hidden(self, weights: ArmWeights, state: ArmsState, trial_obs: TrialObservation) -> chex.Array:
        """The hidden layer before its activation, at the step that `remember` led to; float32 [num_arms, hidden]."""
        shared = [state.total / self.num_actions, self.time_left(state.step - 1), self._observed(trial_obs)]
        context = self.product(jnp.concatenate(shared), weights.context)
        hidden = context.shape[0]
        return state.read[:, :hidden] + (context + weights.arm.head_bias[:hidden])

    def step(self, weights: Any, state: ArmsState, trial_obs: TrialObservation) -> tuple[ArmsState, chex.Array]:
        """One step of the policy: (new state, outputs [num_task_features + num_arms])."""
        state = self.remember(weights, state, trial_obs)
        hidden = jax.nn.relu(self._hidden(weights, state, trial_obs))
        inferred = state.read[:, hidden.shape[1] :] + weights.arm.head_bias[hidden.shape[1] :]
        return state, jnp.concatenate([inferred.ravel(), hidden @ weights.output[:, 0]])

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"].
          trial_obs: of the trial.
          task_features: float32 [num_arms]; ignored by a baseline that does not see the task.
        """
        weights: Any = self.baseline_network.apply(value_params)
        told = 0.0
        if self.baseline_sees_task:
            assert task_features is not None
            told = task_features[:, None] * weights.feature

        def step(state, trial_obs):
            state = self.remember(weights, state, trial_obs)
            hidden = jax.nn.relu(self._hidden(weights, state, trial_obs) + told)
            left = self.time_left(state.step - 1)
            return state, self.read_value(weights, jnp.concatenate([mean_and_max(hidden), left]), left[0])

        return jax.lax.scan(step, self.initial_state(self.baseline_network), trial_obs)[1]
