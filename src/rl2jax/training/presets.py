"""Presets: the settings of the papers, and of trainings that a laptop can do."""

import math
from typing import Any

from rl2jax.envs.names import Task
from rl2jax.kinds import Kind, find_kind
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig

# The paper's tables (appendix A). The MDPs of table 2 run 10000 iterations, bandits 1000.
_PAPER = TrainConfig()
# For a laptop, by measurement (docs/appendix_recipes.md): half the units, small batches, many small first-order steps,
# and update gates that start with memory on every time scale up to the trial's length.
_CPU = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "iterations": 1000,
        "batch.size": 20_000,
        "slow_rl.max_kl": math.inf,
        "objective.entropy_coefficient": 0.03,
        "objective.entropy_schedule": "linear",
        "ppo.clip_range": 0.2,
        "slow_rl.epochs": 4,
        "slow_rl.learning_rate": 3e-3,
        "baseline.epochs": 4,
        "baseline.learning_rate": 3e-3,
        "optimiser.schedule": "linear",
        "network.units": 128,
    }
)
# Wang et al. 2016: an LSTM of 48 units with policy and value heads, shown the time; advantages and returns as they are;
# the entropy's weight from 1 to 0. They searched discount and learning rate for each task. Their bandits saw 20000
# trials; here 20 at a time make a step. With two independent arms and 100 pulls, after 20000 trials of one seed, 10000
# other trials returned 54.9, 62.9 and 64.2 at learning rates of 0.0007, 0.002 and 0.007.
_WANG = TrainConfig().replace(
    {
        "slow_rl": "a2c",
        "iterations": 1000,
        "objective.discount": 0.9,
        "objective.gae_lambda": 1.0,
        "objective.normalise_advantages": False,
        "objective.normalise_returns": False,
        "objective.entropy_coefficient": 1.0,
        "objective.entropy_schedule": "linear",
        "optimiser.name": "rmsprop",
        "slow_rl.learning_rate": 7e-3,
        "network.shared_trunk": True,
        "baseline.loss_coefficient": 0.05,
        "network.cell": "lstm",
        "network.units": 48,
        "network.activation": "tanh",
        "network.weight_norm": False,
        "network.time_input": True,
    }
)
PRESETS: dict[str, TrainConfig] = {
    "paper": _PAPER,
    "paper-first-order": _PAPER.replace({"slow_rl": "ppo"}),
    "cpu": _CPU,
    "quick": _CPU.replace({"iterations": 150, "batch.size": 10_000, "network.units": 64}),
    "wang": _WANG,
}
# Where a kind of task needs other settings, its `Kind` says so, beside its distribution.
# The laptop presets size minibatches by time steps, since trials differ in length fifty-fold.
_LAPTOP = ("cpu", "quick")
_BASELINE_MINIBATCH_STEPS, _FEWEST_TRIALS = 5_000, 5
_WANG_TRIALS = 20
_SHORT_TRIAL = 20


def preset(name: str, kind: str | Kind = "bandit", num_episodes: int = 10, episode_length: int = 1) -> TrainConfig:
    """A preset, for trials of `num_episodes` episodes of up to `episode_length` steps.

    Args:
      name: one of `PRESETS`.
      kind: of task: "bandit", "mdp", or anything else for one's own.
      num_episodes: n.
      episode_length: as `TaskDistribution.episode_length`.

    Raises:
      ValueError: if there is no such preset.
    """
    require(name in PRESETS, "preset", name, f"one of {', '.join(PRESETS)}")
    kind = find_kind(kind) if isinstance(kind, str) else kind
    changes: dict[str, Any] = {"trial.num_episodes": num_episodes, **kind.presets.get(name, {})}
    trial_length = num_episodes * episode_length
    if name == "wang":
        changes["batch.size"] = _WANG_TRIALS * trial_length
    if name in _LAPTOP:
        policy_steps = min(kind.policy_minibatch_steps, PRESETS[name].batch.size // 8)
        changes |= {
            "slow_rl.minibatch_trials": max(_FEWEST_TRIALS, policy_steps // trial_length),
            "baseline.minibatch_trials": max(_FEWEST_TRIALS, _BASELINE_MINIBATCH_STEPS // trial_length),
            "network.memory_horizon": trial_length,
        }
    if trial_length <= _SHORT_TRIAL:
        changes |= kind.short_trials.get(name, {})
    return PRESETS[name].replace(**changes)


def preset_for(task: Task, name: str) -> TrainConfig:
    """The preset `name`, for trials of a task."""
    return preset(name, task.kind, task.num_episodes, task.env.episode_length)
