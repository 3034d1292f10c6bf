"""rl2jax: learning to reinforcement learn, on JAX (RL^2, Duan et al. 2016)."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rl2jax.xla import keep_sums

if TYPE_CHECKING:
    from rl2jax import agents, devices, envs, limits
    from rl2jax.envs.names import parse_task
    from rl2jax.runs.shipped import load_agent
    from rl2jax.training.config import TrainConfig
    from rl2jax.training.loop import train
    from rl2jax.training.presets import preset
    from rl2jax.training.seeds import train_seeds
    from rl2jax.training.sweeps import train_sweep
    from rl2jax.trials.evaluate import evaluate, evaluation_key
    from rl2jax.trials.rollout import rollout
    from rl2jax.trials.trial import Trial
    from rl2jax.types import Metrics, Trajectory, TrialObservation

__version__ = version("rl2jax")
__all__ = [
    "Metrics",
    "TrainConfig",
    "Trajectory",
    "Trial",
    "TrialObservation",
    "__version__",
    "agents",
    "devices",
    "envs",
    "evaluate",
    "evaluation_key",
    "limits",
    "load_agent",
    "parse_task",
    "preset",
    "rollout",
    "train",
    "train_seeds",
    "train_sweep",
]

keep_sums()

# Loaded when first used: importing gymnax starts JAX's backend, and processes must have joined each other before.
_HOMES = {
    "Metrics": "types",
    "TrainConfig": "training.config",
    "Trajectory": "types",
    "Trial": "trials.trial",
    "TrialObservation": "types",
    "evaluate": "trials.evaluate",
    "evaluation_key": "trials.evaluate",
    "load_agent": "runs.shipped",
    "parse_task": "envs.names",
    "preset": "training.presets",
    "rollout": "trials.rollout",
    "train": "training.loop",
    "train_seeds": "training.seeds",
    "train_sweep": "training.sweeps",
}


def __getattr__(name: str) -> Any:
    if name in ("agents", "devices", "envs", "limits"):
        return import_module(f"rl2jax.{name}")
    if name in _HOMES:
        return getattr(import_module(f"rl2jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
