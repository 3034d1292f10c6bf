"""Logistic regression by Newton's method."""

from typing import NamedTuple

import numpy as np
import scipy.special

from rl2jax.settings import require

_MOST_STEPS = 50
_TOLERANCE = 1e-8


class LogisticFit(NamedTuple):
    """The most likely coefficients.

    Attributes:
      coefficients: float64 numpy [num_regressors].
      standard_errors: from the curvature at the optimum; float64 numpy [num_regressors].
      log_likelihood: of all outcomes, in nats.
      num_outcomes: how many there were.
    """

    coefficients: np.ndarray
    standard_errors: np.ndarray
    log_likelihood: float
    num_outcomes: int


def logistic_regression(regressors: np.ndarray, outcomes: np.ndarray, ridge: float = 1e-3) -> LogisticFit:
    """Maximises sum log sigma(+-x w) - ridge |w|^2 / 2 over w.

    Args:
      regressors: x; float numpy [num_outcomes, num_regressors]; a constant is one of them.
      outcomes: bool or 0 and 1, numpy [num_outcomes].
      ridge: keeps coefficients finite where outcomes can be told apart without error; > 0.

    Raises:
      ValueError: naming what is not allowed.
    """
    x, y = np.asarray(regressors, np.float64), np.asarray(outcomes, np.float64)
    require(x.ndim == 2 and len(x) >= 1, "shape of regressors", x.shape, "[num_outcomes >= 1, num_regressors]")
    require(y.shape == x.shape[:1], "shape of outcomes", y.shape, f"{x.shape[:1]}, one for each row of regressors")
    require(ridge > 0, "ridge", ridge, "> 0")

    def objective(w: np.ndarray) -> float:
        return float(np.sum(scipy.special.log_expit(np.where(y > 0, 1, -1) * (x @ w)))) - 0.5 * ridge * float(w @ w)

    w = np.zeros(x.shape[1])
    for _ in range(_MOST_STEPS):
        p = scipy.special.expit(x @ w)
        gradient = x.T @ (y - p) - ridge * w
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + ridge * np.eye(len(w))
        step = np.linalg.solve(curvature, gradient)
        while objective(w + step) < objective(w) and np.abs(step).max() > _TOLERANCE:
            step = step / 2.0
        w = w + step
        if np.abs(step).max() < _TOLERANCE:
            break
    p = scipy.special.expit(x @ w)
    curvature = (x * (p * (1.0 - p))[:, None]).T @ x + ridge * np.eye(len(w))
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    log_likelihood = objective(w) + 0.5 * ridge * float(w @ w)
    return LogisticFit(w, errors, log_likelihood, len(y))
