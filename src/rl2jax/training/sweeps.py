"""Many settings in one program: trainings that differ in numbers of their config, each what it is by itself."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rl2jax.devices import SEEDS, put, vmap_seeds
from rl2jax.envs.base import TaskDistribution
from rl2jax.settings import require, require_known
from rl2jax.training.config import TrainConfig, parse_overrides
from rl2jax.training.learner import Learner
from rl2jax.training.seeds import SeedLearner
from rl2jax.training.update import TrainState
from rl2jax.types import Metrics


def grid(values: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Every combination of values of each setting, the last one's changing fastest; float32 [combinations] each."""
    combinations = np.array(list(itertools.product(*values.values())), np.float32)
    return dict(zip(values, combinations.T, strict=True))


def parse_settings(assignments: Sequence[str], config: TrainConfig) -> list[dict[str, float]]:
    """["objective.gae_lambda=0.3,0.9", ...] as the settings of a sweep's members: every combination; [{}] of nothing.

    Raises:
      InputError: naming the setting, the value and what is allowed.
    """
    values: dict[str, list[float]] = {}
    for assignment in assignments:
        name, equals, texts = assignment.partition("=")
        require(bool(equals and texts), "--vary", assignment, "of the form setting=value,value,...")
        require_known(name, config.swept(), "--vary setting")
        require(name not in values, "--vary", assignment, f"one list of values for {name}")
        values[name] = [parse_overrides([f"{name}={text}"], config)[name] for text in texts.split(",")]
        require(len({*values[name]}) == len(values[name]), "--vary", assignment, "without a value twice")
    return [dict(zip(values, members, strict=True)) for members in itertools.product(*values.values())]


@dataclasses.dataclass(frozen=True)
class SweepLearner(SeedLearner):
    """A `SeedLearner` whose members differ in numbers of their config too.

    Attributes:
      values: (setting, one number for each member), ...; settings in `TrainConfig.swept`.

    Raises:
      ValueError: at construction, as `train_sweep`.
    """

    values: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __post_init__(self):
        super().__post_init__()
        _require_sweepable(self.config, dict(self.values), self.num_seeds)

    def train_chunk(self, states: TrainState, length: int) -> tuple[TrainState, Metrics]:
        """`length` iterations of every member; metrics have leaves [num_seeds, length]."""
        return _train_members(self, states, {name: jnp.array(numbers) for name, numbers in self.values}, length)


def learner_of(learners: Sequence[Learner], mesh: Mesh | None) -> SeedLearner:
    """All of these in one program: learners of one task, whose configs differ in `TrainConfig.swept` settings only.

    Raises:
      ValueError: if they differ in more, or cannot be shared evenly by the mesh.
    """
    configs = [learner.config.flat() for learner in learners]
    differ = [name for name, value in configs[0].items() if any(config[name] != value for config in configs)]
    if not differ:
        return SeedLearner(learners[0], len(learners), mesh)
    values = tuple((name, tuple(config[name] for config in configs)) for name in differ)
    return SweepLearner(learners[0], len(learners), mesh, values)


def train_sweep(
    env: TaskDistribution,
    config: TrainConfig,
    keys: chex.PRNGKey,
    values: Mapping[str, chex.Array],
    *,
    states: TrainState | None = None,
    mesh: Mesh | None = None,
    slow_rl: Any = None,
) -> tuple[TrainState, Metrics]:
    """Trains one agent for each member of a sweep, all in one program; each as `train` would with its settings.

    Args:
      env: the task distribution.
      config: all other settings, the same for all.
      keys: the trainings' randomness, [num_members]; one key repeated compares settings on the same tasks and draws.
      values: of settings in `config.swept()`; float32 [num_members] each, as from `grid`.
      states: continue from these, [num_members], all at the same iteration, to `config.iterations`.
      mesh: devices that share the members, from `devices.make_mesh(devices, "seeds")`.
      slow_rl: as in `train`.

    Returns:
      (states, metrics) with leaves [num_members, ...] and [num_members, iterations done]; a member whose update was
      not finite stays where it was, see `metrics.finite`.

    Raises:
      InputError: for a setting that cannot be swept, a value that the config does not allow, or members that the
        devices cannot share evenly.
    """
    config = config if slow_rl is None else config.replace(slow_rl=slow_rl)
    num_members = keys.shape[0]
    if mesh is not None:
        even = f"a multiple of the number of devices ({mesh.size})"
        require(num_members % mesh.size == 0, "number of keys", num_members, even)
    _require_sweepable(config, values, num_members)
    learner = SeedLearner(Learner(env, config), num_members, mesh)
    start = learner.init(keys) if states is None else learner.place(states)
    done = 0 if states is None else int(states.iteration[0])
    numbers = {name: jnp.asarray(of_members, jnp.float32) for name, of_members in sorted(values.items())}
    return _train(learner, start, put(numbers, mesh, PartitionSpec(SEEDS)), config.iterations - done)


def _require_sweepable(config: TrainConfig, values: Mapping[str, chex.Array], num_members: int) -> None:
    for name, of_members in values.items():
        require_known(name, config.swept(), "swept setting")
        require(np.shape(of_members) == (num_members,), name, np.shape(of_members), f"of shape ({num_members},)")
    # An auxiliary head, and a check of the KL, are in the program or not.
    settings = config.flat()
    inference = "objective.task_inference_coefficient"
    if inference in values:
        require(settings[inference] > 0, f"{inference} of the config", settings[inference], "> 0 where it is swept")
    for name in (name for name in values if name.endswith(".max_kl")):
        for limit in (settings[name], *np.asarray(values[name])):
            require(bool(np.isfinite(limit)), name, limit, "finite where it is swept")
    for member in range(num_members):
        config.replace({name: float(of_members[member]) for name, of_members in values.items()})


@partial(jax.jit, static_argnums=(0, 3))
def _train(
    learner: SeedLearner, states: TrainState, numbers: dict[str, jax.Array], length: int
) -> tuple[TrainState, Metrics]:
    return _train_members(learner, states, numbers, length)


def _train_members(
    learner: SeedLearner, states: TrainState, numbers: dict[str, jax.Array], length: int
) -> tuple[TrainState, Metrics]:
    def member(state, values):
        return learner.learner.train_chunk(state, length, learner.config.replace(values))

    return vmap_seeds(member, learner.mesh)(states, numbers)
