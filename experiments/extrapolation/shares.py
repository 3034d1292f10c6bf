"""What rows say: who is the best reference agent of a setting, and the others' scores as shares of its score."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from rl2jax.results.rows import EvaluationRow


class Share(NamedTuple):
    """A trained agent's score in percent of the best reference agent's, and its standard error."""

    percent: float
    standard_error: float


def name_of(row: EvaluationRow) -> str:
    """What tells the rows of a setting apart: a trained agent's task, or a reference agent's name."""
    return row.trained_on or row.agent


def share(row: EvaluationRow, best: EvaluationRow) -> Share:
    """A trained agent's row against the best reference agent's of the same tasks.

    The error is that of a ratio r = a / b of means on common tasks, to first order:
    Var(r) = (Var(a) + r^2 Var(b) - 2 r Cov(a, b)) / b^2, with the covariance from the error of a - b.
    """
    ratio = row.mean / best.mean
    var, var_best, var_difference = (
        (x or 0.0) ** 2 for x in (row.standard_error, best.standard_error, row.difference_standard_error)
    )
    covariance = (var + var_best - var_difference) / 2
    variance = max(0.0, var + ratio**2 * var_best - 2 * ratio * covariance) / best.mean**2
    return Share(100 * ratio, 100 * math.sqrt(variance))


def shares(rows: Iterable[EvaluationRow]) -> dict[tuple[str, str], Share]:
    """(task trained on, task tested on) -> share."""
    chosen = list(rows)
    references = {(row.task, row.agent): row for row in chosen if row.trained_on is None}
    return {
        (row.trained_on, row.task): share(row, references[row.task, row.best_reference])
        for row in chosen
        if row.trained_on is not None and row.best_reference is not None
    }


def by_task(rows: list[EvaluationRow]) -> dict[str, list[EvaluationRow]]:
    """Task -> its rows."""
    found: dict[str, list[EvaluationRow]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(row)
    return found
