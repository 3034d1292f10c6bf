"""Reference agents for the two-step task: model-based, model-free and mixed (Daw et al. 2011), and the optimum."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.random import RANDOM, softmax_choice
from rl2jax.envs.two_step import CUE, FIRST, FIXATE, LEFT, SECOND_A, SECOND_B, TwoStep
from rl2jax.settings import require
from rl2jax.types import PyTree, TrialObservation


class TwoStepMemory(NamedTuple):
    """State of an agent.

    Attributes:
      estimate: whatever `learn` makes of the decisions so far.
      last_obs: the state before the last action; int32 [], -1 at the trial's first step.
      choice: the last choice in FIRST; int32 [].
    """

    estimate: PyTree
    last_obs: chex.Array
    choice: chex.Array


def _decider(
    env: TwoStep,
    start: PyTree,
    learn: Callable[[PyTree, chex.Array, chex.Array, chex.Array], PyTree],
    choose: Callable[[chex.PRNGKey, PyTree], chex.Array],
) -> Agent:
    """Learns from each decision when its outcome is known; answers the cue, and goes left where it does not matter.

    Args:
      env: the task distribution.
      start: the estimate before the first decision.
      learn: (estimate, choice, second-stage state 0 or 1, reward) -> estimate.
      choose: (key, estimate) -> LEFT or RIGHT.
    """

    def init(key):
        del key
        nothing = jnp.full((), -1, jnp.int32)
        return TwoStepMemory(jax.tree.map(jnp.asarray, start), nothing, jnp.zeros((), jnp.int32))

    def step(key, state: TwoStepMemory, trial_obs: TrialObservation):
        answered = (trial_obs.prev_action != FIXATE) | (not env.fixation)
        choice = jnp.where((state.last_obs == FIRST) & answered, trial_obs.prev_action, state.choice)
        outcome = ((state.last_obs == SECOND_A) | (state.last_obs == SECOND_B)) & answered
        second = jnp.clip(state.last_obs - SECOND_A, 0, 1)
        learned = learn(state.estimate, choice, second, trial_obs.prev_reward)
        estimate = jax.tree.map(lambda new, old: jnp.where(outcome, new, old), learned, state.estimate)
        obs = trial_obs.obs
        action = jnp.where(obs == FIRST, choose(key, estimate), jnp.where(obs == CUE, FIXATE, LEFT))
        return TwoStepMemory(estimate, obs.astype(jnp.int32), choice), action.astype(jnp.int32), ()

    return Agent(init, step)


class StageValues(NamedTuple):
    """What is learned of both stages.

    Attributes:
      first: model-free value of left and right; float32 [2].
      second: value of SECOND_A and SECOND_B; float32 [2].
    """

    first: chex.Array
    second: chex.Array


def hybrid(
    env: TwoStep,
    num_episodes: int,
    *,
    model_weight: float = 0.5,
    learning_rate: float = 0.5,
    inverse_temperature: float = 5.0,
    trace: float = 1.0,
) -> Agent:
    """Values of left and right mixed from a model's prediction and from SARSA(lambda) (Daw et al. 2011).

    With V the learned values of the second stage and T the transition probabilities, which it knows:
    Q = model_weight T V + (1 - model_weight) Q_mf, where after a reward r in state s, having chosen a,
    Q_mf[a] += learning_rate (V[s] - Q_mf[a] + trace (r - V[s])) and V[s] += learning_rate (r - V[s]); all start at 1/2.

    Args:
      env: the task distribution.
      num_episodes: of a trial; not used.
      model_weight: w, in [0, 1].
      learning_rate: alpha, in [0, 1].
      inverse_temperature: beta of the softmax over Q, >= 0; inf: the better one.
      trace: lambda, in [0, 1].

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    del num_episodes
    for name, value in (("model_weight", model_weight), ("learning_rate", learning_rate), ("trace", trace)):
        require(0.0 <= value <= 1.0, name, value, "in [0, 1]")
    require(inverse_temperature >= 0.0, "inverse_temperature", inverse_temperature, ">= 0")
    transition = jnp.asarray(transition_probs(env))

    def learn(values: StageValues, choice, second, reward):
        surprise = reward - values.second[second]
        gap = values.second[second] - values.first[choice]
        return StageValues(
            values.first.at[choice].add(learning_rate * (gap + trace * surprise)),
            values.second.at[second].add(learning_rate * surprise),
        )

    def choose(key, values: StageValues):
        q = model_weight * transition @ values.second + (1.0 - model_weight) * values.first
        return softmax_choice(key, q, inverse_temperature)

    return _decider(env, StageValues(jnp.full(2, 0.5), jnp.full(2, 0.5)), learn, choose)


def model_based(env: TwoStep, num_episodes: int, *, learning_rate: float = 0.5, inverse_temperature: float = 5.0):
    """`hybrid` that goes by the model alone."""
    return hybrid(
        env, num_episodes, model_weight=1.0, learning_rate=learning_rate, inverse_temperature=inverse_temperature
    )


def model_free(
    env: TwoStep,
    num_episodes: int,
    *,
    learning_rate: float = 0.5,
    inverse_temperature: float = 5.0,
    trace: float = 1.0,
) -> Agent:
    """`hybrid` without a model: SARSA(lambda)."""
    return hybrid(
        env,
        num_episodes,
        model_weight=0.0,
        learning_rate=learning_rate,
        inverse_temperature=inverse_temperature,
        trace=trace,
    )


def bayes_optimal(env: TwoStep, num_episodes: int) -> Agent:
    """Keeps the probability that SECOND_A is the better state, and goes where a reward is likelier.

    Optimal: a reward in one state tells as much as none in the other, so no choice is worth making to learn.
    """
    del num_episodes
    transition = jnp.asarray(transition_probs(env))
    better, switch = env.better_percent / 100.0, env.switch_permille / 1000.0

    def learn(belief, choice, second, reward):
        """`belief`: probability that the better state is SECOND_A."""
        del choice
        points_at_a = (reward > 0.5) == (second == 0)
        likelihood = jnp.where(points_at_a, better, 1.0 - better)
        weight_a, weight_b = belief * likelihood, (1.0 - belief) * (1.0 - likelihood)
        posterior = weight_a / jnp.maximum(weight_a + weight_b, 1e-30)
        return posterior * (1.0 - switch) + (1.0 - posterior) * switch

    def choose(key, belief):
        second = jnp.stack([belief, 1.0 - belief]) * (2.0 * better - 1.0)
        return softmax_choice(key, transition @ second, np.inf)

    return _decider(env, jnp.full((), 0.5), learn, choose)


def transition_probs(env: TwoStep) -> np.ndarray:
    """From left and right to SECOND_A and SECOND_B; float32 numpy [2, 2]."""
    common = env.common_percent / 100.0
    return np.array([[common, 1.0 - common], [1.0 - common, common]], np.float32)


_RATES = tuple({"learning_rate": value} for value in (0.5, 0.1, 0.2, 0.3, 0.7))

TWO_STEP_AGENTS = {
    "random": RANDOM,
    "model_free": ReferenceAgent(model_free, _RATES),
    "model_based": ReferenceAgent(model_based, _RATES),
    "bayes_optimal": ReferenceAgent(bayes_optimal),
}
