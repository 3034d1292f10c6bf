"""Is what an agent does in the two-step task model-based? (Daw et al. 2011; Wang et al. 2016, figure 5).

Whether a choice is repeated after a reward depends on the transition for one who knows where choices lead
(an interaction of reward and transition), and not for one who repeats what paid (a main effect of reward).
Where the better state stays the better one for long, choices that were good before are repeated and have been mostly
rewarded after common transitions, which looks like an interaction too (Akam, Costa and Dayan 2015); the regression on
several decisions back tells the two apart (Miller, Botvinick and Brody 2017).
"""

from typing import NamedTuple

import numpy as np

from rl2jax.envs.two_step import CUE, FIRST, FIXATE, RIGHT, SECOND_A, SECOND_B
from rl2jax.settings import require
from rl2jax.trials.behaviour.logistic import LogisticFit, logistic_regression
from rl2jax.types import Trajectory

# Kinds of decision, in this order wherever there is an axis of them.
OUTCOMES = ("rewarded common", "rewarded uncommon", "unrewarded common", "unrewarded uncommon")


class Decisions(NamedTuple):
    """The decisions of a batch of trials; numpy [num_trials, most_decisions].

    Attributes:
      choice: LEFT or RIGHT; int.
      second: 0 for SECOND_A, 1 for SECOND_B; int.
      rewarded: bool.
      complete: whether there was such a decision, with its outcome; bool.
    """

    choice: np.ndarray
    second: np.ndarray
    rewarded: np.ndarray
    complete: np.ndarray

    @property
    def common(self) -> np.ndarray:
        """Whether the transition was the common one; bool numpy [num_trials, most_decisions]."""
        return (self.choice == RIGHT) == (self.second == 1)

    @property
    def outcome(self) -> np.ndarray:
        """Index in `OUTCOMES`; int numpy [num_trials, most_decisions]."""
        return 2 * (~self.rewarded).astype(int) + (~self.common).astype(int)


def decisions_of(trajectory: Trajectory) -> Decisions:
    """Reads a batch of trials, or one: obs and action int, reward and mask float, [num_steps(, num_trials)].

    Invalid actions (see `TwoStep.fixation`) are left out.
    """
    obs, action, reward, mask = (
        np.atleast_2d(np.asarray(x).T)
        for x in (trajectory.trial_obs.obs, trajectory.action, trajectory.reward, trajectory.mask)
    )
    valid = ((obs == CUE) == (action == FIXATE)) & (mask > 0)
    chooses = (obs == FIRST) & valid
    ends = ((obs == SECOND_A) | (obs == SECOND_B)) & valid
    number = np.cumsum(chooses, axis=1) - 1
    shape = (len(obs), max(1, int(number.max()) + 1))
    choice, second = np.zeros(shape, int), np.zeros(shape, int)
    rewarded, complete = np.zeros(shape, bool), np.zeros(shape, bool)
    trial, step = np.nonzero(chooses)
    choice[trial, number[trial, step]] = action[trial, step]
    trial, step = np.nonzero(ends)
    place = (trial, number[trial, step])
    second[place] = obs[trial, step] - SECOND_A
    rewarded[place] = reward[trial, step] > 0.5
    complete[place] = True
    return Decisions(choice, second, rewarded, complete)


class StayProbabilities(NamedTuple):
    """How often the choice after a decision is the same again, by the decision's kind (`OUTCOMES`).

    Attributes:
      mean: over trials; float64 numpy [4], nan where no trial has such a decision.
      standard_error: over trials; float64 numpy [4], nan for less than two.
      num_decisions: int numpy [4].
    """

    mean: np.ndarray
    standard_error: np.ndarray
    num_decisions: np.ndarray

    @property
    def interaction(self) -> float:
        """(rewarded common - rewarded uncommon) - (unrewarded common - unrewarded uncommon), of the means."""
        a, b, c, d = self.mean
        return float(a - b - c + d)

    @property
    def reward_effect(self) -> float:
        """Mean of the two rewarded kinds minus that of the two unrewarded ones."""
        a, b, c, d = self.mean
        return float((a + b - c - d) / 2.0)


def _pairs(decisions: Decisions) -> np.ndarray:
    """Where a decision and the next one are complete; bool numpy [num_trials, most_decisions - 1]."""
    return decisions.complete[:, :-1] & decisions.complete[:, 1:]


def stay_probabilities(decisions: Decisions) -> StayProbabilities:
    """First-stage choices repeated, as a function of reward and transition (Wang et al. 2016, figure 5c)."""
    pairs = _pairs(decisions)
    stays = decisions.choice[:, 1:] == decisions.choice[:, :-1]
    means, errors, counts = [], [], []
    for kind in range(len(OUTCOMES)):
        these = pairs & (decisions.outcome[:, :-1] == kind)
        in_trial = these.sum(axis=1)
        seen = in_trial > 0
        shares = (stays & these).sum(axis=1)[seen] / in_trial[seen]
        means.append(shares.mean() if len(shares) else np.nan)
        errors.append(shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan)
        counts.append(int(these.sum()))
    return StayProbabilities(np.array(means), np.array(errors), np.array(counts))


def stay_regression(decisions: Decisions) -> LogisticFit:
    """Stay on: constant, reward, common transition and their product, each +1 or -1; in this order."""
    pairs = _pairs(decisions)
    reward = np.where(decisions.rewarded[:, :-1], 1.0, -1.0)[pairs]
    common = np.where(decisions.common[:, :-1], 1.0, -1.0)[pairs]
    stays = (decisions.choice[:, 1:] == decisions.choice[:, :-1])[pairs]
    return logistic_regression(np.stack([np.ones_like(reward), reward, common, reward * common], axis=1), stays)


class LaggedFit(NamedTuple):
    """A regression of choices on decisions further back.

    Attributes:
      coefficients: log odds of repeating the choice made so many decisions ago, by its kind (`OUTCOMES`);
        float64 numpy [num_lags, 4].
      standard_errors: float64 numpy [num_lags, 4].
      bias: log odds of the right choice.
    """

    coefficients: np.ndarray
    standard_errors: np.ndarray
    bias: float

    @property
    def model_based(self) -> float:
        """Sum over lags of (rewarded common - rewarded uncommon) - (unrewarded common - unrewarded uncommon)."""
        a, b, c, d = self.coefficients.sum(axis=0)
        return float(a - b - c + d)

    @property
    def model_free(self) -> float:
        """Sum over lags of both rewarded kinds minus both unrewarded ones."""
        a, b, c, d = self.coefficients.sum(axis=0)
        return float(a + b - c - d)


def lagged_regression(decisions: Decisions, num_lags: int = 5) -> LaggedFit:
    """Right or left on the choices of `num_lags` decisions back, each in one of four columns by its kind.

    The regressor of a lag and a kind is +1 where that decision was of that kind and went right, -1 where left, else 0
    (Miller, Botvinick and Brody 2017).

    Raises:
      ValueError: if no trial has more than `num_lags` decisions.
    """
    require(num_lags >= 1, "num_lags", num_lags, "an integer >= 1")
    length = decisions.choice.shape[1]
    require(length > num_lags, "decisions in a trial", length, f"more than num_lags, {num_lags}")
    signed = np.where(decisions.choice == RIGHT, 1.0, -1.0)[..., None] * np.eye(4)[decisions.outcome]
    usable = decisions.complete[:, num_lags:].copy()
    columns = []
    for lag in range(1, num_lags + 1):
        usable &= decisions.complete[:, num_lags - lag : length - lag]
        columns.append(signed[:, num_lags - lag : length - lag])
    regressors = np.concatenate([np.ones((*usable.shape, 1)), *columns], axis=-1)[usable]
    fit = logistic_regression(regressors, (decisions.choice[:, num_lags:] == RIGHT)[usable])
    shape = (num_lags, len(OUTCOMES))
    return LaggedFit(
        fit.coefficients[1:].reshape(shape), fit.standard_errors[1:].reshape(shape), float(fit.coefficients[0])
    )
