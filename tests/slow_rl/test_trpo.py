"""The natural step against closed forms, the Fisher-vector product against an explicit Fisher matrix."""

from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_params
from jax.flatten_util import ravel_pytree

from rl2jax.networks.base import Categorical, DiagonalGaussian, Encoding, PolicyAndBaseline
from rl2jax.slow_rl.natural_gradient import conjugate_gradient, fisher_vector_product
from rl2jax.slow_rl.trpo import TRPO, trpo_update
from rl2jax.types import TrialObservation

MAX_KL = 0.01


# --- Gaussians of unit variance whose means are linear in the parameters: everything is exactly quadratic.

_RNG = np.random.default_rng(0)
MEANS = _RNG.normal(size=(6, 4)).astype(np.float32)  # means = MEANS @ params
GRADIENT = _RNG.normal(size=4).astype(np.float32)
START = {"a": jnp.array([0.3, -0.2]), "b": jnp.array([[0.1], [0.5]])}
FISHER = MEANS.T.astype(np.float64) @ MEANS / 6  # mean over the 6 "steps" of d mean^T d mean
# The largest step lies on the edge of the trust region; this much room keeps rounding from rejecting it.
ROOM = 1 - 1e-3


def flat(params):
    return ravel_pytree(params)[0]


def means_fn(params):
    return MEANS @ flat(params)


def gaussian_kl(old, new):
    return 0.5 * jnp.mean(jnp.square(new - old))


def linear_evaluate(params, kl_factor=ROOM):
    return GRADIENT @ flat(params), kl_factor * gaussian_kl(means_fn(START), means_fn(params))


def natural_step(damping):
    """sqrt(2 delta / g^T A^-1 g) A^-1 g with A = F + damping I, in double precision."""
    natural = np.linalg.solve(FISHER + damping * np.eye(4), GRADIENT)
    return np.sqrt(2 * MAX_KL / (GRADIENT @ natural)) * natural


def quadratic_update(evaluate_fn, **constants):
    settings = TRPO(**{"cg_iters": 8, "cg_damping": 0.0} | constants)
    return jax.jit(lambda params: trpo_update(params, evaluate_fn, means_fn, gaussian_kl, settings, MAX_KL))(START)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_step_on_a_quadratic_is_the_closed_form(damping):
    params, info = quadratic_update(linear_evaluate, cg_damping=damping)
    step = np.asarray(flat(params) - flat(START))
    expected = natural_step(damping)
    np.testing.assert_allclose(step, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, ROOM * 0.5 * expected @ FISHER @ expected, rtol=1e-3)
    np.testing.assert_allclose(info.surrogate_gain, GRADIENT @ expected, rtol=1e-3)
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(GRADIENT), rtol=1e-5)
    assert info.line_search_steps == 0
    assert info.cg_residual < 1e-3
    assert jax.tree.structure(params) == jax.tree.structure(START)


def test_without_damping_the_step_uses_the_whole_trust_region():
    """The quadratic model is exact here, so the KL of the step is max_kl itself."""
    _, info = quadratic_update(linear_evaluate)
    np.testing.assert_allclose(info.kl / ROOM, MAX_KL, rtol=1e-3)


@pytest.mark.parametrize(("factor", "ratio", "steps"), [(3.0, 0.5, 1), (5.0, 0.5, 2), (5.0, 0.8, 4)])
def test_line_search_backtracks_where_the_model_overshoots(factor, ratio, steps):
    """A true KL of `factor` times the model's needs the first power with ratio^(2 steps) factor <= 1."""
    assert ratio ** (2 * steps) * factor <= 1 < ratio ** (2 * steps - 2) * factor
    params, info = quadratic_update(partial(linear_evaluate, kl_factor=factor), backtrack_ratio=ratio)
    assert info.line_search_steps == steps
    np.testing.assert_allclose(flat(params) - flat(START), ratio**steps * natural_step(0.0), rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, factor * ratio ** (2 * steps) * MAX_KL, rtol=2e-3)
    assert info.kl <= MAX_KL


def worsening_evaluate(params):
    """Has the gradient of the linear surrogate at START and falls in every direction."""
    offset = flat(params) - flat(START)
    straight = GRADIENT @ (flat(params) - jax.lax.stop_gradient(flat(params)))
    return straight - 1e6 * jnp.sum(jnp.square(offset)), gaussian_kl(means_fn(START), means_fn(params))


def nan_evaluate(params):
    surrogate, kl = linear_evaluate(params)
    return surrogate + jnp.where(jnp.any(flat(params) != flat(START)), jnp.nan, 0.0), kl


def outside_evaluate(params):
    return linear_evaluate(params)[0], jnp.ones(())


def level_evaluate(params):
    return jnp.zeros(()), gaussian_kl(means_fn(START), means_fn(params))


@pytest.mark.parametrize("evaluate_fn", [worsening_evaluate, nan_evaluate, outside_evaluate, level_evaluate])
def test_line_search_gives_up_and_changes_nothing(evaluate_fn):
    """No candidate improves, or is a number, or is near enough, or there is no gradient at all."""
    params, info = quadratic_update(evaluate_fn)
    assert info.line_search_steps == -1
    assert info.kl == 0
    assert info.surrogate_gain == 0
    jax.tree.map(np.testing.assert_array_equal, params, START)


# --- A softmax policy: the KL is no quadratic, and small max_kl values are not what makes the bound hold.


def softmax_kl(old, new):
    old, new = jax.nn.log_softmax(old), jax.nn.log_softmax(new)
    return jnp.mean(jnp.sum(jnp.exp(old) * (old - new), axis=-1))


@jax.jit
def softmax_update(logits, advantages, max_kl):
    """5 states, 3 actions, all actions seen: surrogate = mean over states of E_new[advantage]."""

    def evaluate_fn(new_logits):
        return jnp.mean(jnp.sum(jax.nn.softmax(new_logits) * advantages, axis=-1)), softmax_kl(logits, new_logits)

    settings = TRPO(cg_iters=10, cg_damping=1e-3)
    return trpo_update(logits, evaluate_fn, lambda logits: logits, softmax_kl, settings, max_kl)


@hypothesis.given(st.integers(0, 2**31 - 1), st.sampled_from([1e-3, 1e-2, 0.1, 1.0]))
def test_kl_is_within_the_limit_and_the_surrogate_improves(seed, max_kl):
    """Both recomputed in numpy at the parameters that were returned."""
    rng = np.random.default_rng(seed)
    old, advantages = rng.normal(size=(2, 5, 3)).astype(np.float32)
    new, info = softmax_update(old, advantages, max_kl)
    p_old, p_new = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (np.float64(old), np.float64(new)))
    kl = (p_old * np.log(p_old / p_new)).sum(-1).mean()
    gain = ((p_new - p_old) * advantages).sum(-1).mean()
    assert info.line_search_steps >= 0
    assert 0 < kl <= max_kl * (1 + 1e-3)
    np.testing.assert_allclose(info.kl, kl, rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(info.surrogate_gain, gain, rtol=1e-2, atol=1e-6)
    assert gain > 0


# --- The Fisher-vector product of a recurrent policy.

STEPS, TRIALS = 3, 2


def random_trial_obs(num_actions):
    """Inputs of a few trials; actions are indices below `num_actions`, or vectors if that is None."""
    rng = np.random.default_rng(2)
    lead = (STEPS, TRIALS)
    return TrialObservation(
        obs=rng.normal(size=(*lead, 2)).astype(np.float32),
        prev_action=rng.integers(num_actions, size=lead) if num_actions else np.float32(rng.normal(size=(*lead, 2))),
        prev_reward=rng.normal(size=lead).astype(np.float32),
        prev_done=rng.integers(2, size=lead).astype(np.float32),
    )


def categorical_fisher(logits):
    p = np.exp(logits - logits.max())
    p /= p.sum()
    return np.diag(p) - np.outer(p, p)


def gaussian_fisher(dist_params):
    """Of (mean, log standard deviation): diag(1 / variance, 2)."""
    _, log_std = np.split(dist_params, 2)
    return np.diag(np.concatenate([np.exp(-2 * log_std), np.full(log_std.shape, 2.0)]))


CASES = {
    "categorical": (Categorical(3), Encoding(3, one_hot=True), 3, categorical_fisher),
    "gaussian": (DiagonalGaussian(2), Encoding(2, one_hot=False), None, gaussian_fisher),
}


@pytest.mark.parametrize("family", CASES)
def test_fisher_vector_product_is_the_explicit_fisher_matrix(family):
    """F = mean over masked-in steps of J^T M J, with J from jax.jacfwd and M the textbook's matrix."""
    distribution, action, num_actions, dist_fisher = CASES[family]
    networks = PolicyAndBaseline(Encoding(2, one_hot=False), action, distribution, units=4)
    params = random_params(networks, seed=1)["policy"]
    trial_obs = random_trial_obs(num_actions)
    mask = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]], np.float32)
    damping = 0.1

    def dist_params_fn(params):
        return jax.vmap(networks.dist_params, (None, 1), 1)(params, trial_obs)

    def dist_kl(old, new):
        return jnp.sum(distribution(old).kl_divergence(distribution(new)) * mask) / mask.sum()

    vector, unravel = ravel_pytree(params)

    @jax.jit
    def jacobian_and_products(vector, directions):
        product = fisher_vector_product(dist_params_fn, dist_kl, unravel(vector), damping)
        products = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(directions)
        outputs = dist_params_fn(unravel(vector))
        return outputs, jax.jacfwd(lambda v: dist_params_fn(unravel(v)))(vector), products

    directions = np.random.default_rng(4).normal(size=(5, vector.size)).astype(np.float32)
    outputs, jacobian, products = jax.tree.map(np.float64, jacobian_and_products(vector, directions))
    fisher = damping * np.eye(vector.size)
    for t, b in np.argwhere(mask == 1):
        fisher += jacobian[t, b].T @ dist_fisher(outputs[t, b]) @ jacobian[t, b] / mask.sum()
    expected = directions @ fisher
    np.testing.assert_allclose(products, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# --- Conjugate gradient.


def matrix_product(matrix):
    """v -> matrix v on a tree of two leaves."""

    def product(v):
        vector, unravel = ravel_pytree(v)
        return unravel(matrix @ vector)

    return product


@partial(jax.jit, static_argnums=2)
def solve(matrix, b, num_iters):
    return conjugate_gradient(matrix_product(matrix), b, num_iters)


def tree(vector):
    return {"x": jnp.asarray(vector[:2], jnp.float32), "y": jnp.asarray(vector[2:], jnp.float32)}


@hypothesis.given(st.integers(0, 2**31 - 1), st.sampled_from([6, 12]))
def test_conjugate_gradient_solves_a_positive_definite_system(seed, num_iters):
    """In 6 iterations for 6 unknowns; 6 more, with nothing left to do, spoil nothing."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    matrix = (basis * rng.uniform(0.5, 5.0, 6)) @ basis.T
    b = rng.normal(size=6)
    x, residual = solve(jnp.asarray(matrix, jnp.float32), tree(b), num_iters)
    np.testing.assert_allclose(flat(x), np.linalg.solve(matrix, b), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(flat(residual), 0.0, atol=1e-3)


def test_conjugate_gradient_returns_the_residual():
    """b - A x after too few iterations is what it says."""
    matrix = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).astype(np.float32)
    b = np.arange(1.0, 7.0)
    x, residual = solve(matrix, tree(b), 2)
    assert np.linalg.norm(flat(residual)) > 0.1
    np.testing.assert_allclose(flat(residual), b - matrix @ flat(x), rtol=1e-4, atol=1e-5)


def test_conjugate_gradient_of_zero_is_zero():
    """No division by zero, for a regular matrix and for a singular one."""
    for matrix in (jnp.eye(6), jnp.zeros((6, 6))):
        x, residual = solve(matrix, tree(np.zeros(6)), 6)
        np.testing.assert_array_equal(flat(x), 0.0)
        np.testing.assert_array_equal(flat(residual), 0.0)


def test_conjugate_gradient_on_the_identity_is_the_right_hand_side():
    """One iteration is exact, and the residual of exactly zero makes no NaN in the next ones."""
    b = tree(np.arange(1.0, 7.0))
    x, residual = solve(jnp.eye(6), b, 6)
    jax.tree.map(np.testing.assert_array_equal, x, b)
    assert optax.tree.norm(residual) == 0
