"""What the learner needs of networks, and the policy as an agent; spaces as inputs and outputs of networks."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import chex
import distrax
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent
from rl2jax.envs.base import spaces
from rl2jax.networks.cells import NetworkWeights, effective_weights
from rl2jax.settings import InputError
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

    def trunk(self, action: "Encoding", settings: Any) -> "VectorTrunk":
        """What comes before the memory where this is the observation's encoding."""
        del settings
        return VectorTrunk(self, action)


@dataclass(frozen=True)
class VectorTrunk:
    """The joint embedding phi(s, a, r, d) of vectors and indices: concatenation, without parameters.

    Attributes:
      observation: how the observation enters.
      action: how the previous action does.
    """

    observation: Encoding
    action: Encoding

    @property
    def size(self) -> int:
        """Numbers in the embedding."""
        return self.observation.size + self.action.size + 2

    def network(self, core: Any) -> Any:
        """Declaration of the parameters of a network with this trunk, whose memory and heads `core` declares."""
        return core

    def embed(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """The embedding of one step; float32 [size]."""
        del weights
        parts = [
            self.observation(trial_obs.obs),
            self.action(trial_obs.prev_action),
            trial_obs.prev_reward[None],
            trial_obs.prev_done[None],
        ]
        return jnp.concatenate(parts, axis=-1)

    def embed_trial(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """`embed` at every step of a trial; float32 [num_steps, size]."""
        return jax.vmap(partial(self.embed, weights))(trial_obs)


def encoding_for(space: Any, what: str) -> Encoding:
    """One-hot for a Discrete space, the vector itself for a Box of rank at most 1.

    Raises:
      ValueError: for any other space.
    """
    if isinstance(space, spaces.Discrete):
        return Encoding(space.n, one_hot=True)
    if isinstance(space, spaces.Box) and len(space.shape) <= 1:
        return Encoding(int(space.shape[0]) if space.shape else 1, one_hot=False)
    raise InputError(f"{what} must be Discrete or a Box of rank 0 or 1, got {space!r}")


def distribution_for(action_space: Any) -> ActionDistribution:
    """Categorical for a Discrete action space, diagonal Gaussian for a Box of rank 1.

    Raises:
      ValueError: for any other space.
    """
    if isinstance(action_space, spaces.Discrete):
        return Categorical(action_space.n)
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return DiagonalGaussian(int(action_space.shape[0]))
    raise InputError(f"action space must be Discrete or a Box of rank 1, got {action_space!r}")


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
    `num_task_features` numbers, and may have the baseline's (`policy_heads`). A family provides `policy_network`,
    `baseline_network` unless the policy's is the baseline's too, `initial_state` or `start`, `step`, `unroll` and
    `values`.

    Attributes:
      observation: how the observation enters the network.
      action: how the previous action does.
      distribution: of actions.
      units: as `NetworkSettings.units`.
      activation: as `NetworkSettings.activation`; a name in `cells.ACTIVATIONS`.
      weight_norm: weight normalisation on every matrix.
      memory_horizon: as `NetworkSettings.memory_horizon`.
      num_task_features: outputs of the auxiliary head.
      matmul_precision: as in `products.product`.
      trial_steps: of a trial, in families that see the time.
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
    trial_steps: int = 0

    @property
    def policy_heads(self) -> dict[str, int]:
        """Outputs of the policy's network, head after head: some of "value", "inferred", "policy"."""
        return {"inferred": self.num_task_features, "policy": self.distribution.num_outputs}

    @property
    def shares_trunk(self) -> bool:
        """Whether the policy's network has the baseline's head: params["policy"] are then all there are."""
        return "value" in self.policy_heads

    @property
    def baseline_sees_task(self) -> bool:
        """Whether `values` uses its `task_features`."""
        return False

    @property
    def abreast(self) -> int:
        """How many trials are best unrolled side by side, the others after them in lanes (`unroll`); 0: all."""
        return 0

    @property
    def starts_alike(self) -> bool:
        """Whether `unroll_trials` may give them a `Lane.start`: all trials see the same at their first step."""
        return False

    @property
    def policy_network(self) -> Any:
        """Declaration of the policy's parameters: a Flax module that returns its weights."""
        raise NotImplementedError

    @property
    def baseline_network(self) -> Any:
        """Declaration of the baseline's parameters, in families where it is a network of its own."""
        raise NotImplementedError

    def init(self, key: chex.PRNGKey) -> dict[str, PyTree]:
        """Draws initial parameters of both networks."""
        if self.shares_trunk:
            return {"policy": self.policy_network.init(key), "baseline": {}}
        key_policy, key_baseline = jax.random.split(key)
        return {"policy": self.policy_network.init(key_policy), "baseline": self.baseline_network.init(key_baseline)}

    def _split(self, outputs: chex.Array) -> PolicyOutputs:
        """What the outputs of the policy's network mean; what follows them belongs to the action's distribution."""
        values = int(self.shares_trunk)
        inferred = values + self.num_task_features
        return PolicyOutputs(
            outputs[..., inferred:],
            outputs[..., values:inferred],
            outputs[..., 0] if values else None,
        )

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

    def initial_state(self) -> PyTree:
        """The state at the start of a trial, where no weights say it."""
        raise NotImplementedError

    def start(self, weights: Any) -> PyTree:
        """The state at the start of a trial played with these weights."""
        del weights
        return self.initial_state()

    def step(self, weights: Any, state: PyTree, trial_obs: TrialObservation) -> tuple[PyTree, chex.Array]:
        """One step of the policy's network: (new state, outputs)."""
        raise NotImplementedError

    def unroll(self, weights: Any, trial_obs: TrialObservation) -> chex.Array:
        """Outputs of the policy's network over a whole trial; float32 [num_steps, outputs]."""
        raise NotImplementedError

    def dist_params(self, policy_params: PyTree, trial_obs: Any) -> chex.Array:
        """Parameters of the action distribution over a trial; float32 [num_steps, num_dist_params]."""
        return self.policy_outputs(policy_params, trial_obs).dist_params

    def policy_outputs(self, policy_params: PyTree, trial_obs: Any) -> PolicyOutputs:
        """All that the policy's network says over a trial, in one pass; leaves [num_steps, ...].

        Args:
          policy_params: params["policy"].
          trial_obs: of the trial; or, in families with a trunk, an `unroll.Lane`.
        """
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
