"""Recipes beyond the paper's: stages, each a run that starts from the one before it (docs/recipes.md).

"best-scratch" is reinforcement learning alone, from random weights, as the paper has it; "best" may do anything,
and begins by imitating a reference agent.
"""

from typing import NamedTuple

from rl2jax.config import TrainConfig
from rl2jax.envs.base import require
from rl2jax.tasks import Task

RECIPES = ("best", "best-scratch")
TEACHERS = {"bandit": "gittins_finite_horizon", "mdp": "beb_true_prior"}


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


# Privileged information in training only (docs/recipes.md): the agent sees what it always sees.
_LOW_NOISE = {"expected_rewards": True, "baseline_sees_task": True}


def stages(recipe: str, task: Task) -> tuple[Stage, ...]:
    """The stages of a recipe for a task.

    Raises:
      ValueError: if there is no such recipe, or it has nothing for this kind of task.
    """
    require(recipe in RECIPES, "recipe", recipe, f"one of {', '.join(RECIPES)}")
    require(task.kind in TEACHERS, f"task of recipe {recipe}", task.name, f"of kind {' or '.join(TEACHERS)}")
    return _best(task) if recipe == "best" else _from_scratch(task)


def _best(task: Task) -> tuple[Stage, ...]:
    """A reference agent is imitated; then reinforcement learning takes over."""
    base = task.preset("cpu")
    imitation = base.replace(
        algorithm="imitation",
        teacher=TEACHERS[task.kind],
        iterations=700,
        policy_epochs=2,
        entropy_coefficient=0.0,
        task_inference_coefficient=0.0,
    )
    reinforcement = base.replace(
        **_LOW_NOISE,
        iterations=200,
        policy_learning_rate=3e-4,
        gae_lambda=0.9,
        entropy_coefficient=0.0,
        task_inference_coefficient=0.0,
        baseline_warmup_iterations=20,
    )
    return Stage("1-imitation", task, imitation), Stage("2-reinforcement", task, reinforcement)


def _from_scratch(task: Task) -> tuple[Stage, ...]:
    """Reinforcement learning alone."""
    config = task.preset("cpu").replace(**_LOW_NOISE)
    return (Stage("1-reinforcement", task, config),)
