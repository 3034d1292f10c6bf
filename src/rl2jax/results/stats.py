"""Which of several means is larger: one-sided t-tests, in pairs or not, and what to make of many of them."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

SIGNIFICANCE = 0.05


class PairTest(NamedTuple):
    """A one-sided test that `better` has the larger mean, in the direction that the samples show.

    Attributes:
      better: name of the sample with the larger mean.
      worse: name of the other.
      difference: of the means; at least 0.
      standard_error: of the difference.
      num_tasks: tasks compared.
      paired: whether both samples are of the same tasks, one by one.
      p: one-sided p-value of this pair alone.
      p_holm: the same, adjusted for all pairs and for having chosen the direction by looking.
    """

    better: str
    worse: str
    difference: float
    standard_error: float
    num_tasks: int
    paired: bool
    p: float
    p_holm: float


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjustment: valid for any dependence between the tests.

    Args:
      p_values: [num_tests].

    Returns:
      adjusted p-values, in the same order.
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    result = np.empty(len(p_values))
    result[order] = adjusted
    return result


def one_sided_p(larger: np.ndarray, smaller: np.ndarray, *, paired: bool) -> float:
    """p-value of Student's (paired) or Welch's (unpaired) t-test that mean(larger) > mean(smaller).

    Samples without any variance are decided by their means. Of paired samples of unequal length the common
    beginning is used: the same tasks.
    """
    larger, smaller = np.asarray(larger, np.float64), np.asarray(smaller, np.float64)
    if paired:
        common = min(len(larger), len(smaller))
        larger, smaller = larger[:common], smaller[:common]
        spread = np.ptp(larger - smaller)
    else:
        spread = np.ptp(larger) + np.ptp(smaller)
    if spread == 0.0 or min(len(larger), len(smaller)) < 2:
        return 0.0 if larger.mean() > smaller.mean() and len(larger) > 1 else 1.0
    if paired:
        return float(scipy.stats.ttest_rel(larger, smaller, alternative="greater").pvalue)
    return float(scipy.stats.ttest_ind(larger, smaller, equal_var=False, alternative="greater").pvalue)


def pairwise_tests(samples: dict[str, np.ndarray], *, paired: bool) -> list[PairTest]:
    """Every pair, in the order of the means; see `PairTest` for the adjustment.

    Args:
      samples: name -> total reward of each task, task i the same for all where `paired`.
      paired: use the pairing.
    """
    names = sorted(samples, key=lambda name: -samples[name].mean(dtype=np.float64))
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    tests: list[PairTest] = []
    for better, worse in pairs:
        a, b = (samples[name].astype(np.float64) for name in (better, worse))
        if paired:
            a, b = a[: len(b)], b[: len(a)]
            error = np.std(a - b, ddof=1) / np.sqrt(len(a)) if len(a) > 1 else np.nan
        else:
            squared = [np.var(x, ddof=1) / len(x) if len(x) > 1 else np.nan for x in (a, b)]
            error = np.sqrt(squared[0] + squared[1])
        if a.mean() < b.mean():  # on the common tasks the order may differ
            better, worse, a, b = worse, better, b, a
        p = one_sided_p(a, b, paired=paired)
        difference, count = float(a.mean() - b.mean()), min(len(a), len(b))
        tests.append(PairTest(better, worse, difference, float(error), count, paired, p, p_holm=p))
    if not tests:
        return []
    p_values = np.array([test.p for test in tests])
    # The direction was read off the data: the family has both directions of every pair.
    adjusted = holm(np.concatenate([p_values, 1.0 - p_values]))[: len(tests)]
    return [test._replace(p_holm=float(p)) for test, p in zip(tests, adjusted, strict=True)]


def significantly_better(tests: list[PairTest]) -> dict[str, list[str]]:
    """Name -> names of those whose mean is significantly larger (one-sided, p < 0.05, each test on its own)."""
    better: dict[str, list[str]] = {}
    for test in tests:
        if test.p < SIGNIFICANCE:
            better.setdefault(test.worse, []).append(test.better)
    return better


def not_below_best(means: Mapping[str, float], better: Mapping[str, Collection[str]]) -> set[str]:
    """The best and those not significantly below it: bold in the paper's tables.

    Args:
      means: name -> mean.
      better: as from `significantly_better`; may name others too, which are not asked.

    Returns:
      names. The best has the largest mean of those that nobody is significantly better than on common tasks: a
      sample of fewer tasks is not the best by the luck of its tasks.
    """
    by_mean = sorted(means, key=lambda name: -means[name])
    unbeaten = [name for name in by_mean if not set(better.get(name, ())) & set(means)]
    best = (unbeaten or by_mean)[0]
    return {name for name in means if best not in better.get(name, ())}
