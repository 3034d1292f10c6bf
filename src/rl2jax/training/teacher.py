"""Who is imitated."""

from functools import cache

from rl2jax.agents import Agent, reference_agents
from rl2jax.envs.names import Task
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.trials.tuning import tuned_or_tune


def teacher_of(task: Task, config: TrainConfig) -> Agent | None:
    """The reference agent that a config imitates, with its tuned hyperparameters; None if it imitates none.

    Raises:
      ValueError: if there is no such agent.
    """
    if not config.slow_rl.needs_teacher:
        return None
    agents = reference_agents(task.env)
    require(
        config.slow_rl.teacher in agents, "imitation.teacher", config.slow_rl.teacher, f"one of {', '.join(agents)}"
    )
    values = config.slow_rl.temperature > 0
    require(
        not values or bool(agents[config.slow_rl.teacher].teaching),
        "imitation.temperature",
        config.slow_rl.temperature,
        f"0 with teacher {config.slow_rl.teacher}, which gives no values to actions",
    )
    return _tuned_agent(task, config.slow_rl.teacher, values)


@cache  # equal learners need the same teacher to share compiled code
def _tuned_agent(task: Task, name: str, reveals_values: bool) -> Agent:
    spec = reference_agents(task.env)[name]
    settings = tuned_or_tune(task, name, spec).hyperparameters
    teaching = spec.teaching if reveals_values else {}
    return spec.make(task.env, task.num_episodes, **{**spec.fixed, **settings, **teaching})
