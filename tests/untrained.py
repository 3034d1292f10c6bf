"""A run that was never trained, and a row of its policy, for tests of what lies on disk."""

import jax
import jax.numpy as jnp
from helpers import random_params

from rl2jax.envs.names import parse_task
from rl2jax.runs import checkpoint
from rl2jax.runs.run import create_run
from rl2jax.training.config import TrainConfig

TASK = parse_task("bandit:k=2,n=4")
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 4,
        "iterations": 3,
        "batch.size": 40,
        "network.units": 4,
        "objective.task_inference_coefficient": 1.0,
    }
)
ROW = {"task": TASK.name, "iteration": 3, "action_selection": "sample", "num_tasks": 500, "seed": 3, "mean": 2.5}
ROW |= {"standard_error": 0.05, "standard_deviation": 1.1, "command": "rl2jax compare ...", "commit": "abc"}


def untrained_run(folder, task=TASK, config=CONFIG, start=None):
    """A run folder that stands at iteration 3, with random parameters in place of a training."""
    run = create_run(folder, task, config, seed=7, start=start)
    shapes = jax.eval_shape(run.learner.init, jax.random.key(7))  # all but the policy's parameters is of no account
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)._replace(iteration=jnp.int32(3))
    params = random_params(run.learner.networks, seed=1 if start is None else 2)
    checkpoint.save(run.checkpoints, 3, state._replace(params=params))
    return run
