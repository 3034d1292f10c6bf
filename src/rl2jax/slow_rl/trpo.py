"""Natural-gradient trust region policy optimisation (Schulman et al. 2015, appendix C).

Notation: delta is the paper's radius of the trust region, here `max_kl`.

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

from rl2jax.settings import bounded, choice
from rl2jax.slow_rl.base import Batch, Info, Problem, SlowRL, SlowRLSettings, Work
from rl2jax.slow_rl.line_search import MAX_BACKTRACKS, Search, backtracking_search
from rl2jax.slow_rl.moments import masked_mean
from rl2jax.slow_rl.natural_gradient import fisher_vector_product, natural_step
from rl2jax.slow_rl.surrogates import clipped_surrogate
from rl2jax.types import PyTree


@dataclass(frozen=True)
class TRPO(SlowRLSettings):
    """The paper's algorithm: natural-gradient steps under a KL limit.

    Attributes:
      max_kl: mean KL per step between successive policies, in nats.
      max_kl_schedule: constant, or to 0 at the last iteration.
      steps: natural steps on each batch, each with gradient and Fisher matrix of where the last one led. max_kl limits
        all of them together, as the KL from the policy that collected the batch (`trpo_update`).
      fisher_fraction: share of the batch's trials in Fisher-vector products.
      cg_iters: conjugate-gradient iterations, one Fisher-vector product each.
      cg_damping: added to the Fisher matrix's diagonal.
      backtrack_ratio: factor between steps of the line search.
    """

    section: ClassVar[str] = "trpo"
    name: ClassVar[str] = "trpo"
    infers_task: ClassVar[bool] = False
    max_kl: float = bounded(0.01, above=0, swept=True)
    max_kl_schedule: str = choice("constant", "linear", "cosine")
    steps: int = bounded(1, at_least=1)
    fisher_fraction: float = bounded(1.0, above=0, at_most=1)
    cg_iters: int = bounded(10, at_least=1)
    cg_damping: float = bounded(1e-3, at_least=0, at_most=1e6, swept=True)
    backtrack_ratio: float = bounded(0.5, above=0, below=1)

    def make(self, problem: Problem) -> SlowRL:
        """Natural steps on the ratio times the advantage (equation 14).

        Where policy and baseline share a network, the objective includes the values' squared error, and the step is
        natural to the joint distribution of `Problem.joint_kl`. The line search's limit, and the KL that is reported,
        are the policy's.
        """

        def init(params: PyTree) -> TRPOState:
            del params
            return TRPOState(jnp.zeros((), jnp.int32))

        def step(key: chex.PRNGKey, state: TRPOState, params: PyTree, batch: Batch):
            del key
            max_kl = problem.scheduled(self.max_kl_schedule, self.max_kl, state.iteration)
            asked = _asked(self, problem, batch, problem.entropy_weight(state.iteration))
            params, info = trpo_update(params, *asked, self, max_kl)
            told = Info(info.kl, info.surrogate_gain, info.line_search_steps, info.grad_norm)
            return params, TRPOState(state.iteration + 1), told

        return SlowRL(init, step)

    def work(self) -> Work:
        """A gradient, a linearisation and at least one evaluation for each natural step."""
        return Work(self.steps, None, self.steps, self.steps, self.cg_iters, self.fisher_fraction)


class TRPOState(NamedTuple):
    """What is kept from batch to batch: updates done, int32 []."""

    iteration: chex.Array


class TRPOInfo(NamedTuple):
    """Diagnostics of an update; float32 scalars.

    Attributes:
      kl, surrogate_gain: as `Info`; 0 if no step was taken.
      line_search_steps: backtracks before acceptance, summed over the steps that were taken; -1 if none was.
      grad_norm: norm of the surrogate's gradient; mean over steps.
      cg_residual: |g - A x| / |g| after the last iteration; mean over steps.
    """

    kl: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    grad_norm: chex.Array
    cg_residual: chex.Array


def ratio_surrogate(log_prob: chex.Array, batch: Batch) -> chex.Array:
    """The probability ratio times the advantage; [num_steps, num_trials]."""
    return clipped_surrogate(log_prob, batch.old_log_prob, batch.advantage, jnp.inf)


def _asked(
    settings: TRPO, problem: Problem, batch: Batch, entropy_weight: chex.Array | float
) -> tuple[Callable, Callable, Callable]:
    """(evaluate_fn, dist_params_fn, dist_kl) of `trpo_update`."""
    num_fisher = max(1, round(settings.fisher_fraction * batch.mask.shape[1]))
    fisher_obs = jax.tree.map(lambda x: x[:, :num_fisher], batch.trial_obs)
    fisher_mask = batch.mask[:, :num_fisher]

    def evaluate_fn(params):
        losses = problem.losses(params, batch, ratio_surrogate, entropy_weight)
        return -(losses.policy + problem.value_coefficient * losses.value), losses.kl

    def dist_params_fn(params):
        return problem.joint_params(params, fisher_obs)

    def dist_kl(old, new):
        return masked_mean(problem.joint_kl(old, new), fisher_mask)

    return evaluate_fn, dist_params_fn, dist_kl


def trpo_update(
    params: PyTree,
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]],
    dist_params_fn: Callable[[PyTree], PyTree],
    dist_kl: Callable[[PyTree, PyTree], chex.Array],
    settings: TRPO,
    max_kl: float | chex.Array,
    max_backtracks: int = MAX_BACKTRACKS,
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
      settings: all but `max_kl`, which may be on a schedule.
      max_kl: the trust region's radius, delta; mean KL per time step, in nats; a number, or float32 [].
      max_backtracks: before a step is given up.

    Returns:
      (params, info); the parameters unchanged if the line search found no acceptable step.
    """
    functions = evaluate_fn, dist_params_fn, dist_kl

    class Progress(NamedTuple):
        params: PyTree
        kl: chex.Array

    def step(before: Progress, _) -> tuple[Progress, TRPOInfo]:
        params, info = _step(before.params, *functions, settings, max_kl, max_backtracks)
        return Progress(params, jnp.where(info.line_search_steps >= 0, info.kl, before.kl)), info

    if settings.steps == 1:
        return _step(params, *functions, settings, max_kl, max_backtracks)
    after, infos = jax.lax.scan(step, Progress(params, jnp.zeros(())), None, length=settings.steps)
    taken = infos.line_search_steps >= 0
    return after.params, TRPOInfo(
        kl=after.kl,
        surrogate_gain=jnp.sum(infos.surrogate_gain),
        line_search_steps=jnp.where(jnp.any(taken), jnp.sum(jnp.where(taken, infos.line_search_steps, 0.0)), -1.0),
        grad_norm=jnp.mean(infos.grad_norm),
        cg_residual=jnp.mean(infos.cg_residual),
    )


def _step(
    params, evaluate_fn, dist_params_fn, dist_kl, settings: TRPO, max_kl, max_backtracks
) -> tuple[PyTree, TRPOInfo]:
    """One of the steps of `trpo_update`."""
    (surrogate, _), grads = jax.value_and_grad(evaluate_fn, has_aux=True)(params)
    product = fisher_vector_product(dist_params_fn, dist_kl, params, settings.cg_damping)
    direction, size, residual = natural_step(product, grads, settings.cg_iters, max_kl / settings.steps**2)

    def candidate(scale):
        return jax.tree.map(lambda p, d: p + scale * size * d, params, direction)

    def acceptable(search: Search) -> chex.Array:
        return jnp.logical_and(search.surrogate > surrogate, search.kl <= max_kl)

    # Starts before the first step, which is not acceptable: one copy of the networks to compile.
    search, accepted = backtracking_search(
        lambda scale: evaluate_fn(candidate(scale)),
        acceptable,
        Search(jnp.full((), -1.0), surrogate, jnp.zeros(())),
        settings.backtrack_ratio,
        max_backtracks,
    )
    scale = jnp.where(accepted, settings.backtrack_ratio**search.backtracks, 0.0)
    new_params = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate(scale), params)
    grad_norm = optax.tree.norm(grads)
    return new_params, TRPOInfo(
        kl=jnp.where(accepted, search.kl, 0.0),
        surrogate_gain=jnp.where(accepted, search.surrogate - surrogate, 0.0),
        line_search_steps=jnp.where(accepted, search.backtracks, -1.0),
        grad_norm=grad_norm,
        cg_residual=optax.tree.norm(residual) / jnp.maximum(grad_norm, 1e-12),
    )
