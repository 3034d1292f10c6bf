"""A policy with a memory for each pair of state and action, and messages between states.

The states of a tabular MDP are exchangeable, and so are its actions: what is learned of one pair holds for all. Three
things are remembered:

- of each pair the memory of a recurrent layer that all pairs share, which is applied to the pair just taken only;
- where each pair led: fast weights (Schmidhuber 1992; Ba et al. 2016), which move towards the state that followed by
  as much as a gate, read from the pair's memory, lets them;
- a vector for each state. At every step each pair hears the vectors of the states that it leads to, weighted by its
  fast weights, and says something of that and of its own memory; of what its actions say a state takes the largest,
  number by number, for its new vector (message passing: Gilmer et al. 2017).

A readout that is the same for all actions makes a logit of each pair of the present state. Permuted states and actions
therefore permute what the network says (Zaheer et al. 2017, "Deep Sets", section 2). What is kept of rewards,
what the vectors mean, and what is made of them is learned; no count, mean, plan or bonus is given. For Discrete
observations and actions; beyond the paper, whose one GRU must learn everything for each pair anew.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.networks.cells import ACTIVATIONS, NetworkWeights, gru_step
from rl2jax.networks.exchangeable import NUM_VALUES, ExchangeableNetwork, ExchangeableNetworks, mean_and_max
from rl2jax.types import PyTree, TrialObservation

VECTOR = 8  # numbers in a state's vector
_NUM_TRIAL_TIMES = 2  # the time left of the trial: as a share, and the logarithm of its steps
_NUM_TIMES = _NUM_TRIAL_TIMES + 2  # and that left of the episode: as a share, and one over its steps


class PairsState(NamedTuple):
    """The memory of an agent with a memory for each pair; S states, A actions.

    Attributes:
      memory: of each pair; all start at zero. float32 [S, A, units].
      read: memory @ pair.head of `PairWeights`; a step changes one row. float32 [S, A, units + num_inferred].
      moves: fast weights of the states that followed each pair; they sum to 1, and start equal. float32 [S, A, S].
      vectors: of the states; all start at zero. float32 [S, VECTOR].
      state: the present state, which is the previous one until the step begins; int32 [].
      step: index in the trial of the step to come; int32 [].
      episode_step: index in its episode of the step that was last; int32 [].
    """

    memory: chex.Array
    read: chex.Array
    moves: chex.Array
    vectors: chex.Array
    state: chex.Array
    step: chex.Array
    episode_step: chex.Array


class PairWeights(NamedTuple):
    """Effective weights of one network with a memory for each pair.

    Attributes:
      pair: the recurrent layer; its head reads one pair's memory: first for what the pair says, before the activation,
        float32 [units, units], then what is inferred of the pair, float32 [units, num_inferred].
      gate: of a pair's memory to the gate of its fast weights, float32 [units, 1].
      gate_bias: float32 [1].
      heard: of what a pair hears to what it says, before the activation; float32 [VECTOR, units].
      shared: of what all pairs share to the same; float32 [VECTOR + 2, units].
      feature: of a pair's feature, which a baseline may be told, to the same; float32 [units], or [0].
      said: what a pair says; float32 [units, VECTOR].
      said_bias: float32 [VECTOR].
      readout: of a pair of the present state, its memory and what it hears; float32 [units + VECTOR, units].
      readout_shared: of what the actions share to the same layer; float32 [VECTOR + 4, units].
      readout_bias: float32 [units].
      readout_feature: as `feature`.
      pooled: a baseline's second layer; float32 [2 * units + 3 * VECTOR + 4, units], or [.., 0].
      pooled_bias: float32 [units], or [0].
      output: float32 [units, 1] to an action's logit; float32 [units, 2] to a baseline's level and rate.
      output_bias: float32 [2], or [0]: one of a logit would be the same for all actions.
    """

    pair: NetworkWeights
    gate: chex.Array
    gate_bias: chex.Array
    heard: chex.Array
    shared: chex.Array
    feature: chex.Array
    said: chex.Array
    said_bias: chex.Array
    readout: chex.Array
    readout_shared: chex.Array
    readout_bias: chex.Array
    readout_feature: chex.Array
    pooled: chex.Array
    pooled_bias: chex.Array
    output: chex.Array
    output_bias: chex.Array


class PairNetwork(ExchangeableNetwork, kw_only=True):
    """Declares the parameters of one network; calling it returns the effective `PairWeights`.

    Attributes:
      num_states: S.
      num_actions: A.
    """

    num_states: int
    num_actions: int

    @property
    def num_outputs(self) -> int:
        """Numbers in all: a logit for each action and what is inferred of each pair, or one value."""
        return 1 if self.is_baseline else self.num_actions * (1 + self.num_states * self.num_inferred)

    @property
    def multiplications(self) -> int:
        """Of one step, in all matrix products."""
        units, pairs = self.units, self.num_states * self.num_actions
        taken = units * (3 * (2 + _NUM_TRIAL_TIMES + units) + units + self.num_inferred + 1)
        messages = pairs * VECTOR * (self.num_states + 2 * units) + units * (VECTOR + _NUM_TRIAL_TIMES)
        heard = VECTOR * self.num_states
        readout = self.num_actions * (heard + units * (units + VECTOR + 1)) + units * (VECTOR + _NUM_TIMES)
        value = units * (2 * units + 3 * VECTOR + _NUM_TIMES + NUM_VALUES) if self.is_baseline else 0
        return taken + messages + readout + value

    @nn.compact
    def __call__(self) -> PairWeights:
        """Returns the effective weights."""
        units, told = self.units, self.units if self.sees_task else 0
        return PairWeights(
            pair=self.recurrent_layer("pair", 2 + _NUM_TRIAL_TIMES, units),
            gate=self.matrix("gate", units, 1),
            gate_bias=self.bias("gate_bias", 1),
            heard=self.matrix("heard", VECTOR, units),
            shared=self.matrix("shared", VECTOR + _NUM_TRIAL_TIMES, units),
            feature=self.bias("feature", told),
            said=self.matrix("said", units, VECTOR),
            said_bias=self.bias("said_bias", VECTOR),
            readout=self.matrix("readout", units + VECTOR, units),
            readout_shared=self.matrix("readout_shared", VECTOR + _NUM_TIMES, units),
            readout_bias=self.bias("readout_bias", units),
            readout_feature=self.bias("readout_feature", told),
            **self.readout(units, pooled=2 * units + 3 * VECTOR + _NUM_TIMES),
        )


@dataclass(frozen=True)
class PerPairNetworks(ExchangeableNetworks):
    """Policy and baseline, separate networks, each with a memory for each pair of state and action.

    At a step the recurrent layer sees reward, flag and the time left, and changes the memory of the previous state and
    action; before a trial's first step there was none. The state that begins an episode followed no action, and moves
    no fast weights. The time that is left of a trial of `trial_steps` is always an input, for what happened to one pair
    cannot tell it; after the trial's end it stays at one step. The readout also sees what is left of the episode.

    Attributes:
      horizon: steps in an episode.
    """

    horizon: int = 1

    @property
    def num_states(self) -> int:
        """Number of states."""
        return self.observation.size

    def _network(self, **kind: Any) -> PairNetwork:
        return PairNetwork(num_states=self.num_states, num_actions=self.num_actions, **self._common, **kind)

    def initial_state(self, network: PairNetwork | None = None) -> PairsState:
        """The state at the start of a trial; the policy's, unless told whose."""
        network = network or self.policy_network
        pairs, zero = (self.num_states, self.num_actions), jnp.zeros((), jnp.int32)
        return PairsState(
            memory=jnp.zeros((*pairs, self.units), jnp.float32),
            read=jnp.zeros((*pairs, self.units + network.num_inferred), jnp.float32),
            moves=jnp.full((*pairs, self.num_states), 1.0 / self.num_states, jnp.float32),
            vectors=jnp.zeros((self.num_states, VECTOR), jnp.float32),
            state=zero,
            step=zero,
            episode_step=zero,
        )

    def time_left(self, step: chex.Array) -> chex.Array:
        """The time left of the trial at steps with these indices, int32 [...].

        The logarithm is that of steps, and no share: so many are left wherever a trial began.

        Returns:
          float32 [..., 2]: as a share, 1 at first and 1 / trial_steps at last; half the decimal logarithm of its steps.
        """
        left = jnp.maximum(self.trial_steps - step, 1).astype(jnp.float32)
        return jnp.stack([left / self.trial_steps, jnp.log10(left) / 2], axis=-1)

    def times(self, state: PairsState) -> chex.Array:
        """The time left of trial and episode at the present step, after `remember`; float32 [4]."""
        left = jnp.maximum(self.horizon - state.episode_step, 1).astype(jnp.float32)
        return jnp.concatenate([self.time_left(state.step - 1), jnp.stack([left / self.horizon, 1 / left])])

    def remember(self, weights: PairWeights, state: PairsState, trial_obs: TrialObservation) -> PairsState:
        """The state with what the previous action led to, in that pair's memory and moves; all others stay."""
        taken = state.state, trial_obs.prev_action
        happened, ended = state.step > 0, trial_obs.prev_done
        before, moves = state.memory[taken], state.moves[taken]
        x = jnp.concatenate([jnp.stack([trial_obs.prev_reward, ended]), self.time_left(state.step)])
        after = gru_step(weights.pair.cell, ACTIVATIONS[self.activation], before, x, self.matmul_precision)
        after = jnp.where(happened, after, before)  # at the first step there was no action
        gate = jax.nn.sigmoid(after @ weights.gate[:, 0] + weights.gate_bias[0])
        gate = jnp.where(happened, gate * (1.0 - ended), 0.0)
        followed = jax.nn.one_hot(trial_obs.obs, self.num_states)
        return PairsState(
            memory=state.memory.at[taken].set(after),
            read=state.read.at[taken].set(self.product(after, weights.pair.head)),
            moves=state.moves.at[taken].set(moves + gate * (followed - moves)),
            vectors=state.vectors,
            state=trial_obs.obs,
            step=state.step + 1,
            episode_step=jnp.where(happened & (ended == 0), state.episode_step + 1, 0),
        )

    def exchange(self, weights: PairWeights, state: PairsState, told: chex.Array | float = 0.0) -> PairsState:
        """The state after one round of messages.

        Args:
          weights: of the network.
          state: after `remember`.
          told: of each pair, to what it says before the activation; float32 [S, A, units].
        """
        shared = jnp.concatenate([jnp.mean(state.vectors, axis=0), self.time_left(state.step - 1)])
        context = self.product(shared, weights.shared) + weights.pair.head_bias[: self.units]
        heard = jnp.einsum("sat,tv->sav", state.moves, state.vectors)
        hidden = state.read[..., : self.units] + self.product(heard, weights.heard) + told + context
        said = self.product(jax.nn.relu(hidden), weights.said) + weights.said_bias
        return state._replace(vectors=jnp.tanh(jnp.max(said, axis=1)))

    def present(self, weights: PairWeights, state: PairsState, told: chex.Array | float = 0.0) -> chex.Array:
        """The readout's hidden layer of each action in the present state, after `exchange`; float32 [A, units].

        Args:
          weights: of the network.
          state: after `exchange`.
          told: of each action, before the activation; float32 [A, units].
        """
        heard = state.moves[state.state] @ state.vectors
        of_pair = jnp.concatenate([state.memory[state.state], heard], axis=-1)
        shared = jnp.concatenate([jnp.mean(state.vectors, axis=0), self.times(state)])
        context = self.product(shared, weights.readout_shared) + weights.readout_bias
        return jax.nn.relu(self.product(of_pair, weights.readout) + told + context)

    def step(self, weights: Any, state: PairsState, trial_obs: TrialObservation) -> tuple[PairsState, chex.Array]:
        """One step of the policy: (new state, outputs [num_task_features + num_actions])."""
        state = self.exchange(weights, self.remember(weights, state, trial_obs))
        logits = self.present(weights, state) @ weights.output[:, 0]
        inferred = state.read[..., self.units :] + weights.pair.head_bias[self.units :]
        return state, jnp.concatenate([inferred.ravel(), logits])

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"].
          trial_obs: of the trial.
          task_features: float32 [S * A]; ignored by a baseline that does not see the task.
        """
        weights: Any = self.baseline_network.apply(value_params)
        told: Any = 0.0
        told_readout: Any = jnp.zeros((self.num_states, 1, 1))
        if self.baseline_sees_task:
            assert task_features is not None
            features = task_features.reshape(self.num_states, self.num_actions, 1)
            told, told_readout = features * weights.feature, features * weights.readout_feature

        def step(state, trial_obs):
            state = self.exchange(weights, self.remember(weights, state, trial_obs), told)
            hidden = self.present(weights, state, told_readout[state.state])
            times, present = self.times(state), state.vectors[state.state]
            pooled = jnp.concatenate([mean_and_max(hidden), mean_and_max(state.vectors), present, times])
            return state, self.read_value(weights, pooled, times[0])

        return jax.lax.scan(step, self.initial_state(self.baseline_network), trial_obs)[1]
