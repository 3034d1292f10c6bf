"""The limit of a task distribution as a row: the bound, its method, and the best policy known."""

import jax

from rl2jax.envs import BernoulliBandit, DependentBandit, TabularMDP
from rl2jax.envs.names import Task
from rl2jax.files import git_commit
from rl2jax.limits import Limit, bandit_limit, dependent_value, oracle_bound
from rl2jax.results.compare import known_agents, reference_contender
from rl2jax.results.rows import LIMIT, LimitRow
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import tuned_or_tune

_BEST_KNOWN = {
    "bandit": ("bayes_optimal", "gittins_finite_horizon", "gittins"),
    "mdp": ("beb_true_prior",),
    "dependent": ("bayes_optimal",),
}


def limit_row(task: Task, num_tasks: int, seed: int) -> LimitRow:
    """The limit of a task distribution.

    Args:
      task: bandits of uniform or of dependent arms, or tabular MDPs.
      num_tasks: tasks on which the best known policy is played, and over which the oracle of MDPs is averaged.
      seed: of those tasks, and of a bound that is sampled.

    Raises:
      ValueError: for a task distribution without a known limit.
    """
    if isinstance(task.env, BernoulliBandit) and task.env.is_uniform:
        limit = bandit_limit(task.env.num_arms, task.num_episodes, seed)
    elif isinstance(task.env, DependentBandit):
        value = dependent_value(task.env, task.num_episodes)
        limit = Limit(value, value, 0.0, "dynamic programming")
    elif isinstance(task.env, TabularMDP):
        bound, error = oracle_bound(task.env, task.num_episodes, num_tasks, evaluation_key(seed))
        limit = Limit(None, bound, error, "oracle")
    else:
        raise ValueError(
            f"limits are known for bandit:k=K,n=N (uniform arms), dependent:n=N and mdp:n=N, got {task.name}"
        )
    known = known_agents(task)
    best = next(name for name in _BEST_KNOWN[task.kind] if name in known)
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
