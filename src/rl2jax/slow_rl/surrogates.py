"""What policies are improved by: functions of log-probabilities and advantages, elementwise; knows no RL objects."""

import chex
import jax
import jax.numpy as jnp


def policy_gradient_surrogate(log_prob: chex.Array, advantage: chex.Array) -> chex.Array:
    """Elementwise log pi(a) A; any one shape. Its gradient is the policy gradient (Williams 1992)."""
    chex.assert_equal_shape([log_prob, advantage])
    return log_prob * jax.lax.stop_gradient(advantage)


def clipped_surrogate(
    log_prob: chex.Array, old_log_prob: chex.Array, advantage: chex.Array, clip_range: float | chex.Array
) -> chex.Array:
    """min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A), elementwise; any one shape.

    Schulman et al. 2017, equation 7. With an infinite clip_range it is the ratio times the advantage, what TRPO
    maximises (Schulman et al. 2015, equation 14).
    """
    chex.assert_equal_shape([log_prob, old_log_prob, advantage])
    ratio = jnp.exp(log_prob - old_log_prob)
    clipped = jnp.clip(ratio, 1.0 - clip_range, 1.0 + clip_range)
    return jnp.minimum(ratio * advantage, clipped * advantage)
