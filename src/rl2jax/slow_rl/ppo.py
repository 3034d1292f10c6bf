"""The paper's "first-order implementation of TRPO": clipped ratio, epochs, a KL limit; knows no environment.

The paper says no more than that; the rest is what is known of its authors' settings (docs/design.md).
Schulman et al. 2017, equation 7, for the clipped surrogate. The KL limit keeps the parameters with the best
surrogate among the epochs whose mean KL is within `max_kl`; if none is, the last epoch's step is halved
until it is.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.settings import Section, bounded, choice, is_traced
from rl2jax.slow_rl.sgd import minibatch_epoch
from rl2jax.types import PyTree


@dataclass(frozen=True)
class PPO(Section):
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


class PPOConfig(NamedTuple):
    """Constants of the update.

    Attributes:
      max_kl: limit on the mean KL per step, in nats; float32 [], or a number, of which infinity switches the limit and
        its cost off.
      epochs: passes over the batch.
      minibatch_trials: whole trials in a minibatch.
      max_halvings: how often the step is halved, before it is given up.
    """

    max_kl: float | chex.Array = 0.01
    epochs: int = 5
    minibatch_trials: int = 128
    max_halvings: int = 10


class PPOInfo(NamedTuple):
    """Diagnostics of one update; float32 scalars.

    Attributes:
      kl: mean KL from the old to the new parameters.
      surrogate_gain: clipped surrogate after minus before.
      line_search_steps: halvings; -1 if even the last was outside the limit and the step was given up.
      grad_norm: mean over all minibatches.
    """

    kl: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    grad_norm: chex.Array


def clipped_surrogate(
    log_prob: chex.Array, old_log_prob: chex.Array, advantage: chex.Array, clip_range: float
) -> chex.Array:
    """min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A), elementwise; any one shape."""
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return jnp.minimum(ratio * advantage, clipped * advantage)


def ppo_update(
    key: chex.PRNGKey,
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    loss_fn: Callable[[PyTree, PyTree], chex.Array],
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]],
    batch: PyTree,
    surrogate: chex.Array,
    config: PPOConfig,
) -> tuple[PyTree, PyTree, PPOInfo]:
    """Several epochs of minibatch ascent within the KL limit.

    Args:
      key: for the shuffles.
      params: the policy's parameters.
      opt_state: the optimiser's state; it carries on from batch to batch.
      optimiser: an optax optimiser.
      loss_fn: (params, minibatch) -> scalar to minimise, the negative clipped surrogate.
      evaluate_fn: params -> (surrogate, mean KL from the policy that collected the batch), on all of it.
      batch: leaves [num_steps, num_trials, ...].
      surrogate: the surrogate at `params` (the caller knows it: all ratios are 1).
      config: constants.

    Returns:
      (params, opt_state, info).
    """
    keys = jax.random.split(key, config.epochs)
    if isinstance(config.max_kl, float) and config.max_kl == jnp.inf:
        return _unlimited(keys, params, opt_state, optimiser, loss_fn, evaluate_fn, batch, config, surrogate)

    class Best(NamedTuple):
        params: PyTree
        surrogate: chex.Array
        kl: chex.Array

    def epoch(carry, key_epoch):
        current, opt_state, best = carry
        current, opt_state, info = minibatch_epoch(
            key_epoch, current, opt_state, optimiser, loss_fn, batch, config.minibatch_trials
        )
        new_surrogate, kl = evaluate_fn(current)
        better = jnp.logical_and(kl <= config.max_kl, new_surrogate > best.surrogate)
        best = jax.tree.map(lambda n, b: jnp.where(better, n, b), Best(current, new_surrogate, kl), best)
        return (current, opt_state, best), info.grad_norm

    nothing = Best(params, jnp.full((), -jnp.inf), jnp.full((), jnp.inf))
    (last, opt_state, best), grad_norms = jax.lax.scan(epoch, (params, opt_state, nothing), keys)

    # No epoch within the limit: halve the way back from the last one. The loop does not run otherwise.
    class Halving(NamedTuple):
        count: chex.Array
        candidate: Best

    def halve(halving):
        count = halving.count + 1.0
        step = 0.5**count
        midway = jax.tree.map(lambda old, new: old + step * (new - old), params, last)
        return Halving(count, Best(midway, *evaluate_fn(midway)))

    def outside(halving):
        return jnp.logical_and(halving.candidate.kl > config.max_kl, halving.count < config.max_halvings)

    halving = jax.lax.while_loop(outside, halve, Halving(jnp.zeros(()), best))
    accepted = halving.candidate.kl <= config.max_kl
    unchanged = Best(params, surrogate, jnp.zeros(()))
    chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), halving.candidate, unchanged)
    info = PPOInfo(
        kl=chosen.kl,
        surrogate_gain=chosen.surrogate - surrogate,
        line_search_steps=jnp.where(accepted, halving.count, -1.0),
        grad_norm=jnp.mean(grad_norms),
    )
    return chosen.params, opt_state, info


def _unlimited(keys, params, opt_state, optimiser, loss_fn, evaluate_fn, batch, config, surrogate):
    """The same without a KL limit: keeps the last epoch, and evaluates only it."""

    def epoch(carry, key_epoch):
        params, opt_state = carry
        params, opt_state, info = minibatch_epoch(
            key_epoch, params, opt_state, optimiser, loss_fn, batch, config.minibatch_trials
        )
        return (params, opt_state), info.grad_norm

    (params, opt_state), grad_norms = jax.lax.scan(epoch, (params, opt_state), keys)
    new_surrogate, kl = evaluate_fn(params)
    info = PPOInfo(kl, new_surrogate - surrogate, jnp.zeros(()), jnp.mean(grad_norms))
    return params, opt_state, info
