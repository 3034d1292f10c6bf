"""Which learning rate would do what an agent did? (Wang et al. 2016, section 3.1.4, figure 4)."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from rl2jax.settings import require

# Which parameters are free: a learning rate, b inverse temperature, e lapse rate; the others have these values.
MODELS = ("b", "ab", "be", "abe")
FIXED_LEARNING_RATE, FIXED_LAPSE = 0.5, 0.0
_STARTS = (0.1, 0.5, 0.9)  # learning rates to start from: the likelihood can have more than one top
_MOST_INVERSE_TEMPERATURE = 50.0


class RescorlaWagnerFit(NamedTuple):
    """The most likely learner with a model's free parameters.

    Attributes:
      learning_rate: alpha.
      inverse_temperature: beta.
      lapse: epsilon, share of choices that are a coin's.
      log_likelihood: of all choices, in nats.
      bic: Bayesian information criterion, k log(choices) - 2 log-likelihood; the smaller the better.
    """

    learning_rate: float
    inverse_temperature: float
    lapse: float
    log_likelihood: float
    bic: float


def log_likelihood(
    action: np.ndarray, reward: np.ndarray, learning_rate: float, inverse_temperature: float, lapse: float = 0.0
) -> float:
    """Of the choices of a learner V += learning_rate (r - V) of the chosen arm, from 1/2 at the start of each trial.

    It chooses by a softmax over the values, or with probability `lapse` either arm.

    Args:
      action: 0 or 1; int numpy [num_trials, num_pulls].
      reward: float numpy [num_trials, num_pulls].
      learning_rate: alpha.
      inverse_temperature: beta.
      lapse: epsilon.
    """
    values = np.full((len(action), 2), 0.5)
    trials = np.arange(len(action))
    # Log odds of what was chosen, pull by pull, all trials at once.
    odds = np.empty(action.shape)
    for pull in range(action.shape[1]):
        arm = action[:, pull]
        odds[:, pull] = values[trials, arm] - values[trials, 1 - arm]
        values[trials, arm] += learning_rate * (reward[:, pull] - values[trials, arm])
    if lapse == 0.0:
        return float(scipy.special.log_expit(inverse_temperature * odds).sum())
    return float(np.log((1.0 - lapse) * scipy.special.expit(inverse_temperature * odds) + 0.5 * lapse).sum())


def fit_rescorla_wagner(action: np.ndarray, reward: np.ndarray, model: str = "ab") -> RescorlaWagnerFit:
    """Fits one learner to a block of trials by maximum likelihood.

    Args:
      action: 0 or 1, of two arms; int [num_trials, num_pulls], or one trial's [num_pulls].
      reward: float, of the same shape.
      model: one of `MODELS`: which of learning rate (a), inverse temperature (b) and lapse rate (e) are free.

    Raises:
      ValueError: for shapes, arms or a model that are not allowed.
    """
    action, reward = np.atleast_2d(np.asarray(action)), np.atleast_2d(np.asarray(reward, np.float64))
    require(model in MODELS, "model", model, f"one of {', '.join(MODELS)}")
    require(action.shape == reward.shape and action.size > 0, "shape of reward", reward.shape, f"{action.shape}, not 0")
    require(bool(np.isin(action, (0, 1)).all()), "action", np.unique(action).tolist(), "0 or 1")

    def parameters(free: np.ndarray) -> tuple[float, float, float]:
        given = dict(zip(model, free, strict=True))
        return given.get("a", FIXED_LEARNING_RATE), given["b"], given.get("e", FIXED_LAPSE)

    def loss(free: np.ndarray) -> float:
        return -log_likelihood(action, reward, *parameters(free)) / action.size

    bounds = {"a": (0.0, 1.0), "b": (0.0, _MOST_INVERSE_TEMPERATURE), "e": (0.0, 1.0)}
    starts = [{"a": a, "b": 3.0, "e": 0.1} for a in (_STARTS if "a" in model else _STARTS[:1])]
    found = [
        scipy.optimize.minimize(
            loss, [start[name] for name in model], method="L-BFGS-B", bounds=[bounds[name] for name in model]
        )
        for start in starts
    ]
    best = min(found, key=lambda result: result.fun)
    alpha, beta, epsilon = (float(x) for x in parameters(best.x))
    likelihood = -float(best.fun) * action.size
    bic = len(model) * np.log(action.size) - 2.0 * likelihood
    return RescorlaWagnerFit(alpha, beta, epsilon, likelihood, float(bic))
