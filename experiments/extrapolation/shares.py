"""What rows say: who is the best reference agent of a setting, and the others' scores as shares of its score."""

import math
from typing import Any, NamedTuple

Row = dict[str, Any]


class Share(NamedTuple):
    """A trained agent's score in percent of the best reference agent's, and its standard error."""

    percent: float
    standard_error: float


def name_of(row: Row) -> str:
    """What tells the rows of a setting apart: a trained agent's task, or a reference agent's name."""
    return row.get("trained_on") or row["agent"]


def best_reference(rows: list[Row]) -> Row:
    """The row of the reference agent with the largest mean."""
    return max((row for row in rows if "trained_on" not in row), key=lambda row: row["mean"])


def share(row: Row, best: Row) -> Share:
    """A trained agent's row against the best reference agent's of the same tasks.

    The error is that of a ratio r = a / b of means on common tasks, to first order:
    Var(r) = (Var(a) + r^2 Var(b) - 2 r Cov(a, b)) / b^2, with the covariance from the error of a - b.
    """
    ratio = row["mean"] / best["mean"]
    var, var_best, var_difference = (
        x**2 for x in (row["standard_error"], best["standard_error"], row["difference_standard_error"])
    )
    covariance = (var + var_best - var_difference) / 2
    variance = max(0.0, var + ratio**2 * var_best - 2 * ratio * covariance) / best["mean"] ** 2
    return Share(100 * ratio, 100 * math.sqrt(variance))


def shares(rows: list[Row]) -> dict[tuple[str, str], Share]:
    """(task trained on, task tested on) -> share."""
    references = {(row["task"], row["agent"]): row for row in rows if "trained_on" not in row}
    return {
        (row["trained_on"], row["task"]): share(row, references[row["task"], row["best_reference"]])
        for row in rows
        if "trained_on" in row
    }


def by_task(rows: list[Row]) -> dict[str, list[Row]]:
    """Task -> its rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["task"], []).append(row)
    return found
