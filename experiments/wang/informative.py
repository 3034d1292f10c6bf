"""An arm that is pulled for what it tells (Wang et al. 2016, section 3.1.3, figure 4a)."""

from typing import Any

import matplotlib.figure

from experiments.wang.draw import TRAINED, lines
from experiments.wang.study import Claim, Reference, Study, mean_and_error, rows_with
from rl2jax.envs.names import Task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.regret import informative_pulls
from rl2jax.trials.evaluate import Played

TASK = "informative:k=10,t=5"


def _measure(task: Task, played: Played) -> dict[str, Any]:
    del task
    pulls = played.each(informative_pulls)
    told = pulls.informative[:, 0] > 0
    total, error = mean_and_error(played.trajectory.reward.sum(axis=0))
    return {
        "return": total,
        "return_error": error,
        "informative": pulls.informative.mean(axis=0).tolist(),
        "target": pulls.target.mean(axis=0).tolist(),
        "target_after_told": float(pulls.target[told, 1].mean()) if told.any() else None,
    }


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    shown = [
        (row.agent, what, row.measured[key])
        for row in rows
        for key, what in (("informative", "the arm that tells"), ("target", "the target"))
    ]
    return lines(theme, shown, "pull", "share of trials")


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    (row,) = rows_with(rows, agent=TRAINED)
    first, then = row.measured["informative"][0], row.measured["target_after_told"] or 0.0
    return [
        Claim(f"the arm that tells comes first in {first:.2%} of trials (at least 95%)", first >= 0.95),
        Claim(f"the target comes after it in {then:.2%} (at least 95%)", then >= 0.95),
    ]


STUDY = Study(
    name="informative",
    title="The informative arm (2016, figure 4a)",
    trained_on=(TASK,),
    tested_on=(TASK,),
    references=(
        Reference("informed"),
        Reference("thompson"),
        Reference("ucb"),
    ),
    measure=_measure,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 1500), ("batch.size", 2500), ("objective.entropy_coefficient", 0.2)),
)
