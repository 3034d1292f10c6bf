"""What the learner needs of networks, the policy as an agent, and the separate networks of policy and baseline."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, Protocol

import chex
import distrax
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.devices import cores_per_device
from rl2jax.envs.base import spaces
from rl2jax.networks.cells import (
    ACTIVATIONS,
    CELLS,
    CellWeights,
    NetworkWeights,
    RecurrentNetwork,
    effective_weights,
    head_outputs,
)
from rl2jax.types import PolicyInfo, PyTree, TrialObservation


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


def vector_embedding(observation: Encoding, action: Encoding, trial_obs: TrialObservation) -> chex.Array:
    """The joint embedding phi(s, a, r, d) of one step: concatenation; float32 [observation.size + action.size + 2]."""
    parts = [
        observation(trial_obs.obs),
        action(trial_obs.prev_action),
        trial_obs.prev_reward[None],
        trial_obs.prev_done[None],
    ]
    return jnp.concatenate(parts, axis=-1)


class TimedState(NamedTuple):
    """The memory of an agent that is shown the time.

    Attributes:
      cell: the recurrent layer's state.
      step: index in the trial of the step to come; int32 [].
    """

    cell: PyTree
    step: chex.Array


class PolicyOutputs(NamedTuple):
    """What a policy's network says over a trial.

    Attributes:
      dist_params: parameters of the action distribution; float32 [..., num_dist_params].
      inferred: what the hidden state tells of the task; float32 [..., num_task_features].
      value: of the normalised returns, float32 [...]; None where the baseline is another network.
    """

    dist_params: chex.Array
    inferred: chex.Array
    value: chex.Array | None


@dataclass(frozen=True)
class Networks:
    """A policy and a baseline, as the learner knows them; families of networks derive from it.

    Parameters are a dict {"policy": ..., "baseline": ...}. All methods take one trial; `jax.vmap` stays outside. The
    policy's network has outputs for an auxiliary head (`Objective.task_inference_coefficient`) too, which predicts
    `num_task_features` numbers. A family provides `policy_network`, `embed` and `values`; and `baseline_network`, or
    `init` and `_split` of its own.

    Attributes:
      observation: how the observation enters the network.
      action: how the previous action does.
      distribution: of actions.
      units: of the recurrent layer.
      activation: as `NetworkSettings.activation`; a name in `recurrent.ACTIVATIONS`.
      weight_norm: weight normalisation on every matrix.
      memory_horizon: as `NetworkSettings.memory_horizon`.
      num_task_features: outputs of the auxiliary head.
      matmul_precision: as in `products.product`.
      cell: the recurrent layer; a name in `recurrent.CELLS`.
      trial_steps: of a trial, where an index of the step, divided by these, is an input too (`Recurrent.time_input`);
        0: where it is not.
      learned_initial_state: as `Recurrent.learned_initial_state`; in families with one recurrent layer.
      episodic_units: as `Recurrent.episodic_units`; in families with one recurrent layer.
      starts_alike: whether `unroll_trials` may give them a `TrialObservation.start`: all trials see the same at their
        first step, and this family is one that asks.
    """

    observation: Any
    action: Encoding
    distribution: ActionDistribution
    units: int = 256
    activation: str = "relu"
    weight_norm: bool = True
    memory_horizon: int = 0
    num_task_features: int = 0
    matmul_precision: str = "default"
    cell: str = "gru"
    trial_steps: int = 0
    learned_initial_state: bool = False
    episodic_units: float = 0.0
    starts_alike: bool = False

    shares_trunk: ClassVar[bool] = False
    """Whether the policy's network has the baseline's head: params["policy"] are then all there are."""

    @property
    def baseline_sees_task(self) -> bool:
        """Whether `values` uses its `task_features`."""
        return False

    @property
    def abreast(self) -> int:
        """How many trials are best unrolled side by side, the others after them in lanes (`unroll`); 0: all."""
        return 0

    @property
    def policy_network(self) -> Any:
        """Declaration of the policy's parameters: a Flax module that returns `NetworkWeights`."""
        raise NotImplementedError

    @property
    def baseline_network(self) -> Any:
        """Declaration of the baseline's parameters, in families where it is a network of its own."""
        raise NotImplementedError

    def init(self, key: chex.PRNGKey) -> dict[str, PyTree]:
        """Draws initial parameters of both networks."""
        key_policy, key_baseline = jax.random.split(key)
        return {"policy": self.policy_network.init(key_policy), "baseline": self.baseline_network.init(key_baseline)}

    def embed(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """The joint embedding phi(s, a, r, d) of one step, without the time; float32 [embedding_size]."""
        raise NotImplementedError

    def _split(self, outputs: chex.Array) -> PolicyOutputs:
        """What the outputs of the policy's network mean: first those of the auxiliary head."""
        return PolicyOutputs(outputs[..., self.num_task_features :], outputs[..., : self.num_task_features], None)

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"], or params["policy"] of a family that shares its trunk.
          trial_obs: of the trial.
          task_features: float32 [num_task_features]; ignored by a baseline that does not see the task.
        """
        raise NotImplementedError

    def embed_trial(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """`embed` at every step of a trial; float32 [num_steps, embedding_size]."""
        return jax.vmap(partial(self.embed, weights))(trial_obs)

    @property
    def num_time_inputs(self) -> int:
        """Inputs of the recurrent layer beside the embedding: 1 where it is shown the time."""
        return int(self.trial_steps > 0)

    def _join_time(self, embedded: chex.Array, step: chex.Array) -> chex.Array:
        """The recurrent layer's input at steps with these indices: float32 [..., embedding_size], int32 [...]."""
        if not self.trial_steps:
            return embedded
        time = step.astype(jnp.float32) / self.trial_steps
        return jnp.concatenate([embedded, time[..., None]], axis=-1)

    def initial_state(self) -> PyTree:
        """The state at the start of a trial where it is not learned: zeros; a `TimedState` with a time input."""
        state = CELLS[self.cell].initial_state(self.units)
        return TimedState(state, jnp.zeros((), jnp.int32)) if self.trial_steps else state

    def start(self, weights: Any) -> PyTree:
        """The state at the start of a trial played with these weights: `initial_state`, or what was learned."""
        state = self.initial_state()
        if not self.learned_initial_state:
            return state
        return state._replace(cell=weights.initial) if self.trial_steps else weights.initial

    def _fresh(self, weights: NetworkWeights) -> PyTree:
        """The recurrent layer's part of `start`."""
        return weights.initial if self.learned_initial_state else CELLS[self.cell].initial_state(self.units)

    def _forget_episode(self, fresh: PyTree, state: PyTree, prev_done: chex.Array) -> PyTree:
        """The recurrent layer's state before a step: the first units are `fresh` where the last step ended an episode.

        Which units they are does not matter: all are initialised alike. A trial's first step is no exception, whatever
        flag is shown there: its state is fresh.
        """
        forgets = (jnp.arange(self.units) < round(self.episodic_units * self.units)) & (prev_done > 0)
        return jax.tree.map(lambda new, old: jnp.where(forgets, new, old), fresh, state)

    def _advance(self, cell: CellWeights, state: PyTree | None, x: chex.Array) -> PyTree:
        return CELLS[self.cell].step(cell, ACTIVATIONS[self.activation], state, x, self.matmul_precision)

    def step(self, weights: NetworkWeights, state: PyTree, trial_obs: TrialObservation) -> tuple[PyTree, chex.Array]:
        """One step of one network: (new state, outputs [num_outputs + num_constants])."""
        before, index = state if self.trial_steps else (state, jnp.zeros((), jnp.int32))
        if self.episodic_units:
            before = self._forget_episode(self._fresh(weights), before, trial_obs.prev_done)
        after = self._advance(weights.cell, before, self._join_time(self.embed(weights, trial_obs), index))
        outputs = head_outputs(weights, CELLS[self.cell].output(after))
        return TimedState(after, index + 1) if self.trial_steps else after, outputs

    def unroll(
        self, weights: NetworkWeights, trial_obs: TrialObservation, task_inputs: chex.Array | None = None
    ) -> chex.Array:
        """Outputs over a whole trial from a fresh hidden state, or over a lane; float32 [num_steps, outputs].

        Where there is a `trial_obs.start`, first its output and then those of the steps after it.
        """
        cell = weights.cell if task_inputs is None else weights.cell_for(task_inputs)
        output = CELLS[self.cell].output
        fresh = self._fresh(weights)

        def step(state, inputs):
            x, first, ended = inputs
            if first is not None:
                state = jax.tree.map(lambda new, old: jnp.where(first > 0, new, old), begun, state)
            if ended is not None and state is not None:
                state = self._forget_episode(fresh, state, ended)
            state = self._advance(cell, state, x)
            return state, output(state)

        # Embedding and head stay outside the scan (one large product each); the input product is
        # cheaper inside, where its result stays in cache.
        start, trial_obs = trial_obs.start, trial_obs._replace(start=())
        embedded = self.embed_trial(weights, trial_obs)
        index = jnp.arange(embedded.shape[0])
        first = None if isinstance(trial_obs.first, tuple) else trial_obs.first
        if first is not None:
            index = index - jax.lax.cummax(jnp.where(first > 0, index, 0))
        begun, hidden = fresh, []
        state = fresh if self.learned_initial_state or first is not None else None  # zeros need no product
        if isinstance(start, TrialObservation):
            at_start = self._join_time(self.embed(weights, start), jnp.zeros((), jnp.int32))
            state = begun = self._advance(cell, fresh if self.learned_initial_state else None, at_start)
            hidden.append(output(begun)[None])
            index = index + 1
        inputs = self._join_time(embedded, index), first, trial_obs.prev_done if self.episodic_units else None
        if first is None:
            # Outside the scan, which would have a state for each trial: under `jax.vmap` all share this one.
            now, inputs = (jax.tree.map(lambda x, part=part: x[part], inputs) for part in (0, slice(1, None)))
            state, seen = step(state, now)
            hidden.append(seen[None])
        _, seen = jax.lax.scan(step, state, inputs)
        return jnp.concatenate([head_outputs(weights, part) for part in [*hidden, seen]])

    def dist_params(self, policy_params: PyTree, trial_obs: TrialObservation) -> chex.Array:
        """Parameters of the action distribution over a trial; float32 [num_steps, num_dist_params]."""
        return self.policy_outputs(policy_params, trial_obs).dist_params

    def policy_outputs(self, policy_params: PyTree, trial_obs: TrialObservation) -> PolicyOutputs:
        """All that the policy's network says over a trial, in one pass; leaves [num_steps, ...]."""
        weights = self.policy_network.apply(policy_params)
        return self._split(self.unroll(weights, trial_obs))

    def agent(self, policy_params: PyTree, deterministic: bool = False) -> Agent:
        """The policy as an agent: its recurrent state is the fast learner's memory.

        Args:
          policy_params: params["policy"].
          deterministic: take the distribution's mode instead of a sample.
        """
        weights = effective_weights(self.policy_network, policy_params)

        def init(key):
            del key
            return self.start(weights)

        def step(key, state, trial_obs):
            state, outputs = self.step(weights, state, trial_obs)
            dist_params = self._split(outputs).dist_params
            distribution = self.distribution(dist_params)
            action = distribution.mode() if deterministic else distribution.sample(seed=key)
            return state, action, PolicyInfo(distribution.log_prob(action), dist_params)

        return Agent(init, step)


# Units of the states that a core advances in a step, measured (docs/appendix_performance.md): 256 trials of GRU-256.
_UNITS_OF_CORE = 2**16


@dataclass(frozen=True)
class PolicyAndBaseline(Networks):
    """Separate networks of one architecture up to the head (section 2.3, appendices A.1 and A.2).

    The joint embedding is the concatenation of its parts. The policy's first `num_task_features` outputs are the
    auxiliary head, the others parametrise the action distribution.

    Attributes:
      num_baseline_task_inputs: features of the task that the baseline sees (`BaselineSettings.sees_task`); the
        policy never does.
    """

    observation: Encoding
    num_baseline_task_inputs: int = 0

    @property
    def baseline_sees_task(self) -> bool:
        """Whether it was given inputs for that."""
        return self.num_baseline_task_inputs > 0

    @property
    def abreast(self) -> int:
        """On a processor, as many as each core keeps in its cache; other devices are fastest with all of them."""
        if jax.default_backend() != "cpu":
            return 0
        return max(1, cores_per_device() * _UNITS_OF_CORE // self.units)

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
        return RecurrentNetwork(
            self.observation.size + self.action.size + 2 + self.num_time_inputs,
            self.units,
            num_outputs,
            num_constants,
            self.weight_norm,
            self.memory_horizon,
            num_task_inputs,
            self.cell,
            self.learned_initial_state,
        )

    def embed(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """The joint embedding phi(s, a, r, d): `vector_embedding`."""
        del weights
        return vector_embedding(self.observation, self.action, trial_obs)

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"].
          trial_obs: of the trial.
          task_features: float32 [num_baseline_task_inputs]; ignored by a baseline that does not see the task.
        """
        weights: Any = self.baseline_network.apply(value_params)
        return self.unroll(weights, trial_obs, task_features if self.num_baseline_task_inputs else None)[..., 0]
