"""The paper's "first-order implementation of TRPO": clipped ratio, epochs, a KL limit.

The paper says no more than that; the rest is what is known of its authors' settings (docs/design.md).
Schulman et al. 2017, equation 7, for the clipped surrogate. The KL limit keeps the parameters with the best
surrogate among the epochs whose mean KL is within `max_kl`; if none is, the last epoch's step is halved
until it is.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.settings import bounded, choice, is_traced
from rl2jax.slow_rl.base import Batch, FirstOrder, Info, Problem, SlowRL, SlowRLSettings, State, Work
from rl2jax.slow_rl.line_search import Search, backtracking_search
from rl2jax.slow_rl.sgd import minibatch_epoch, minibatch_epochs, num_minibatches
from rl2jax.slow_rl.surrogates import clipped_surrogate
from rl2jax.types import PyTree


@dataclass(frozen=True)
class PPO(SlowRLSettings):
    """First-order steps, as the authors' settings have them.

    Attributes:
      clip_range: of the probability ratio, around 1.
      max_kl: mean KL per step between successive policies, in nats; inf switches the limit off.
      max_kl_schedule: constant, or to 0 at the last iteration; constant where max_kl is inf.
      epochs: passes over the batch.
      minibatch_trials: whole trials in a minibatch.
      learning_rate: of the policy.
    """

    section: ClassVar[str] = "ppo"
    name: ClassVar[str] = "ppo"
    beside_baseline: ClassVar[bool] = True  # epochs of minibatches take the same time on both networks
    clip_range: float = bounded(0.1, above=0, at_most=1e6, swept=True)
    max_kl: float = bounded(0.01, above=0, finite=False, swept=True)
    max_kl_schedule: str = choice("constant", "linear", "cosine")
    epochs: int = bounded(5, at_least=1)
    minibatch_trials: int = bounded(128, at_least=1)
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)

    def check(self) -> None:
        """No limit has no schedule."""
        limited = self.max_kl_schedule == "constant" or is_traced(self.max_kl) or self.max_kl < math.inf
        self.require(limited, "max_kl_schedule", "constant with ppo.max_kl inf")

    def make(self, problem: Problem) -> SlowRL:
        """Epochs on the clipped surrogate; a network that policy and baseline share learns its values in them too.

        Which epoch's parameters are kept under a KL limit is the policy's surrogate's to say.
        """
        steps = self.epochs * num_minibatches(problem.num_trials, self.minibatch_trials)
        optimiser = problem.make_optimiser(self.learning_rate, steps)
        surrogate = partial(_surrogate, self.clip_range)

        def init(params: PyTree) -> State:
            return State(optimiser.init(params), jnp.zeros((), jnp.int32))

        def step(key: chex.PRNGKey, state: State, params: PyTree, batch: Batch):
            max_kl = problem.scheduled(self.max_kl_schedule, self.max_kl, state.iteration)
            asked = problem.first_order(batch, surrogate, batch.advantage, state.iteration)  # all ratios are 1
            params, opt_state, info = ppo_update(key, params, state.opt_state, optimiser, asked, batch, self, max_kl)
            return params, State(opt_state, state.iteration + 1), info

        return SlowRL(init, step)

    def work(self) -> Work:
        """Epochs, and as many evaluations under a KL limit; one without."""
        return Work(self.epochs, self.minibatch_trials, 1 if _is_unlimited(self.max_kl) else self.epochs)


def _surrogate(clip_range: float, log_prob: chex.Array, batch: Batch) -> chex.Array:
    return clipped_surrogate(log_prob, batch.old_log_prob, batch.advantage, clip_range)


def _is_unlimited(max_kl: float | chex.Array) -> bool:
    return isinstance(max_kl, float) and max_kl == math.inf


class _Best(NamedTuple):
    """Parameters, and where they are: the surrogate and the KL; float32 []."""

    params: PyTree
    surrogate: chex.Array
    kl: chex.Array


def ppo_update(
    key: chex.PRNGKey,
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    asked: FirstOrder,
    batch: PyTree,
    settings: PPO,
    max_kl: float | chex.Array,
) -> tuple[PyTree, PyTree, Info]:
    """Several epochs of minibatch ascent within the KL limit.

    Args:
      key: for the shuffles.
      params: the policy's parameters.
      opt_state: the optimiser's state; it carries on from batch to batch.
      optimiser: an optax optimiser.
      asked: the loss, the surrogate and KL on the whole batch, and the surrogate at `params`.
      batch: leaves [num_steps, num_trials, ...].
      settings: epochs and minibatch_trials.
      max_kl: limit on the mean KL per step, in nats; float32 [], or a number, of which infinity switches the limit and
        its cost off.

    Returns:
      (params, opt_state, info).
    """
    keys = jax.random.split(key, settings.epochs)
    if _is_unlimited(max_kl):
        return minibatch_ascent(keys, params, opt_state, optimiser, asked, batch, settings.minibatch_trials)

    def epoch(carry, key_epoch):
        current, opt_state, best = carry
        current, opt_state, info = minibatch_epoch(
            key_epoch, current, opt_state, optimiser, asked.loss_fn, batch, settings.minibatch_trials
        )
        new_surrogate, kl = asked.evaluate_fn(current)
        better = jnp.logical_and(kl <= max_kl, new_surrogate > best.surrogate)
        best = jax.tree.map(lambda n, b: jnp.where(better, n, b), _Best(current, new_surrogate, kl), best)
        return (current, opt_state, best), info.grad_norm

    nothing = _Best(params, jnp.full((), -jnp.inf), jnp.full((), jnp.inf))
    (last, opt_state, best), grad_norms = jax.lax.scan(epoch, (params, opt_state, nothing), keys)
    chosen, line_search_steps = _within_limit(params, last, best, asked, max_kl)
    info = Info(chosen.kl, chosen.surrogate - asked.surrogate, line_search_steps, jnp.mean(grad_norms))
    return chosen.params, opt_state, info


def _within_limit(
    params: PyTree, last: PyTree, best: _Best, asked: FirstOrder, max_kl: float | chex.Array
) -> tuple[_Best, chex.Array]:
    """The best epoch within the limit; if none is, halves the way back from the last one: (parameters, halvings)."""

    def evaluate(scale):
        midway = jax.tree.map(lambda old, new: old + scale * (new - old), params, last)
        return *asked.evaluate_fn(midway), midway

    # Starts at the best epoch: where there is one the loop does not run.
    search, accepted = backtracking_search(
        evaluate,
        lambda search: search.kl <= max_kl,
        Search(jnp.zeros(()), best.surrogate, best.kl, best.params),
        0.5,
    )
    unchanged = _Best(params, asked.surrogate, jnp.zeros(()))
    candidate = _Best(search.found, search.surrogate, search.kl)
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, unchanged)
    return chosen, jnp.where(accepted, search.backtracks, -1.0)


def minibatch_ascent(
    keys: chex.PRNGKey,
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    asked: FirstOrder,
    batch: PyTree,
    minibatch_trials: int,
) -> tuple[PyTree, PyTree, Info]:
    """An epoch for each key without a KL limit: keeps the last, and evaluates only it; otherwise as `ppo_update`."""
    params, opt_state, epochs = minibatch_epochs(
        keys, params, opt_state, optimiser, asked.loss_fn, batch, minibatch_trials
    )
    new_surrogate, kl = asked.evaluate_fn(params)
    info = Info(kl, new_surrogate - asked.surrogate, jnp.zeros(()), jnp.mean(epochs.grad_norm))
    return params, opt_state, info
