"""Trained on one kind of two-armed bandit, tested on all (Wang et al. 2016, section 3.1.2, figures 2 and 3)."""

import matplotlib.figure
import numpy as np

from experiments.wang.bandits import TASK as INDEPENDENT
from experiments.wang.bandits import measure_regret
from experiments.wang.draw import TRAINED, display, matrix
from experiments.wang.study import Claim, Reference, Study, interval, rows_with
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow

NAMES = {
    INDEPENDENT: "independent",
    "dependent:n=100": "uniform",
    "dependent:p=90,n=100": "easy",
    "dependent:p=75,n=100": "medium",
    "dependent:p=60,n=100": "hard",
}
_REFERENCES = ("gittins", "thompson", "ucb1", "bayes_optimal")


def _regret(rows: list[MeasuredRow], **fields: str) -> tuple[float, float]:
    (row,) = rows_with(rows, **fields)
    return row.measured["regret"], row.measured["regret_error"]


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    columns = list(NAMES)
    nothing = (np.nan, np.nan)
    table = [[_regret(rows, agent=TRAINED, trained_on=row, task=task) for task in columns] for row in columns]
    for agent in _REFERENCES:
        playing = {row.task for row in rows_with(rows, agent=agent)}
        table.append([_regret(rows, agent=agent, task=task) if task in playing else nothing for task in columns])
    labels = [*(f"trained: {name}" for name in NAMES.values()), *map(display, _REFERENCES)]
    regret, error = np.moveaxis(np.array(table), -1, 0)
    title = "regret after 100 pulls, with half its 95% interval"
    return matrix(theme, regret, 1.96 * error, labels, list(NAMES.values()), "tested on", title)


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    claims = []
    for task, name in NAMES.items():
        if task == INDEPENDENT:
            continue
        own = _regret(rows, agent=TRAINED, trained_on=task, task=task)
        other = _regret(rows, agent=TRAINED, trained_on=INDEPENDENT, task=task)
        text = f"{name}: trained on it {own[0]:.3f} ± {own[1]:.3f}, on independent arms {other[0]:.3f} ± {other[1]:.3f}"
        claims.append(Claim(text, interval(own)[1] < interval(other)[0]))
    return claims


STUDY = Study(
    name="dependent",
    title="Dependent arms: trained on one kind, tested on all (2016, figures 2 and 3)",
    trained_on=tuple(NAMES),
    tested_on=tuple(NAMES),
    references=(
        Reference("gittins"),
        Reference("thompson"),
        Reference("ucb1", {"scaling": 1.0}),
        Reference("bayes_optimal"),
    ),
    measure=measure_regret,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 800),),
)
