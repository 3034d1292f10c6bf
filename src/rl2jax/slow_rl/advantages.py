"""Discounted returns and generalised advantages over whole trials; knows no RL objects."""

import chex
import jax
import jax.numpy as jnp


def discounted_returns(rewards: chex.Array, discount: float, trial_done: chex.Array | None = None) -> chex.Array:
    """R_t = sum_{l >= 0} discount^l r_{t+l}, to the trial's end: to that of the array, or where `trial_done` says.

    Episode ends do not appear: the objective is the discounted reward of the whole trial
    (Duan et al. 2016, section 2.2), so nothing is cut there.

    Args:
      rewards: float [num_steps]. Of a trial that is cut by the array's end, the last is to be the value there, which
        stands for all that would have followed.
      discount: in [0, 1].
      trial_done: where one trial follows another, 1 at the last step of each; float [num_steps].

    Returns:
      float [num_steps].
    """
    chex.assert_rank(rewards, 1)
    if trial_done is not None:
        chex.assert_equal_shape([rewards, trial_done])

    def step(following, inputs):
        reward, done = inputs
        following = reward + discount * (following if done is None else jnp.where(done > 0, 0.0, following))
        return following, following

    return jax.lax.scan(step, jnp.zeros((), rewards.dtype), (rewards, trial_done), reverse=True)[1]


def generalised_advantages(
    rewards: chex.Array,
    values: chex.Array,
    discount: float,
    gae_lambda: float,
    trial_done: chex.Array | None = None,
) -> chex.Array:
    """A_t = sum_l (discount gae_lambda)^l delta_{t+l}, delta_t = r_t + discount V_{t+1} - V_t.

    Schulman et al. 2016, equation 16, over a whole trial; the value after the trial's last step is 0.
    For a trial that ended early, `rewards` and `values` must be 0 after its end.

    Args:
      rewards: float [num_steps]. Of a trial that is cut by the array's end, the last is to be the value there: the
        advantage of that step is then 0, and the step before counts on the value.
      values: float [num_steps], the baseline at each step.
      discount: in [0, 1].
      gae_lambda: in [0, 1].
      trial_done: where one trial follows another, 1 at the last step of each; float [num_steps].

    Returns:
      float [num_steps].
    """
    chex.assert_rank([rewards, values], 1)
    chex.assert_equal_shape([rewards, values])
    next_values = jnp.append(values[1:], jnp.zeros((), values.dtype))
    if trial_done is not None:
        next_values = jnp.where(trial_done > 0, 0.0, next_values)
    deltas = rewards + discount * next_values - values
    return discounted_returns(deltas, discount * gae_lambda, trial_done)


def standardise(x: chex.Array, mask: chex.Array) -> chex.Array:
    """Zero mean and unit variance over the entries where `mask` is 1; the others become 0."""
    chex.assert_equal_shape([x, mask])
    count = jnp.sum(mask)
    mean = jnp.sum(x * mask) / count
    variance = jnp.sum(jnp.square(x - mean) * mask) / count
    return mask * (x - mean) / jnp.sqrt(variance + 1e-8)
