"""The natural gradient: Fisher-vector products, conjugate gradients, and a step to a KL; knows no RL objects.

Schulman et al. 2015, appendix C; notation: the paper's A x = g with A the Fisher matrix, x the step direction; beta the
largest step for which the quadratic model of the mean KL stays within delta.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.types import PyTree


class NaturalStep(NamedTuple):
    """A step along A^-1 g.

    Attributes:
      direction: x, like the parameters.
      size: beta; float32 [].
      residual: g - A x, like the parameters.
    """

    direction: PyTree
    size: chex.Array
    residual: PyTree


def fisher_vector_product(
    dist_params_fn: Callable[[PyTree], PyTree],
    dist_kl: Callable[[PyTree, PyTree], chex.Array],
    params: PyTree,
    damping: float = 0.0,
) -> Callable[[PyTree], PyTree]:
    """Returns v -> (J^T M J + damping I) v with J the Jacobian of `dist_params_fn` at `params`.

    M is the Hessian of `dist_kl(old, new)` in `new` at `old`: the Fisher matrix of the distribution itself,
    whatever its family. The network is linearised here, once; every product reuses it.

    Args:
      dist_params_fn: params -> parameters of the action distributions.
      dist_kl: (old, new) -> mean KL, a scalar, between two sets of distribution parameters.
      params: where to linearise.
      damping: added to the diagonal.
    """
    dist_params, vjp = jax.vjp(dist_params_fn, params)
    # What jax.linearize makes of a function shared by devices has unused inputs, and the compiler of jaxlib 0.11.2
    # crashes on them; the transpose of the transpose has none.
    jvp = jax.linear_transpose(vjp, dist_params)

    def product(v: PyTree) -> PyTree:
        grad_kl = jax.grad(dist_kl, argnums=1)
        (tangent,) = jvp((v,))
        _, curved = jax.jvp(lambda new: grad_kl(dist_params, new), (dist_params,), (tangent,))
        (pulled_back,) = vjp(curved)
        return jax.tree.map(lambda a, b: a + damping * b, pulled_back, v)

    return product


def conjugate_gradient(product: Callable[[PyTree], PyTree], b: PyTree, num_iters: int) -> tuple[PyTree, PyTree]:
    """`num_iters` iterations towards A x = b for a positive definite A, from x = 0.

    Args:
      product: v -> A v, on PyTrees.
      b: the right-hand side.
      num_iters: static.

    Returns:
      (x, b - A x).
    """
    tiny = jnp.finfo(jnp.float32).tiny

    def step(carry, _):
        x, residual, direction, residual_sq = carry
        image = product(direction)
        # Once the residual is exactly zero both quotients are 0 / 0; keep them at 0.
        alpha = residual_sq / jnp.maximum(optax.tree.vdot(direction, image), tiny)
        x = jax.tree.map(lambda x, d: x + alpha * d, x, direction)
        residual = jax.tree.map(lambda r, i: r - alpha * i, residual, image)
        new_residual_sq = optax.tree.vdot(residual, residual)
        beta = new_residual_sq / jnp.maximum(residual_sq, tiny)
        direction = jax.tree.map(lambda r, d: r + beta * d, residual, direction)
        return (x, residual, direction, new_residual_sq), None

    carry = (optax.tree.zeros_like(b), b, b, optax.tree.vdot(b, b))
    (x, residual, _, _), _ = jax.lax.scan(step, carry, None, length=num_iters)
    return x, residual


def natural_step(
    product: Callable[[PyTree], PyTree], grads: PyTree, num_iters: int, radius: float | chex.Array
) -> NaturalStep:
    """The step along A^-1 g to where the quadratic model of the KL, x^T A x / 2, is `radius`.

    Args:
      product: v -> A v, as from `fisher_vector_product`.
      grads: g, like the parameters.
      num_iters: of conjugate gradients; static.
      radius: delta, in nats; a number, or float32 [].
    """
    direction, residual = conjugate_gradient(product, grads, num_iters)
    # x^T A x = x^T (g - residual): no further product is needed.
    curvature = optax.tree.vdot(direction, grads) - optax.tree.vdot(direction, residual)
    return NaturalStep(direction, jnp.sqrt(2.0 * radius / jnp.maximum(curvature, 1e-12)), residual)
