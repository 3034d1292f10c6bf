"""Recipes beyond the paper's: stages, each a run that starts from the one before it (docs/recipes.md).

"best-scratch" is reinforcement learning alone, from random weights, as the paper has it; "best" may do anything,
and begins by imitating a reference agent, or in MDPs with a network that plans as one does.
"""

import math
from typing import NamedTuple

from rl2jax.envs.names import Task
from rl2jax.kinds import all_kinds, load
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.presets import preset_for

RECIPES = ("best", "best-scratch")


class Stage(NamedTuple):
    """One training.

    Attributes:
      name: of its folder.
      task: what it is trained on; the last stage's is the recipe's.
      config: all settings.
    """

    name: str
    task: Task
    config: TrainConfig


# Imitation needs neither a bonus for random actions nor help with what the trial tells of the task.
_IMITATION = {
    "slow_rl": "imitation",
    "slow_rl.epochs": 2,
    "objective.entropy_coefficient": 0.0,
    "objective.task_inference_coefficient": 0.0,
}
# A baseline that is told the arms' probabilities, and rewards without their noise, leave little variance.
_PER_ARM = {
    "network": "per_arm",
    "network.units": 32,
    "iterations": 100,
    "baseline.epochs": 2,
    "objective.expected_rewards": True,
    "baseline.sees_task": True,
}
_PER_PAIR = {
    "network": "per_pair",
    "network.units": 16,
    "network.activation": "tanh",
    "network.memory_horizon": 10,
    "objective.entropy_coefficient": 0.0,
    "slow_rl.epochs": 3,
    "objective.expected_rewards": True,
    "baseline.sees_task": True,
}
_STEPS_OF_PAIRS, _STEPS_OF_PLANNERS, _FEWEST_TRIALS = 20_000, 40_000, 100  # in a batch
_EXPLORER_STEPS_PER_CELL = 2.4  # about twice what it needs in an episode
_SHORT, _LONG, _FEW_ARMS, _MANY_ARMS = 20, 100, 5, 20  # pulls, pulls, arms, arms
# The gradient of a rectified GRU explodes now and then, and Adam would take small steps for long; over hundreds of
# steps the network itself does.
_CLIPPED, _BOUNDED = {"optimiser.clip": 0.1}, {"network.activation": "tanh"}


def stages(recipe: str, task: Task) -> tuple[Stage, ...]:
    """The stages of a recipe for a task.

    Raises:
      ValueError: if there is no such recipe, or it has nothing for this kind of task.
    """
    require(recipe in RECIPES, "recipe", recipe, f"one of {', '.join(RECIPES)}")
    known = [kind.name for kind in all_kinds() if recipe in kind.recipes]
    require(recipe in task.kind.recipes, f"task of recipe {recipe}", task.name, f"of kind {' or '.join(known)}")
    made = load(task.kind.recipes[recipe])(task)
    return (Stage("1-reinforcement", task, made),) if isinstance(made, TrainConfig) else made


def takes_most_likely(recipe: str, task: Task) -> bool:
    """Whether a recipe's agents take the most likely action: planners explore by their bonuses, not by chance.

    Without a plan chance is needed in long trials.
    """
    return task.num_episodes <= stages(recipe, task)[-1].config.network.sure_episodes


def reinforced_bandit(task: Task) -> TrainConfig:
    """The preset where one recurrent layer has little to learn; otherwise a memory for each arm.

    With it tens of iterations do what takes one recurrent layer a thousand.
    """
    config = preset_for(task, "cpu")
    arms = task.env.action_space(None).n
    if task.num_episodes <= _SHORT and arms <= _FEW_ARMS:  # the preset's 400 iterations come to 99.73% of the optimum
        return config.replace({"iterations": 800, "objective.expected_rewards": True, "baseline.sees_task": True})
    if task.num_episodes <= _SHORT or (task.num_episodes <= _LONG and arms <= _FEW_ARMS):
        return config
    # At 0.7 some cells unlearned what exploring is worth; many arms and few pulls did not, and did not try 0.97.
    many, long = arms > _MANY_ARMS, task.num_episodes > _LONG
    config = config.replace({**_PER_ARM, "objective.gae_lambda": 0.7 if many and not long else 0.97})
    if not long:
        return config
    trials = {"slow_rl.minibatch_trials": 10, "baseline.minibatch_trials": 20, "batch.size": 80 * task.num_episodes}
    return config.replace({**_CLIPPED, **_BOUNDED, **trials, "iterations": 300})


def reinforced_mdp(task: Task) -> TrainConfig:
    """A memory for each pair of state and action; with it a hundred iterations are enough."""
    short, steps = task.num_episodes <= _SHORT, task.num_episodes * task.env.episode_length
    trials = max(_FEWEST_TRIALS, _STEPS_OF_PAIRS // steps)
    return preset_for(task, "cpu").replace(
        {
            **_PER_PAIR,
            "objective.gae_lambda": 0.9 if short else 0.97,
            "iterations": 100 if short else 80,
            "batch.size": trials * steps,
            "slow_rl.minibatch_trials": trials // 10,
            "baseline.minibatch_trials": trials // 10,
        }
    )


def reinforced_maze(task: Task) -> TrainConfig:
    """The preset."""
    return preset_for(task, "cpu")


def imitated_bandit(task: Task) -> tuple[Stage, ...]:
    """A memory for each arm, for the teacher's index of an arm depends on that arm and on the time.

    The teacher is within 0.05% of the optimum where that is known. In short trials one GRU copies it more closely.
    """
    teacher = {"imitation.teacher": task.kind.teacher}
    config = preset_for(task, "cpu").replace({**_IMITATION, **teacher, "iterations": 300})
    if task.num_episodes > _SHORT:
        config = config.replace(
            {
                **_CLIPPED,
                **_BOUNDED,
                "network": "per_arm",
                "network.units": _PER_ARM["network.units"],
                "iterations": 200 if task.num_episodes <= _LONG else 300,
                "optimiser.schedule": "cosine",
                "slow_rl.minibatch_trials": 10,
            }
        )
    return (Stage("1-imitation", task, config),)


def planned_mdp(task: Task) -> tuple[Stage, ...]:
    """A network that plans begins above the teacher, and reinforcement goes on from there.

    The longer the trial, the more exploring is worth, and the later it pays: a larger bonus, and returns to the trial's
    end in place of a baseline that does not know what exploring is worth.
    """
    short, steps = task.num_episodes <= _SHORT, task.num_episodes * task.env.episode_length
    trials = max(_FEWEST_TRIALS, _STEPS_OF_PLANNERS // steps)
    config = preset_for(task, "cpu").replace(
        {
            "network": "planner",
            "network.initial_bonus": 0.5 + math.log10(task.num_episodes),
            "network.units": 32,
            "objective.task_inference_coefficient": 0.0,
            "objective.entropy_coefficient": 0.0,
            "objective.expected_rewards": True,
            "batch.size": trials * steps,
            "objective.gae_lambda": 0.9 if short else 1.0,
            "iterations": 60 if short else 10,
            "slow_rl.epochs": 3 if short else 2,
            "slow_rl.learning_rate": 2e-3 if short else 3e-4,
            "slow_rl.minibatch_trials": trials // 10,
            "baseline.minibatch_trials": trials // 10,
        }
    )
    return (Stage("1-reinforcement", task, config),)


def imitated_maze(task: Task) -> tuple[Stage, ...]:
    """The teacher knows where it is; at a short horizon nearly all of a batch is trials, and not what follows them.

    Who imitates gets stuck where the teacher never was: so the student plays half of the steps, then all, for reward.
    """
    env = task.env

    def within(share: float) -> Task:
        steps = round(share * _EXPLORER_STEPS_PER_CELL * env.size**2)
        return task.with_settings(t=min(env.episode_length, steps))

    def trials(of: Task, number: int) -> int:
        return number * of.num_episodes * of.env.episode_length

    short, longer = within(1.0), within(2.0)
    memory = {"network.memory_horizon": trials(longer, 1)}
    imitation = preset_for(short, "cpu").replace(
        {
            **_IMITATION | memory | {"objective.task_inference_coefficient": 0.5},
            "imitation.teacher": task.kind.teacher,
            "imitation.student_share": 0.2,
            "iterations": 200,
            "batch.size": trials(short, 100),
            "slow_rl.minibatch_trials": 10,
            "slow_rl.learning_rate": 1e-3,
            "optimiser.schedule": "cosine",
        }
    )
    second = imitation.replace(
        {
            "imitation.student_share": 0.5,
            "iterations": 100,
            "batch.size": trials(longer, 50),
            "slow_rl.minibatch_trials": 5,
            "slow_rl.learning_rate": 8e-4,
        }
    )
    # For reward trial follows trial, at the whole horizon: no step is played after a trial's end.
    reinforcement = preset_for(task, "cpu").replace(
        {
            **memory,
            "objective.entropy_coefficient": 0.0,
            "iterations": 300,
            "slow_rl.epochs": 3,
            "batch.lane_steps": trials(task, 1),
            "batch.size": trials(task, 60),
            "slow_rl.minibatch_trials": 10,
            "slow_rl.learning_rate": 3e-4,
        }
    )
    return (
        Stage("1-imitation", short, imitation),
        Stage("2-imitation", longer, second),
        Stage("3-reinforcement", task, reinforcement),
    )
