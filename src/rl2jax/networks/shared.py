"""One network for policy and baseline: what its families have in common, and the one for vectors and indices."""

from dataclasses import dataclass
from typing import Any, ClassVar

import chex

from rl2jax.networks.base import Encoding, Networks, PolicyOutputs, vector_embedding
from rl2jax.networks.cells import NetworkWeights, RecurrentNetwork
from rl2jax.types import PyTree, TrialObservation


@dataclass(frozen=True)
class SharedNetwork(Networks):
    """A network whose head has the value first, then the auxiliary head's outputs, then the action distribution's.

    All parameters are under params["policy"]; params["baseline"] is empty. A family provides `policy_network`, with
    `num_outputs` outputs, and `embed`.
    """

    shares_trunk: ClassVar[bool] = True

    @property
    def num_outputs(self) -> int:
        """Of the head: value, inferred task features, parameters of the action distribution."""
        return 1 + self.num_task_features + self.distribution.num_outputs

    def init(self, key: chex.PRNGKey) -> dict[str, PyTree]:
        """Draws initial parameters."""
        return {"policy": self.policy_network.init(key), "baseline": {}}

    def _split(self, outputs: chex.Array) -> PolicyOutputs:
        first = 1 + self.num_task_features
        return PolicyOutputs(outputs[..., first:], outputs[..., 1:first], outputs[..., 0])

    def values(
        self, value_params: PyTree, trial_obs: TrialObservation, task_features: chex.Array | None = None
    ) -> chex.Array:
        """The value head's output over a trial, on the scale of normalised returns; float32 [num_steps].

        Args:
          value_params: params["policy"].
          trial_obs: of the trial.
          task_features: ignored: what both heads share must not see the task.
        """
        del task_features
        value = self.policy_outputs(value_params, trial_obs).value
        assert value is not None
        return value


@dataclass(frozen=True)
class SharedVectorNetwork(SharedNetwork):
    """`networks.PolicyAndBaseline` in one: policy and value are heads of one recurrent layer (Wang et al. 2016)."""

    observation: Encoding

    @property
    def policy_network(self) -> Any:
        """Declaration of all parameters: a `RecurrentNetwork`."""
        return RecurrentNetwork(
            self.observation.size + self.action.size + 2 + self.num_time_inputs,
            self.units,
            self.num_outputs,
            self.distribution.num_constants,
            self.weight_norm,
            self.memory_horizon,
            cell=self.cell,
            learned_initial_state=self.learned_initial_state,
        )

    def embed(self, weights: NetworkWeights, trial_obs: TrialObservation) -> chex.Array:
        """The joint embedding phi(s, a, r, d): `vector_embedding`."""
        del weights
        return vector_embedding(self.observation, self.action, trial_obs)
