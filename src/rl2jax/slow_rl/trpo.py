"""Natural-gradient trust region policy optimisation (Schulman et al. 2015, appendix C); knows no RL objects.

Notation: the paper's A x = g with A the Fisher matrix, x the step direction; beta the largest step for
which the quadratic model of the mean KL stays within delta (here `max_kl`).

Several steps on one batch share one trust region, that of the policy which collected it: the bound that the method
rests on (theorem 1), and the probability ratios, are relative to that policy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.settings import Section, bounded, choice
from rl2jax.types import PyTree


@dataclass(frozen=True)
class TRPO(Section):
    """The paper's algorithm: natural-gradient steps under a KL limit.

    Attributes:
      max_kl: mean KL per step between successive policies, in nats.
      max_kl_schedule: constant, or to 0 at the last iteration.
      steps: natural steps on each batch, each with gradient and Fisher matrix of where the last one led. max_kl limits
        all of them together, as the KL from the policy that collected the batch (`trpo_update`).
      fisher_fraction: share of the batch's trials in Fisher-vector products.
      cg_iters: conjugate-gradient iterations.
      cg_damping: added to the Fisher matrix's diagonal.
      backtrack_ratio: factor between steps of the line search.
    """

    section: ClassVar[str] = "trpo"
    name: ClassVar[str] = "trpo"
    max_kl: float = bounded(0.01, above=0, swept=True)
    max_kl_schedule: str = choice("constant", "linear", "cosine")
    steps: int = bounded(1, at_least=1)
    fisher_fraction: float = bounded(1.0, above=0, at_most=1)
    cg_iters: int = bounded(10, at_least=1)
    cg_damping: float = bounded(1e-3, at_least=0, at_most=1e6, swept=True)
    backtrack_ratio: float = bounded(0.5, above=0, below=1)


class TRPOConfig(NamedTuple):
    """Constants of an update.

    Attributes:
      max_kl: the trust region's radius, delta; mean KL per time step, in nats; a number, or float32 [].
      cg_iters: conjugate-gradient iterations, one Fisher-vector product each.
      cg_damping: added to the Fisher matrix's diagonal.
      backtrack_ratio: the line search multiplies the step by this until it is acceptable.
      max_backtracks: how often, before the step is given up.
      steps: natural steps, each from where the last one led, with gradient and Fisher matrix of that place.
    """

    max_kl: float | chex.Array = 0.01
    cg_iters: int = 10
    cg_damping: float = 1e-3
    backtrack_ratio: float = 0.5
    max_backtracks: int = 10
    steps: int = 1


class TRPOInfo(NamedTuple):
    """Diagnostics of an update; float32 scalars.

    Attributes:
      kl: mean KL from the old to the new parameters; 0 if no step was taken.
      surrogate_gain: surrogate after minus before.
      line_search_steps: backtracks before acceptance, summed over the steps that were taken; -1 if none was.
      grad_norm: norm of the surrogate's gradient; mean over steps.
      cg_residual: |g - A x| / |g| after the last iteration; mean over steps.
    """

    kl: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    grad_norm: chex.Array
    cg_residual: chex.Array


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


def trpo_update(
    params: PyTree,
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]],
    dist_params_fn: Callable[[PyTree], PyTree],
    dist_kl: Callable[[PyTree, PyTree], chex.Array],
    config: TRPOConfig,
) -> tuple[PyTree, TRPOInfo]:
    """One natural step or several, each along A^-1 g as far as the KL stays within `max_kl` and the surrogate improves.

    However many there are, the KL that is limited is that from the policy which collected the batch, by `max_kl` for
    all of them together. Each of K steps aims at a radius of `max_kl` / K^2: a KL is half a squared distance, so that K
    steps of 1 / K of the distance stay within it, and bend where one step of all of it would go on straight.

    Args:
      params: the policy's parameters.
      evaluate_fn: params -> (surrogate to maximise, mean KL from the policy that collected the batch).
      dist_params_fn: params -> distribution parameters on the trials used for the Fisher matrix.
      dist_kl: (old, new) -> mean KL between two such sets.
      config: constants.

    Returns:
      (params, info); the parameters unchanged if the line search found no acceptable step.
    """

    class Progress(NamedTuple):
        params: PyTree
        kl: chex.Array

    def step(before: Progress, _) -> tuple[Progress, TRPOInfo]:
        params, info = _natural_step(before.params, evaluate_fn, dist_params_fn, dist_kl, config)
        return Progress(params, jnp.where(info.line_search_steps >= 0, info.kl, before.kl)), info

    if config.steps == 1:
        return _natural_step(params, evaluate_fn, dist_params_fn, dist_kl, config)
    after, infos = jax.lax.scan(step, Progress(params, jnp.zeros(())), None, length=config.steps)
    taken = infos.line_search_steps >= 0
    return after.params, TRPOInfo(
        kl=after.kl,
        surrogate_gain=jnp.sum(infos.surrogate_gain),
        line_search_steps=jnp.where(jnp.any(taken), jnp.sum(jnp.where(taken, infos.line_search_steps, 0.0)), -1.0),
        grad_norm=jnp.mean(infos.grad_norm),
        cg_residual=jnp.mean(infos.cg_residual),
    )


def _natural_step(params, evaluate_fn, dist_params_fn, dist_kl, config: TRPOConfig) -> tuple[PyTree, TRPOInfo]:
    """One of the steps of `trpo_update`."""
    (surrogate, _), grads = jax.value_and_grad(evaluate_fn, has_aux=True)(params)
    product = fisher_vector_product(dist_params_fn, dist_kl, params, config.cg_damping)
    direction, residual = conjugate_gradient(product, grads, config.cg_iters)

    # x^T A x = x^T (g - residual): no further product is needed.
    curvature = optax.tree.vdot(direction, grads) - optax.tree.vdot(direction, residual)
    radius = config.max_kl / config.steps**2
    step_size = jnp.sqrt(2.0 * radius / jnp.maximum(curvature, 1e-12))

    def candidate(scale):
        return jax.tree.map(lambda p, d: p + scale * step_size * d, params, direction)

    class Search(NamedTuple):
        backtracks: chex.Array
        surrogate: chex.Array
        kl: chex.Array

    def evaluate(backtracks):
        new_surrogate, kl = evaluate_fn(candidate(config.backtrack_ratio**backtracks))
        return Search(backtracks, new_surrogate, kl)

    def acceptable(search):
        return jnp.logical_and(search.surrogate > surrogate, search.kl <= config.max_kl)

    def unfinished(search):
        return jnp.logical_and(~acceptable(search), search.backtracks < config.max_backtracks)

    # Starts before the first step, which is not acceptable: one copy of the networks to compile.
    before = Search(jnp.full((), -1.0), surrogate, jnp.zeros(()))
    search = jax.lax.while_loop(unfinished, lambda s: evaluate(s.backtracks + 1.0), before)
    accepted = acceptable(search)
    scale = jnp.where(accepted, config.backtrack_ratio**search.backtracks, 0.0)
    new_params = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate(scale), params)
    grad_norm = optax.tree.norm(grads)
    return new_params, TRPOInfo(
        kl=jnp.where(accepted, search.kl, 0.0),
        surrogate_gain=jnp.where(accepted, search.surrogate - surrogate, 0.0),
        line_search_steps=jnp.where(accepted, search.backtracks, -1.0),
        grad_norm=grad_norm,
        cg_residual=optax.tree.norm(residual) / jnp.maximum(grad_norm, 1e-12),
    )
