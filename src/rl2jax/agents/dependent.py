"""Reference agents for bandits whose arms depend on each other (Wang et al. 2016, sections 3.1.2 and 3.1.3).

Two arms of probabilities p and 1 - p: a success of either is a failure of the other, so what a pull tells does not
depend on the arm, nothing is gained by exploring, and the arm of the greater posterior mean is optimal at any horizon.
The informative arm is the opposite: pulled first, it pays for itself at once.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.bandit import BANDIT_AGENTS
from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM
from rl2jax.envs.bandit import DependentBandit
from rl2jax.envs.informative import OTHER_REWARD, InformativeBandit
from rl2jax.types import TrialObservation


class Evidence(NamedTuple):
    """What the pulls so far tell of p1.

    Attributes:
      successes: of the first arm, with failures of the second; int32 [].
      time: pulls seen; int32 []. Starts at -1: the first step of a trial shows no pull.
    """

    successes: chex.Array
    time: chex.Array


def posterior_mean(env: DependentBandit, successes: chex.Array, pulls: chex.Array) -> chex.Array:
    """E[p1] after `successes` successes of the first arm or failures of the second in `pulls` pulls of either.

    Uniform prior: (s + 1) / (n + 2). Two values q > 1/2 and 1 - q: the odds of q are (q / (1 - q))^(2 s - n).

    Args:
      env: says which prior.
      successes: s; int32 [...].
      pulls: n; int32 [...].

    Returns:
      float32 [...].
    """
    if env.better_percent is None:
        return (successes + 1.0) / (pulls + 2.0)
    better = env.better_percent / 100.0
    if better == 1.0:  # the first pull tells all
        return 0.5 + 0.5 * jnp.sign(2 * successes - pulls)
    weight = jax.nn.sigmoid((2 * successes - pulls) * jnp.log(better / (1.0 - better)))
    return 1.0 - better + (2.0 * better - 1.0) * weight


def bayes_optimal(env: DependentBandit, num_episodes: int) -> Agent:
    """The arm of the greater posterior mean, the first among equals: optimal, by the argument above."""
    del num_episodes

    def init(key):
        del key
        return Evidence(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))

    def step(key, state: Evidence, trial_obs: TrialObservation):
        del key
        favours_first = (trial_obs.prev_reward > 0.5) == (trial_obs.prev_action == 0)
        seen = state.time >= 0
        state = Evidence(state.successes + (favours_first & seen), state.time + 1)
        action = jnp.where(posterior_mean(env, state.successes, state.time) >= 0.5, 0, 1)
        return state, action.astype(jnp.int32), ()

    return Agent(init, step)


class Suspects(NamedTuple):
    """Which arms can still be the target.

    Attributes:
      possible: bool [num_targets].
      time: pulls seen; int32 [], from -1.
    """

    possible: chex.Array
    time: chex.Array


def _observe_payout(env: InformativeBandit, state: Suspects, trial_obs: TrialObservation) -> Suspects:
    """Rules out what the last pull rules out."""
    arm, reward, arms = trial_obs.prev_action, trial_obs.prev_reward, jnp.arange(env.num_targets)
    told = arms == jnp.round(reward * env.num_targets).astype(jnp.int32) - 1
    pulled = arms == arm
    found = jnp.where(reward > OTHER_REWARD, pulled, ~pulled)
    consistent = jnp.where(arm == env.num_targets, told, found) | (state.time < 0)
    return Suspects(state.possible & consistent, state.time + 1)


def _no_suspicion(env: InformativeBandit) -> Suspects:
    return Suspects(jnp.ones(env.num_targets, bool), jnp.full((), -1, jnp.int32))


def informed(env: InformativeBandit, num_episodes: int) -> Agent:
    """The informative arm once, then the target: 20.55 in the paper's five pulls, optimal for two pulls or more.

    With one pull left and the target unknown it plays an arm that can be the target. It is optimal from four targets
    on: of two or three, guessing is better than asking.
    """

    def init(key):
        del key
        return _no_suspicion(env)

    def step(key, state: Suspects, trial_obs: TrialObservation):
        del key
        state = _observe_payout(env, state, trial_obs)
        known = state.possible.sum() == 1
        last = state.time == num_episodes * env.episode_length - 1
        action = jnp.where(known | last, jnp.argmax(state.possible), env.num_targets)
        return state, action.astype(jnp.int32), ()

    return Agent(init, step)


def search(env: InformativeBandit, num_episodes: int) -> Agent:
    """Thompson sampling with the true prior: any arm that can still be the target, 11 on average in five pulls.

    It never pulls the informative arm, which no bandit drawn from its belief makes the best one. UCB tries every arm
    once before any arm twice (`ucb`).
    """
    del num_episodes

    def init(key):
        del key
        return _no_suspicion(env)

    def step(key, state: Suspects, trial_obs: TrialObservation):
        state = _observe_payout(env, state, trial_obs)
        action = jax.random.categorical(key, jnp.where(state.possible, 0.0, -jnp.inf))
        return state, action.astype(jnp.int32), ()

    return Agent(init, step)


class Payouts(NamedTuple):
    """What each arm paid.

    Attributes:
      reward: of its last pull; float32 [num_arms].
      pulls: int32 [num_arms].
      time: pulls seen; int32 [], from -1.
    """

    reward: chex.Array
    pulls: chex.Array
    time: chex.Array


def ucb(env: InformativeBandit, num_episodes: int) -> Agent:
    """UCB1 (Auer et al. 2002): every arm once, in any order, then the highest bound; rewards in units of 5."""
    del num_episodes

    def init(key):
        del key
        return Payouts(jnp.zeros(env.num_arms), jnp.zeros(env.num_arms, jnp.int32), jnp.full((), -1, jnp.int32))

    def step(key, state: Payouts, trial_obs: TrialObservation):
        pulled = (jnp.arange(env.num_arms) == trial_obs.prev_action) & (state.time >= 0)
        pulls = state.pulls + pulled
        # Payouts are certain, so that the last one is the mean.
        reward = jnp.where(pulled, trial_obs.prev_reward, state.reward)
        time = state.time + 1
        bonus = jnp.sqrt(2.0 * jnp.log(jnp.maximum(time, 1)) / jnp.maximum(pulls, 1))
        bound = jnp.where(pulls == 0, jnp.inf, reward / 5.0 + bonus)
        ties = jnp.where(bound == bound.max(), jax.random.uniform(key, bound.shape), -1.0)
        return Payouts(reward, pulls, time), jnp.argmax(ties).astype(jnp.int32), ()

    return Agent(init, step)


# Agents for independent arms play dependent ones, too, as in Wang et al. 2016, figure 2.
DEPENDENT_AGENTS = {**BANDIT_AGENTS, "bayes_optimal": ReferenceAgent(bayes_optimal)}
INFORMATIVE_AGENTS = {
    "random": RANDOM,
    "informed": ReferenceAgent(informed),
    "thompson": ReferenceAgent(search),
    "ucb": ReferenceAgent(ucb),
}
