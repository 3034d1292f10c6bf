"""Conjugate posteriors of tabular models: rewards of known noise (Normal), transitions (Dirichlet)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.agents.gamma import gamma

Index = tuple[chex.Array, ...]


class NormalPosterior(NamedTuple):
    """Independent Normal beliefs about means, each observed with Normal noise of variance 1.

    Attributes:
      mean: posterior means; float32 [...].
      precision: inverse posterior variances: the prior's, plus 1 per observation; float32 [...].
    """

    mean: chex.Array
    precision: chex.Array


class DirichletPosterior(NamedTuple):
    """Independent Dirichlet beliefs about rows of probabilities.

    Attributes:
      concentration: the prior's, plus 1 per observation; float32 [..., num_outcomes].
    """

    concentration: chex.Array

    @property
    def mean(self) -> chex.Array:
        """Posterior mean probabilities; float32 [..., num_outcomes]."""
        return self.concentration / self.concentration.sum(axis=-1, keepdims=True)


def normal_prior(shape: tuple[int, ...], mean: float, precision: float) -> NormalPosterior:
    """The same prior N(mean, 1/precision) for every element of `shape`."""
    return NormalPosterior(jnp.full(shape, mean, jnp.float32), jnp.full(shape, precision, jnp.float32))


def dirichlet_prior(shape: tuple[int, ...], concentration: float) -> DirichletPosterior:
    """The same symmetric prior for every row; the last axis of `shape` is that of the outcomes."""
    return DirichletPosterior(jnp.full(shape, concentration, jnp.float32))


def observe_normal(
    posterior: NormalPosterior, index: Index, value: chex.Array, weight: chex.Array | float = 1.0
) -> NormalPosterior:
    """Conditions the element at `index` on one observation.

    With unit noise the precision grows by 1, and the mean moves towards the observation by 1/precision
    (Murphy, "Conjugate Bayesian analysis of the Gaussian distribution", 2007, section 2).

    Args:
      posterior: the belief so far.
      index: one int32 [] per axis.
      value: the observation; float32 [].
      weight: 1 to use it, 0 to leave the belief as it is; float32 [].
    """
    precision = posterior.precision.at[index].add(weight)
    step = weight * (value - posterior.mean[index]) / precision[index]
    return NormalPosterior(posterior.mean.at[index].add(step), precision)


def observe_categorical(
    posterior: DirichletPosterior, index: Index, weight: chex.Array | float = 1.0
) -> DirichletPosterior:
    """Conditions on one outcome: `index` names the row and, last, the outcome; weight 0 changes nothing."""
    return DirichletPosterior(posterior.concentration.at[index].add(weight))


def sample_normal(key: chex.PRNGKey, posterior: NormalPosterior) -> chex.Array:
    """Draws every mean from its posterior; float32 [...]."""
    noise = jax.random.normal(key, posterior.mean.shape)
    return posterior.mean + noise * jax.lax.rsqrt(posterior.precision)


def sample_dirichlet(key: chex.PRNGKey, posterior: DirichletPosterior) -> chex.Array:
    """Draws every row from its posterior, as normalised gamma variates; float32 [..., num_outcomes].

    Every concentration must be >= 1 (not checked), as under a flat prior.
    """
    weights = gamma(key, posterior.concentration)
    return weights / weights.sum(axis=-1, keepdims=True)
