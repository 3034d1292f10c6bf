"""Reference agents for tabular MDPs: the columns of table 2 (Duan et al. 2016, section 3.2).

All of them keep a conjugate belief about the MDP and plan once per episode, by finite-horizon value iteration;
they differ in what they plan on. Each comes in two conventions:

  "paper"       the priors and constants behind the published columns: defaults of Osband's TabulaRL, whose rewards
                have a prior of mean 0
  "true_prior"  the distribution that tasks are drawn from: reward means N(1, 1), flat Dirichlet transitions
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.planning import extended_value_iteration, greedy_policy, stationary, value_iteration
from rl2jax.agents.posteriors import (
    DirichletPosterior,
    NormalPosterior,
    dirichlet_prior,
    normal_prior,
    observe_categorical,
    observe_normal,
    sample_dirichlet,
    sample_normal,
)
from rl2jax.agents.random import RANDOM
from rl2jax.envs.tabular_mdp import TabularMDP
from rl2jax.settings import require

CONVENTIONS = ("paper", "true_prior")
_UCRL2_FAILURE_PROBABILITY = 0.05


class Prior(NamedTuple):
    """What an agent believes of every state-action pair before the trial.

    Attributes:
      reward_mean: of the Normal prior of the mean reward.
      reward_precision: its inverse variance, in observations.
      concentration: of the symmetric Dirichlet prior of the next state.
    """

    reward_mean: float
    reward_precision: float
    concentration: float


TRUE_PRIOR = Prior(1.0, 1.0, 1.0)
_ZERO_MEAN_PRIOR = Prior(0.0, 1.0, 1.0)
_ALMOST_FLAT_PRIOR = Prior(0.0, 1e-4, 1e-4)
_UCRL2_PRIOR = Prior(0.0, 1e-4, 1e-5)


class Belief(NamedTuple):
    """What an agent knows of the MDP: rewards [S, A] and transitions [S, A, S]."""

    reward: NormalPosterior
    transition: DirichletPosterior


class MDPAgentState(NamedTuple):
    """State of a planning agent.

    Attributes:
      belief: after the steps so far.
      policy: the action of each time step and state in the present episode; int32 [T, S].
      values: what the policy is greedy in; float32 [T, S, A], [T, S, 0] unless they are revealed.
      last_obs: the state in which the previous action was taken; int32 [].
      time: steps taken in this trial; int32 [].
    """

    belief: Belief
    policy: chex.Array
    values: chex.Array
    last_obs: chex.Array
    time: chex.Array


Plan = Callable[[chex.PRNGKey, Belief, chex.Array], chex.Array]  # (key, belief, episode) -> Q [T, S, A]


def planning_agent(
    env: TabularMDP, prior: Prior, plan: Plan, epsilon: float = 0.0, reveal_values: bool = False
) -> Agent:
    """Plans at the start of each episode and acts greedily on the plan, ties broken at random.

    The belief learns from every reward and from every transition but an episode's last, whose next state is not
    shown: the observation is already the next episode's.

    Args:
      env: the task distribution.
      prior: of the belief.
      plan: (key, belief, episodes finished) -> action values; int32 [] episode, float32 [T, S, A] values.
      epsilon: probability of a uniformly random action instead, at each step.
      reveal_values: whether `step` returns the planned values of the present state's actions as its info.
    """
    num_states, num_actions, horizon = env.num_states, env.num_actions, env.episode_length

    def init(key):
        del key
        belief = Belief(
            normal_prior((num_states, num_actions), prior.reward_mean, prior.reward_precision),
            dirichlet_prior((num_states, num_actions, num_states), prior.concentration),
        )
        zero = jnp.zeros((), jnp.int32)
        no_values = jnp.zeros((horizon, num_states, num_actions if reveal_values else 0))
        return MDPAgentState(belief, jnp.zeros((horizon, num_states), jnp.int32), no_values, zero, zero)

    def planned(key_plan, key_ties, belief, episode):
        values = plan(key_plan, belief, episode)
        return greedy_policy(key_ties, values), values if reveal_values else values[..., :0]

    def step(key, state: MDPAgentState, trial_obs):
        key_plan, key_ties, key_explore, key_action = jax.random.split(key, 4)
        episode, step_in_episode = jnp.divmod(state.time, horizon)
        taken = (state.last_obs, trial_obs.prev_action)
        belief = Belief(
            observe_normal(state.belief.reward, taken, trial_obs.prev_reward, (state.time > 0).astype(jnp.float32)),
            observe_categorical(
                state.belief.transition, (*taken, trial_obs.obs), (step_in_episode > 0).astype(jnp.float32)
            ),
        )
        # `time` starts as a constant and never meets a batched value, so that under `jax.vmap` of a whole trial this
        # stays a branch, taken once per episode, instead of a selection between two results computed every step.
        policy, values = jax.lax.cond(
            step_in_episode == 0,
            lambda: planned(key_plan, key_ties, belief, episode),
            lambda: (state.policy, state.values),
        )
        action = policy[step_in_episode, trial_obs.obs]
        if epsilon > 0.0:
            random_action = jax.random.randint(key_action, (), 0, num_actions)
            action = jnp.where(jax.random.bernoulli(key_explore, epsilon), random_action, action)
        info = values[step_in_episode, trial_obs.obs] if reveal_values else ()
        return MDPAgentState(belief, policy, values, trial_obs.obs, state.time + 1), action, info

    return Agent(init, step)


def psrl(env: TabularMDP, num_episodes: int, *, convention: str = "paper") -> Agent:
    """Posterior sampling: acts optimally for one MDP drawn from the belief (Osband, Russo and Van Roy 2013)."""
    return opsrl(env, num_episodes, convention=convention, num_samples=1)


def opsrl(env: TabularMDP, num_episodes: int, *, convention: str = "paper", num_samples: int = 10) -> Agent:
    """Optimistic posterior sampling: the elementwise maximum of the action values of several sampled MDPs.

    (Osband and Van Roy, "Why is posterior sampling better than optimism for reinforcement learning?", 2017.)

    Args:
      env: the task distribution.
      num_episodes: not used.
      convention: "paper" or "true_prior".
      num_samples: MDPs drawn per episode; 1 is PSRL.

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    del num_episodes
    require(num_samples >= 1, "num_samples", num_samples, "an integer >= 1")

    def plan(key, belief: Belief, episode):
        del episode

        def maximise(best, key_sample):
            key_reward, key_transition = jax.random.split(key_sample)
            reward = sample_normal(key_reward, belief.reward)
            transition = sample_dirichlet(key_transition, belief.transition)
            return jnp.maximum(best, value_iteration(stationary(reward, env.episode_length), transition)), None

        nothing = jnp.full((env.episode_length, env.num_states, env.num_actions), -jnp.inf)
        # one after the other: what a sample needs fits a CPU's cache, ten of them do not
        return jax.lax.scan(maximise, nothing, jax.random.split(key, num_samples))[0]

    return planning_agent(env, _prior(convention, _ZERO_MEAN_PRIOR), plan)


def ucrl2(env: TabularMDP, num_episodes: int, *, convention: str = "paper", scaling: float | None = None) -> Agent:
    """Optimism over confidence sets, by extended value iteration (Jaksch, Ortner and Auer 2010).

    With L = log(2 S A (episode + 1) / 0.05) for an episode counted from 0 and n = max(1, visits), rewards may
    exceed their estimate by scaling sqrt(4 L / n), transition rows differ from theirs by scaling sqrt(4 S L / n) in
    L1 distance. Under "paper" the slack of the rows accumulates over the horizon (see `extended_value_iteration`).

    Args:
      env: the task distribution.
      num_episodes: not used.
      convention: "paper": estimates with an almost flat prior, rewards about 0; "true_prior": posterior means.
      scaling: of both slacks, >= 0; None: 0.35 under "paper", 0.05 under "true_prior".

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    del num_episodes
    prior = _prior(convention, _UCRL2_PRIOR)
    scaling = _scaling(scaling, 0.35 if convention == "paper" else 0.05)
    num_pairs = env.num_states * env.num_actions

    def plan(key, belief: Belief, episode):
        del key
        confidence = jnp.log(2.0 * num_pairs * (episode + 1.0) / _UCRL2_FAILURE_PROBABILITY)
        rewards_seen = belief.reward.precision - prior.reward_precision
        moves_seen = (belief.transition.concentration - prior.concentration).sum(axis=-1)
        reward_slack = scaling * jnp.sqrt(4.0 * confidence / jnp.maximum(rewards_seen, 1.0))
        row_slack = scaling * jnp.sqrt(4.0 * env.num_states * confidence / jnp.maximum(moves_seen, 1.0))
        return extended_value_iteration(
            stationary(belief.reward.mean + reward_slack, env.episode_length),
            belief.transition.mean,
            row_slack,
            accumulate_slack=convention == "paper",
        )

    return planning_agent(env, prior, plan)


def beb(
    env: TabularMDP,
    num_episodes: int,
    *,
    convention: str = "paper",
    scaling: float | None = None,
    reveal_values: bool = False,
) -> Agent:
    """Bayesian exploration bonus: plans on the posterior mean with a bonus for what is little known.

    "true_prior" is the form of Kolter and Ng, "Near-Bayesian exploration in polynomial time" (2009): the reward of
    a pair grows by scaling / (2 + visits). "paper" adds 1 / (tau + 1) for the precision tau of its reward, and
    2 T^3 scaling / (1 + sum of its concentrations) for each step that remains after the present one.

    Args:
      env: the task distribution.
      num_episodes: not used.
      convention: "paper" or "true_prior".
      scaling: of the bonus, >= 0; None: 0.0014 under "paper", 1.5 under "true_prior".
      reveal_values: as in `planning_agent`.

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    del num_episodes
    prior = _prior(convention, _ZERO_MEAN_PRIOR)
    scaling = _scaling(scaling, 0.0014 if convention == "paper" else 1.5)
    horizon = env.episode_length
    remaining = jnp.arange(horizon, dtype=jnp.float32)[::-1, None, None]

    def plan(key, belief: Belief, episode):
        del key, episode
        reward_unknown = 1.0 / (1.0 + belief.reward.precision)  # prior precision 1: 1 / (2 + visits)
        if convention == "paper":
            moves_unknown = 1.0 / (1.0 + belief.transition.concentration.sum(axis=-1))
            bonus = reward_unknown + 2.0 * horizon**3 * scaling * moves_unknown * remaining
        else:
            bonus = stationary(scaling * reward_unknown, horizon)
        return value_iteration(belief.reward.mean + bonus, belief.transition.mean)

    return planning_agent(env, prior, plan, reveal_values=reveal_values)


def eps_greedy(env: TabularMDP, num_episodes: int, *, convention: str = "paper", epsilon: float = 0.1) -> Agent:
    """Plans on the posterior mean; each action is uniformly random with probability `epsilon`.

    Args:
      env: the task distribution.
      num_episodes: not used.
      convention: "paper": an almost flat prior, rewards about 0; "true_prior".
      epsilon: in [0, 1].

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    del num_episodes
    require(0.0 <= epsilon <= 1.0, "epsilon", epsilon, "in [0, 1]")

    def plan(key, belief: Belief, episode):
        del key, episode
        return value_iteration(stationary(belief.reward.mean, env.episode_length), belief.transition.mean)

    return planning_agent(env, _prior(convention, _ALMOST_FLAT_PRIOR), plan, epsilon)


def greedy(env: TabularMDP, num_episodes: int, *, convention: str = "paper") -> Agent:
    """`eps_greedy` with epsilon 0."""
    return eps_greedy(env, num_episodes, convention=convention, epsilon=0.0)


def _settings(name: str, *values: float) -> tuple[dict[str, float], ...]:
    return tuple({name: value} for value in values)


def _prior(convention: str, paper: Prior) -> Prior:
    require(convention in CONVENTIONS, "convention", convention, f"one of {', '.join(CONVENTIONS)}")
    return paper if convention == "paper" else TRUE_PRIOR


def _scaling(scaling: float | None, default: float) -> float:
    require(scaling is None or scaling >= 0.0, "scaling", scaling, ">= 0")
    return default if scaling is None else scaling


_PAPER = {"convention": "paper"}
_TRUE = {"convention": "true_prior"}
_REVEAL = {"reveal_values": True}
# An MDP drawn per episode is S A (S + 1) numbers, at the paper's sizes 11 for each action and step.
_DRAWS_OF_ONE_MDP = 11

# By name, each default first. "paper" takes TabulaRL's epsilon; its other constants are tuned.
MDP_AGENTS: dict[str, ReferenceAgent] = {
    "random": RANDOM,
    "psrl": ReferenceAgent(psrl, fixed=_PAPER, draws_per_step=_DRAWS_OF_ONE_MDP),
    "opsrl": ReferenceAgent(opsrl, fixed={**_PAPER, "num_samples": 10}, draws_per_step=_DRAWS_OF_ONE_MDP),
    "ucrl2": ReferenceAgent(ucrl2, _settings("scaling", 0.35, 0.2, 0.3, 0.4, 0.5), _PAPER),
    "beb": ReferenceAgent(beb, _settings("scaling", 0.0014, 0.0007, 0.001, 0.002, 0.003), _PAPER, _REVEAL),
    "eps_greedy": ReferenceAgent(eps_greedy, fixed={**_PAPER, "epsilon": 0.1}),
    "greedy": ReferenceAgent(greedy, fixed=_PAPER),
    "psrl_true_prior": ReferenceAgent(psrl, fixed=_TRUE, draws_per_step=_DRAWS_OF_ONE_MDP),
    "opsrl_true_prior": ReferenceAgent(opsrl, fixed={**_TRUE, "num_samples": 10}, draws_per_step=_DRAWS_OF_ONE_MDP),
    "ucrl2_true_prior": ReferenceAgent(ucrl2, _settings("scaling", 0.05, 0.0, 0.01, 0.02, 0.1, 0.2), _TRUE),
    "beb_true_prior": ReferenceAgent(beb, _settings("scaling", 1.5, 1.0, 2.0, 2.5, 3.0), _TRUE, _REVEAL),
    "eps_greedy_true_prior": ReferenceAgent(eps_greedy, _settings("epsilon", 0.1, 0.01, 0.02, 0.05, 0.2), _TRUE),
    "greedy_true_prior": ReferenceAgent(greedy, fixed=_TRUE),
}
