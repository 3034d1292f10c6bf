"""The reference agents' scores beside the published ones, and why some differ; reads rows only."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rl2jax.results.pages.tables import short
from rl2jax.results.published import PUBLISHED_TASKS, SCORES, explanation
from rl2jax.results.rows import EvaluationRow, ScoredRow, documented

_NOTES = {
    1: [
        "The paper's Gittins column is the best of several approximations for each setup; ours has exact indices "
        "(table 1 has two approximations in columns of their own)."
    ]
}


class Deviation(NamedTuple):
    """A reference agent's score beside the published one.

    Attributes:
      task: name.
      agent: name.
      mean: ours.
      published: the paper's, rounded to one decimal.
      error: combined standard error: ours, the paper's over 1000 tasks of the same spread, its rounding.
      scores: our means by setting of the hyperparameters, on tuning tasks; empty where nothing is tuned.
    """

    task: str
    agent: str
    mean: float
    published: float
    error: float
    scores: list[dict[str, Any]]

    @property
    def cause(self) -> str:
        """What may be why ours differs, where the rows show it; "" within 2 combined standard errors."""
        if abs(self.z) <= 2:
            return ""
        fitting = [score for score in self.scores if abs(score["mean"] - self.published) <= 2 * self.error]
        if not fitting:
            return explanation(self.task, self.agent)
        score = min(fitting, key=lambda score: abs(score["mean"] - self.published))
        setting = ", ".join(f"{name} {value:g}" for name, value in score["hyperparameters"].items())
        return f"would fit: {setting}, {score['mean']:.2f} on tuning tasks; what the paper's search chose is not stated"

    @property
    def z(self) -> float:
        """Ours minus the paper's, in combined standard errors."""
        return (self.mean - self.published) / self.error


def deviations(number: int, rows: Sequence[ScoredRow]) -> list[Deviation]:
    """Every reference cell of a table that has a row, in the paper's order; without the trained agent's."""
    chosen = documented(row for row in rows if isinstance(row, EvaluationRow))
    found = []
    for task, scores in SCORES[number].scores.items():
        for agent, score in scores.items():
            row = chosen.get((task, agent))
            if agent != "rl2" and row is not None and row.standard_error is not None:
                deviation = row.standard_error * math.sqrt(row.num_tasks)
                rounding = 0.1 / math.sqrt(12)
                error = math.hypot(row.standard_error, deviation / math.sqrt(PUBLISHED_TASKS), rounding)
                tuned = (row.tuning or {}).get("scores", [])
                found.append(Deviation(task, agent, row.mean, score, error, tuned))
    return found


def deviations_markdown(number: int, rows: Sequence[ScoredRow]) -> str:
    """Each reference cell beside the paper's, those beyond two combined standard errors with their cause."""
    found = deviations(number, rows)
    outside = [d for d in found if abs(d.z) > 2]
    columns = SCORES[number].columns
    lines = [
        f"### Table {number}: reference agents against the published numbers",
        "",
        f"{len(found) - len(outside)} of {len(found)} cells within 2 combined standard errors (ours, the paper's over "
        f"{PUBLISHED_TASKS} tasks of the same spread, and its rounding to one decimal).",
        *_NOTES.get(number, []),
        "",
        "| setup | agent | ours | paper | combined error | difference in errors | what may be why |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for d in found:
        shown = f"**{d.z:+.1f}**" if abs(d.z) > 2 else f"{d.z:+.1f}"
        numbers = f"{d.mean:.3f} | {d.published:g} | {d.error:.3f} | {shown}"
        lines.append(f"| {short(d.task)} | {columns[d.agent]} | {numbers} | {d.cause} |")
    return "\n".join(lines) + "\n"
