"""Two independent arms: cumulative regret beside the classical agents (Wang et al. 2016, section 3.1.1, figure 2a)."""

from typing import Any

import matplotlib.figure

from experiments.wang.draw import TRAINED, display, lines
from experiments.wang.study import Claim, Reference, Study, interval, mean_and_error, pooled, rows_with
from rl2jax.envs.names import Task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.regret import cumulative_regret
from rl2jax.trials.evaluate import Played

TASK = "bandit:k=2,n=100"


def measure_regret(task: Task, played: Played) -> dict[str, Any]:
    """Regret over the pulls of a trial, and its total with a standard error."""
    del task
    regret = played.each(cumulative_regret)
    mean, error = mean_and_error(regret[:, -1])
    return {"regret": mean, "regret_error": error, "curve": regret.mean(axis=0).round(4).tolist()}


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    shown = [(row.agent, "", row.measured["curve"]) for row in rows_with(rows, task=rows[0].task)]
    return lines(theme, shown, "pull", "cumulative regret")


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    trained = [row.measured for row in rows_with(rows, agent=TRAINED)]
    ours = pooled(trained, "regret")
    claims = []
    for name, better in (("gittins", True), ("thompson", False), ("ucb1", False)):
        (row,) = rows_with(rows, agent=name)
        theirs = row.measured["regret"], row.measured["regret_error"]
        # Every seed by itself, and their mean.
        each = [(m["regret"], m["regret_error"]) for m in trained] + [ours]
        apart = all(
            interval(theirs)[1] < interval(one)[0] if better else interval(one)[1] < interval(theirs)[0] for one in each
        )
        side = "below" if better else "above"
        regret = f"the regret of {display(name)}, {theirs[0]:.3f}"
        text = f"{regret}, is {side} the trained agents', {ours[0]:.3f} ± {ours[1]:.3f}"
        claims.append(Claim(f"{text}, 95% intervals of {len(trained)} seeds apart", apart))
    return claims


STUDY = Study(
    name="bandits",
    title="Independent arms (2016, figure 2)",
    trained_on=(TASK,),
    tested_on=(TASK,),
    references=(
        Reference("gittins"),
        Reference("thompson"),
        Reference("ucb1", {"scaling": 1.0}),
        Reference("ucb1", None, "ucb1_tuned"),
    ),
    measure=measure_regret,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 1500),),
    num_seeds=3,
    num_tasks=20_000,
)
