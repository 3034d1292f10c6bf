"""The GRU and its weights (Duan et al. 2016, section 2.3, appendix A): what all families of networks are made of.

Flax declares and initialises the parameters; weight normalisation turns them into plain weights once per
call, outside the scan over time; the functions that use the weights are pure.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.types import PyTree

ACTIVATIONS: dict[str, Callable] = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class GRUWeights(NamedTuple):
    """Effective weights of a GRU, gates in the order reset, update, candidate.

    Attributes:
      input: float32 [input_size, 3 * units].
      hidden: float32 [units, 3 * units].
      bias: float32 [3 * units].
    """

    input: chex.Array
    hidden: chex.Array
    bias: chex.Array


class NetworkWeights(NamedTuple):
    """Effective weights of one recurrent network.

    Attributes:
      gru: the recurrent layer.
      head: float32 [units, num_outputs].
      head_bias: float32 [num_outputs].
      constants: float32 [num_constants]; outputs that do not depend on the input (a log standard deviation).
      task: float32 [num_task_inputs, 3 * units]; of inputs to the gates that stay the same during a trial.
      trunk: of what comes before the GRU, in families that have such layers.
    """

    gru: GRUWeights
    head: chex.Array
    head_bias: chex.Array
    constants: chex.Array
    task: chex.Array
    trunk: PyTree = ()

    def gru_for(self, task_inputs: chex.Array) -> GRUWeights:
        """The recurrent layer in a trial with these inputs, float32 [num_task_inputs]: they become part of the bias."""
        return self.gru._replace(bias=self.gru.bias + task_inputs @ self.task) if self.task.size else self.gru


def product(x: chex.Array, matrix: chex.Array, precision: str = "default") -> chex.Array:
    """The matrix product x @ matrix, accumulated in float32.

    Args:
      x: float32 [..., rows].
      matrix: float32 [rows, columns].
      precision: "default" leaves it to the device (TPUs round the factors to bfloat16, recent GPUs to TF32, CPUs do
        not round); "float32" rounds nothing anywhere; "bfloat16" rounds the factors to bfloat16 everywhere.

    Returns:
      float32 [..., columns].
    """
    if precision == "bfloat16":
        if jax.default_backend() == "cpu":  # has no such product: round by hand, so that its effect can be seen
            x, matrix = (jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7) for a in (x, matrix))
        return jnp.matmul(x, matrix, precision="BF16_BF16_F32")
    return jnp.matmul(x, matrix, precision="highest" if precision == "float32" else None)


def gru_step(
    weights: GRUWeights, activation: Callable, state: chex.Array, x: chex.Array, precision: str = "default"
) -> chex.Array:
    """One step of the gated recurrent unit (Cho et al. 2014).

      r = sigmoid(x W_r + h U_r + b_r),   z = sigmoid(x W_z + h U_z + b_z)
      c = activation(x W_c + r * (h U_c) + b_c),   h' = (1 - z) * h + z * c

    The reset gate multiplies after the product with U_c, which makes the hidden-to-hidden product one
    matrix product; Cho et al. write U_c (r * h), and z where this has 1 - z.

    Args:
      weights: effective weights.
      activation: of the candidate; the paper uses the rectifier.
      state: h, float32 [units].
      x: float32 [input_size].
      precision: of the two products, as in `product`.

    Returns:
      h', float32 [units].
    """
    from_input = product(x, weights.input, precision) + weights.bias
    from_state = product(state, weights.hidden, precision)
    x_reset, x_update, x_candidate = jnp.split(from_input, 3, axis=-1)
    h_reset, h_update, h_candidate = jnp.split(from_state, 3, axis=-1)
    reset = jax.nn.sigmoid(x_reset + h_reset)
    update = jax.nn.sigmoid(x_update + h_update)
    candidate = activation(x_candidate + reset * h_candidate)
    return state + update * (candidate - state)


def _gates(initialiser: Callable) -> Callable:
    """Initialises [rows, 3 * units] as three matrices of their own, side by side."""

    def init(key, shape, dtype=jnp.float32):
        keys = jax.random.split(key, 3)
        return jnp.concatenate([initialiser(k, (shape[0], shape[1] // 3), dtype) for k in keys], axis=1)

    return init


def weight_normalised(
    module: nn.Module, name: str, initialiser: Callable, shape: tuple[int, ...], weight_norm: bool = True
) -> chex.Array:
    """Declares a matrix, or a convolution's kernel, of a module; returns its effective weights.

    Weight normalisation (Salimans & Kingma 2016, equation 2) is w = g v / |v| for the weights of each output, the
    last axis. There is no data-dependent initialisation: g starts at |v|, so that the effective weights start as v.

    Args:
      module: that is being called.
      name: of the parameter v; g is "NAME_scale".
      initialiser: of v.
      shape: the outputs last.
      weight_norm: False: the weights are v, and there is no g.
    """
    direction = module.param(name, initialiser, shape)
    if not weight_norm:
        return direction
    norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=tuple(range(len(shape) - 1))) + 1e-12)
    scale = module.param(f"{name}_scale", lambda key: norm)
    return direction * (scale / norm)


class RecurrentNetwork(nn.Module):
    """Declares one GRU network's parameters; calling it returns the effective `NetworkWeights`.

    Every matrix is weight-normalised; the effective weights start at their orthogonal (hidden to hidden) or Xavier
    (all other) values. Biases start at 0, unless a memory horizon is given.
    """

    input_size: int
    units: int
    num_outputs: int
    num_constants: int = 0
    weight_norm: bool = True
    memory_horizon: int = 0
    num_task_inputs: int = 0

    @nn.compact
    def __call__(self) -> NetworkWeights:
        """Returns the effective weights."""
        xavier = nn.initializers.xavier_uniform()
        orthogonal = nn.initializers.orthogonal()
        zeros = nn.initializers.zeros_init()
        gates = 3 * self.units
        gru = GRUWeights(
            input=self._matrix("gru_input", _gates(xavier), (self.input_size, gates)),
            hidden=self._matrix("gru_hidden", _gates(orthogonal), (self.units, gates)),
            bias=self.param("gru_bias", self._initial_bias, (gates,)),
        )
        return NetworkWeights(
            gru=gru,
            head=self._matrix("head", xavier, (self.units, self.num_outputs)),
            head_bias=self.param("head_bias", zeros, (self.num_outputs,)),
            constants=self.param("constants", zeros, (self.num_constants,)) if self.num_constants else jnp.zeros((0,)),
            task=self._matrix("task", _gates(xavier), (self.num_task_inputs, gates))
            if self.num_task_inputs
            else jnp.zeros((0, gates)),
        )

    def _initial_bias(self, key: chex.PRNGKey, shape: tuple[int]) -> chex.Array:
        """Zeros; with a memory horizon T, each unit's update gate at -log(tau), tau log-uniform on [1, T].

        A gate that opens by 1 / tau remembers for about tau steps (Tallec & Ollivier 2018, section 2; they
        draw tau uniformly, which leaves few units for what matters only to the next step).
        """
        bias = jnp.zeros(shape)
        if self.memory_horizon <= 1:
            return bias
        log_times = jax.random.uniform(key, (self.units,), maxval=math.log(self.memory_horizon))
        return bias.at[self.units : 2 * self.units].set(-log_times)

    def _matrix(self, name: str, initialiser: Callable, shape: tuple[int, int]) -> chex.Array:
        return weight_normalised(self, name, initialiser, shape, self.weight_norm)


def head_outputs(weights: NetworkWeights, state: chex.Array) -> chex.Array:
    """The linear head, and the constants beside it: float32 [..., units] to [..., num_outputs + num_constants]."""
    outputs = state @ weights.head + weights.head_bias
    constants = jnp.broadcast_to(weights.constants, (*outputs.shape[:-1], weights.constants.shape[0]))
    return jnp.concatenate([outputs, constants], axis=-1)
