"""Epochs of minibatch gradient descent over whole trials; knows no RL objects."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.types import PyTree


class EpochInfo(NamedTuple):
    """Means over the minibatches of one epoch: the loss and the gradient's norm; float32 []."""

    loss: chex.Array
    grad_norm: chex.Array


_LARGEST_NORM = 1e30
# Between these a sum of squares is as exact as float32 is: far from overflow, and squares that underflow do not show.
_EXACT_SQUARES = 1e-20, 1e36


def gradient_norm(grads: PyTree) -> chex.Array:
    """Euclidean norm of a gradient, at most 1e30; NaN if the gradient has one; float32 [].

    One with infinities, or too large for its square to be a float32, does no harm: the optimiser clips it.
    """
    # As products with itself, which processors sum several times as fast as XLA's reductions.
    square = optax.tree.vdot(grads, grads)
    exact = (square > _EXACT_SQUARES[0]) & (square < _EXACT_SQUARES[1])
    return jax.lax.cond(exact, lambda _: jnp.sqrt(square), _scaled_norm, grads)


def _scaled_norm(grads: PyTree) -> chex.Array:
    """The same for any size: by the largest entry, whose square is 1 then."""
    bounded = jax.tree.map(lambda g: jnp.clip(g, -_LARGEST_NORM, _LARGEST_NORM), grads)
    largest = jnp.maximum(optax.tree.norm(bounded, ord=jnp.inf), jnp.finfo(jnp.float32).tiny)
    return jnp.minimum(largest * optax.tree.norm(jax.tree.map(lambda g: g / largest, bounded)), _LARGEST_NORM)


def num_minibatches(num_trials: int, minibatch_trials: int) -> int:
    """How many equal minibatches of about `minibatch_trials` make an epoch; at least 1."""
    return max(1, round(num_trials / minibatch_trials))


def minibatch_epoch(
    key: chex.PRNGKey,
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    loss_fn: Callable[[PyTree, PyTree], chex.Array],
    batch: PyTree,
    minibatch_trials: int,
) -> tuple[PyTree, PyTree, EpochInfo]:
    """One pass over a shuffled batch.

    Args:
      key: for the shuffle.
      params: what is optimised.
      opt_state: the optimiser's state.
      optimiser: an optax optimiser.
      loss_fn: (params, minibatch) -> scalar to minimise.
      batch: leaves [num_steps, num_trials, ...]; minibatches take whole trials (axis 1).
      minibatch_trials: about how many trials make a minibatch. Where it does not divide the batch, the
        sizes are evened out and fewer than `num_minibatches` trials, drawn anew each epoch, sit out.

    Returns:
      (params, opt_state, info).
    """
    num_trials = jax.tree.leaves(batch)[0].shape[1]
    count = num_minibatches(num_trials, minibatch_trials)
    size = num_trials // count
    order = jax.random.permutation(key, num_trials)[: count * size].reshape(count, size)

    def step(carry, trials):
        params, opt_state = carry
        minibatch = jax.tree.map(lambda x: jnp.take(x, trials, axis=1), batch)
        loss, grads = jax.value_and_grad(loss_fn)(params, minibatch)
        updates, opt_state = optimiser.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), EpochInfo(loss, gradient_norm(grads))

    (params, opt_state), info = jax.lax.scan(step, (params, opt_state), order)
    return params, opt_state, jax.tree.map(jnp.mean, info)


def minibatch_epochs(
    keys: chex.PRNGKey,
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    loss_fn: Callable[[PyTree, PyTree], chex.Array],
    batch: PyTree,
    minibatch_trials: int,
) -> tuple[PyTree, PyTree, EpochInfo]:
    """A `minibatch_epoch` for each of `keys` [epochs]; the info has leaves [epochs]."""

    def epoch(carry, key_epoch):
        params, opt_state = carry
        params, opt_state, info = minibatch_epoch(
            key_epoch, params, opt_state, optimiser, loss_fn, batch, minibatch_trials
        )
        return (params, opt_state), info

    (params, opt_state), infos = jax.lax.scan(epoch, (params, opt_state), keys)
    return params, opt_state, infos
