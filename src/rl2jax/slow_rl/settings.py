"""Settings that all slow RL algorithms share: the objective, the optimiser, the baseline."""

import math
from dataclasses import dataclass
from typing import ClassVar

from rl2jax.settings import Section, bounded, choice


@dataclass(frozen=True)
class Objective(Section):
    """What is maximised.

    Attributes:
      discount: of the trial's rewards, through episode ends.
      gae_lambda: of generalised advantage estimation.
      normalise_advantages: to mean 0 and variance 1 in each batch; Wang et al. 2016 take them as they are.
      normalise_returns: the baseline learns returns on the scale of all returns so far; False: as they are.
      entropy_coefficient: weight of the mean entropy added to the surrogate.
      entropy_schedule: constant, or to 0 at the last iteration.
      task_inference_coefficient: weight of an auxiliary squared error: a second head on the policy's hidden state
        predicts `TaskDistribution.task_features`, which training knows and the agent must infer (Humplik et al. 2019).
        Nothing of it is used in acting. Beyond the paper; 0 with trpo.
      expected_rewards: learn from `TaskDistribution.expected_reward`, which training knows, in place of the rewards
        that were drawn: the same objective with less noise. Agents see rewards only. Beyond the paper.
    """

    section: ClassVar[str] = "objective"
    discount: float = bounded(0.99, at_least=0, at_most=1, swept=True)
    gae_lambda: float = bounded(0.3, at_least=0, at_most=1, swept=True)
    normalise_advantages: bool = True
    normalise_returns: bool = True
    entropy_coefficient: float = bounded(0.0, at_least=0, at_most=1e6, swept=True)
    entropy_schedule: str = choice("constant", "linear", "cosine")
    task_inference_coefficient: float = bounded(0.0, at_least=0, at_most=1e6, swept=True)
    expected_rewards: bool = False


@dataclass(frozen=True)
class OptimiserSettings(Section):
    """Of all that is learned by gradient steps: the baseline, and every policy but trpo's.

    Attributes:
      name: adam or rmsprop.
      schedule: of learning rates: constant, or to 0 at the last iteration.
      clip: gradients are clipped to +- this, elementwise.
      norm_clip: and then, as one vector, to this Euclidean norm; inf: they are not.
    """

    section: ClassVar[str] = "optimiser"
    name: str = choice("adam", "rmsprop")
    schedule: str = choice("constant", "linear", "cosine")
    clip: float = bounded(40.0, above=0, swept=True)
    norm_clip: float = bounded(math.inf, above=0, finite=False)


@dataclass(frozen=True)
class BaselineSettings(Section):
    """How the baseline learns.

    Attributes:
      epochs: passes over the batch to fit it, after the advantages are computed.
      minibatch_trials: whole trials in a minibatch.
      learning_rate: of the optimiser.
      loss_coefficient: with a shared trunk, in place of epochs, minibatches and learning rate: weight of the values'
        squared error in the joint loss (Wang et al. 2016: 0.05). Where a source writes the gradient as the error times
        that of the value, its weight is twice this one.
      sees_task: the baseline is given `TaskDistribution.task_features` too (an asymmetric critic: Pinto et al. 2018).
        It serves training only: the policy still knows nothing of the task. Not with a shared trunk. Beyond the paper.
      warmup_iterations: the policy stays as it is for so many iterations, while the baseline is fitted: for a policy
        that does not start from scratch. 0 with a shared trunk.
    """

    section: ClassVar[str] = "baseline"
    epochs: int = bounded(5, at_least=1)
    minibatch_trials: int = bounded(128, at_least=1)
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)
    loss_coefficient: float = bounded(0.5, above=0, at_most=1e6)
    sees_task: bool = False
    warmup_iterations: int = bounded(0, at_least=0)
