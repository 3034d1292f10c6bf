"""Reference agents for Bernoulli bandits: the columns of table 1 (Duan et al. 2016, section 3.1), and stronger ones.

Arms are independent with success probabilities uniform on [0, 1], and that prior is known: after s successes in n
pulls the belief about an arm is Beta(1 + s, 1 + n - s), its mean (s + 1) / (n + 2). The same means serve UCB1,
eps-greedy and greedy, which the paper starts with one success and one failure of every arm. Where the arms have
another prior (see `BernoulliBandit`), all of them keep this one: nobody tells them.

Every agent takes `tie_breaking`: "lowest" plays the lowest index among the best arms, as the published columns do,
"random" any of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.base import Agent, ReferenceAgent
from rl2jax.agents.gamma import gamma
from rl2jax.agents.indices import (
    MOST_PULLS_FINITE_HORIZON,
    brezzi_lai_index,
    finite_horizon_gittins_table,
    finite_horizon_place,
    gittins_table,
    pair_index,
    whittle_index,
)
from rl2jax.agents.random import RANDOM
from rl2jax.envs.bandit import BernoulliBandit
from rl2jax.settings import require
from rl2jax.types import TrialObservation

TIE_BREAKING = ("lowest", "random")


class Counts(NamedTuple):
    """What the pulls so far have shown.

    Attributes:
      pulls: of each arm; int32 [num_arms].
      successes: of each arm; int32 [num_arms].
      time: pulls in all; int32 []. Starts at -1: the first step of a trial shows no pull.
    """

    pulls: chex.Array
    successes: chex.Array
    time: chex.Array

    @property
    def mean(self) -> chex.Array:
        """Posterior mean of each arm's success probability; float32 [num_arms]."""
        return (self.successes + 1.0) / (self.pulls + 2.0)


def _no_counts(num_arms: int) -> Counts:
    zeros = jnp.zeros(num_arms, jnp.int32)
    return Counts(zeros, zeros, jnp.full((), -1, jnp.int32))


def _observe(counts: Counts, trial_obs: TrialObservation) -> Counts:
    """Counts the pull of the previous step, if there was one."""
    # `time` meets no batched value: under `jax.vmap` what depends on it alone is computed once for all tasks.
    pulled = (jnp.arange(len(counts.pulls)) == trial_obs.prev_action) & (counts.time >= 0)
    success = pulled & (trial_obs.prev_reward > 0.5)
    return Counts(counts.pulls + pulled, counts.successes + success, counts.time + 1)


def _best(key: chex.PRNGKey, scores: chex.Array, tie_breaking: str) -> chex.Array:
    """The arm of the highest score; int32 []."""
    if tie_breaking == "random":
        scores = jnp.where(scores == scores.max(), jax.random.uniform(key, scores.shape), -1.0)
    return jnp.argmax(scores).astype(jnp.int32)


Score = Callable[[chex.PRNGKey, Counts], chex.Array]  # scores of all arms, float32 [num_arms]
Index = Callable[[chex.Array, chex.Array], chex.Array]  # (pulls, successes) -> index, of any shape


def _scoring_agent(env: BernoulliBandit, score: Score, tie_breaking: str, epsilon: float = 0.0) -> Agent:
    """Plays the arm of the highest score, or with probability `epsilon` any arm."""
    require(tie_breaking in TIE_BREAKING, "tie_breaking", tie_breaking, f"one of {', '.join(TIE_BREAKING)}")

    def init(key):
        del key
        return _no_counts(env.num_arms)

    def step(key, counts: Counts, trial_obs: TrialObservation):
        key_score, key_ties, key_explore = jax.random.split(key, 3)
        counts = _observe(counts, trial_obs)
        action = _best(key_ties, score(key_score, counts), tie_breaking)
        action = _explore(key_explore, action, env.num_arms, epsilon)
        return counts, action, ()

    return Agent(init, step)


class IndexState(NamedTuple):
    """State of an agent whose score of an arm changes only when it is pulled.

    Attributes:
      counts: of the pulls so far.
      index: of each arm; float32 [num_arms].
    """

    counts: Counts
    index: chex.Array


def _index_agent(env: BernoulliBandit, index: Index, tie_breaking: str, epsilon: float = 0.0) -> Agent:
    """Plays the arm of the highest index, or with probability `epsilon` any arm."""
    require(tie_breaking in TIE_BREAKING, "tie_breaking", tie_breaking, f"one of {', '.join(TIE_BREAKING)}")

    def init(key):
        del key
        counts = _no_counts(env.num_arms)
        zero = jnp.zeros((), jnp.int32)
        return IndexState(counts, jnp.full(env.num_arms, index(zero, zero), jnp.float32))

    def step(key, state: IndexState, trial_obs: TrialObservation):
        key_ties, key_explore = jax.random.split(key)
        counts = _observe(state.counts, trial_obs)
        # Before the first pull this rescores arm 0, which changes nothing.
        arm = trial_obs.prev_action
        indices = jnp.where(
            jnp.arange(env.num_arms) == arm, index(counts.pulls[arm], counts.successes[arm]), state.index
        )
        action = _explore(key_explore, _best(key_ties, indices, tie_breaking), env.num_arms, epsilon)
        return IndexState(counts, indices), action, ()

    return Agent(init, step)


def _explore(key: chex.PRNGKey, action: chex.Array, num_arms: int, epsilon: float) -> chex.Array:
    if epsilon == 0.0:
        return action
    key_whether, key_arm = jax.random.split(key)
    explores = jax.random.bernoulli(key_whether, epsilon)
    return jnp.where(explores, jax.random.randint(key_arm, (), 0, num_arms), action)


def greedy(env: BernoulliBandit, num_episodes: int, *, tie_breaking: str = "lowest") -> Agent:
    """The arm of the highest posterior mean."""
    return eps_greedy(env, num_episodes, epsilon=0.0, tie_breaking=tie_breaking)


def eps_greedy(
    env: BernoulliBandit, num_episodes: int, *, epsilon: float = 0.05, tie_breaking: str = "lowest"
) -> Agent:
    """The arm of the highest posterior mean, or with probability `epsilon` any arm.

    Raises:
      ValueError: for an `epsilon` outside [0, 1], or an unknown `tie_breaking`; so do the other agents.
    """
    del num_episodes
    require(0.0 <= epsilon <= 1.0, "epsilon", epsilon, "in [0, 1]")
    return _index_agent(env, lambda pulls, successes: (successes + 1.0) / (pulls + 2.0), tie_breaking, epsilon)


def ucb1(env: BernoulliBandit, num_episodes: int, *, scaling: float = 1.0, tie_breaking: str = "lowest") -> Agent:
    """The highest upper confidence bound, mean + scaling sqrt(2 log t / T) (Auer, Cesa-Bianchi and Fischer 2002).

    T counts an arm's pulls and t those of all arms, with the success and the failure that each starts with.
    """
    del num_episodes
    require(scaling >= 0.0, "scaling", scaling, ">= 0")

    def score(key, counts: Counts):
        del key
        total = 2.0 * env.num_arms + counts.time
        return counts.mean + scaling * jnp.sqrt(2.0 * jnp.log(total) / (counts.pulls + 2.0))

    return _scoring_agent(env, score, tie_breaking)


def _sample_beliefs(key: chex.PRNGKey, counts: Counts, shape: tuple[int, ...] = ()) -> chex.Array:
    """Success probabilities drawn from the beliefs; float32 [*shape, num_arms].

    Beta(a, b) is the share of a Gamma(a) variate in its sum with a Gamma(b) one.
    """
    parameters = jnp.stack([counts.successes + 1, counts.pulls - counts.successes + 1]).astype(jnp.float32)
    draws = gamma(key, jnp.broadcast_to(parameters, (*shape, *parameters.shape)))
    return draws[..., 0, :] / draws.sum(axis=-2)


def thompson(env: BernoulliBandit, num_episodes: int, *, tie_breaking: str = "lowest") -> Agent:
    """The best arm of one bandit drawn from the belief (Thompson 1933)."""
    del num_episodes
    return _scoring_agent(env, _sample_beliefs, tie_breaking)


def optimistic_thompson(
    env: BernoulliBandit, num_episodes: int, *, num_samples: int = 20, tie_breaking: str = "lowest"
) -> Agent:
    """The best arm of the bandit of highest posterior density among `num_samples` drawn from the belief.

    As the paper words it; what the literature calls optimistic Thompson sampling is `may_optimistic_thompson`.
    """
    del num_episodes
    require(num_samples >= 1, "num_samples", num_samples, "an integer >= 1")

    def score(key, counts: Counts):
        probs = _sample_beliefs(key, counts, (num_samples,))
        # The density's normaliser is that of the belief, the same for all samples.
        failures = counts.pulls - counts.successes
        log_density = jax.scipy.special.xlogy(counts.successes, probs) + jax.scipy.special.xlog1py(failures, -probs)
        return probs[jnp.argmax(log_density.sum(axis=-1))]

    return _scoring_agent(env, score, tie_breaking)


def may_optimistic_thompson(env: BernoulliBandit, num_episodes: int, *, tie_breaking: str = "lowest") -> Agent:
    """Thompson sampling in which no draw is below its mean (May et al., "Optimistic Bayesian sampling", 2012)."""
    del num_episodes
    return _scoring_agent(env, lambda key, counts: jnp.maximum(_sample_beliefs(key, counts), counts.mean), tie_breaking)


def gittins(env: BernoulliBandit, num_episodes: int, *, discount: float = 0.99, tie_breaking: str = "lowest") -> Agent:
    """The arm of the highest Gittins index, optimal for an infinite horizon of this discount (Gittins 1979)."""
    table = jnp.asarray(gittins_table(num_episodes, discount))
    return _index_agent(env, lambda pulls, successes: table[pair_index(pulls, successes)], tie_breaking)


def gittins_whittle(
    env: BernoulliBandit, num_episodes: int, *, discount: float = 0.99, tie_breaking: str = "lowest"
) -> Agent:
    """`gittins` by Whittle's approximation of the index (see `indices.whittle_index`)."""
    del num_episodes
    require(0.0 < discount < 1.0, "discount", discount, "in (0, 1)")
    return _index_agent(env, lambda pulls, successes: whittle_index(pulls, successes, discount), tie_breaking)


def gittins_brezzi_lai(
    env: BernoulliBandit, num_episodes: int, *, discount: float = 0.99, tie_breaking: str = "lowest"
) -> Agent:
    """`gittins` by Brezzi and Lai's approximation of the index (see `indices.brezzi_lai_index`)."""
    del num_episodes
    require(0.0 < discount < 1.0, "discount", discount, "in (0, 1)")
    return _index_agent(env, lambda pulls, successes: brezzi_lai_index(pulls, successes, discount), tie_breaking)


def gittins_finite_horizon(env: BernoulliBandit, num_episodes: int, *, tie_breaking: str = "lowest") -> Agent:
    """The arm of the highest index for the pulls that remain; nothing to tune, and nearly optimal.

    Raises:
      ValueError: for more than `MOST_PULLS_FINITE_HORIZON` episodes.
    """
    table = jnp.asarray(finite_horizon_gittins_table(num_episodes))

    def score(key, counts: Counts):
        del key
        return table[finite_horizon_place(counts.time) + pair_index(counts.pulls, counts.successes)]

    return _scoring_agent(env, score, tie_breaking)


_LOWEST: dict[str, Any] = {"tie_breaking": "lowest"}
_RANDOM: dict[str, Any] = {"tie_breaking": "random"}
_DISCOUNTS = tuple({"discount": value} for value in (0.99, 0.5, 0.9, 0.95, 0.98, 0.995, 0.998, 0.999))
_EPSILONS = tuple({"epsilon": value} for value in (0.05, 0.0, 0.01, 0.02, 0.1, 0.2))
_SCALINGS = tuple({"scaling": value} for value in (0.2, 0.0, 0.05, 0.1, 0.15, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0))
_NUM_SAMPLES = tuple({"num_samples": value} for value in (20, 5, 10, 30, 50))

BANDIT_AGENTS = {
    "random": RANDOM,
    "gittins": ReferenceAgent(gittins, _DISCOUNTS, _LOWEST),
    "thompson": ReferenceAgent(thompson, fixed=_LOWEST, draws_per_step=1),
    "optimistic_thompson": ReferenceAgent(optimistic_thompson, _NUM_SAMPLES, _LOWEST, draws_per_step=1),
    "ucb1": ReferenceAgent(ucb1, _SCALINGS, _LOWEST),
    "eps_greedy": ReferenceAgent(eps_greedy, _EPSILONS, _LOWEST),
    "greedy": ReferenceAgent(greedy, fixed=_LOWEST),
    "eps_greedy_random_ties": ReferenceAgent(eps_greedy, _EPSILONS, _RANDOM),
    "greedy_random_ties": ReferenceAgent(greedy, fixed=_RANDOM),
    "gittins_whittle": ReferenceAgent(gittins_whittle, _DISCOUNTS, _LOWEST),
    "gittins_brezzi_lai": ReferenceAgent(gittins_brezzi_lai, _DISCOUNTS, _LOWEST),
    "gittins_finite_horizon": ReferenceAgent(
        gittins_finite_horizon, fixed=_LOWEST, most_episodes=MOST_PULLS_FINITE_HORIZON
    ),
    "may_optimistic_thompson": ReferenceAgent(may_optimistic_thompson, fixed=_LOWEST, draws_per_step=1),
}
