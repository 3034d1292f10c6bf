"""What a slow RL algorithm is, and what it may ask for: its settings class makes `SlowRL` of a `Problem`.

Every algorithm has one skeleton, in a file of its own: settings, a State, and `make`, whose `init` and `step` work on
that State and return an `Info`. The learner asks nothing of an algorithm but what `SlowRLSettings` says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.agents.base import Agent
from rl2jax.networks.base import Networks
from rl2jax.networks.unroll import unroll_trials
from rl2jax.settings import Section, bounded, is_traced, load_object, require
from rl2jax.slow_rl.moments import masked_mean
from rl2jax.slow_rl.optimisers import make_optimiser, schedule
from rl2jax.slow_rl.settings import Objective, OptimiserSettings
from rl2jax.types import PyTree


class Batch(NamedTuple):
    """What an algorithm is given of a batch of trials, or lanes; leaves [num_steps, num_trials, ...].

    What an algorithm does not use costs nothing: the compiler drops it. Of the trials of one task, each follows the
    other along the axis of trials (`Problem.trials_per_task`).

    Attributes:
      trial_obs: what the policy saw.
      action: what was done.
      old_log_prob: its log-probability by the policy that collected the batch.
      old_dist_params: parameters of that policy's distributions.
      advantage: normalised, if the settings say so; 0 where `mask` is.
      mask: 1 at the steps that count.
      task_features: [1, num_trials, num_task_features], each feature with mean 0 and variance 1 over trials; in lanes
        [num_steps, num_trials, num_task_features], over steps and lanes.
      target: the returns, normalised or not, where policy and baseline share a network; otherwise None.
      reward: drawn or expected, as the settings say. Of a lane whose end cuts a trial, the value there.
      returns: discounted, to the trial's end.
      value: of the baseline before this update, on the scale of the returns; 0 if the algorithm needs none.
      trial_done: in lanes, 1 at the last step of each trial; otherwise empty.
      agent_info: what the agent told at each step, `Trajectory.agent_info`.
    """

    trial_obs: Any
    action: chex.Array
    old_log_prob: chex.Array
    old_dist_params: chex.Array
    advantage: chex.Array
    mask: chex.Array
    task_features: chex.Array
    target: chex.Array | None = None
    reward: Any = ()
    returns: Any = ()
    value: Any = ()
    trial_done: Any = ()
    agent_info: PyTree = ()


class Info(NamedTuple):
    """Diagnostics of one update, for `Metrics`; float32 scalars.

    Attributes:
      kl: mean KL from the old to the new parameters.
      surrogate_gain: surrogate after the update minus before.
      line_search_steps: how often the step was shortened; -1 if it was given up, 0 without a search.
      grad_norm: of the gradient, before any clipping; where there are several, their mean.
    """

    kl: chex.Array
    surrogate_gain: chex.Array
    line_search_steps: chex.Array
    grad_norm: chex.Array


class State(NamedTuple):
    """What an algorithm of gradient steps keeps from batch to batch.

    Attributes:
      opt_state: the optimiser's.
      iteration: updates done; int32 [].
    """

    opt_state: PyTree
    iteration: chex.Array


class SlowRL(NamedTuple):
    """An algorithm that improves a policy, batch by batch; pure functions.

    Attributes:
      init: policy's params -> State, any PyTree of arrays; of a shape that no number in the settings changes.
      step: (key, State, params, batch) -> (params, State, Info).
    """

    init: Callable[[PyTree], Any]
    step: Callable[[chex.PRNGKey, Any, PyTree, Batch], tuple[PyTree, Any, Info]]


class Losses(NamedTuple):
    """Means over a batch; float32 [].

    Attributes:
      policy: negative surrogate with entropy bonus.
      kl: from the old policy.
      inference: squared error of the inferred task features; 0 if none are inferred.
      value: squared error of a shared network's values; 0 where the baseline is another network.
    """

    policy: chex.Array
    kl: chex.Array
    inference: chex.Array
    value: chex.Array


# (log-probability of the actions by the policy that is improved, batch) -> what is maximised, elementwise.
Surrogate = Callable[[chex.Array, Batch], chex.Array]


class FirstOrder(NamedTuple):
    """What gradient steps ask of a batch.

    Attributes:
      loss_fn: (policy's params, minibatch) -> `Problem.loss`.
      evaluate_fn: policy's params -> (surrogate with entropy bonus on the whole batch, mean KL from the old policy).
      surrogate: the same at the old policy's parameters.
    """

    loss_fn: Callable[[PyTree, Batch], chex.Array]
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]]
    surrogate: chex.Array


@dataclass(frozen=True)
class Problem:
    """What an algorithm may ask for; numbers may be traced (`training.sweeps`).

    Attributes:
      networks: of policy and baseline.
      objective: what is maximised.
      optimiser: settings of gradient steps.
      value_coefficient: weight of the values' squared error, where policy and baseline share a network.
      iterations: of the training.
      warmup_iterations: so many of them, the first, leave the policy as it is, and do not advance the State.
      num_trials: in a batch; with `BatchSettings.lane_steps` lanes.
      trials_per_task: so many trials, side by side, are of one task.
      mesh: devices that share the trials; None: one does all.
    """

    networks: Networks
    objective: Objective = field(default_factory=Objective)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    value_coefficient: float = 0.5
    iterations: int = 1000
    warmup_iterations: int = 0
    num_trials: int = 1
    trials_per_task: int = 1
    mesh: Mesh | None = None

    @property
    def policy_iterations(self) -> int:
        """Iterations in which the policy learns; at least 1."""
        return max(1, self.iterations - self.warmup_iterations)

    def make_optimiser(self, learning_rate: float, steps_per_iteration: int = 1) -> optax.GradientTransformation:
        """The settings' optimiser with its clipping; scheduled rates come to 0 after the last iteration."""
        return make_optimiser(self.optimiser, learning_rate, self.policy_iterations * steps_per_iteration)

    def scheduled(self, name: str, start: float, iteration: chex.Array) -> chex.Array | float:
        """A number that is constant, or falls to 0 at the training's last iteration.

        Args:
          name: constant, linear or cosine.
          start: what it is at the training's first iteration.
          iteration: updates done, int32 [], as the algorithm's State counts them.

        Returns:
          float32 [], or the number itself where it is constant.
        """
        if name == "constant":
            return start
        return schedule(name, start, self.iterations)(iteration + self.warmup_iterations)

    def entropy_weight(self, iteration: chex.Array) -> chex.Array | float:
        """Weight of the entropy bonus after so many updates; as `scheduled`."""
        return self.scheduled(self.objective.entropy_schedule, self.objective.entropy_coefficient, iteration)

    @property
    def has_entropy_bonus(self) -> bool:
        """Whether the entropy is computed at all; a coefficient that is traced may be any number."""
        return is_traced(self.objective.entropy_coefficient) or self.objective.entropy_coefficient > 0

    def unroll(self, function: Callable, params: PyTree, trial_obs: PyTree) -> PyTree:
        """A network's function of one trial, (params, trial_obs) -> outputs, over a batch of them."""
        networks = self.networks
        return unroll_trials(function, self.mesh, networks.abreast, networks.starts_alike)(params, trial_obs)

    def losses(
        self, params: PyTree, batch: Batch, surrogate: Surrogate, entropy_weight: chex.Array | float = 0.0
    ) -> Losses:
        """Surrogate with entropy bonus, KL, and the errors of the auxiliary heads: one pass over the trials."""
        networks = self.networks
        outputs = self.unroll(networks.policy_outputs, params, batch.trial_obs)
        distribution = networks.distribution(outputs.dist_params)
        old = networks.distribution(batch.old_dist_params)
        gained = surrogate(expected_log_prob(distribution, batch.action), batch)
        entropy = distribution.entropy() if self.has_entropy_bonus else jnp.zeros_like(gained)
        objective = masked_mean(gained + entropy_weight * entropy, batch.mask)
        kl = masked_mean(old.kl_divergence(distribution), batch.mask)
        inference = value = jnp.zeros(())
        if networks.num_task_features:
            error = jnp.mean(jnp.square(outputs.inferred - batch.task_features), axis=-1)
            inference = masked_mean(error, batch.mask)
        if networks.shares_trunk:
            value = masked_mean(jnp.square(outputs.value - batch.target), batch.mask)
        return Losses(-objective, kl, inference, value)

    def loss(
        self, params: PyTree, batch: Batch, surrogate: Surrogate, entropy_weight: chex.Array | float = 0.0
    ) -> chex.Array:
        """What gradient steps minimise: `losses`, weighted; float32 []."""
        losses = self.losses(params, batch, surrogate, entropy_weight)
        loss = losses.policy + self.objective.task_inference_coefficient * losses.inference
        return loss + self.value_coefficient * losses.value

    def evaluate(
        self, params: PyTree, batch: Batch, surrogate: Surrogate, entropy_weight: chex.Array | float = 0.0
    ) -> tuple[chex.Array, chex.Array]:
        """(surrogate with entropy bonus, mean KL from the old policy) on a batch; float32 []."""
        losses = self.losses(params, batch, surrogate, entropy_weight)
        return -losses.policy, losses.kl

    def first_order(self, batch: Batch, surrogate: Surrogate, before: chex.Array, iteration: chex.Array) -> FirstOrder:
        """What gradient steps on a batch ask for.

        Args:
          batch: of this iteration.
          surrogate: what is maximised, elementwise.
          before: the same at the old policy's parameters, which algorithms know; [num_steps, num_trials].
          iteration: updates done.
        """
        weight = self.entropy_weight(iteration)
        bonus = jnp.zeros_like(batch.mask)
        if self.has_entropy_bonus:
            bonus = self.networks.distribution(batch.old_dist_params).entropy()
        return FirstOrder(
            partial(self.loss, surrogate=surrogate, entropy_weight=weight),
            partial(self.evaluate, batch=batch, surrogate=surrogate, entropy_weight=weight),
            masked_mean(before + weight * bonus, batch.mask),
        )

    def joint_params(self, params: PyTree, trial_obs: PyTree) -> tuple[chex.Array, chex.Array | None]:
        """Parameters of the action distributions over a batch, and the values where the same network has them."""

        def of_trial(params, trial_obs):
            outputs = self.networks.policy_outputs(params, trial_obs)
            return outputs.dist_params, outputs.value

        return self.unroll(of_trial, params, trial_obs)

    def joint_kl(self, old: PyTree, new: PyTree) -> chex.Array:
        """KL between two `joint_params`, elementwise; float32 [...].

        Where policy and baseline share a network it is that of the action's distribution times a Gaussian about the
        value, whose part is value_coefficient * (delta value)^2: its Hessian is the Gauss-Newton matrix of the squared
        error.
        """
        (old_params, old_value), (new_params, new_value) = old, new
        kl = self.networks.distribution(old_params).kl_divergence(self.networks.distribution(new_params))
        return kl + self.value_coefficient * jnp.square(new_value - old_value) if self.networks.shares_trunk else kl


def expected_log_prob(distribution: Any, action: chex.Array) -> chex.Array:
    """Log-probability of actions, or its mean over actions of given probabilities; float32 [...].

    Args:
      distribution: of actions.
      action: as the distribution's samples, or for a categorical one float32 [..., num_actions].
    """
    if jnp.issubdtype(action.dtype, jnp.floating) and hasattr(distribution, "logits"):
        return jnp.sum(action * jax.nn.log_softmax(distribution.logits), axis=-1)
    return distribution.log_prob(action)


class Work(NamedTuple):
    """How often an update goes over its batch, for `training.cost`.

    Attributes:
      gradients: of the whole batch, or epochs over it.
      minibatch_trials: about how many trials an epoch takes at once; None: all.
      evaluations: forward passes over the whole batch.
      linearisations: of the policy, for Fisher-vector products.
      products: so many of them after each.
      fraction: of the trials, in those products.
    """

    gradients: int = 1
    minibatch_trials: int | None = None
    evaluations: int = 1
    linearisations: int = 0
    products: int = 0
    fraction: float = 1.0


@dataclass(frozen=True)
class SlowRLSettings(Section):
    """An algorithm's settings, and what the rest of the program asks of it; subclasses add fields, and `make`.

    Attributes:
      section: what its settings' names begin with.
      name: in the registry (`training.config.SLOW_RL`); of a user's own: "".
      needs_teacher: whether it learns from a teacher's actions.
      fits_baseline: whether it needs a baseline; one that is a network of its own is then fitted to each batch.
      infers_task: whether it minimises the error of inferred task features too.
      beside_baseline: whether it takes about as long as fitting the baseline, so that two devices had better do one
        each.
    """

    section: ClassVar[str] = "slow_rl"
    name: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = False
    fits_baseline: ClassVar[bool] = True
    infers_task: ClassVar[bool] = True
    beside_baseline: ClassVar[bool] = False

    def make(self, problem: Problem) -> SlowRL:
        """The algorithm, for a problem; pure, called whenever a program is traced."""
        raise NotImplementedError(f"{type(self).__name__}.make")

    def acting(self, student: Agent, teacher: Agent | None) -> Agent:
        """Who plays the trials; the teacher is there where `needs_teacher`."""
        del teacher
        return student

    def work(self) -> Work:
        """How often an update goes over its batch; unless told otherwise one gradient, and one evaluation."""
        return Work()


@dataclass(frozen=True)
class OwnSlowRL(SlowRLSettings):
    """A user's own update that has no settings class: a function (settings, problem) -> `SlowRL`.

    Attributes:
      target: "package.module:function".
      learning_rate: of the policy.
    """

    target: str = ""
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)

    def make(self, problem: Problem) -> SlowRL:
        """What the user's function makes.

        Raises:
          InputError: if there is no such function, or it returns something else.
        """
        made = load_object(self.target, "slow_rl")(self, problem)
        require(isinstance(made, SlowRL), f"what {self.target} returns", made, "a SlowRL")
        return made
