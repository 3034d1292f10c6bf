"""Tests of significance against scipy, hand computation, and their own definition."""

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis.extra.numpy import arrays

from rl2jax.results.stats import holm, not_below_best, one_sided_p, pairwise_tests, significantly_better

RNG = np.random.default_rng(0)
TASKS = RNG.normal(0, 3, 400)
SAMPLES = {name: TASKS + RNG.normal(mean, 0.5, 400) for name, mean in {"a": 0.0, "b": 0.1, "c": 0.12}.items()}


def test_holm_by_hand():
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; the running maximum makes the last .06."""
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, 0.04, 0.02])), [0.06, 0.04, 0.06, 0.06])


@given(arrays(float, st.integers(1, 12), elements=st.floats(0, 1)))
def test_holm_lies_between_each_p_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= p_values - 1e-12).all()
    assert (adjusted <= np.minimum(1, p_values * len(p_values)) + 1e-12).all()
    assert (np.argsort(adjusted[np.argsort(p_values)], kind="stable") == np.arange(len(p_values))).all()


def test_pairs_see_what_unpaired_samples_hide():
    """The paired statistic is the mean of the differences over its standard error."""
    difference = SAMPLES["c"] - SAMPLES["a"]
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(400))
    np.testing.assert_allclose(
        one_sided_p(SAMPLES["c"], SAMPLES["a"], paired=True), scipy.stats.t.sf(t, 399), rtol=1e-9
    )
    assert one_sided_p(SAMPLES["c"], SAMPLES["a"], paired=True) < 0.01
    assert one_sided_p(SAMPLES["c"], SAMPLES["a"], paired=False) > 0.2


def test_samples_without_variance_are_decided_by_their_means():
    ones, twos = np.ones(5), np.full(5, 2.0)
    assert one_sided_p(twos, ones, paired=False) == 0.0
    assert one_sided_p(ones, twos, paired=True) == 1.0
    assert one_sided_p(ones, ones, paired=True) == 1.0
    assert one_sided_p(twos[:1], ones[:1], paired=True) == 1.0  # one task proves nothing


def test_every_pair_in_the_observed_direction():
    tests = pairwise_tests(SAMPLES, paired=True)
    assert {frozenset((t.better, t.worse)) for t in tests} == {frozenset(p) for p in ("ab", "ac", "bc")}
    for test in tests:
        assert test.difference >= 0
        assert test.p <= 0.5
        assert test.p <= test.p_holm
        difference = SAMPLES[test.better] - SAMPLES[test.worse]
        np.testing.assert_allclose(test.difference, difference.mean())
        np.testing.assert_allclose(test.standard_error, difference.std(ddof=1) / 20)
    assert pairwise_tests({"alone": TASKS}, paired=True) == []


def test_pairs_of_unequal_length_share_their_first_tasks():
    samples = {"long": np.arange(10.0), "short": np.arange(4.0) + np.array([1, 0, 1, 0])}
    (test,) = pairwise_tests(samples, paired=True)
    assert (test.better, test.worse, test.num_tasks, test.difference) == ("short", "long", 4, 0.5)


@pytest.mark.parametrize("paired", [True, False])
def test_bold_is_the_best_and_its_equals(paired):
    samples = {**SAMPLES, "far": TASKS - 2}
    means = {name: sample.mean() for name, sample in samples.items()}
    bold = not_below_best(means, significantly_better(pairwise_tests(samples, paired=paired)))
    best = max(samples, key=lambda name: samples[name].mean())
    assert best in bold
    assert "far" not in bold
    for name in set(samples) - {best}:
        assert (name in bold) == (one_sided_p(samples[best], samples[name], paired=paired) >= 0.05)


def test_a_lucky_short_sample_is_not_the_best():
    """It met easy tasks: the larger mean, but beaten on each of them."""
    long = np.concatenate([np.full(50, 9.0), np.zeros(50)]) + np.arange(100) % 3
    short = long[:50] - 1 + np.arange(50) % 2 / 10
    samples = {"long": long, "short": short}
    means = {name: sample.mean() for name, sample in samples.items()}
    assert means["short"] > means["long"]
    assert not_below_best(means, significantly_better(pairwise_tests(samples, paired=True))) == {"long"}


def test_bold_asks_only_those_shown():
    means = {"b": 2.0, "c": 1.0}
    better = {"b": ["a"], "c": ["a", "b"]}
    assert not_below_best(means, better) == {"b"}
    assert not_below_best({"a": 3.0, **means}, better) == {"a"}


def test_the_false_alarm_rate_is_the_level():
    """Equal means, 1000 replications: about 5% rejections."""
    rng = np.random.default_rng(1)
    p = [one_sided_p(*rng.normal(size=(2, 30)), paired=False) for _ in range(1000)]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07
