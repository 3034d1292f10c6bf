"""Products of rounded factors: values and derivatives in float64, where processors multiply bfloat16 and elsewhere."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.networks import products
from rl2jax.networks.products import product, rounded_sum

SIZES = [(1, 2, 1), (3, 8, 5), (33, 1, 7), (64, 32, 96)]


@pytest.fixture(params=["in hardware", "by hand"])
def processor(request, monkeypatch):
    has = request.param == "in hardware"
    if has and not products.multiplies_bfloat16():
        pytest.skip("this processor has no products of bfloat16")
    monkeypatch.setattr(products, "multiplies_bfloat16", lambda: has)
    products._compiled.cache_clear()


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16)).astype(np.float64)


def close(found, expected):
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def factors(rows, inner, columns):
    rng = np.random.default_rng(0)
    return (rng.normal(size=shape).astype(np.float32) for shape in ((rows, inner), (inner, columns), (rows, columns)))


def of_rows(x, matrix):
    return jax.vmap(lambda row: product(row, matrix, "bfloat16"))(x)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.usefixtures("processor")
def test_a_product_and_its_derivatives_round_all_factors(sizes):
    x, matrix, weights = factors(*sizes)

    def all_of_it(x, matrix, weights):
        value, pull_back = jax.vjp(of_rows, x, matrix)
        _, pushed = jax.jvp(of_rows, (x, matrix), (x, matrix))
        again = jax.linear_transpose(pull_back, weights)((x, jnp.zeros_like(matrix)))
        return value, *pull_back(weights), pushed, *again

    value, to_x, to_matrix, pushed, again = jax.jit(all_of_it)(x, matrix, weights)
    x, matrix, weights = map(rounded, (x, matrix, weights))
    close(value, x @ matrix)
    close(to_x, weights @ matrix.T)
    close(to_matrix, x.T @ weights)
    close(pushed, 2 * x @ matrix)
    close(again, x @ matrix)


@pytest.mark.usefixtures("processor")
def test_in_a_loop_the_gradient_is_that_of_float32_up_to_rounding():
    """The state's matrix is used at every step, as in a recurrent network; by hand it would be transposed there."""
    x, matrix, _ = factors(16, 24, 24)

    def loss(matrix, precision):
        def step(state, _):
            state = jnp.tanh(product(state, matrix, precision) / 4)
            return state, state

        return jnp.sum(jnp.square(jax.lax.scan(step, x, length=4)[1]))

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    found, expected = gradient(matrix, "bfloat16"), gradient(matrix, "float32")
    assert not np.array_equal(found, expected)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.usefixtures("processor")
def test_one_matrix_for_each_row():
    """As where many seeds are trained at once."""
    x, matrices = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)
    found = jax.vmap(lambda rows, matrix: product(rows, matrix, "bfloat16"))(x, matrices)
    close(found, rounded(x) @ rounded(matrices))
    swapped = jax.vmap(lambda rows, matrix: product(rows, matrix, "bfloat16"), (1, None), 1)(x[0], matrices[0])
    close(swapped, (rounded(x[0]).T @ rounded(matrices[0])).T)


@pytest.mark.usefixtures("processor")
def test_a_factor_may_be_rounded_already():
    x, matrix, _ = factors(3, 8, 5)
    close(rounded_sum("ab,bc->ca", x.astype(jnp.bfloat16), matrix), (rounded(x) @ rounded(matrix)).T)


def test_the_processor_multiplies_bfloat16_in_derivatives_too():
    if not products.multiplies_bfloat16():
        pytest.skip("this processor has no products of bfloat16")
    x, matrix, weights = factors(64, 32, 96)
    pull_back = jax.jit(lambda x, matrix, weights: jax.vjp(of_rows, x, matrix)[1](weights))
    program = pull_back.lower(x, matrix, weights).compile().as_text()
    types = dict(re.findall(r"(%[\w.]+) = (\w+)\[", program))
    multiplied = re.findall(r" dot\((%[\w.]+), (%[\w.]+)\)", program)
    assert len(multiplied) == 2
    assert {types[name] for pair in multiplied for name in pair} == {"bf16"}


def test_where_nothing_says_what_the_processor_can_it_is_taken_to_multiply_no_bfloat16(monkeypatch):
    monkeypatch.setattr(products.Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert not products.multiplies_bfloat16.__wrapped__()
    for flag in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(products.Path, "read_text", lambda path, flag=flag: f"flags\t: fpu avx512f {flag}\nbugs:\n")
        assert products.multiplies_bfloat16.__wrapped__()
    monkeypatch.setattr(products.Path, "read_text", lambda path: "flags\t: fpu avx512f amx_bf16_x\n")
    assert not products.multiplies_bfloat16.__wrapped__()
