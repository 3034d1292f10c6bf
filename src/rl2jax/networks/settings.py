"""Settings of the networks, one class a family."""

from dataclasses import dataclass
from typing import ClassVar

from rl2jax.settings import Section, bounded, choice


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
    """

    section: ClassVar[str] = "network"
    name: ClassVar[str] = ""
    units: int = bounded(256, at_least=1)
    activation: str = choice("relu", "tanh")
    weight_norm: bool = True
    memory_horizon: int = bounded(0, at_least=0)
    matmul_precision: str = choice("default", "float32", "bfloat16")


@dataclass(frozen=True)
class Recurrent(NetworkSettings):
    """One recurrent layer for all, the paper's; with a convolutional trunk for frames.

    Attributes:
      cell: the recurrent layer; layer_norm_gru is a GRU with layer normalisation (Ba et al. 2016).
      learned_initial_state: the state at a trial's start is a parameter, which starts at 0; False, the paper's: zeros.
      episodic_units: share of the units, to the nearest unit, that are set back to their value at a trial's start
        whenever an episode starts; 0: all of them remember the whole trial. (Duan et al. 2016, section 2.3, saw no
        gain in resetting a part.)
      time_input: the network sees the step's index in the trial, divided by the trial's number of steps (Wang et al.
        2016).
      shared_trunk: policy and baseline are two heads of one network, trained in one loss. Frames always have such a
        network (appendix A.3).
    """

    name: ClassVar[str] = "recurrent"
    cell: str = choice("gru", "layer_norm_gru", "lstm")
    learned_initial_state: bool = False
    episodic_units: float = bounded(0.0, at_least=0, at_most=1)
    time_input: bool = False
    shared_trunk: bool = False


@dataclass(frozen=True)
class PerArm(NetworkSettings):
    """A memory for each action, all with one GRU, for bandits (`per_arm`); beyond the paper. Always sees the time."""

    name: ClassVar[str] = "per_arm"


@dataclass(frozen=True)
class PerPair(NetworkSettings):
    """A memory for each state and action, and messages between states (`per_pair`); beyond the paper.

    For Discrete observations and actions. Always sees the time.
    """

    name: ClassVar[str] = "per_pair"


@dataclass(frozen=True)
class Planner(NetworkSettings):
    """Counts of what was seen in each state, and value iteration on them with learned bonuses (`planning`).

    For Discrete observations and actions; beyond the paper.

    Attributes:
      initial_bonus: what the plan adds at first, divided by 2 + visits, to the reward of each action.
    """

    name: ClassVar[str] = "planner"
    initial_bonus: float = bounded(1.5, at_least=0)


@dataclass(frozen=True)
class OwnNetwork(NetworkSettings):
    """A user's own memory between the usual trunk and heads.

    Attributes:
      target: "package.module:object", of which `rl2jax.settings.load_object` is the model.
    """

    target: str = ""


NETWORKS: dict[str, type[NetworkSettings]] = {family.name: family for family in (Recurrent, Planner, PerArm, PerPair)}
