"""Means and variances over the masked entries of a batch, and their running values over batches."""

from typing import NamedTuple

import chex
import jax.numpy as jnp


def masked_mean(x: chex.Array, mask: chex.Array) -> chex.Array:
    """Mean of `x` over the entries where `mask` is 1."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def masked_variance(x: chex.Array, mask: chex.Array) -> chex.Array:
    """Variance of `x` over the entries where `mask` is 1."""
    return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def standardise_columns(x: chex.Array) -> chex.Array:
    """Each column of [..., columns] with mean 0 and standard deviation 1 over all rows (0 where it is constant)."""
    rows = tuple(range(x.ndim - 1))
    return (x - jnp.mean(x, axis=rows)) / (jnp.std(x, axis=rows) + 1e-6)


class Moments(NamedTuple):
    """Running mean and variance of the discounted returns, the scale of the baseline; float32 []."""

    count: chex.Array
    mean: chex.Array
    variance: chex.Array


def update_moments(moments: Moments, x: chex.Array, mask: chex.Array) -> Moments:
    """Merges a batch into running moments (Chan et al. 1979, the pairwise formula)."""
    count = jnp.sum(mask)
    mean = masked_mean(x, mask)
    variance = masked_mean(jnp.square(x - mean), mask)
    total = moments.count + count
    delta = mean - moments.mean
    new_variance = moments.variance * moments.count + variance * count + delta**2 * moments.count * count / total
    return Moments(total, moments.mean + delta * count / total, new_variance / total)
