"""The recurrent cells and their weights: what all families of networks are made of.

A GRU (Duan et al. 2016, section 2.3, appendix A), the same with layer normalisation (Ba et al. 2016), or an LSTM (Wang
et al. 2016).

Flax declares and initialises the parameters; weight normalisation turns them into plain weights once per
call, outside the scan over time; the functions that use the weights are pure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from rl2jax.networks.memory import unroll_steps
from rl2jax.networks.products import product
from rl2jax.types import PyTree

XAVIER = nn.initializers.xavier_uniform()
ACTIVATIONS: dict[str, Callable] = {"relu": jax.nn.relu, "tanh": jnp.tanh}


class Gains(NamedTuple):
    """What layer normalisation multiplies by; float32 [num_gates * units] each.

    Attributes:
      input: of what comes from the input.
      hidden: of what comes from the state.
    """

    input: chex.Array
    hidden: chex.Array


class CellWeights(NamedTuple):
    """Effective weights of a recurrent cell, gate by gate side by side.

    The order is reset, update, candidate in a GRU, and input, forget, candidate, output in an LSTM.

    Attributes:
      input: float32 [input_size, num_gates * units].
      hidden: float32 [units, num_gates * units].
      bias: float32 [num_gates * units].
      gains: of layer normalisation, in cells that have it; otherwise empty.
      initial: the state at a trial's start, where it is learned; empty: zeros.
    """

    input: chex.Array
    hidden: chex.Array
    bias: chex.Array
    gains: Gains | tuple[()] = ()
    initial: PyTree = ()


class NetworkWeights(NamedTuple):
    """Effective weights of one network: trunk, memory, heads.

    Attributes:
      cell: of the memory, `CellWeights` or whatever a `memory.SequenceModel` makes of its parameters.
      head: of all heads side by side; float32 [memory's outputs, num_outputs].
      head_bias: float32 [num_outputs].
      constants: float32 [num_constants]; outputs that do not depend on the input (a log standard deviation).
      task: float32 [num_task_inputs, num_gates * units]; of inputs to the gates that stay the same during a trial.
      trunk: of what comes before the cell, in families that have such layers.
    """

    cell: Any
    head: chex.Array
    head_bias: chex.Array
    constants: chex.Array
    task: chex.Array
    trunk: PyTree = ()

    def cell_for(self, task_inputs: chex.Array) -> CellWeights:
        """The recurrent layer in a trial with these inputs, float32 [num_task_inputs]: they become part of the bias."""
        return self.cell._replace(bias=self.cell.bias + task_inputs @ self.task) if self.task.size else self.cell


def gru_step(
    weights: CellWeights, activation: Callable, state: chex.Array | None, x: chex.Array, precision: str = "default"
) -> chex.Array:
    """One step of the gated recurrent unit (Cho et al. 2014).

      r = sigmoid(x W_r + h U_r + b_r),   z = sigmoid(x W_z + h U_z + b_z)
      c = activation(x W_c + r * (h U_c) + b_c),   h' = (1 - z) * h + z * c

    The reset gate multiplies after the product with U_c, which makes the hidden-to-hidden product one
    matrix product; Cho et al. write U_c (r * h), and z where this has 1 - z.

    Args:
      weights: effective weights.
      activation: of the candidate; the paper uses the rectifier.
      state: h, float32 [units]; None: zeros, which nobody multiplies.
      x: float32 [input_size].
      precision: of the two products, as in `product`.

    Returns:
      h', float32 [units].
    """
    from_input = product(x, weights.input, precision) + weights.bias
    from_state = None if state is None else product(state, weights.hidden, precision)
    return _gated(activation, state, from_input, from_state)


def _gated(
    activation: Callable, state: chex.Array | None, from_input: chex.Array, from_state: chex.Array | None
) -> chex.Array:
    """A GRU's new state, from what input and state contribute to its gates and candidate; float32 [3 * units] each."""
    if state is None or from_state is None:
        _, x_update, x_candidate = jnp.split(from_input, 3, axis=-1)
        return jax.nn.sigmoid(x_update) * activation(x_candidate)
    x_reset, x_update, x_candidate = jnp.split(from_input, 3, axis=-1)
    h_reset, h_update, h_candidate = jnp.split(from_state, 3, axis=-1)
    reset = jax.nn.sigmoid(x_reset + h_reset)
    update = jax.nn.sigmoid(x_update + h_update)
    candidate = activation(x_candidate + reset * h_candidate)
    return state + update * (candidate - state)


def layer_norm(x: chex.Array, gain: chex.Array) -> chex.Array:
    """Ba et al. 2016, equation 4, without its bias: gain * (x - mean) / standard deviation, over the last axis."""
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return gain * centred * jax.lax.rsqrt(variance + _VARIANCE_FLOOR)


_VARIANCE_FLOOR = 1e-5  # a state of zeros contributes zeros


def layer_norm_gru_step(
    weights: CellWeights, activation: Callable, state: chex.Array | None, x: chex.Array, precision: str = "default"
) -> chex.Array:
    """One step of a GRU whose input's and state's contributions are each layer-normalised (Ba et al. 2016, appendix).

      (r, z) = sigmoid(LN(x W_rz) + LN(h U_rz) + b_rz),   c = activation(LN(x W_c) + r * LN(h U_c) + b_c)
      h' = (1 - z) * h + z * c

    As there both gates are normalised together and the candidate by itself. The paper gives each LN a bias, of which
    there is one here, as in `gru_step`: the gates' would only add up, and r * LN(h U_c) has none in either.

    Args:
      weights: effective weights, with gains.
      activation: of the candidate.
      state: h, float32 [units]; None: zeros.
      x: float32 [input_size].
      precision: of the two products, as in `product`.

    Returns:
      h', float32 [units].
    """
    assert isinstance(weights.gains, Gains)
    from_input = _normalised(product(x, weights.input, precision), weights.gains.input) + weights.bias
    if state is None:
        return _gated(activation, None, from_input, None)
    from_state = _normalised(product(state, weights.hidden, precision), weights.gains.hidden)
    return _gated(activation, state, from_input, from_state)


def _normalised(contribution: chex.Array, gain: chex.Array) -> chex.Array:
    """Layer normalisation of both gates together, and of the candidate; float32 [..., 3 * units]."""
    gates = 2 * (gain.shape[0] // 3)
    parts = [layer_norm(contribution[..., :gates], gain[:gates]), layer_norm(contribution[..., gates:], gain[gates:])]
    return jnp.concatenate(parts, axis=-1)


class LSTMState(NamedTuple):
    """What an LSTM hands to the next step.

    Attributes:
      hidden: h, what the head and the next step's gates see; float32 [units].
      memory: c; float32 [units].
    """

    hidden: chex.Array
    memory: chex.Array


def lstm_step(
    weights: CellWeights, activation: Callable, state: LSTMState | None, x: chex.Array, precision: str = "default"
) -> LSTMState:
    """One step of the long short-term memory with a forget gate (Gers et al. 2000), without peepholes.

      i = sigmoid(x W_i + h U_i + b_i),   f = sigmoid(x W_f + h U_f + b_f),   o = sigmoid(x W_o + h U_o + b_o)
      g = activation(x W_g + h U_g + b_g),   c' = f * c + i * g,   h' = o * activation(c')

    Args:
      weights: effective weights.
      activation: of candidate and output; Wang et al. 2016 use tanh.
      state: h and c; None: zeros.
      x: float32 [input_size].
      precision: of the two products, as in `product`.

    Returns:
      h' and c'.
    """
    summed = product(x, weights.input, precision) + weights.bias
    if state is not None:
        summed += product(state.hidden, weights.hidden, precision)
    into, forget, candidate, out = jnp.split(summed, 4, axis=-1)
    memory = jax.nn.sigmoid(into) * activation(candidate)
    if state is not None:
        memory += jax.nn.sigmoid(forget) * state.memory
    return LSTMState(jax.nn.sigmoid(out) * activation(memory), memory)


class Cell(NamedTuple):
    """A kind of recurrent layer.

    Attributes:
      num_gates: blocks of `units` columns in its weights.
      step: (weights, activation, state or None, x, precision) -> state, as `gru_step`.
      output: state -> float32 [units], what the head sees.
      initial_state: units -> the state at a trial's start where it is not learned: zeros.
      remembering: float32 [units] time scales' logarithms -> the biases, float32 [num_gates * units], that make each
        unit remember for about so many steps.
      kept: arrays of [units] that a backward pass needs of a step: state, both gates, candidate and U_c h; of an LSTM
        both states, three gates, candidate and the activation of c; with layer normalisation also what is normalised.
      layer_norm: whether its weights have gains.
    """

    num_gates: int
    step: Callable
    output: Callable
    initial_state: Callable
    remembering: Callable
    kept: int
    layer_norm: bool = False


def _remembering_gru(log_times: chex.Array) -> chex.Array:
    """The update gate opens by 1 / time scale at each step."""
    zeros = jnp.zeros_like(log_times)
    return jnp.concatenate([zeros, -log_times, zeros])


def _remembering_lstm(log_times: chex.Array) -> chex.Array:
    """The forget gate keeps all but about 1 / time scale, and the input gate lets in as much."""
    zeros = jnp.zeros_like(log_times)
    return jnp.concatenate([-log_times, log_times, zeros, zeros])


_GRU = Cell(3, gru_step, lambda state: state, lambda units: jnp.zeros((units,), jnp.float32), _remembering_gru, 5)
CELLS = {
    "gru": _GRU,
    "layer_norm_gru": _GRU._replace(step=layer_norm_gru_step, kept=11, layer_norm=True),
    "lstm": Cell(
        4,
        lstm_step,
        lambda state: state.hidden,
        lambda units: LSTMState(jnp.zeros((units,), jnp.float32), jnp.zeros((units,), jnp.float32)),
        _remembering_lstm,
        7,
    ),
}


def _gates(initialiser: Callable, num_gates: int) -> Callable:
    """Initialises [rows, num_gates * units] as matrices of their own, side by side."""

    def init(key, shape, dtype=jnp.float32):
        keys = jax.random.split(key, num_gates)
        return jnp.concatenate([initialiser(k, (shape[0], shape[1] // num_gates), dtype) for k in keys], axis=1)

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


@dataclass(frozen=True)
class RecurrentLayer:
    """A recurrent cell as a memory: a `memory.SequenceModel` that declares its parameters itself.

    The hidden-to-hidden matrix starts orthogonal, the other Xavier, biases at 0 unless a memory horizon is given, gains
    of layer normalisation at 1; a learned initial state is one vector (of an LSTM h, then c) and starts at 0. Names of
    parameters begin with the cell's.

    Attributes:
      units: hidden units.
      cell: a name in `CELLS`.
      activation: of the GRU's candidate, or the LSTM's candidate and output; a name in `ACTIVATIONS`.
      matmul_precision: as in `products.product`.
      memory_horizon: as `NetworkSettings.memory_horizon`.
      weight_norm: weight normalisation of its matrices.
      learned_initial_state: as `Recurrent.learned_initial_state`.
      episodic_units: as `Recurrent.episodic_units`.
      flag: which of its inputs is the flag of an episode's end.
    """

    units: int = 256
    cell: str = "gru"
    activation: str = "relu"
    matmul_precision: str = "default"
    memory_horizon: int = 0
    weight_norm: bool = True
    learned_initial_state: bool = False
    episodic_units: float = 0.0
    flag: int = -1

    @property
    def output_size(self) -> int:
        """Numbers that a head sees."""
        return self.units

    @property
    def gates(self) -> int:
        """Columns of its matrices."""
        return CELLS[self.cell].num_gates * self.units

    def multiplications(self, input_size: int) -> tuple[int, int]:
        """Of one step: with so many inputs, and with the state."""
        return input_size * self.gates, self.units * self.gates

    @property
    def kept(self) -> int:
        """Numbers that a backward pass needs of a step."""
        return CELLS[self.cell].kept * self.units

    def declare(self, module: nn.Module, input_size: int) -> CellWeights:
        """Declares the parameters of a module that is being called, but for `declare_start`; the effective weights."""
        num_gates, ones = CELLS[self.cell].num_gates, nn.initializers.ones_init()
        xavier, orthogonal = (_gates(init, num_gates) for init in (XAVIER, nn.initializers.orthogonal()))

        def matrix(name: str, initialiser: Callable, rows: int) -> chex.Array:
            return weight_normalised(
                module, f"{self.cell}_{name}", initialiser, (rows, self.gates), weight_norm=self.weight_norm
            )

        return CellWeights(
            input=matrix("input", xavier, input_size),
            hidden=matrix("hidden", orthogonal, self.units),
            bias=module.param(f"{self.cell}_bias", self._initial_bias, (self.gates,)),
            gains=Gains(*(module.param(f"{self.cell}_{of}_gain", ones, (self.gates,)) for of in Gains._fields))
            if CELLS[self.cell].layer_norm
            else (),
        )

    def declare_start(self, module: nn.Module, weights: CellWeights) -> CellWeights:
        """The weights with the learned initial state, which is declared after all else."""
        if not self.learned_initial_state:
            return weights
        zeros, unravel = ravel_pytree(CELLS[self.cell].initial_state(self.units))
        return weights._replace(initial=unravel(module.param(f"{self.cell}_initial", lambda key: zeros)))

    def _initial_bias(self, key: chex.PRNGKey, shape: tuple[int]) -> chex.Array:
        """Zeros; with a memory horizon T, each unit remembers for tau steps, tau log-uniform on [1, T].

        A GRU's update gate starts at -log(tau), an LSTM's forget gate at log(tau) and its input gate at -log(tau): a
        gate that opens by 1 / tau remembers for about tau steps (Tallec & Ollivier 2018, section 2; they draw tau
        uniformly, which leaves few units for what matters only to the next step).
        """
        if self.memory_horizon <= 1:
            return jnp.zeros(shape)
        log_times = jax.random.uniform(key, (self.units,), maxval=math.log(self.memory_horizon))
        return CELLS[self.cell].remembering(log_times)

    def start(self, weights: CellWeights) -> PyTree:
        """The state at a trial's start: zeros, or what was learned."""
        return weights.initial if self.learned_initial_state else CELLS[self.cell].initial_state(self.units)

    def known_start(self, weights: CellWeights) -> PyTree | None:
        """The same, but None for zeros, which need no product."""
        return weights.initial if self.learned_initial_state else None

    def step(self, weights: CellWeights, state: PyTree | None, x: chex.Array) -> tuple[PyTree, chex.Array]:
        """One step: (new state, output float32 [units]); a state of None is zeros."""
        return self.step_with_flag(weights, state, (x, x[self.flag] if self.episodic_units else None))

    def step_with_flag(
        self, weights: CellWeights, state: PyTree | None, inputs: tuple[chex.Array, chex.Array | None]
    ) -> tuple[PyTree, chex.Array]:
        """`step`, with the flag beside the inputs."""
        x, ended = inputs
        if ended is not None and state is not None:
            state = self._forget_episode(self.start(weights), state, ended)
        state = CELLS[self.cell].step(weights, ACTIVATIONS[self.activation], state, x, self.matmul_precision)
        return state, CELLS[self.cell].output(state)

    def _forget_episode(self, fresh: PyTree, state: PyTree, ended: chex.Array) -> PyTree:
        """The state before a step: the first units are `fresh` where the last step ended an episode.

        Which units they are does not matter: all are initialised alike. A trial's first step is no exception, whatever
        flag is shown there: its state is fresh.
        """
        forgets = (jnp.arange(self.units) < round(self.episodic_units * self.units)) & (ended > 0)
        return jax.tree.map(lambda new, old: jnp.where(forgets, new, old), fresh, state)

    def unroll(self, weights: CellWeights, state: PyTree, x: chex.Array, first: chex.Array) -> chex.Array:
        """Outputs over steps, float32 [num_steps, units]; where `first` is 1 memory goes back to `state`."""
        flags = x[:, self.flag] if self.episodic_units else None
        return unroll_steps(partial(self.step_with_flag, weights), state, (x, flags), first)


class RecurrentNetwork(nn.Module):
    """Declares the parameters of memory and heads; calling it returns the effective `NetworkWeights`.

    Every matrix is weight-normalised; the effective weights of heads start at their Xavier values, biases at 0.

    Attributes:
      input_size: of the memory.
      memory: a `RecurrentLayer`, or another with its methods.
      num_outputs: of all heads.
      num_constants: outputs beside them that do not depend on the input.
      weight_norm: weight normalisation of heads.
      num_task_inputs: inputs of a `RecurrentLayer` that stay the same during a trial.
    """

    input_size: int
    memory: Any
    num_outputs: int
    num_constants: int = 0
    weight_norm: bool = True
    num_task_inputs: int = 0

    @nn.compact
    def __call__(self) -> NetworkWeights:
        """Returns the effective weights."""
        zeros, no_inputs = nn.initializers.zeros_init(), jnp.zeros((0, 0))
        cell = self.memory.declare(self, self.input_size)
        weights = NetworkWeights(
            cell=cell,
            head=self._matrix("head", XAVIER, (self.memory.output_size, self.num_outputs)),
            head_bias=self.param("head_bias", zeros, (self.num_outputs,)),
            constants=self.param("constants", zeros, (self.num_constants,)) if self.num_constants else jnp.zeros((0,)),
            task=self._task_matrix() if self.num_task_inputs else no_inputs,
        )
        return weights._replace(cell=self.memory.declare_start(self, cell))

    def _task_matrix(self) -> chex.Array:
        initialiser = _gates(XAVIER, CELLS[self.memory.cell].num_gates)
        return self._matrix("task", initialiser, (self.num_task_inputs, self.memory.gates))

    def _matrix(self, name: str, initialiser: Callable, shape: tuple[int, int]) -> chex.Array:
        return weight_normalised(self, name, initialiser, shape, self.weight_norm)


@partial(jax.jit, static_argnums=0, inline=True)
def effective_weights(network: nn.Module, params: PyTree) -> Any:
    """`network.apply(params)`: a program of its own where it is called outside of one, else part of the caller's."""
    return network.apply(params)


def head_outputs(weights: NetworkWeights, state: chex.Array) -> chex.Array:
    """The linear head, and the constants beside it: float32 [..., units] to [..., num_outputs + num_constants]."""
    # Told of the columns, and held to that: the head's gradient is one thin product over all steps, which processors
    # do in a tenth of the time with the thin side first.
    columns = jax.lax.optimization_barrier(weights.head.T)
    outputs = jnp.einsum("...u,ou->...o", state, columns) + weights.head_bias
    constants = jnp.broadcast_to(weights.constants, (*outputs.shape[:-1], weights.constants.shape[0]))
    return jnp.concatenate([outputs, constants], axis=-1)
