"""The recurrent policy and baseline of Duan et al. 2016 (section 2.3, appendix A), and the policy as an agent.

Flax declares and initialises the parameters; weight normalisation turns them into plain weights once per
call, outside the scan over time; the functions that use the weights are pure.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import chex
import distrax
import flax.linen as nn
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.envs.base import spaces
from rl2jax.types import PolicyInfo, PyTree, TrialObservation

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
    """

    gru: GRUWeights
    head: chex.Array
    head_bias: chex.Array
    constants: chex.Array
    task: chex.Array

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


class RecurrentNetwork(nn.Module):
    """Declares one GRU network's parameters; calling it returns the effective `NetworkWeights`.

    Weight normalisation (Salimans & Kingma 2016, equation 2) is w = g v / |v| for each column of each
    matrix. There is no data-dependent initialisation: g starts at |v|, so that the effective weights
    start at their orthogonal (hidden to hidden) or Xavier (all other) values. Biases start at 0, unless a
    memory horizon is given.
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
        direction = self.param(name, initialiser, shape)
        if not self.weight_norm:
            return direction
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=0) + 1e-12)
        scale = self.param(f"{name}_scale", lambda key: norm)
        return direction * (scale / norm)


class ActionDistribution(Protocol):
    """A family of distributions over actions, parametrised by a vector.

    Attributes:
      num_outputs: parameters that the network's head computes.
      num_constants: parameters that do not depend on the input.
    """

    @property
    def num_outputs(self) -> int: ...  # noqa: D102

    @property
    def num_constants(self) -> int: ...  # noqa: D102

    def __call__(self, dist_params: chex.Array) -> distrax.Distribution:
        """The distribution with parameters `dist_params`, float32 [num_outputs + num_constants]."""
        ...


@dataclass(frozen=True)
class Categorical:
    """Linear + softmax over `num_outputs` actions; parameters are logits."""

    num_outputs: int
    num_constants: int = 0

    def __call__(self, dist_params: chex.Array) -> distrax.Distribution:
        """Distrax's categorical with these logits."""
        return distrax.Categorical(logits=dist_params)


@dataclass(frozen=True)
class DiagonalGaussian:
    """Mean from the head, log standard deviation a parameter of its own (starts at 0)."""

    num_outputs: int

    @property
    def num_constants(self) -> int:
        """One log standard deviation per dimension."""
        return self.num_outputs

    def __call__(self, dist_params: chex.Array) -> distrax.Distribution:
        """Distrax's multivariate normal with diagonal covariance."""
        mean, log_std = jnp.split(dist_params, 2, axis=-1)
        return distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))


@dataclass(frozen=True)
class Encoding:
    """How one input becomes a part of the joint embedding phi(s, a, r, d).

    Attributes:
      size: numbers in the embedding.
      one_hot: whether the input is an index to be expanded; otherwise it is a vector taken as it is.
    """

    size: int
    one_hot: bool

    def __call__(self, x: chex.Array) -> chex.Array:
        """Embeds one input; float32 [size]."""
        if self.one_hot:
            return jax.nn.one_hot(x, self.size)
        return jnp.reshape(x, (self.size,)).astype(jnp.float32)


def encoding_for(space: Any, what: str) -> Encoding:
    """One-hot for a Discrete space, the vector itself for a Box of rank at most 1.

    Raises:
      ValueError: for any other space.
    """
    if isinstance(space, spaces.Discrete):
        return Encoding(space.n, one_hot=True)
    if isinstance(space, spaces.Box) and len(space.shape) <= 1:
        return Encoding(int(space.shape[0]) if space.shape else 1, one_hot=False)
    raise ValueError(f"{what} must be Discrete or a Box of rank 0 or 1, got {space!r}")


def distribution_for(action_space: Any) -> ActionDistribution:
    """Categorical for a Discrete action space, diagonal Gaussian for a Box of rank 1.

    Raises:
      ValueError: for any other space.
    """
    if isinstance(action_space, spaces.Discrete):
        return Categorical(action_space.n)
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return DiagonalGaussian(int(action_space.shape[0]))
    raise ValueError(f"action space must be Discrete or a Box of rank 1, got {action_space!r}")


@dataclass(frozen=True)
class PolicyAndBaseline:
    """A policy and a baseline: separate networks of one architecture up to the head (appendix A).

    Parameters are a dict {"policy": ..., "baseline": ...}. All methods take one trial;
    `jax.vmap` stays outside. The policy's first `num_task_features` outputs are an auxiliary head
    (`TrainConfig.task_inference_coefficient`); the others parametrise the action distribution. The baseline sees
    `num_baseline_task_inputs` features of the task (`TrainConfig.baseline_sees_task`); the policy never does.
    """

    observation: Encoding
    action: Encoding
    distribution: ActionDistribution
    units: int = 256
    activation: str = "relu"
    weight_norm: bool = True
    memory_horizon: int = 0
    num_task_features: int = 0
    num_baseline_task_inputs: int = 0
    matmul_precision: str = "default"

    @property
    def policy_network(self) -> RecurrentNetwork:
        """Declaration of the policy's parameters."""
        family = self.distribution
        return self._network(self.num_task_features + family.num_outputs, family.num_constants)

    @property
    def baseline_network(self) -> RecurrentNetwork:
        """Declaration of the baseline's parameters."""
        return self._network(1, 0, self.num_baseline_task_inputs)

    def _network(self, num_outputs: int, num_constants: int, num_task_inputs: int = 0) -> RecurrentNetwork:
        input_size = self.observation.size + self.action.size + 2
        return RecurrentNetwork(
            input_size, self.units, num_outputs, num_constants, self.weight_norm, self.memory_horizon, num_task_inputs
        )

    def init(self, key: chex.PRNGKey) -> dict[str, PyTree]:
        """Draws initial parameters."""
        key_policy, key_baseline = jax.random.split(key)
        return {
            "policy": self.policy_network.init(key_policy),
            "baseline": self.baseline_network.init(key_baseline),
        }

    def embed(self, trial_obs: TrialObservation) -> chex.Array:
        """The joint embedding phi(s, a, r, d): concatenation; float32 [input_size]."""
        parts = [
            self.observation(trial_obs.obs),
            self.action(trial_obs.prev_action),
            trial_obs.prev_reward[None],
            trial_obs.prev_done[None],
        ]
        return jnp.concatenate(parts, axis=-1)

    def initial_state(self) -> chex.Array:
        """The hidden state at the start of a trial: zeros, not learned; float32 [units]."""
        return jnp.zeros((self.units,), jnp.float32)

    def step(
        self, weights: NetworkWeights, state: chex.Array, trial_obs: TrialObservation
    ) -> tuple[chex.Array, chex.Array]:
        """One step of one network: (new hidden state [units], outputs [num_outputs + num_constants])."""
        activation = ACTIVATIONS[self.activation]
        state = gru_step(weights.gru, activation, state, self.embed(trial_obs), self.matmul_precision)
        return state, _head(weights, state)

    def unroll(
        self, weights: NetworkWeights, trial_obs: TrialObservation, task_inputs: chex.Array | None = None
    ) -> chex.Array:
        """Outputs over a whole trial from a fresh hidden state; float32 [num_steps, outputs]."""
        activation = ACTIVATIONS[self.activation]
        gru = weights.gru if task_inputs is None else weights.gru_for(task_inputs)

        def step(state, x):
            state = gru_step(gru, activation, state, x, self.matmul_precision)
            return state, state

        # Embedding and head stay outside the scan (one large product each); the input product is
        # cheaper inside, where its result stays in cache.
        embedded = jax.vmap(self.embed)(trial_obs)
        _, states = jax.lax.scan(step, self.initial_state(), embedded)
        return _head(weights, states)

    def dist_params(self, policy_params: PyTree, trial_obs: TrialObservation) -> chex.Array:
        """Parameters of the action distribution over a trial; float32 [num_steps, num_dist_params]."""
        return self.policy_outputs(policy_params, trial_obs)[0]

    def policy_outputs(self, policy_params: PyTree, trial_obs: TrialObservation) -> tuple[chex.Array, chex.Array]:
        """Distribution parameters, and what the hidden state tells of the task, over a trial.

        Returns:
          (float32 [num_steps, num_dist_params], float32 [num_steps, num_task_features]).
        """
        weights: Any = self.policy_network.apply(policy_params)
        return self._split(self.unroll(weights, trial_obs))

    def _split(self, outputs: chex.Array) -> tuple[chex.Array, chex.Array]:
        return outputs[..., self.num_task_features :], outputs[..., : self.num_task_features]

    def values(
        self, baseline_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          baseline_params: params["baseline"].
          trial_obs: of the trial.
          task_features: float32 [num_baseline_task_inputs]; ignored by a baseline that does not see the task.
        """
        weights: Any = self.baseline_network.apply(baseline_params)
        return self.unroll(weights, trial_obs, task_features if self.num_baseline_task_inputs else None)[..., 0]

    def agent(self, policy_params: PyTree, deterministic: bool = False) -> Agent:
        """The policy as an agent: its hidden state is the fast learner's memory.

        Args:
          policy_params: params["policy"].
          deterministic: take the distribution's mode instead of a sample.
        """
        weights: Any = self.policy_network.apply(policy_params)

        def init(key):
            del key
            return self.initial_state()

        def step(key, state, trial_obs):
            state, outputs = self.step(weights, state, trial_obs)
            dist_params, _ = self._split(outputs)
            distribution = self.distribution(dist_params)
            action = distribution.mode() if deterministic else distribution.sample(seed=key)
            return state, action, PolicyInfo(distribution.log_prob(action), dist_params)

        return Agent(init, step)


def _head(weights: NetworkWeights, state: chex.Array) -> chex.Array:
    outputs = state @ weights.head + weights.head_bias
    constants = jnp.broadcast_to(weights.constants, (*outputs.shape[:-1], weights.constants.shape[0]))
    return jnp.concatenate([outputs, constants], axis=-1)
