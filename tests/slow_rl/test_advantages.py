"""Discounted returns and GAE against plain loops and their limiting cases."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.slow_rl.advantages import discounted_returns, generalised_advantages, standardise

pytestmark = pytest.mark.usefixtures("strict_ranks")

returns_fn = jax.jit(discounted_returns)
gae_fn = jax.jit(generalised_advantages)
standardise_fn = jax.jit(standardise)

numbers = st.floats(-10, 10, width=32)
units = st.floats(0, 1, width=32)


@st.composite
def trials(draw):
    """(rewards, values) of one trial of up to 6 steps."""
    length = draw(st.integers(1, 6))
    series = st.lists(numbers, min_size=length, max_size=length)
    return np.array(draw(series), np.float32), np.array(draw(series), np.float32)


def loop_returns(rewards, discount):
    n = len(rewards)
    return np.array([sum(discount ** (s - t) * float(rewards[s]) for s in range(t, n)) for t in range(n)])


def loop_advantages(rewards, values, discount, gae_lambda):
    """Schulman et al. 2016, equation 16, term by term in double precision."""
    n = len(rewards)
    after = [*map(float, values[1:]), 0.0]
    delta = [float(rewards[t]) + discount * after[t] - float(values[t]) for t in range(n)]
    return np.array([sum((discount * gae_lambda) ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)])


@hypothesis.given(trials(), units)
def test_returns_match_a_double_loop(trial, discount):
    rewards, _ = trial
    np.testing.assert_allclose(returns_fn(rewards, discount), loop_returns(rewards, discount), atol=1e-4)


@hypothesis.given(trials(), units, units)
def test_advantages_match_a_double_loop(trial, discount, gae_lambda):
    rewards, values = trial
    expected = loop_advantages(rewards, values, discount, gae_lambda)
    np.testing.assert_allclose(gae_fn(rewards, values, discount, gae_lambda), expected, atol=1e-4)


@hypothesis.given(trials(), units)
def test_lambda_one_is_monte_carlo_minus_value(trial, discount):
    """The values telescope away: A_t = R_t - V_t."""
    rewards, values = trial
    expected = loop_returns(rewards, discount) - values
    np.testing.assert_allclose(gae_fn(rewards, values, discount, 1.0), expected, atol=1e-4)


@hypothesis.given(trials(), units)
def test_lambda_zero_is_the_one_step_error(trial, discount):
    """A_t = r_t + discount V_{t+1} - V_t."""
    rewards, values = trial
    expected = rewards + discount * np.append(values[1:], 0.0) - values
    np.testing.assert_allclose(gae_fn(rewards, values, discount, 0.0), expected, atol=1e-4)


@hypothesis.given(trials(), units, units)
def test_value_after_the_last_step_is_zero(trial, discount, gae_lambda):
    """The last advantage is r - V, with nothing added for a following state."""
    rewards, values = trial
    last = gae_fn(rewards, values, discount, gae_lambda)[-1]
    np.testing.assert_allclose(last, rewards[-1] - values[-1], atol=1e-5)


def test_a_perfect_baseline_leaves_no_advantage():
    """V_t = R_t makes every advantage 0, whatever lambda."""
    rewards = np.array([1.0, 0.0, 2.0, 1.0, 0.0, 3.0], np.float32)
    values = loop_returns(rewards, 0.9).astype(np.float32)
    np.testing.assert_allclose(gae_fn(rewards, values, 0.9, 0.3), np.zeros(6), atol=1e-5)


def test_nothing_is_cut_at_episode_ends():
    """In a trial of two 3-step episodes the reward of step 5 reaches step 0 as (discount lambda)^5.

    The functions know no episode ends at all: their only inputs are rewards and values of the trial.
    """
    gradient = jax.grad(lambda r: generalised_advantages(r, jnp.zeros(6), 0.9, 0.5)[0])(jnp.zeros(6))
    np.testing.assert_allclose(gradient, 0.45 ** np.arange(6), rtol=1e-5)
    gradient = jax.grad(lambda r: discounted_returns(r, 0.9)[0])(jnp.zeros(6))
    np.testing.assert_allclose(gradient, 0.9 ** np.arange(6), rtol=1e-5)


def test_a_trial_that_ended_early_equals_its_own_length():
    """Zeros after the end of a trial change nothing before it."""
    rewards, values = np.array([1.0, -1.0, 2.0], np.float32), np.array([0.5, 0.1, -0.7], np.float32)
    padded = gae_fn(np.append(rewards, [0, 0, 0]), np.append(values, [0, 0, 0]), 0.9, 0.7)
    np.testing.assert_allclose(padded[:3], loop_advantages(rewards, values, 0.9, 0.7), rtol=1e-5)
    np.testing.assert_array_equal(padded[3:], 0.0)


masked_batches = st.lists(st.tuples(numbers, st.booleans()), min_size=6, max_size=6).filter(
    lambda pairs: np.std([x for x, kept in pairs if kept] or [0.0]) > 0.1
)


@hypothesis.given(masked_batches)
def test_standardise_over_the_mask(pairs):
    """Kept entries are (x - mean) / sd of the kept alone; the others are 0 whatever they held."""
    x = np.array([x for x, _ in pairs], np.float32)
    mask = np.array([kept for _, kept in pairs], np.float32)
    kept = x[mask == 1].astype(np.float64)
    expected = np.zeros(6)
    expected[mask == 1] = (kept - kept.mean()) / kept.std()
    result = standardise_fn(x.reshape(3, 2), mask.reshape(3, 2))
    np.testing.assert_allclose(result, expected.reshape(3, 2), atol=1e-3)


def test_standardise_of_a_constant_is_zero():
    """Equal advantages carry no preference, and the vanishing variance makes no NaN."""
    np.testing.assert_array_equal(standardise_fn(jnp.full((4,), 3.0), jnp.ones(4)), 0.0)


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        discounted_returns(jnp.zeros((2, 2)), 0.9)
    with pytest.raises(AssertionError):
        generalised_advantages(jnp.zeros(3), jnp.zeros(4), 0.9, 0.9)
    with pytest.raises(AssertionError):
        standardise(jnp.zeros(3), jnp.zeros((3, 1)))
