"""Networks of three parts: a trunk, a memory, and heads (Duan et al. 2016, section 2.3 and appendix A)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.devices import cores_per_device
from rl2jax.networks.base import Networks
from rl2jax.networks.cells import NetworkWeights, RecurrentLayer, RecurrentNetwork, head_outputs
from rl2jax.networks.unroll import Lane, as_lane, step_in_trial, unroll_layer
from rl2jax.types import PyTree, TrialObservation

# Units of the states that a core advances in a step, measured (docs/appendix_performance.md): 256 trials of GRU-256.
_UNITS_OF_CORE = 2**16


class TimedState(NamedTuple):
    """The memory of an agent that is shown the time.

    Attributes:
      memory: the memory's state.
      step: index in the trial of the step to come; int32 [].
    """

    memory: PyTree
    step: chex.Array


@dataclass(frozen=True, kw_only=True)
class MemoryNetworks(Networks):
    """Trunk, memory and heads: of a policy and a baseline apart, or of both in one network.

    Apart they have one architecture up to the heads (Duan et al. 2016, section 2.3, appendices A.1 and A.2). In one,
    policy and value are heads of one memory (appendix A.3; Wang et al. 2016).

    Attributes:
      memory: a `RecurrentLayer`, or a `memory.OwnMemory`.
      shared_trunk: whether the policy's network has the value's head.
      num_baseline_task_inputs: features of the task that the baseline sees (`BaselineSettings.sees_task`); the
        policy never does. With a `RecurrentLayer` of its own only.
      starts_alike: as `Networks.starts_alike`.

    `trial_steps` is of a trial where an index of the step, divided by these, is an input too (`Recurrent.time_input`);
    0: where it is not.
    """

    memory: Any
    shared_trunk: bool = False
    num_baseline_task_inputs: int = 0
    starts_alike: bool = False

    @property
    def trunk(self) -> Any:
        """What comes before the memory: a `VectorTrunk`, or a `frames.FrameTrunk`."""
        return self.observation.trunk(self.action, self)

    @property
    def policy_heads(self) -> dict[str, int]:
        """Outputs of the policy's network, head after head."""
        return ({"value": 1} if self.shared_trunk else {}) | super().policy_heads

    @property
    def baseline_sees_task(self) -> bool:
        """Whether it was given inputs for that."""
        return self.num_baseline_task_inputs > 0

    @property
    def abreast(self) -> int:
        """On a processor, as many as each core keeps in its cache; other devices are fastest with all of them."""
        if self.shares_trunk or not isinstance(self.memory, RecurrentLayer) or jax.default_backend() != "cpu":
            return 0
        return max(1, cores_per_device() * _UNITS_OF_CORE // self.units)

    @property
    def policy_network(self) -> Any:
        """Declaration of the policy's parameters."""
        return self._network(sum(self.policy_heads.values()), self.distribution.num_constants)

    @property
    def baseline_network(self) -> Any:
        """Declaration of the baseline's parameters, where it is a network of its own."""
        return self._network(1, 0, self.num_baseline_task_inputs)

    def _network(self, num_outputs: int, num_constants: int, num_task_inputs: int = 0) -> Any:
        input_size = self.trunk.size + self.num_time_inputs
        heads = num_outputs, num_constants, self.weight_norm, num_task_inputs
        return self.trunk.network(RecurrentNetwork(input_size, self.memory, *heads))

    @property
    def num_time_inputs(self) -> int:
        """Inputs of the memory beside the embedding: 1 where it is shown the time."""
        return int(self.trial_steps > 0)

    def _join_time(self, embedded: chex.Array, step: chex.Array) -> chex.Array:
        """The memory's input at steps with these indices: float32 [..., embedding_size], int32 [...]."""
        if not self.trial_steps:
            return embedded
        time = step.astype(jnp.float32) / self.trial_steps
        return jnp.concatenate([embedded, time[..., None]], axis=-1)

    def start(self, weights: NetworkWeights) -> PyTree:
        """The memory's state at the start of a trial; a `TimedState` with a time input."""
        state = self.memory.start(weights.cell)
        return TimedState(state, jnp.zeros((), jnp.int32)) if self.trial_steps else state

    def step(self, weights: NetworkWeights, state: PyTree, trial_obs: TrialObservation) -> tuple[PyTree, chex.Array]:
        """One step of one network: (new state, outputs [num_outputs + num_constants])."""
        before, index = state if self.trial_steps else (state, jnp.zeros((), jnp.int32))
        x = self._join_time(self.trunk.embed(weights, trial_obs), index)
        after, y = self.memory.step(weights.cell, before, x)
        return TimedState(after, index + 1) if self.trial_steps else after, head_outputs(weights, y)

    def unroll(
        self, weights: NetworkWeights, trial_obs: TrialObservation | Lane, task_inputs: chex.Array | None = None
    ) -> chex.Array:
        """Outputs over a whole trial, or over a lane; float32 [num_steps, outputs].

        Where there is a `Lane.start`, first its output and then those of the steps after it.
        """
        cell = weights.cell if task_inputs is None else weights.cell_for(task_inputs)
        lane = as_lane(trial_obs)
        # Embedding and heads stay outside the scan (one large product each); the input product is
        # cheaper inside, where its result stays in cache.
        embedded = self.trunk.embed_trial(weights, lane.trial_obs)
        num_steps = embedded.shape[0]
        x = self._join_time(embedded, step_in_trial(lane, num_steps))
        if isinstance(self.memory, RecurrentLayer):
            start = None
            if isinstance(lane.start, TrialObservation):
                start = self._join_time(self.trunk.embed(weights, lane.start), jnp.zeros((), jnp.int32))
            ended = lane.trial_obs.prev_done if self.memory.episodic_units else None
            parts = unroll_layer(self.memory, cell, start, (x, ended), lane.first)
        else:
            first = np.eye(1, num_steps, dtype=np.float32)[0] if isinstance(lane.first, tuple) else lane.first
            parts = [self.memory.unroll(cell, self.memory.start(cell), x, first)]
        return jnp.concatenate([head_outputs(weights, part) for part in parts])

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation | Lane, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The baseline's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["baseline"], or params["policy"] where the policy's network has the value's head.
          trial_obs: of the trial.
          task_features: float32 [num_baseline_task_inputs]; ignored by a baseline that does not see the task.
        """
        if self.shares_trunk:
            value = self.policy_outputs(value_params, trial_obs).value
            assert value is not None
            return value
        weights = self.baseline_network.apply(value_params)
        return self.unroll(weights, trial_obs, task_features if self.num_baseline_task_inputs else None)[..., 0]
