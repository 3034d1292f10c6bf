"""Index tables against independent values: published ones, closed forms, and dynamic programming in float64."""

from functools import cache

import numpy as np
import pytest

from rl2jax.agents import indices
from rl2jax.agents.indices import (
    brezzi_lai_index,
    finite_horizon_gittins_table,
    finite_horizon_place,
    gittins_table,
    pair_index,
    whittle_index,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """One folder for the module, and not the user's."""
    folder = tmp_path_factory.getbasetemp() / "indices"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


def discounted_gain(successes, pulls, price, discount, depth):
    """Gain of one more pull and then stopping when best over stopping now, times (1 - discount); plain recursion."""
    s = np.arange(depth + 1)
    gain = np.maximum((s + 1) / (depth + 2) - price, 0)
    for n in range(depth - 1, pulls - 1, -1):
        mean = (np.arange(n + 1) + 1) / (n + 2)
        pulled = (1 - discount) * (mean - price) + discount * (mean * gain[1:] + (1 - mean) * gain[:-1])
        gain = np.maximum(pulled, 0)
    return pulled[successes]


def root(function):
    """Zero of a decreasing function on [0, 1]."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return low


# --- The discounted index.


@pytest.mark.parametrize(
    ("discount", "a", "b", "published"),
    [(0.9, 1, 1, 0.7029), (0.9, 2, 1, 0.8001), (0.9, 1, 2, 0.5001), (0.99, 1, 1, 0.8699)],
)
def test_published_values(discount, a, b, published):
    table = gittins_table(10, discount)
    assert table[pair_index(a + b - 2, a - 1)] == pytest.approx(published, abs=1e-4)


@pytest.mark.parametrize(("successes", "pulls"), [(0, 0), (3, 4), (0, 7), (9, 9), (40, 80), (117, 119)])
def test_against_plain_dynamic_programming(successes, pulls):
    expected = root(lambda price: discounted_gain(successes, pulls, price, 0.95, 500))
    assert gittins_table(120, 0.95)[pair_index(pulls, successes)] == pytest.approx(expected, abs=2e-4)


def test_a_belief_has_one_index_whatever_the_table():
    short, long = gittins_table(10, 0.95), gittins_table(120, 0.95)
    np.testing.assert_allclose(short, long[: len(short)], atol=2e-4)


def test_an_index_is_above_the_mean_and_grows_with_success_and_patience():
    patient, hasty = gittins_table(120, 0.95), gittins_table(120, 0.5)
    pulls, successes = np.tril_indices(120)
    mean = (successes + 1) / (pulls + 2)
    assert (hasty > mean).all()
    assert (patient > hasty).all()
    for n in range(1, 120):
        assert (np.diff(patient[pair_index(n, 0) : pair_index(n, n) + 1]) > 0).all()
    bonus = patient - mean
    assert bonus[pair_index(0, 0)] > bonus[pair_index(20, 10)] > bonus[pair_index(100, 50)] > 0


@pytest.mark.parametrize(
    ("pulls", "discount", "field"), [(0, 0.9, "num_pulls"), (5, 1.0, "discount"), (5, 0.0, "disc")]
)
def test_bad_sizes_are_named(pulls, discount, field):
    with pytest.raises(ValueError, match=f"^{field}"):
        gittins_table(pulls, discount)


# --- The finite horizon.


def finite_index(successes, pulls, left):
    """By plain recursion and bisection."""

    def gain(price):
        @cache
        def pulled(s, n, m):
            mean = (s + 1) / (n + 2)
            if m == 1:
                return mean - price
            after = mean * max(0.0, pulled(s + 1, n + 1, m - 1)) + (1 - mean) * max(0.0, pulled(s, n + 1, m - 1))
            return mean - price + after

        return pulled(successes, pulls, left)

    return root(gain)


def look_up(table, time, pulls, successes):
    return table[finite_horizon_place(time) + pair_index(pulls, successes)]


def test_the_last_pull_is_worth_the_mean_and_two_pulls_what_hand_computation_says():
    table = finite_horizon_gittins_table(30)
    means = [(s + 1) / (n + 2) for n in range(30) for s in range(n + 1)]
    np.testing.assert_allclose(table[finite_horizon_place(29) :], means, atol=2e-6)
    # Two pulls of an untouched arm: (1/2 - x) + 1/2 (2/3 - x) = 0.
    assert look_up(table, 28, 0, 0) == pytest.approx(5 / 9, abs=1e-5)


@pytest.mark.parametrize(("time", "pulls", "successes"), [(0, 0, 0), (10, 0, 0), (10, 10, 8), (20, 3, 1), (25, 25, 24)])
def test_finite_horizon_against_plain_recursion(time, pulls, successes):
    table = finite_horizon_gittins_table(30)
    assert look_up(table, time, pulls, successes) == pytest.approx(finite_index(successes, pulls, 30 - time), abs=4e-4)


def test_more_pulls_left_are_worth_more():
    table = finite_horizon_gittins_table(30)
    untouched = [look_up(table, time, 0, 0) for time in range(30)]
    assert (np.diff(untouched) < 0).all()


@pytest.mark.parametrize("num_pulls", [0, 601])
def test_a_horizon_too_long_is_refused(num_pulls):
    with pytest.raises(ValueError, match="num_pulls must be an integer from 1 to 600"):
        finite_horizon_gittins_table(num_pulls)


# --- Approximations.


def test_whittle_by_hand_and_near_the_exact_index():
    # One success in two pulls, discount 0.9: mean 1/2, N = 4, c = 0.1053605.
    by_hand = 0.5 + 0.25 / (4 * np.sqrt((2 * 0.1053605 + 0.25) * 0.25) + 0.5 - 0.5)
    assert whittle_index(2, 1, 0.9) == pytest.approx(by_hand, rel=1e-6)
    pulls, successes = np.tril_indices(100)
    off = np.abs(whittle_index(pulls, successes, 0.99) - gittins_table(100, 0.99))
    assert off[pulls >= 20].max() < 0.02
    assert off.mean() < 0.01


def test_brezzi_and_lai_by_hand_and_near_the_exact_index():
    # No pull, discount 0.9: mean 1/2, variance 1/12, x = 1 / (3 * 0.1053605) = 3.1637: psi = 0.63 - 0.26 / sqrt(x).
    by_hand = 0.5 + np.sqrt(1 / 12) * (0.63 - 0.26 / np.sqrt(3.163741))
    assert brezzi_lai_index(0, 0, 0.9) == pytest.approx(by_hand, rel=1e-5)
    x = 1 / (-np.log(0.999) * 3)  # the last piece
    by_hand = 0.5 + np.sqrt(1 / 12) * np.sqrt(2 * np.log(x) - np.log(np.log(x)) - np.log(16 * np.pi))
    assert brezzi_lai_index(0, 0, 0.999) == pytest.approx(by_hand, rel=1e-5)
    pulls, successes = np.tril_indices(100)
    off = np.abs(brezzi_lai_index(pulls, successes, 0.99) - gittins_table(100, 0.99))
    assert off[pulls >= 20].max() < 0.05
    assert off.mean() < 0.015


# --- On disk.


def test_a_table_is_kept_and_read_again(own_cache, monkeypatch):
    first = gittins_table(7, 0.8)
    assert not first.flags.writeable
    indices._TABLES.clear()
    monkeypatch.setattr(indices, "_descend", None)  # would fail if it computed again
    np.testing.assert_array_equal(gittins_table(7, 0.8), first)
    monkeypatch.setattr(indices, "_VERSION", "next")
    with pytest.raises(TypeError):
        gittins_table(7, 0.8)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 300])
def test_a_damaged_file_is_computed_again(own_cache, damage):
    first = gittins_table(6, 0.8)
    (path,) = (own_cache / "rl2jax" / "indices").glob("gittins-0.8-6-*")
    path.write_bytes(damage(path.read_bytes()))
    indices._TABLES.clear()
    np.testing.assert_array_equal(gittins_table(6, 0.8), first)
    assert np.load(path).shape == first.shape


def test_nowhere_to_keep_it_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "rl2jax").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert gittins_table(3, 0.8).shape == (6,)
