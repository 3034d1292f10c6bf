"""One-shot learning to learn (Wang et al. 2016, section 3.2.2, figure 6; 2018, figure 6)."""

from typing import Any

import matplotlib.figure
import numpy as np

from experiments.wang.draw import TRAINED, lines
from experiments.wang.study import Claim, Reference, Study, mean_and_error, rows_with
from rl2jax.envs.names import Task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.learning import harlow_accuracy
from rl2jax.trials.evaluate import Played

TASK = "harlow:trials=10"


def _measure(task: Task, played: Played) -> dict[str, Any]:
    """Accuracy at each choice, on pairs of objects that training never showed."""
    num_choices: int = task.env.num_choices  # type: ignore[attr-defined]
    counted = played.each(lambda trajectory, params: harlow_accuracy(trajectory, num_choices))
    happened = counted.happened.sum(axis=0)
    accuracy = counted.total.sum(axis=0) / happened
    total, error = mean_and_error(played.trajectory.reward.sum(axis=0))
    return {
        "return": total,
        "return_error": error,
        "accuracy": accuracy.tolist(),
        "accuracy_error": np.sqrt(accuracy * (1 - accuracy) / happened).tolist(),
        "choices_made": (happened / played.trajectory.reward.shape[1]).tolist(),
    }


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    return lines(theme, [(row.agent, "", row.measured["accuracy"]) for row in rows], "choice", "accuracy")


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    (row,) = rows_with(rows, agent=TRAINED)
    first, second = row.measured["accuracy"][:2]
    made = row.measured["choices_made"][-1]
    return [
        Claim(
            f"second choice right in {second:.2%} of new pairs (at least 90%; the first: {first:.2%})", second >= 0.9
        ),
        Claim(f"all ten choices are made in {made:.2%} of blocks (at least 99%)", made >= 0.99),
    ]


STUDY = Study(
    name="harlow",
    title="Harlow's task, objects never seen in training (2016, figure 6)",
    trained_on=(TASK,),
    tested_on=(TASK,),
    references=(
        Reference("random"),
        Reference("side"),
        Reference("one_shot"),
    ),
    measure=_measure,
    draw=_draw,
    claims=_claims,
    # With weights normalised and gates that remember from the start it stayed at chance for 1500 iterations.
    changes=(
        ("iterations", 1500),
        ("slow_rl.learning_rate", 2e-3),
        ("optimiser.schedule", "constant"),
        ("objective.entropy_coefficient", 0.05),
        ("network.weight_norm", False),
        ("network.memory_horizon", 0),
        ("objective.normalise_returns", False),
    ),
)
