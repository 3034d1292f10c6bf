"""What is known of a kind of task's limit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex

from rl2jax.agents.base import ReferenceAgent


class Limit(NamedTuple):
    """What no agent can pass on average.

    Attributes:
      exact: the Bayes-optimal expected total reward of a trial, or None where it is not known.
      upper_bound: on any agent's expected total reward; `exact` where that is known.
      upper_bound_standard_error: of an upper bound estimated by sampling; 0 for the others.
      method: "dynamic programming", "lagrangian relaxation", "information relaxation", or "oracle".
    """

    exact: float | None
    upper_bound: float
    upper_bound_standard_error: float
    method: str


class Sample(NamedTuple):
    """What a limit that is estimated is estimated with.

    Attributes:
      num_tasks: tasks to average over.
      seed: of scenarios that are drawn.
      key: of the tasks, as for `evaluate.evaluate`.
    """

    num_tasks: int
    seed: int
    key: chex.PRNGKey


class KnownLimit(NamedTuple):
    """The limit of a kind of task.

    Attributes:
      words: names of tasks that have one.
      value: (env, num_episodes, sample) -> the limit.
      best_known: reference agents, the best one first; the first that can play is the best policy known.
      holds: whether a task distribution has it.
      optimal: (env, num_episodes) -> the agent that reaches it, or None where that cannot be computed.
    """

    words: str
    value: Callable[[Any, int, Sample], Limit]
    best_known: tuple[str, ...]
    holds: Callable[[Any], bool] = lambda env: True
    optimal: Callable[[Any, int], ReferenceAgent | None] = lambda env, num_episodes: None
