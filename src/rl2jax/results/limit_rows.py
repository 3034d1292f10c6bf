"""The limit of a task distribution as a row: the bound, its method, and the best policy known."""

import jax

from rl2jax.envs.names import Task
from rl2jax.files import git_commit
from rl2jax.kinds import all_kinds, load
from rl2jax.limits import Sample, limit_of
from rl2jax.results.compare import known_agents, reference_contender
from rl2jax.results.rows import LIMIT, LimitRow
from rl2jax.settings import InputError
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import tuned_or_tune


def limit_row(task: Task, num_tasks: int, seed: int) -> LimitRow:
    """The limit of a task distribution.

    Args:
      task: of a kind whose limit is known.
      num_tasks: tasks on which the best known policy is played, and over which the oracle of MDPs is averaged.
      seed: of those tasks, and of a bound that is sampled.

    Raises:
      ValueError: for a task distribution without a known limit.
    """
    known_limit = limit_of(task.env)
    if known_limit is None:
        *others, last = (load(kind.limit).words for kind in all_kinds() if kind.limit)
        raise InputError(f"limits are known for {', '.join(others)} and {last}, got {task.name}")
    limit = known_limit.value(task.env, task.num_episodes, Sample(num_tasks, seed, evaluation_key(seed)))
    known = known_agents(task)
    best = next(name for name in known_limit.best_known if name in known)
    agent = reference_contender(task, best, known[best], tuned_or_tune(task, best, known[best])).agent
    played = evaluate(agent, Trial(task.env, task.num_episodes), num_tasks, evaluation_key(seed))
    return LimitRow(
        task=task.name,
        agent=LIMIT,
        num_tasks=num_tasks,
        seed=seed,
        mean=limit.upper_bound if limit.exact is None else limit.exact,
        standard_error=limit.upper_bound_standard_error,
        exact=limit.exact,
        upper_bound=limit.upper_bound,
        upper_bound_standard_error=limit.upper_bound_standard_error,
        method=limit.method,
        best_policy=best,
        best_policy_mean=played.mean,
        best_policy_standard_error=played.standard_error,
        jax=jax.__version__,
        commit=git_commit(),
    )
