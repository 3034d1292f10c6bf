"""What the networks have in common whose memory is one of each arm, or of each pair of state and action.

Such things are exchangeable: what is learned of one holds for all. One recurrent layer that all share is applied to the
memory of the one just taken, and a readout that is the same for all makes the logits, so that whoever permutes them
permutes the logits (Zaheer et al. 2017, "Deep Sets", section 2).
"""

from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.networks.base import Encoding, Networks
from rl2jax.networks.cells import NetworkWeights, RecurrentLayer, RecurrentNetwork, weight_normalised
from rl2jax.networks.products import product
from rl2jax.types import PyTree, TrialObservation

NUM_VALUES = 2  # a baseline's outputs: a level, and a rate that the time left multiplies


class ExchangeableNetwork(nn.Module, kw_only=True):
    """Declares parameters none of which depends on how many memories there are.

    Every matrix is weight-normalised and initialised as those of `RecurrentNetwork`.

    Attributes:
      units: of the recurrent layer.
      num_inferred: outputs of the auxiliary head for each memory, 0 or 1.
      is_baseline: whether it ends in a value; otherwise in a logit for each action.
      sees_task: whether it is told a feature of what each memory is of.
      weight_norm: as `NetworkSettings.weight_norm`.
      memory_horizon: as `NetworkSettings.memory_horizon`, in the steps of one memory.
    """

    units: int
    num_inferred: int = 0
    is_baseline: bool = False
    sees_task: bool = False
    weight_norm: bool = True
    memory_horizon: int = 0

    def recurrent_layer(self, name: str, input_size: int, num_read: int) -> NetworkWeights:
        """The layer that all share, whose head reads so many numbers, then what is inferred, from one memory."""
        return RecurrentNetwork(
            input_size,
            RecurrentLayer(self.units, memory_horizon=self.memory_horizon, weight_norm=self.weight_norm),
            num_read + self.num_inferred,
            weight_norm=self.weight_norm,
            name=name,
        )()

    def matrix(self, name: str, rows: int, columns: int) -> chex.Array:
        """Effective weights float32 [rows, columns]; without columns there is no parameter."""
        if not columns:
            return jnp.zeros((rows, 0))
        return weight_normalised(self, name, nn.initializers.xavier_uniform(), (rows, columns), self.weight_norm)

    def bias(self, name: str, size: int) -> chex.Array:
        """A parameter float32 [size] that starts at zero; of no size there is none."""
        return self.param(name, nn.initializers.zeros_init(), (size,)) if size else jnp.zeros((0,))

    def readout(self, inputs: int, pooled: int) -> dict[str, chex.Array]:
        """What follows the hidden layer of each action, `inputs` wide.

        Args:
          inputs: of a logit's layer.
          pooled: inputs of a baseline's second layer, as wide as the recurrent one.

        Returns:
          by name: pooled float32 [pooled, units] and pooled_bias [units], of no columns in a policy; output
          float32 [inputs, 1], or [units, 2] in a baseline; output_bias [0], or [2].
        """
        second, num_outputs = (self.units, NUM_VALUES) if self.is_baseline else (0, 1)
        return {
            "pooled": self.matrix("pooled", pooled, second),
            "pooled_bias": self.bias("pooled_bias", second),
            "output": self.matrix("output", second or inputs, num_outputs),
            "output_bias": self.bias("output_bias", num_outputs if self.is_baseline else 0),
        }


@dataclass(frozen=True)
class ExchangeableNetworks(Networks):
    """Policy and baseline, separate networks, each an `ExchangeableNetwork`.

    The policy's outputs are what is inferred, where it is, and the logits.

    Attributes:
      baseline_sees_task: the baseline is told a feature of what each memory is of; the policy never is.
    """

    observation: Encoding
    baseline_sees_task: bool = False

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return self.distribution.num_outputs

    @property
    def policy_network(self) -> Any:
        """Declaration of the policy's parameters."""
        return self._network(num_inferred=int(self.num_task_features > 0))

    @property
    def baseline_network(self) -> Any:
        """Declaration of the baseline's parameters."""
        return self._network(is_baseline=True, sees_task=self.baseline_sees_task)

    def _network(self, **kind: Any) -> ExchangeableNetwork:
        """A network of this kind, with settings beside those of every one."""
        raise NotImplementedError

    @property
    def _common(self) -> dict[str, Any]:
        """The settings of every network."""
        return {"units": self.units, "weight_norm": self.weight_norm, "memory_horizon": self.memory_horizon}

    def product(self, x: chex.Array, matrix: chex.Array) -> chex.Array:
        """`products.product` at these networks' precision."""
        return product(x, matrix, self.matmul_precision)

    def unroll(self, weights: Any, trial_obs: TrialObservation) -> chex.Array:
        """The policy's outputs over a whole trial; float32 [num_steps, num_task_features + num_actions]."""

        def step(state: PyTree, trial_obs: TrialObservation) -> tuple[PyTree, chex.Array]:
            return self.step(weights, state, trial_obs)

        return jax.lax.scan(step, self.initial_state(), trial_obs)[1]

    def read_value(self, weights: Any, pooled: chex.Array, left: chex.Array) -> chex.Array:
        """A baseline's value, float32 [], of what is pooled and the share of the trial that is left, float32 []."""
        last = jax.nn.relu(self.product(pooled, weights.pooled) + weights.pooled_bias)
        level, rate = last @ weights.output + weights.output_bias
        return level + left * rate


def mean_and_max(x: chex.Array) -> chex.Array:
    """Over the first axis, which is of exchangeable things; float32 [number, size] to [2 * size]."""
    return jnp.concatenate([jnp.mean(x, axis=0), jnp.max(x, axis=0)])
