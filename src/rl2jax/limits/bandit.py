"""Exact Bayes-optimal value and policy of a small Bernoulli bandit of uniform arms, by dynamic programming."""

from functools import cache
from math import comb
from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent
from rl2jax.envs.bandit import BernoulliBandit
from rl2jax.settings import require
from rl2jax.types import TrialObservation

_MOST_PULLS = 15  # for any number of arms; fewer arms allow more, up to as many states
_MOST_STATES = 100_000  # some seconds


class BayesOptimal(NamedTuple):
    """The belief states of a bandit and what is optimal in each; C classes of arms at most in one state.

    Arms with equal counts are exchangeable: they form a class, and a state is the multiset of the classes'
    counts. State 0 is the start. After the last pull there is one state more, without a future.

    Attributes:
      value: most expected total reward of the remaining pulls; float64 [num_states].
      best_class: which class to pull; int32 [num_states].
      counts: (successes, failures) of each class, -1 where there are fewer; int32 [num_states, C, 2].
      next_state: the state after (class, outcome), outcome 1 a success; int32 [num_states, C, 2].
    """

    value: np.ndarray
    best_class: np.ndarray
    counts: np.ndarray
    next_state: np.ndarray


def is_exact(num_arms: int, num_pulls: int) -> bool:
    """Whether the optimum can be computed: n <= 15 for any k, else where belief states are at most 100000."""
    require(num_arms >= 1, "num_arms (k)", num_arms, "an integer >= 1")
    require(num_pulls >= 1, "num_pulls (n)", num_pulls, "an integer >= 1")
    if num_pulls <= _MOST_PULLS:
        return True
    # A single arm has n (n + 1) / 2 states, more arms more: no need to count them.
    return num_pulls**2 <= 2 * _MOST_STATES and _count_states(num_arms, num_pulls) <= _MOST_STATES


def _count_states(num_arms: int, num_pulls: int) -> float:
    """Multisets of at most k touched arms with fewer than n pulls together: the states with a choice."""
    most_parts = min(num_arms, num_pulls - 1)
    ways = np.zeros((most_parts + 1, num_pulls))  # [touched arms, pulls]
    ways[0, 0] = 1.0
    for pulls in range(1, num_pulls):
        before = ways.copy()
        for arms in range(1, min(most_parts, (num_pulls - 1) // pulls) + 1):
            # An arm with p pulls has p + 1 kinds; `arms` of them are a multiset of kinds.
            kinds = comb(pulls + arms, arms)
            ways[arms:, arms * pulls :] += kinds * before[: most_parts + 1 - arms, : num_pulls - arms * pulls]
    return float(ways.sum())


@cache
def solve(num_arms: int, num_pulls: int) -> BayesOptimal:
    """Dynamic programming over the multisets of the touched arms' (successes, failures).

    An arm with s successes and f failures succeeds with its posterior mean (s + 1) / (s + f + 2); one more
    class is that of the untouched arms, s = f = 0, while there are any.

    Args:
      num_arms: k >= 1; any number.
      num_pulls: n >= 1.

    Raises:
      ValueError: for sizes below 1, and where `is_exact` says no.
    """
    allowed = f"at most {_MOST_PULLS}, or few enough for {_MOST_STATES} belief states, with k={num_arms}"
    require(is_exact(num_arms, num_pulls), "num_pulls (n)", num_pulls, allowed)
    layers = _forward(num_arms, num_pulls)
    most_classes = max(len(classes) for layer in layers for classes, _ in layer)
    num_states = sum(map(len, layers)) + 1
    value = np.zeros(num_states)
    best_class = np.zeros(num_states, np.int32)
    counts = np.full((num_states, most_classes, 2), -1, np.int32)
    next_state = np.full((num_states, most_classes, 2), num_states - 1, np.int32)
    end = num_states - 1
    for layer in reversed(layers):
        start = end - len(layer)
        for state, (classes, children) in enumerate(layer, start):
            counts[state, : len(classes)] = classes
            if end < num_states - 1:  # the last pull leads to the state without a future
                next_state[state, : len(classes)] = np.asarray(children) + end
        successes, failures = counts[start:end, :, 0], counts[start:end, :, 1]
        exists = successes >= 0
        mean = (successes + 1) / np.where(exists, successes + failures + 2, 1)
        future = value[next_state[start:end]]
        pulled = mean * (1.0 + future[..., 1]) + (1.0 - mean) * future[..., 0]
        pulled = np.where(exists, pulled, -np.inf)
        best_class[start:end] = pulled.argmax(axis=1)
        value[start:end] = pulled.max(axis=1)
        end = start
    return BayesOptimal(value, best_class, counts, next_state)


def bayes_optimal_value(num_arms: int, num_pulls: int) -> float:
    """The most total reward that any agent expects, arms independent and uniform on [0, 1].

    Args:
      num_arms: k >= 1; any number.
      num_pulls: n >= 1; n <= 15 for any k, more for few arms (n = 20 for k = 3).

    Raises:
      ValueError: for sizes below 1, and where `is_exact` says no.
    """
    return float(solve(num_arms, num_pulls).value[0])


class BayesOptimalState(NamedTuple):
    """What the agent remembers.

    Attributes:
      belief: index of the state in `BayesOptimal`; int32 [].
      counts: failures and successes of each arm; int32 [num_arms, 2].
      num_steps: pulls made; int32 [].
    """

    belief: chex.Array
    counts: chex.Array
    num_steps: chex.Array


def bayes_optimal_agent(env: BernoulliBandit, num_episodes: int) -> Agent:
    """Plays `env` for `num_episodes` pulls as well as anyone can.

    It follows whatever was pulled, also where that was not its own choice; among equal arms it takes the
    lowest index.

    Raises:
      ValueError: as `solve`, and for arms that are not uniform.
    """
    require(env.is_uniform, "env", env, "a bandit of uniform arms, for which the optimum is computed")
    solution = solve(env.num_arms, num_episodes)
    best = solution.counts[np.arange(len(solution.value)), solution.best_class]
    best_counts, class_counts = jnp.asarray(best[:, ::-1]), jnp.asarray(solution.counts[..., ::-1])
    next_state = jnp.asarray(solution.next_state)

    def init(key):
        del key
        zero = jnp.zeros((), jnp.int32)
        return BayesOptimalState(zero, jnp.zeros((env.num_arms, 2), jnp.int32), zero)

    def step(key, state: BayesOptimalState, trial_obs: TrialObservation):
        del key
        arm, outcome = trial_obs.prev_action, trial_obs.prev_reward.astype(jnp.int32)
        started = state.num_steps > 0
        pulled = jnp.argmax(jnp.all(class_counts[state.belief] == state.counts[arm], axis=-1))
        belief = jnp.where(started, next_state[state.belief, pulled, outcome], state.belief)
        counts = state.counts.at[arm, outcome].add(started.astype(jnp.int32))
        action = jnp.argmax(jnp.all(counts == best_counts[belief], axis=-1)).astype(jnp.int32)
        return BayesOptimalState(belief, counts, state.num_steps + 1), action, ()

    return Agent(init, step)


def _forward(num_arms: int, num_pulls: int) -> list[list[tuple[list, list]]]:
    """For each number of pulls made, the states: their classes and the (failure, success) places of the next layer."""
    layers = []
    layer: dict[tuple, int] = {(): 0}
    for pulls in range(num_pulls):
        last = pulls == num_pulls - 1
        following: dict[tuple, int] = {}
        rows = []
        for touched in layer:
            classes = sorted(set(touched)) + ([(0, 0)] if len(touched) < num_arms else [])
            children = []
            if not last:
                for successes, failures in classes:
                    others = list(touched)
                    if successes + failures > 0:
                        others.remove((successes, failures))
                    pair = []
                    for arm in ((successes, failures + 1), (successes + 1, failures)):
                        after = tuple(sorted([*others, arm]))
                        pair.append(following.setdefault(after, len(following)))
                    children.append(pair)
            rows.append((classes, children))
        layers.append(rows)
        layer = following
    return layers
