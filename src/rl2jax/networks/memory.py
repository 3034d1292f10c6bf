"""What remembers between the trunk and the heads of a network: its interface, and a user's own."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.settings import InputError
from rl2jax.types import PyTree


class SequenceModel(Protocol):
    """A memory: a recurrent layer, a linear recurrence, attention; of one trial, `jax.vmap` stays outside.

    Hashable, as it is part of what a program is compiled for. One that makes weights of its parameters once per call
    (a normalisation) has a method `weights(params) -> weights` too; otherwise the weights are the parameters.
    """

    def init(self, key: chex.PRNGKey, input_size: int) -> PyTree:
        """Draws parameters, for inputs float32 [input_size]."""

    def start(self, weights: PyTree) -> PyTree:
        """The state at a trial's start."""

    def step(self, weights: PyTree, state: PyTree, x: chex.Array) -> tuple[PyTree, chex.Array]:
        """One step, in acting: (new state, output float32 [output_size]) of an input float32 [input_size]."""

    def unroll(self, weights: PyTree, state: PyTree, x: chex.Array, first: chex.Array) -> chex.Array:
        """All steps at once, in learning: outputs float32 [num_steps, output_size], those of `step` one by one.

        Args:
          weights: as `step` has them.
          state: before the first step, as `start` makes it.
          x: inputs, float32 [num_steps, input_size].
          first: 1 where a trial starts, which sees nothing of what was before: the state there is `state` again. A
            numpy array where it is known when the program is traced; otherwise JAX's. Float32 [num_steps].
        """


def unroll_steps(step: Callable, state: PyTree, x: PyTree, first: chex.Array) -> chex.Array:
    """`SequenceModel.unroll` by `lax.scan`, of a memory that has `step(state, x)` only."""
    resets = not (isinstance(first, np.ndarray) and not first[1:].any())  # in a single trial nothing is to be reset

    def advance(before: PyTree, inputs: tuple[PyTree, chex.Array | None]) -> tuple[PyTree, chex.Array]:
        x, first = inputs
        if first is not None:
            before = jax.tree.map(lambda new, old: jnp.where(first > 0, new, old), state, before)
        return step(before, x)

    return jax.lax.scan(advance, state, (x, first if resets else None))[1]


class LinenModel:
    """A Flax module, `module(carry, x) -> (carry, y)` with `initialize_carry(key, input_shape)`, as a `SequenceModel`.

    Flax's own cells are such modules: `flax.linen.GRUCell`, `flax.linen.OptimizedLSTMCell`. The carry at a trial's
    start is always that of one key.

    Attributes:
      module: the module.
      input_size: of its inputs.
    """

    def __init__(self, module: nn.Module, input_size: int):
        self.module, self.input_size = module, input_size

    def init(self, key: chex.PRNGKey, input_size: int) -> PyTree:
        """Draws the module's variables."""
        return self.module.init(key, self.start({}), jnp.zeros((input_size,)))

    def start(self, weights: PyTree) -> PyTree:
        """The module's carry at first."""
        del weights
        return self.module.initialize_carry(jax.random.key(0), (self.input_size,))  # type: ignore[attr-defined]

    def step(self, weights: PyTree, state: PyTree, x: chex.Array) -> tuple[PyTree, chex.Array]:
        """Calls the module."""
        return self.module.apply(weights, state, x)  # type: ignore[return-value]

    def unroll(self, weights: PyTree, state: PyTree, x: chex.Array, first: chex.Array) -> chex.Array:
        """Calls the module at every step."""
        return unroll_steps(lambda before, x: self.step(weights, before, x), state, x, first)


@dataclass(frozen=True)
class OwnMemory:
    """A user's own memory, with the methods that networks use; its parameters are called "memory".

    Attributes:
      given: the `SequenceModel` or Flax module, or its class made with settings; hashable.
      input_size: of its inputs.
    """

    given: Any
    input_size: int

    @property
    def model(self) -> Any:
        """What was given, as a `SequenceModel`."""
        return LinenModel(self.given, self.input_size) if isinstance(self.given, nn.Module) else self.given

    @property
    def output_size(self) -> int:
        """Numbers that a head sees, read off one step."""
        return self._first_step()[2].shape[0]

    def _first_step(self) -> tuple[PyTree, PyTree, Any]:
        """Shapes of the state at the start, of that after a step, and of the step's output."""

        def first_step(key: chex.PRNGKey) -> tuple[PyTree, PyTree, chex.Array]:
            weights = self._weights(self.model.init(key, self.input_size))
            state = self.model.start(weights)
            return state, *self.model.step(weights, state, jnp.zeros((self.input_size,)))

        return jax.eval_shape(first_step, jax.random.key(0))

    def checked(self, name: str) -> "OwnMemory":
        """Itself, if a step does what a memory's does.

        Raises:
          InputError: saying in one line what is wrong.
        """
        try:
            state, after, y = self._first_step()
        except Exception as error:  # whatever a user's code raises
            said = (str(error) or type(error).__name__).splitlines()[0]
            raise InputError(f"network {name}: a step with {self.input_size} inputs fails: {said}") from error
        kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (state, after)]
        if kinds[0] != kinds[1]:
            raise InputError(f"network {name}: a step must return a state like that of its start, got {after}")
        if not hasattr(y, "shape") or len(y.shape) != 1:
            raise InputError(f"network {name}: a step's output must be a vector, got {y}")
        return self

    def multiplications(self, input_size: int) -> tuple[int, int]:
        """About how many a step takes: with the inputs, nobody knows; in all, one for each parameter."""
        params = jax.eval_shape(lambda key: self.model.init(key, self.input_size), jax.random.key(0))
        return 0, sum(leaf.size for leaf in jax.tree.leaves(params))

    @property
    def kept(self) -> int:
        """About how many numbers a backward pass needs of a step: the state's."""
        return sum(leaf.size for leaf in jax.tree.leaves(self._first_step()[0]))

    def _weights(self, params: PyTree) -> PyTree:
        return self.model.weights(params) if hasattr(self.model, "weights") else params

    def declare(self, module: nn.Module, input_size: int) -> PyTree:
        """Declares the parameters of a module that is being called; the weights."""
        return self._weights(module.param("memory", lambda key: self.model.init(key, input_size)))

    def declare_start(self, module: nn.Module, weights: PyTree) -> PyTree:
        """The weights: there is nothing more to declare."""
        del module
        return weights

    def start(self, weights: PyTree) -> PyTree:
        """As `SequenceModel.start`."""
        return self.model.start(weights)

    def step(self, weights: PyTree, state: PyTree, x: chex.Array) -> tuple[PyTree, chex.Array]:
        """As `SequenceModel.step`."""
        return self.model.step(weights, state, x)

    def unroll(self, weights: PyTree, state: PyTree, x: chex.Array, first: chex.Array) -> chex.Array:
        """As `SequenceModel.unroll`."""
        return self.model.unroll(weights, state, x, first)


_METHODS = ("init", "start", "step", "unroll")


def made_with(given: Any, settings: Mapping[str, Any], name: str) -> Any:
    """A user's own memory: what was given, or of a class an instance.

    Args:
      given: a `SequenceModel` or a Flax module, or a class of such.
      settings: arguments of a class, as far as it has arguments of these names.
      name: of what was given, for messages.

    Raises:
      InputError: saying in one line what it lacks.
    """
    if isinstance(given, type):
        wanted = inspect.signature(given).parameters
        try:
            given = given(**{name: value for name, value in settings.items() if name in wanted})
        except TypeError as error:
            raise InputError(f"network {name} cannot be made of settings: {error}") from None
    is_linen = isinstance(given, nn.Module)
    kind = "a Flax module" if is_linen else "a SequenceModel"
    missing = [method for method in (("initialize_carry",) if is_linen else _METHODS) if not hasattr(given, method)]
    if missing:
        raise InputError(f"network {name}, {kind}, lacks {', '.join(missing)}")
    try:
        hash(given)
    except TypeError:
        how = " (a dataclass: with frozen=True)" if dataclasses.is_dataclass(given) else ""
        raise InputError(f"network {name} must be hashable{how}") from None
    return given
