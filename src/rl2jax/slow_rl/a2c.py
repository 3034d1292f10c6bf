"""Synchronous advantage actor-critic: one gradient step on a batch; knows no environment.

Mnih et al. 2016, algorithm S3, where all workers' gradients are summed into one step, as Wang et al. 2016 train.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.settings import Section, bounded
from rl2jax.slow_rl.sgd import gradient_norm
from rl2jax.types import PyTree


@dataclass(frozen=True)
class A2C(Section):
    """One gradient step on the policy gradient of the whole batch (Mnih et al. 2016, Wang et al. 2016).

    Attributes:
      learning_rate: of the policy.
    """

    section: ClassVar[str] = "a2c"
    name: ClassVar[str] = "a2c"
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)


class A2CInfo(NamedTuple):
    """Diagnostics of one update; float32 scalars.

    Attributes:
      kl: mean KL from the old to the new parameters.
      surrogate_gain: surrogate after the step minus before.
      line_search_steps: 0: there is no search.
      grad_norm: of the loss, before any clipping.
    """

    kl: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    grad_norm: chex.Array


def policy_gradient_surrogate(log_prob: chex.Array, advantage: chex.Array) -> chex.Array:
    """Elementwise log pi(a) A; any one shape. Its gradient is the policy gradient (Williams 1992)."""
    chex.assert_equal_shape([log_prob, advantage])
    return log_prob * jax.lax.stop_gradient(advantage)


def a2c_update(
    params: PyTree,
    opt_state: PyTree,
    optimiser: optax.GradientTransformation,
    loss_fn: Callable[[PyTree, PyTree], chex.Array],
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]],
    batch: PyTree,
    surrogate: chex.Array,
) -> tuple[PyTree, PyTree, A2CInfo]:
    """One gradient step on the whole batch.

    Args:
      params: what is optimised.
      opt_state: the optimiser's state; it carries on from batch to batch.
      optimiser: an optax optimiser.
      loss_fn: (params, batch) -> scalar to minimise.
      evaluate_fn: params -> (surrogate, mean KL from the policy that collected the batch), for the diagnostics.
      batch: what `loss_fn` is given.
      surrogate: the surrogate at `params`, which the caller knows.

    Returns:
      (params, opt_state, info).
    """
    grads = jax.grad(loss_fn)(params, batch)
    updates, opt_state = optimiser.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    new_surrogate, kl = evaluate_fn(params)
    return params, opt_state, A2CInfo(kl, new_surrogate - surrogate, jnp.zeros(()), gradient_norm(grads))
