"""Reference agents for restless bandits: learners of fixed and of changing rate, and the optimum (Wang et al. 2016).

The best that anyone can do (`bayes_filter`) follows from p2 = 1 - p1: what a pull tells of p1 does not depend on the
arm, so the arm of the greater posterior mean is optimal, and only the belief has to be right.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM, softmax_choice
from rl2jax.envs.restless import RestlessBandit
from rl2jax.settings import require
from rl2jax.types import PyTree, TrialObservation

NUM_ARMS = 2
_GRID = 100  # cells of the filter's grid over p


class Learner(NamedTuple):
    """State of an agent that keeps an estimate.

    Attributes:
      estimate: whatever `update` makes of what was seen.
      time: pulls seen; int32 []. Starts at -1: the first step of a trial shows no pull.
    """

    estimate: PyTree
    time: chex.Array


def _learner(
    start: PyTree,
    update: Callable[[PyTree, chex.Array, chex.Array, chex.Array], PyTree],
    choose: Callable[[chex.PRNGKey, PyTree, chex.Array], chex.Array],
) -> Agent:
    """Updates an estimate with every pull, then chooses by it.

    Args:
      start: the estimate before the first pull.
      update: (estimate, arm, reward, pulls seen with this one) -> estimate.
      choose: (key, estimate, pulls seen) -> arm.
    """

    def init(key):
        del key
        return Learner(jax.tree.map(jnp.asarray, start), jnp.full((), -1, jnp.int32))

    def step(key, state: Learner, trial_obs: TrialObservation):
        time = state.time + 1
        updated = update(state.estimate, trial_obs.prev_action, trial_obs.prev_reward, time)
        estimate = jax.tree.map(lambda new, old: jnp.where(time > 0, new, old), updated, state.estimate)
        return Learner(estimate, time), choose(key, estimate, time).astype(jnp.int32), ()

    return Agent(init, step)


def rescorla_wagner(
    env: RestlessBandit, num_episodes: int, *, learning_rate: float = 0.5, inverse_temperature: float = jnp.inf
) -> Agent:
    """The value of the arm that was pulled moves towards the reward: V += learning_rate (r - V), from 1/2.

    Args:
      env: with two arms, restless or not.
      num_episodes: of a trial; not used.
      learning_rate: alpha, in [0, 1]; 0.5 is the paper's best.
      inverse_temperature: beta of the softmax over values, >= 0; inf: the best arm.

    Raises:
      ValueError: naming the argument that is not allowed; so do the others.
    """
    del num_episodes
    require(env.num_arms == NUM_ARMS, "env.num_arms", env.num_arms, "2")
    require(0.0 <= learning_rate <= 1.0, "learning_rate", learning_rate, "in [0, 1]")
    require(inverse_temperature >= 0.0, "inverse_temperature", inverse_temperature, ">= 0")

    def update(values, arm, reward, time):
        del time
        return values.at[arm].add(learning_rate * (reward - values[arm]))

    def choose(key, values, time):
        del time
        return softmax_choice(key, values, inverse_temperature)

    return _learner(jnp.full(NUM_ARMS, 0.5), update, choose)


class Associability(NamedTuple):
    """What the learner of Pearce and Hall keeps.

    Attributes:
      values: of the arms; float32 [2].
      rate: the associability; float32 [].
    """

    values: chex.Array
    rate: chex.Array


def pearce_hall(env: RestlessBandit, num_episodes: int, *, surprise_weight: float = 0.3, scaling: float = 1.0) -> Agent:
    """Learns fast after surprises (Pearce and Hall 1980): V += scaling rate (r - V), then rate moves towards |r - V|.

    Args:
      env: a restless bandit.
      num_episodes: of a trial; not used.
      surprise_weight: rate = (1 - surprise_weight) rate + surprise_weight |r - V|; in [0, 1]. The rate starts at 1/2.
      scaling: of the rate, in [0, 1].
    """
    del env, num_episodes
    require(0.0 <= surprise_weight <= 1.0, "surprise_weight", surprise_weight, "in [0, 1]")
    require(0.0 <= scaling <= 1.0, "scaling", scaling, "in [0, 1]")

    def update(state: Associability, arm, reward, time):
        del time
        error = reward - state.values[arm]
        values = state.values.at[arm].add(scaling * state.rate * error)
        return Associability(values, (1.0 - surprise_weight) * state.rate + surprise_weight * jnp.abs(error))

    def choose(key, state: Associability, time):
        del time
        return softmax_choice(key, state.values, np.inf)

    return _learner(Associability(jnp.full(NUM_ARMS, 0.5), jnp.full((), 0.5)), update, choose)


class Gaussian(NamedTuple):
    """A belief about p1: mean and variance, float32 [] each."""

    mean: chex.Array
    variance: chex.Array


def kalman(env: RestlessBandit, num_episodes: int, *, volatility: float = 0.1, thompson: bool = False) -> Agent:
    """A Kalman filter of p1, as if p1 were a Gaussian random walk of one volatility, seen through noise.

    Each pull shows p1 (or 1 - p1) with the variance of a fair coin, 1/4. The gain settles at a fixed learning rate.
    With `thompson` the arm is the better one of a draw from the belief: the paper's Thompson sampling, which knows of
    the walk but not which volatility the episode has.

    Args:
      env: a restless bandit.
      num_episodes: of a trial; not used.
      volatility: standard deviation of the walk's steps, >= 0.
      thompson: whether the belief's mean decides, or a draw.
    """
    del env, num_episodes
    require(volatility >= 0.0, "volatility", volatility, ">= 0")

    def update(belief: Gaussian, arm, reward, time):
        del time
        seen = jnp.where(arm == 0, reward, 1.0 - reward)
        gain = belief.variance / (belief.variance + 0.25)
        mean = belief.mean + gain * (seen - belief.mean)
        return Gaussian(mean, (1.0 - gain) * belief.variance + volatility**2)

    def choose(key, belief: Gaussian, time):
        del time
        noise = jnp.sqrt(belief.variance) * jax.random.normal(key) if thompson else 0.0
        return jnp.where(belief.mean + noise >= 0.5, 0, 1)

    # Mean and variance of the uniform distribution.
    return _learner(Gaussian(jnp.full((), 0.5), jnp.full((), 1.0 / 12.0)), update, choose)


class Discounted(NamedTuple):
    """Discounted numbers of pulls and of successes; float32 [2] each."""

    pulls: chex.Array
    successes: chex.Array


def discounted_ucb(env: RestlessBandit, num_episodes: int, *, discount: float = 0.9, scaling: float = 0.5) -> Agent:
    """UCB on discounted counts (Garivier and Moulines 2011): mean + scaling sqrt(log(sum of pulls) / pulls).

    Args:
      env: a restless bandit.
      num_episodes: of a trial; not used.
      discount: of what was seen, for each pull since; in [0, 1]. 1 is UCB1, with scaling^2 the paper's chi.
      scaling: >= 0.
    """
    del env, num_episodes
    require(0.0 <= discount <= 1.0, "discount", discount, "in [0, 1]")
    require(scaling >= 0.0, "scaling", scaling, ">= 0")

    def update(counts: Discounted, arm, reward, time):
        del time
        pulled = jax.nn.one_hot(arm, NUM_ARMS)
        return Discounted(discount * counts.pulls + pulled, discount * counts.successes + reward * pulled)

    def choose(key, counts: Discounted, time):
        del time
        pulls = jnp.maximum(counts.pulls, 1e-6)
        bonus = jnp.sqrt(jnp.log(jnp.maximum(counts.pulls.sum(), 1.0)) / pulls)
        bound = jnp.where(counts.pulls == 0.0, jnp.inf, counts.successes / pulls + scaling * bonus)
        return softmax_choice(key, bound, np.inf)

    return _learner(Discounted(jnp.zeros(NUM_ARMS), jnp.zeros(NUM_ARMS)), update, choose)


def bayes_filter(env: RestlessBandit, num_episodes: int) -> Agent:
    """Knows how tasks are drawn, infers p1 and the volatility together, and plays the better arm: the optimum.

    Up to a grid of 100 cells for p1, unless p1 has two values only. A second episode of a trial, which repeats the
    first, is taken for a new one.
    """
    del num_episodes
    support, kernels = (jnp.asarray(array) for array in filter_model(env))

    def predict(belief, time):
        """To the next pull."""
        if env.block_length is not None:
            in_episode = time % env.episode_length
            belief = jnp.where(in_episode % env.block_length == 0, belief[::-1], belief)
        return jnp.einsum("vi,vij->vj", belief, kernels)

    def update(belief, arm, reward, time):
        likelihood = jnp.where((reward > 0.5) == (arm == 0), support, 1.0 - support)
        updated = belief * likelihood[None]
        updated = predict(updated / jnp.maximum(updated.sum(), 1e-30), time)
        return jnp.where(time % env.episode_length == 0, start, updated)

    def choose(key, belief, time):
        del key, time
        # A belief of the first pull sums to a half only up to rounding.
        return jnp.where(jnp.sum(belief * support[None]) >= 0.5 - 1e-6, 0, 1)

    start = jnp.full((2, len(support)), 0.5 / len(support))
    return _learner(start, update, choose)


def filter_model(env: RestlessBandit) -> tuple[np.ndarray, np.ndarray]:
    """The hidden Markov model of p1, on a grid.

    Returns:
      support: values of p1; float32 numpy [num_values].
      kernels: transition probabilities from row to column, for the low and the high volatility;
        float32 numpy [2, num_values, num_values].
    """
    volatilities = (env.low_percent / 100.0, env.high_percent / 100.0)
    if env.jump and env.better_percent is not None:
        better = env.better_percent / 100.0
        flip = np.eye(2)[::-1]
        kernels = [(1.0 - v) * np.eye(2) + v * flip for v in volatilities]
        return np.array([1.0 - better, better], np.float32), np.array(kernels, np.float32)
    support = (np.arange(_GRID) + 0.5) / _GRID
    if env.jump:
        kernels = [(1.0 - v) * np.eye(_GRID) + v / _GRID for v in volatilities]
    else:
        kernels = [_walk_kernel(support, v) for v in volatilities]
    return support.astype(np.float32), np.array(kernels, np.float32)


def _walk_kernel(support: np.ndarray, deviation: float) -> np.ndarray:
    """Gaussian steps from each cell's middle, reflected at 0 and 1; float64 numpy [num_values, num_values]."""
    if deviation == 0.0:
        return np.eye(len(support))
    half = 0.5 / len(support)

    def mass(middle: np.ndarray) -> np.ndarray:
        """Of a cell around `middle`, from each of `support`."""
        upper, lower = ((middle[None] + side * half - support[:, None]) / deviation for side in (1, -1))
        return scipy.special.ndtr(upper) - scipy.special.ndtr(lower)

    # Cells and their mirror images; at most one standard deviation wide, the walk reaches no further in a step.
    kernel = np.sum([mass(2.0 * k + sign * support) for k in range(-4, 5) for sign in (1, -1)], axis=0)
    return kernel / kernel.sum(axis=1, keepdims=True)


_RATES = tuple({"learning_rate": value} for value in (0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8))
_VOLATILITIES = tuple({"volatility": value} for value in (0.1, 0.02, 0.05, 0.15, 0.2, 0.3))
_DISCOUNTED = tuple({"discount": d, "scaling": s} for d in (0.9, 0.7, 0.8, 0.95) for s in (0.5, 0.1, 0.2, 1.0))
_PEARCE_HALL = tuple({"surprise_weight": w, "scaling": s} for w in (0.3, 0.1, 0.2, 0.5) for s in (1.0, 0.3, 0.5, 0.7))

RESTLESS_AGENTS = {
    "random": RANDOM,
    "rescorla_wagner": ReferenceAgent(rescorla_wagner, _RATES),
    "pearce_hall": ReferenceAgent(pearce_hall, _PEARCE_HALL),
    "kalman": ReferenceAgent(kalman, _VOLATILITIES),
    "thompson": ReferenceAgent(kalman, _VOLATILITIES, {"thompson": True}),
    "ucb1": ReferenceAgent(discounted_ucb, fixed={"discount": 1.0, "scaling": 1.0}),
    "discounted_ucb": ReferenceAgent(discounted_ucb, _DISCOUNTED),
    "bayes_filter": ReferenceAgent(bayes_filter),
}
