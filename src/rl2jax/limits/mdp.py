"""What knowing the MDP is worth: the oracle's value bounds every agent's."""

import chex
import jax
import numpy as np

from rl2jax.agents.planning import stationary, value_iteration
from rl2jax.envs.tabular_mdp import MDPParams, TabularMDP
from rl2jax.limits.base import KnownLimit, Limit
from rl2jax.settings import require

_BATCH = 10_000


def oracle_value(env: TabularMDP, params: MDPParams, num_episodes: int) -> chex.Array:
    """Expected total reward of a trial for an agent that knows the MDP: no agent's expectation is higher.

    Args:
      env: the task distribution, for its horizon.
      params: one MDP.
      num_episodes: the paper's n.

    Returns:
      n times the optimal value of state 0; float32 [].
    """
    require(num_episodes >= 1, "num_episodes (n)", num_episodes, "an integer >= 1")
    values = value_iteration(stationary(params.reward_mean, env.episode_length), params.transition_probs)
    return num_episodes * values[0, 0].max()


def oracle_bound(env: TabularMDP, num_episodes: int, num_tasks: int, key: chex.PRNGKey) -> tuple[float, float]:
    """Mean and standard error of the oracle's value over sampled MDPs.

    Args:
      env: the task distribution.
      num_episodes: the paper's n.
      num_tasks: MDPs, at least 2.
      key: as for `evaluate.evaluate`, whose first tasks these are.
    """
    require(num_tasks >= 2, "num_tasks", num_tasks, "an integer >= 2")

    @jax.jit
    @jax.vmap
    def value(index):
        key_task, _ = jax.random.split(jax.random.fold_in(key, index))
        return oracle_value(env, env.sample_params(key_task), num_episodes)

    batch = min(num_tasks, _BATCH)
    starts = range(0, num_tasks, batch)
    values = np.concatenate([np.asarray(value(np.arange(start, start + batch))) for start in starts])[:num_tasks]
    return float(values.mean(dtype=np.float64)), float(values.std(ddof=1, dtype=np.float64) / np.sqrt(num_tasks))


MDP_LIMIT = KnownLimit(
    "mdp:n=N",
    lambda env, n, sample: Limit(None, *oracle_bound(env, n, sample.num_tasks, sample.key), "oracle"),
    best_known=("beb_true_prior",),
)
