"""The learning rate follows the volatility (Wang et al. 2016, section 3.1.4, figure 4; 2018, figure 3)."""

from typing import Any

import matplotlib.figure
import numpy as np

from experiments.wang.draw import TRAINED, bars
from experiments.wang.study import Claim, Reference, Study, mean_and_error, rows_with
from rl2jax.envs.names import Task
from rl2jax.results.pages.figures import Theme
from rl2jax.results.rows import MeasuredRow
from rl2jax.trials.behaviour.regret import cumulative_regret
from rl2jax.trials.behaviour.rescorla_wagner import fit_rescorla_wagner
from rl2jax.trials.evaluate import Played

TASK = "restless:t=100,low=2,high=20"
_BLOCK_TRIALS = 100  # that one learner is fitted to


def _measure(task: Task, played: Played) -> dict[str, Any]:
    """Regret, and the learning rate that is fitted to blocks of trials of low and of high volatility."""
    del task
    trajectory, params = played
    regret = played.each(cumulative_regret)[:, -1]
    measured: dict[str, Any] = dict(zip(("regret", "regret_error"), mean_and_error(regret), strict=True))
    for name, chosen in (("low", ~params.is_high[:, 0]), ("high", params.is_high[:, 0])):
        action, reward = trajectory.action.T[chosen], trajectory.reward.T[chosen]
        blocks = len(action) // _BLOCK_TRIALS
        fits = [
            fit_rescorla_wagner(
                action[i * _BLOCK_TRIALS :][:_BLOCK_TRIALS], reward[i * _BLOCK_TRIALS :][:_BLOCK_TRIALS]
            )
            for i in range(blocks)
        ]
        mean, error = mean_and_error(np.array([fit.learning_rate for fit in fits]))
        measured |= {f"learning_rate_{name}": mean, f"learning_rate_{name}_error": error}
        measured[f"regret_{name}"], measured[f"regret_{name}_error"] = mean_and_error(regret[chosen])
    return measured


def _draw(rows: list[MeasuredRow], theme: Theme) -> matplotlib.figure.Figure:
    groups = [row.agent for row in rows]
    means = [[row.measured[f"learning_rate_{name}"] for row in rows] for name in ("low", "high")]
    errors = [[row.measured[f"learning_rate_{name}_error"] for row in rows] for name in ("low", "high")]
    return bars(theme, groups, ["low volatility", "high volatility"], means, errors, "fitted learning rate")


def _claims(rows: list[MeasuredRow]) -> list[Claim]:
    (row,) = rows_with(rows, agent=TRAINED)
    m = row.measured
    low, high = m["learning_rate_low"], m["learning_rate_high"]
    error = float(np.hypot(m["learning_rate_low_error"], m["learning_rate_high_error"]))
    text = (
        f"learning rate {low:.3f} at low and {high:.3f} at high volatility (difference {high - low:.3f} ± {error:.3f})"
    )
    fixed = rows_with(rows, agent="rescorla_wagner")[0].measured["regret"]
    return [
        Claim(text, high - low > 1.96 * error),
        Claim(f"regret {m['regret']:.2f}, below the best fixed learning rate's {fixed:.2f}", m["regret"] < fixed),
    ]


STUDY = Study(
    name="restless",
    title="Learning rates under volatility (2016, figure 4; 2018, figure 3)",
    trained_on=(TASK,),
    tested_on=(TASK,),
    references=(
        Reference("rescorla_wagner", None),
        Reference("discounted_ucb", None),
        Reference("thompson", None),
        Reference("bayes_filter"),
    ),
    measure=_measure,
    draw=_draw,
    claims=_claims,
    changes=(("iterations", 1500),),
)
