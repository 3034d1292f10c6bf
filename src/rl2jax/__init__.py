"""rl2jax: learning to reinforcement learn, on JAX (RL^2, Duan et al. 2016)."""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rl2jax.compiler import keep_sums

if TYPE_CHECKING:
    from rl2jax import devices, envs
    from rl2jax.config import TrainConfig, preset
    from rl2jax.seeds import train_seeds
    from rl2jax.shipped import load_agent
    from rl2jax.sweeps import train_sweep
    from rl2jax.train import train
    from rl2jax.types import Metrics, Trajectory, TrialObservation

__version__ = version("rl2jax")
__all__ = [
    "Metrics",
    "TrainConfig",
    "Trajectory",
    "TrialObservation",
    "__version__",
    "devices",
    "envs",
    "load_agent",
    "preset",
    "train",
    "train_seeds",
    "train_sweep",
]

keep_sums()

# Loaded when first used: importing gymnax starts JAX's backend, and processes must have joined each other before.
_HOMES = {
    "Metrics": "types",
    "TrainConfig": "config",
    "Trajectory": "types",
    "TrialObservation": "types",
    "load_agent": "shipped",
    "preset": "config",
    "train": "train",
    "train_seeds": "seeds",
    "train_sweep": "sweeps",
}


def __getattr__(name: str) -> Any:
    if name in ("devices", "envs"):
        return import_module(f"rl2jax.{name}")
    if name in _HOMES:
        return getattr(import_module(f"rl2jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """Importing the module `rl2jax.train` must not put it in the place of the function `rl2jax.train`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "train" or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
