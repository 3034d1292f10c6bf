"""Posteriors and gamma variates: against closed forms and scipy's distributions."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.agents.gamma import gamma
from rl2jax.agents.posteriors import (
    DirichletPosterior,
    NormalPosterior,
    dirichlet_prior,
    normal_prior,
    observe_categorical,
    observe_normal,
    sample_dirichlet,
    sample_normal,
)

pytestmark = pytest.mark.usefixtures("strict_ranks")

# No test below is about chance: seeds are fixed, and 4 standard errors or p = 0.001 say "as defined".
P_VALUE = 1e-3
LENGTH = 12  # of the histories below: one shape, compiled once

histories = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        st.integers(0, 2),
        st.floats(-10.0, 10.0, width=32),
        st.booleans(),
    ),
    min_size=LENGTH,
    max_size=LENGTH,
)


# --- Updates.


@jax.jit
def learn(mean, precision, concentration, row, column, outcome, value, weight):
    """Beliefs of two rows and three columns after a history of observations."""

    def observe(beliefs, seen):
        normal, categorical = beliefs
        row, column, outcome, value, weight = seen
        normal = observe_normal(normal, (row, column), value, weight)
        return (normal, observe_categorical(categorical, (row, column, outcome), weight)), None

    priors = normal_prior((2, 3), mean, precision), dirichlet_prior((2, 3, 3), concentration)
    return jax.lax.scan(observe, priors, (row, column, outcome, value, weight))[0]


@hypothesis.given(
    histories,
    st.floats(-2.0, 2.0, width=32),
    st.sampled_from([1e-4, 1.0, 5.0]),
    st.sampled_from([1e-5, 1.0]),
)
def test_beliefs_are_the_closed_forms_of_what_was_observed(history, mean, precision, concentration):
    """Precision-weighted averages and counts; observations of weight 0 leave no trace."""
    row, column, outcome, value, used = (np.array(x) for x in zip(*history, strict=True))
    normal, categorical = learn(
        mean, precision, concentration, row, column, outcome, value.astype(np.float32), used.astype(np.float32)
    )
    counts, sums = np.zeros((2, 3, 3)), np.zeros((2, 3))
    np.add.at(counts, (row[used], column[used], outcome[used]), 1.0)
    np.add.at(sums, (row[used], column[used]), value[used])
    visits = counts.sum(-1)
    np.testing.assert_allclose(normal.precision, precision + visits, rtol=1e-6)
    np.testing.assert_allclose(normal.mean, (precision * mean + sums) / (precision + visits), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(categorical.concentration, concentration + counts, rtol=1e-6)
    wanted = (concentration + counts) / (3 * concentration + visits)[..., None]
    np.testing.assert_allclose(categorical.mean, wanted, rtol=1e-5)


def test_an_observation_of_weight_zero_changes_no_bit():
    prior = NormalPosterior(jnp.array([0.1, -0.7]), jnp.array([1e-4, 3.3]))
    after = observe_normal(prior, (jnp.int32(0),), jnp.float32(1e6), jnp.float32(0.0))
    np.testing.assert_array_equal(after.mean, prior.mean)
    np.testing.assert_array_equal(after.precision, prior.precision)


# --- Gamma variates.

SHAPES = np.array([1.0, 1.2, 2.0, 5.0, 40.0, 1000.0], np.float32)
# Four fifths of the draws are exponential: most elements wait for a few others, as in use.
PATTERN = np.concatenate([SHAPES, np.ones(24, np.float32)])


@pytest.fixture(scope="module")
def gamma_draws():
    """The same 6000 vectors of draws, once under `vmap` and once (for the first of them) alone."""
    keys = jax.random.split(jax.random.key(1), 6000)
    together = jax.jit(jax.vmap(gamma, in_axes=(0, None)))(keys, PATTERN)
    alone = [jax.jit(gamma)(key, jnp.asarray(PATTERN)) for key in keys[:20]]
    return np.asarray(together), np.asarray(alone)


@pytest.mark.parametrize("index", range(len(SHAPES)), ids=str)
def test_gamma_variates_have_the_gamma_distribution(gamma_draws, index):
    shape, draws = SHAPES[index], gamma_draws[0][:, index].astype(float)
    assert scipy.stats.kstest(draws, scipy.stats.gamma(shape).cdf).pvalue > P_VALUE
    assert abs(draws.mean() - shape) < 4 * np.sqrt(shape / 6000)
    # the variance of a sample variance: fourth central moment 3 a^2 + 6 a, minus the variance squared
    assert abs(draws.var() - shape) < 4 * np.sqrt((2 * shape**2 + 6 * shape) / 6000)


def test_gamma_variates_are_independent_of_each_other(gamma_draws):
    correlations = np.corrcoef(gamma_draws[0].T)[np.triu_indices(len(PATTERN), 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(6000)  # of 435


def test_gamma_variates_do_not_depend_on_their_batch(gamma_draws):
    together, alone = gamma_draws
    np.testing.assert_allclose(together[: len(alone)], alone, rtol=1e-5)


def test_gamma_refuses_integers():
    with pytest.raises(AssertionError):
        gamma(jax.random.key(0), jnp.array([1, 2]))


# --- Draws from posteriors.


def test_sampled_means_have_the_posterior_distribution():
    posterior = NormalPosterior(jnp.array([0.0, 1.0, -3.0]), jnp.array([1.0, 4.0, 100.0]))
    keys = jax.random.split(jax.random.key(2), 4000)
    draws = np.asarray(jax.jit(jax.vmap(sample_normal, in_axes=(0, None)))(keys, posterior))
    for i, (mean, deviation) in enumerate([(0.0, 1.0), (1.0, 0.5), (-3.0, 0.1)]):
        assert scipy.stats.kstest(draws[:, i], scipy.stats.norm(mean, deviation).cdf).pvalue > P_VALUE


def test_sampled_rows_have_the_posterior_distribution():
    """Sums of 1, Beta marginals, and the covariance -a b / (sum^2 (sum + 1)) of two outcomes."""
    concentration = np.array([[1.0, 1.0, 1.0], [1.0, 4.0, 12.0]], np.float32)
    keys = jax.random.split(jax.random.key(3), 4000)
    sample = jax.jit(jax.vmap(sample_dirichlet, in_axes=(0, None)))
    draws = np.asarray(sample(keys, DirichletPosterior(jnp.asarray(concentration))))
    np.testing.assert_allclose(draws.sum(-1), 1.0, rtol=1e-5)
    for row, outcome in np.ndindex(2, 3):
        own, total = concentration[row, outcome], concentration[row].sum()
        marginal = scipy.stats.beta(own, total - own)
        assert scipy.stats.kstest(draws[:, row, outcome], marginal.cdf).pvalue > P_VALUE
    for row in range(2):
        a, b, _ = concentration[row]
        total = concentration[row].sum()
        products = (draws[:, row, 0] - a / total) * (draws[:, row, 1] - b / total)
        wanted = -a * b / (total**2 * (total + 1))
        assert abs(products.mean() - wanted) < 4 * products.std() / np.sqrt(4000)
