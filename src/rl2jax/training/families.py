"""What a config describes: the trial that is played, and the networks."""

from typing import Any

from rl2jax.networks.base import Networks
from rl2jax.networks.settings import Request
from rl2jax.settings import InputError, require
from rl2jax.training.config import TrainConfig
from rl2jax.trials.trial import Trial


def make_trial(env: Any, config: TrainConfig) -> Trial:
    """The trial that a config describes."""
    return Trial(env, config.trial.num_episodes, config.trial.first_step_flag)


def make_networks(env: Any, config: TrainConfig) -> Networks:
    """The networks that a config describes, for an environment's spaces.

    Raises:
      ValueError: if the environment's spaces are not supported, it has no task features to infer, or the config asks
        of a shared network what needs a baseline of its own.
    """
    inferred, seen = config.objective.task_inference_coefficient > 0, config.baseline.sees_task
    num_task_features = env.num_task_features if inferred or seen else 0
    if (inferred or seen) and num_task_features == 0:
        field = "objective.task_inference_coefficient" if inferred else "baseline.sees_task"
        raise InputError(
            f"{field} must be {0 if inferred else 'false'} for {env.name}, whose task_features are empty, "
            f"got {config.flat()[field]}"
        )
    request = Request(num_task_features if inferred else 0, num_task_features if seen else 0)
    networks = config.network.make(env, make_trial(env, config), request)
    if networks.shares_trunk:
        warmup, allowed = (
            config.baseline.warmup_iterations,
            f"0 for {env.name}, whose policy and baseline share a network",
        )
        require(warmup == 0, "baseline.warmup_iterations", warmup, allowed)
    return networks
