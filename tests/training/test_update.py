"""The learner's bookkeeping: running moments, masked statistics, learning-rate schedules."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.slow_rl.moments import Moments, masked_mean, masked_variance, update_moments
from rl2jax.training.config import TrainConfig
from rl2jax.training.update import problem_of

pytestmark = pytest.mark.usefixtures("strict_ranks")


@jax.jit
def merged_moments(batches, masks):
    """Moments after all batches, one after the other."""
    start = Moments(jnp.zeros(()), jnp.zeros(()), jnp.zeros(()))
    return jax.lax.scan(lambda moments, batch: (update_moments(moments, *batch), None), start, (batches, masks))[0]


@hypothesis.given(st.integers(0, 2**31 - 1), st.floats(-5, 5))
def test_running_moments_are_those_of_everything_seen(seed, shift):
    """Three batches of different masks, merged one by one, against numpy on all kept entries at once."""
    rng = np.random.default_rng(seed)
    batches = (rng.normal(shift, 2, size=(3, 4, 2)) + rng.normal(size=(3, 1, 1))).astype(np.float32)
    masks = rng.integers(2, size=batches.shape).astype(np.float32)
    masks[:, 0, 0] = 1.0
    count, mean, variance = merged_moments(batches, masks)
    kept = batches[masks == 1].astype(np.float64)
    assert count == kept.size
    np.testing.assert_allclose(mean, kept.mean(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(variance, kept.var(), rtol=1e-3, atol=1e-4)


def test_masked_statistics_ignore_what_is_masked():
    x, mask = jnp.array([[1.0, 100.0], [3.0, 8.0]]), jnp.array([[1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(masked_mean(x, mask), 4.0)
    np.testing.assert_allclose(masked_variance(x, mask), np.var([1.0, 3.0, 8.0]), rtol=1e-6)
    assert masked_mean(x, jnp.zeros((2, 2))) == 0  # no entry: 0, not NaN


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [1.0, 0.853553, 0.5, 0.146447, 0.0]),
    ],
)
def test_learning_rates_end_at_zero_after_the_last_iteration(name, rates):
    """2 iterations of 2 epochs of 1 minibatch are 4 steps; under a constant gradient Adam's step is the rate."""
    config = TrainConfig().replace(
        {
            "slow_rl": "ppo",
            "iterations": 2,
            "slow_rl.epochs": 2,
            "slow_rl.minibatch_trials": 10,
            "slow_rl.learning_rate": 0.3,
            "optimiser.schedule": name,
        }
    )
    optimiser = problem_of(None, config, num_trials=10).make_optimiser(config.slow_rl.learning_rate, 2)

    @jax.jit
    def steps(gradient):
        def step(opt_state, _):
            update, opt_state = optimiser.update(gradient, opt_state)
            return opt_state, update

        return jax.lax.scan(step, optimiser.init(gradient), None, length=5)[1]

    np.testing.assert_allclose(steps(jnp.ones(())), -0.3 * np.array(rates), rtol=1e-4, atol=1e-6)


def test_trpo_has_no_first_order_optimiser():
    """Its state is a count, so that a checkpoint carries nothing that is not used."""
    algorithm = TrainConfig().slow_rl.make(problem_of(None, TrainConfig(), num_trials=10))
    assert jax.tree.leaves(algorithm.init({"w": jnp.ones(3)})) == [0]
