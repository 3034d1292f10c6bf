"""Model-based behaviour of a model-free method (Wang et al. 2016, section 3.2.1, figure 5; 2018, figure 5)."""

from typing import Any

import matplotlib.figure
import numpy as np

from experiments.wang.draw import TRAINED, bars
from experiments.wang.study import Claim, Reference, Study, mean_and_error, rows_with
from rl2jax.envs.names import Task, parse_task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.two_step import (
    OUTCOMES,
    decisions_of,
    lagged_regression,
    stay_probabilities,
    stay_regression,
)
from rl2jax.trials.evaluate import Played

FIXED, SWITCHING = "two-step:trials=100,common=75,switch=0", "two-step:trials=100,common=80,switch=25"


def _measure(task: Task, played: Played) -> dict[str, Any]:
    """Stay probabilities by reward and transition, and both regressions."""
    del task
    decisions = decisions_of(played.trajectory)
    stay, regression, lagged = stay_probabilities(decisions), stay_regression(decisions), lagged_regression(decisions)
    total, error = mean_and_error(played.trajectory.reward.sum(axis=0))
    return {
        "return": total,
        "return_error": error,
        "stay": stay.mean.tolist(),
        "stay_error": stay.standard_error.tolist(),
        "coefficients": regression.coefficients.tolist(),
        "coefficients_error": regression.standard_errors.tolist(),
        "lagged": lagged.coefficients.tolist(),
        "lagged_error": lagged.standard_errors.tolist(),
        "model_based": lagged.model_based,
        "model_free": lagged.model_free,
    }


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    shown = rows_with(rows, task=rows[-1].task)
    groups = [row.agent for row in shown]
    means = np.array([row.measured["stay"] for row in shown]).T.tolist()
    errors = np.array([row.measured["stay_error"] for row in shown]).T.tolist()
    return bars(theme, groups, list(OUTCOMES), means, errors, "stay probability", bottom=0.0)


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    claims = []
    for row in rows_with(rows, agent=TRAINED):
        m = row.measured
        (_, reward, _, interaction), (_, reward_error, _, interaction_error) = (
            m["coefficients"],
            m["coefficients_error"],
        )
        kind = "switching roles" if parse_task(row.task).env.switch_permille else "fixed roles"
        claims += [
            Claim(
                f"{kind}: interaction of reward and transition {interaction:.3f} ± {interaction_error:.3f}, above 0",
                interaction > 1.96 * interaction_error,
            ),
            Claim(
                f"{kind}: main effect of reward {reward:.3f} ± {reward_error:.3f}, a tenth of the interaction or less",
                abs(reward) <= 0.1 * interaction,
            ),
        ]
    return claims


STUDY = Study(
    name="two_step",
    title="The two-step task (2016, figure 5; 2018, figure 5)",
    trained_on=(FIXED, SWITCHING),
    tested_on=(FIXED, SWITCHING),
    references=(
        Reference("model_free"),
        Reference("model_based"),
        Reference("bayes_optimal"),
    ),
    measure=_measure,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 1200),),
    num_tasks=2000,
    own_task_only=True,
)
