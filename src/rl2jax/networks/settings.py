"""Settings of the networks, one class a family, each of which makes its networks.

`NETWORKS` is the only list of families. A module of networks is imported when it is first made.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from rl2jax.envs.base import spaces
from rl2jax.settings import Section, bounded, choice, field_names, load_object, require
from rl2jax.trials.trial import Trial, starts_alike


class Request(NamedTuple):
    """The heads that a training asks for beside a policy's and a value's.

    Attributes:
      inferred: features of the task that the policy's network predicts; 0: no such head.
      told: features of the task that the baseline is told; 0: none.
    """

    inferred: int = 0
    told: int = 0


@dataclass(frozen=True)
class NetworkSettings(Section):
    """What all families have.

    Attributes:
      units: hidden units of the recurrent layer, in policy and baseline; of per_arm and per_pair those of each memory.
      activation: of the GRU's candidate, or the LSTM's candidate and output.
      weight_norm: weight normalisation on every matrix.
      memory_horizon: steps over which the GRU's update gates, or the LSTM's forget and input gates, are initialised to
        remember (Tallec & Ollivier 2018); 0, the paper's, starts all biases at 0.
      matmul_precision: of the matrix products in the recurrent layer and before it: "default" (the device's own),
        "float32" or "bfloat16"; see `products.product`.
      takes_lanes: whether its networks can be unrolled over lanes (`BatchSettings.lane_steps`).
      sure_episodes: episodes of a trial up to which its agents' most likely action is as good as a sampled one, or
        better: they explore by what they plan, not by chance.
    """

    section: ClassVar[str] = "network"
    name: ClassVar[str] = ""
    takes_lanes: ClassVar[bool] = False
    sure_episodes: ClassVar[float] = 0
    units: int = bounded(256, at_least=1)
    activation: str = choice("relu", "tanh")
    weight_norm: bool = True
    memory_horizon: int = bounded(0, at_least=0)
    matmul_precision: str = choice("default", "float32", "bfloat16")

    @property
    def title(self) -> str:
        """What it is called in one word."""
        return self.name

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """The networks for a task distribution's spaces: a `networks.base.Networks`.

        Args:
          env: the task distribution.
          trial: what is played.
          request: the heads that are asked for.

        Raises:
          InputError: if these networks are not for such spaces, or do not have what is asked for.
        """
        raise NotImplementedError

    def common(self, env: Any, request: Request) -> dict[str, Any]:
        """Attributes of `networks.base.Networks` that all families take from here."""
        from rl2jax.networks.base import distribution_for, encoding_for

        action_space = env.action_space(None)
        return {
            "action": encoding_for(action_space, "action space"),
            "distribution": distribution_for(action_space),
            "num_task_features": request.inferred,
            "units": self.units,
            "activation": self.activation,
            "weight_norm": self.weight_norm,
            "memory_horizon": self.memory_horizon,
            "matmul_precision": self.matmul_precision,
        }

    def require_discrete(self, env: Any, *names: str) -> None:
        """Raises InputError unless these spaces of an environment are tables."""
        for name in names:
            space = getattr(env, name)(None)
            require(
                isinstance(space, spaces.Discrete), name.replace("_", " "), space, f"Discrete for network {self.name}"
            )

    def require_features(self, env: Any, request: Request, number: int, of: str) -> None:
        """Raises InputError unless task features that are asked for are one for each memory."""
        allowed = f"{number} for network {self.name}, one for each {of} of {env.name}, or 0"
        asked = request.inferred or request.told
        require(asked in (0, number), "number of task features", asked, allowed)


@dataclass(frozen=True)
class WithTrunk(NetworkSettings):
    """Networks of a trunk, a memory and heads (`networks.recurrent`); the trunk is convolutional for frames.

    Attributes:
      time_input: the network sees the step's index in the trial, divided by the trial's number of steps (Wang et al.
        2016).
      shared_trunk: policy and baseline are two heads of one network, trained in one loss. Frames always have such a
        network (appendix A.3).
      shares_start: whether trials that start alike take their first step once for all (`unroll.unroll_layer`).
    """

    takes_lanes: ClassVar[bool] = True
    shares_start: ClassVar[bool] = False
    time_input: bool = False
    shared_trunk: bool = False

    def memory(self, input_size: int) -> Any:
        """What comes between trunk and heads, with so many inputs."""
        raise NotImplementedError

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """As `NetworkSettings.make`."""
        from rl2jax.networks.base import encoding_for
        from rl2jax.networks.frames import frames_for, shows_frames
        from rl2jax.networks.recurrent import MemoryNetworks

        space, common = env.observation_space(None), self.common(env, request)
        frames = shows_frames(space)
        shared = frames or self.shared_trunk
        if shared:
            allowed = f"false for {env.name}, whose policy and baseline share a network"
            require(not request.told, "baseline.sees_task", True, allowed)
        observation = frames_for(space) if frames else encoding_for(space, "observation space")
        embedding = observation.trunk(common["action"], self).size
        # Not with rounded products: what all trials have in common at the start is given the sum of their gradients,
        # which would be rounded as one number, where roundings of many even out.
        alike = not frames and self.matmul_precision != "bfloat16" and starts_alike(trial)
        return MemoryNetworks(
            observation=observation,
            memory=self.memory(embedding + self.time_input),
            trial_steps=trial.num_steps if self.time_input else 0,
            shared_trunk=shared,
            num_baseline_task_inputs=request.told,
            starts_alike=alike and self.shares_start,
            **common,
        )


@dataclass(frozen=True)
class Recurrent(WithTrunk):
    """One recurrent layer for all, the paper's; with a convolutional trunk for frames.

    Attributes:
      cell: the recurrent layer; layer_norm_gru is a GRU with layer normalisation (Ba et al. 2016).
      learned_initial_state: the state at a trial's start is a parameter, which starts at 0; False, the paper's: zeros.
      episodic_units: share of the units, to the nearest unit, that are set back to their value at a trial's start
        whenever an episode starts; 0: all of them remember the whole trial. (Duan et al. 2016, section 2.3, saw no
        gain in resetting a part.)
    """

    name: ClassVar[str] = "recurrent"
    shares_start: ClassVar[bool] = True
    cell: str = choice("gru", "layer_norm_gru", "lstm")
    learned_initial_state: bool = False
    episodic_units: float = bounded(0.0, at_least=0, at_most=1)

    @property
    def title(self) -> str:
        """The cell's name."""
        return self.cell.upper()

    def memory(self, input_size: int) -> Any:
        """The recurrent layer."""
        from rl2jax.networks.cells import RecurrentLayer

        del input_size
        return RecurrentLayer(
            units=self.units,
            cell=self.cell,
            activation=self.activation,
            matmul_precision=self.matmul_precision,
            memory_horizon=self.memory_horizon,
            weight_norm=self.weight_norm,
            learned_initial_state=self.learned_initial_state,
            episodic_units=self.episodic_units,
            flag=-2 if self.time_input else -1,
        )


@dataclass(frozen=True)
class PerArm(NetworkSettings):
    """A memory for each action, all with one GRU, for bandits (`per_arm`); beyond the paper. Always sees the time."""

    name: ClassVar[str] = "per_arm"

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """As `NetworkSettings.make`."""
        from rl2jax.networks.base import encoding_for
        from rl2jax.networks.per_arm import PerArmNetworks, is_constant

        self.require_discrete(env, "action_space")
        self.require_features(env, request, env.action_space(None).n, "action")
        space = env.observation_space(None)
        return PerArmNetworks(
            observation=encoding_for(space, "observation space"),
            sees_observation=not is_constant(space),
            baseline_sees_task=request.told > 0,
            trial_steps=trial.num_steps,
            **self.common(env, request),
        )


@dataclass(frozen=True)
class PerPair(NetworkSettings):
    """A memory for each state and action, and messages between states (`per_pair`); beyond the paper.

    For Discrete observations and actions. Always sees the time.
    """

    name: ClassVar[str] = "per_pair"
    sure_episodes: ClassVar[float] = 50

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """As `NetworkSettings.make`."""
        from rl2jax.networks.base import encoding_for
        from rl2jax.networks.per_pair import PerPairNetworks

        self.require_discrete(env, "observation_space", "action_space")
        space = env.observation_space(None)
        self.require_features(env, request, space.n * env.action_space(None).n, "state and action")
        return PerPairNetworks(
            observation=encoding_for(space, "observation space"),
            baseline_sees_task=request.told > 0,
            horizon=env.episode_length,
            trial_steps=trial.num_steps,
            **self.common(env, request),
        )


@dataclass(frozen=True)
class Planner(NetworkSettings):
    """Counts of what was seen in each state, and value iteration on them with learned bonuses (`planning`).

    For Discrete observations and actions; beyond the paper.

    Attributes:
      initial_bonus: what the plan adds at first, divided by 2 + visits, to the reward of each action.
    """

    name: ClassVar[str] = "planner"
    sure_episodes: ClassVar[float] = math.inf
    initial_bonus: float = bounded(1.5, at_least=0)

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """As `NetworkSettings.make`."""
        from rl2jax.networks.base import encoding_for
        from rl2jax.networks.planning import PlanningNetwork

        self.require_discrete(env, "observation_space", "action_space")
        for name, asked in (
            ("objective.task_inference_coefficient", request.inferred),
            ("baseline.sees_task", request.told),
        ):
            require(not asked, name, bool(asked), "0 or false with network planner")
        return PlanningNetwork(
            observation=encoding_for(env.observation_space(None), "observation space"),
            horizon=env.episode_length,
            initial_bonus=self.initial_bonus,
            trial_steps=trial.num_steps,
            **self.common(env, request),
        )


@dataclass(frozen=True)
class OwnNetwork(WithTrunk):
    """A user's own memory between the usual trunk and heads: a `memory.SequenceModel`, or a Flax module.

    Attributes:
      target: "package.module:object", of which `rl2jax.settings.load_object` is the memory, or its class: a class is
        made with those of units (Flax calls them features), activation, weight_norm, memory_horizon and
        matmul_precision that it has arguments for.
    """

    target: str = ""

    @property
    def title(self) -> str:
        """The object's name."""
        return self.target.partition(":")[2]

    def memory(self, input_size: int) -> Any:
        """What the target names.

        Raises:
          InputError: if it is no memory; one line says what it lacks.
        """
        from rl2jax.networks.memory import OwnMemory, made_with

        settings = {own: getattr(self, own) for own in field_names(NetworkSettings)} | {"features": self.units}
        given = made_with(load_object(self.target, "network"), settings, self.target)
        memory = OwnMemory(given, input_size)
        return memory.checked(self.target)

    def make(self, env: Any, trial: Trial, request: Request) -> Any:
        """As `NetworkSettings.make`."""
        require(not request.told, "baseline.sees_task", True, "false with a network of one's own")
        return super().make(env, trial, request)


NETWORKS: dict[str, type[NetworkSettings]] = {family.name: family for family in (Recurrent, Planner, PerArm, PerPair)}
