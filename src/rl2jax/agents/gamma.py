"""Gamma variates for whole arrays at once: an order of magnitude faster than element by element on a CPU."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class _Draws(NamedTuple):
    """Carry of the rejection loop: the next key, the draws so far, and which of them are accepted."""

    key: chex.PRNGKey
    value: chex.Array
    accepted: chex.Array


def gamma(key: chex.PRNGKey, shape_parameter: chex.Array) -> chex.Array:
    """Independent draws from Gamma(shape_parameter, 1).

    The rejection method of Marsaglia and Tsang, "A simple method for generating gamma variables" (2000): with
    d = a - 1/3, c = 1/sqrt(9 d), z standard normal and v = (1 + c z)^3, the draw d v is accepted with probability
    min(1, exp(z^2/2 + d - d v + d log v)), 98% on average at a = 2 and more above. Where a = 1 the draw is an
    exponential number, never rejected. All elements are proposed together until the last is accepted: under
    `jax.vmap`, those of the whole batch.

    Args:
      key: randomness.
      shape_parameter: a; float32 [...], each >= 1 (not checked: below 1 the method is wrong).

    Returns:
      float32 [...].
    """
    chex.assert_type(shape_parameter, jnp.float32)
    flat = shape_parameter.ravel()  # loops over a short last axis are four times slower on a CPU
    is_exponential = flat == 1.0
    d = flat - 1.0 / 3.0
    c = jax.lax.rsqrt(9.0 * d)

    def propose(draws: _Draws) -> _Draws:
        key, key_normal, key_exponential = jax.random.split(draws.key, 3)
        z = jax.random.normal(key_normal, d.shape)
        exponential = jax.random.exponential(key_exponential, d.shape)  # minus the log of a uniform number
        v = (1.0 + c * z) ** 3
        log_ratio = 0.5 * z * z + d * (1.0 - v + jnp.log(jnp.maximum(v, jnp.finfo(v.dtype).tiny)))
        accepted = is_exponential | ((v > 0.0) & (-exponential < log_ratio))
        proposed = jnp.where(is_exponential, exponential, d * v)
        return _Draws(key, jnp.where(draws.accepted, draws.value, proposed), draws.accepted | accepted)

    start = _Draws(key, jnp.zeros_like(d), jnp.zeros(d.shape, bool))
    drawn = jax.lax.while_loop(lambda draws: ~jnp.all(draws.accepted), propose, start)
    return drawn.value.reshape(shape_parameter.shape)
