"""rl2jax: learning to reinforcement learn, on JAX (RL^2, Duan et al. 2016)."""

from importlib.metadata import version

from rl2jax import envs
from rl2jax.config import TrainConfig, preset
from rl2jax.train import train
from rl2jax.types import Metrics, Trajectory, TrialObservation

__version__ = version("rl2jax")
__all__ = [
    "Metrics",
    "TrainConfig",
    "Trajectory",
    "TrialObservation",
    "__version__",
    "envs",
    "preset",
    "train",
]
