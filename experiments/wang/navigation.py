"""Back to a goal that was found once (Wang et al. 2016, section 3.2.3, figure 7)."""

from typing import Any

import matplotlib.figure
import numpy as np

from experiments.wang.draw import TRAINED, lines
from experiments.wang.study import Claim, Reference, Study, mean_and_error, rows_with
from rl2jax.envs.names import Task, parse_task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.learning import steps_to_goal
from rl2jax.trials.evaluate import Played

MAZE, FIELD = "grid:size=7,t=200", "grid:open=1,size=7,t=200"
_VISITS = 6


def _measure(task: Task, played: Played) -> dict[str, Any]:
    """Steps to the goal from visit to visit; of the trials with all those visits, lest quick ones count alone."""
    del task
    counted = played.each(lambda trajectory, params: steps_to_goal(trajectory, _VISITS))
    complete = counted.happened[:, -1] > 0
    steps = counted.total[complete]
    total, error = mean_and_error(played.trajectory.reward.sum(axis=0))
    errors = steps.std(axis=0, ddof=1) / np.sqrt(len(steps)) if len(steps) > 1 else np.full(_VISITS, np.nan)
    return {
        "visits": total,
        "visits_error": error,
        "complete": float(complete.mean()),
        "steps": steps.mean(axis=0).tolist() if len(steps) else None,
        "steps_error": errors.tolist() if len(steps) > 1 else None,
    }


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    shown = [
        (row.agent, "I-maze" if _is_maze(row) else "field", row.measured["steps"])
        for row in rows
        if row.measured["steps"] is not None and row.agent != "random"
    ]
    return lines(theme, shown, "visit", "steps to the goal")


def _is_maze(row: MeasuredRow) -> bool:
    return parse_task(row.task).env.layout == "i-maze"


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    claims = []
    for row in rows_with(rows, agent=TRAINED):
        (optimal,) = rows_with(rows, agent="shortest_path", task=row.task)
        steps = row.measured["steps"]
        name = "I-maze" if _is_maze(row) else "open field"
        if steps is None:
            claims.append(Claim(f"{name}: the goal is found {_VISITS} times in no trial", False))
            continue
        text = (
            f"{name}: {steps[0]:.1f} steps to the goal the first time, {steps[1]:.1f} the second, {steps[-1]:.1f} the "
            f"last (the shortest way: {optimal.measured['steps'][-1]:.1f}; "
            f"all {_VISITS} visits in {row.measured['complete']:.0%} of trials)"
        )
        claims.append(Claim(text, steps[1] < 0.8 * steps[0]))
    return claims


STUDY = Study(
    name="navigation",
    title="Navigation after the first goal (2016, figure 7)",
    trained_on=(MAZE, FIELD),
    tested_on=(MAZE, FIELD),
    references=(
        Reference("random"),
        Reference("explorer"),
        Reference("shortest_path"),
    ),
    measure=_measure,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 1000),),
    num_tasks=4000,
    own_task_only=True,
)
