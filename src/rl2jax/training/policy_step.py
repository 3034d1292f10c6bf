"""One update of the policy on a batch: by TRPO, by clipped ratios, by A2C, or towards a teacher's actions."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.networks.base import Networks
from rl2jax.networks.unroll import unroll_trials
from rl2jax.slow_rl.a2c import a2c_update, policy_gradient_surrogate
from rl2jax.slow_rl.moments import masked_mean
from rl2jax.slow_rl.ppo import PPOConfig, clipped_surrogate, ppo_update
from rl2jax.slow_rl.trpo import TRPOConfig, trpo_update
from rl2jax.training.config import TrainConfig
from rl2jax.types import PyTree


class PolicyBatch(NamedTuple):
    """What the surrogate needs of a batch of trials, or lanes; leaves [num_steps, num_trials, ...].

    `action` is what was done, or with a teacher what it would do: its action, or the probabilities of all of them.

    `task_features` is [1, num_trials, num_task_features], each feature with mean 0 and variance 1 over trials; in
    lanes [num_steps, num_trials, num_task_features], over steps and lanes.

    `target` is the returns, normalised or not, where policy and baseline share a network; otherwise None.
    """

    trial_obs: Any
    action: chex.Array
    old_log_prob: chex.Array
    old_dist_params: chex.Array
    advantage: chex.Array
    mask: chex.Array
    task_features: chex.Array
    target: chex.Array | None = None


class PolicyLosses(NamedTuple):
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


def expected_log_prob(distribution: Any, action: chex.Array) -> chex.Array:
    """Log-probability of actions, or its mean over actions of given probabilities; float32 [...].

    Args:
      distribution: of actions.
      action: as the distribution's samples, or for a categorical one float32 [..., num_actions].
    """
    if jnp.issubdtype(action.dtype, jnp.floating) and hasattr(distribution, "logits"):
        return jnp.sum(action * jax.nn.log_softmax(distribution.logits), axis=-1)
    return distribution.log_prob(action)


def schedule(name: str, start: float, steps: int) -> optax.Schedule:
    """From `start`: constant, or linearly or as a cosine to 0 after `steps`."""
    schedules = {
        "constant": optax.constant_schedule(start),
        "linear": optax.linear_schedule(start, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(start, steps),
    }
    return schedules[name]


def surrogate_loss(
    networks: Networks,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[chex.Array, chex.Array]:
    """(negative surrogate with entropy bonus, mean KL from the old policy) on a batch.

    The surrogate is the plain probability ratio times the advantage for "trpo" (Schulman et al. 2015,
    equation 14), the clipped one for "ppo", the log-probability times the advantage for "a2c", and the teacher's
    actions' log-probability for "imitation".
    """
    losses = policy_losses(networks, config, policy_params, batch, entropy_weight, mesh)
    return losses.policy, losses.kl


def policy_losses(
    networks: Networks,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
    mesh: Mesh | None = None,
) -> PolicyLosses:
    """`surrogate_loss`, and the errors of the auxiliary heads; all from one pass over the trials."""
    unroll = unroll_trials(networks.policy_outputs, mesh, networks.abreast, networks.starts_alike)
    outputs = unroll(policy_params, batch.trial_obs)
    distribution = networks.distribution(outputs.dist_params)
    old = networks.distribution(batch.old_dist_params)
    log_prob = expected_log_prob(distribution, batch.action)
    clip_range = config.slow_rl.clip_range if config.slow_rl.name == "ppo" else jnp.inf
    if config.slow_rl.name == "imitation":
        surrogate = log_prob
    elif config.slow_rl.name == "a2c":
        surrogate = policy_gradient_surrogate(log_prob, batch.advantage)
    else:
        surrogate = clipped_surrogate(log_prob, batch.old_log_prob, batch.advantage, clip_range)
    entropy = distribution.entropy() if has_entropy_bonus(config) else jnp.zeros_like(surrogate)
    objective = masked_mean(surrogate + entropy_weight * entropy, batch.mask)
    kl = masked_mean(old.kl_divergence(distribution), batch.mask)
    inference = value = jnp.zeros(())
    if networks.num_task_features:
        error = jnp.mean(jnp.square(outputs.inferred - batch.task_features), axis=-1)
        inference = masked_mean(error, batch.mask)
    if networks.shares_trunk:
        value = masked_mean(jnp.square(outputs.value - batch.target), batch.mask)
    return PolicyLosses(-objective, kl, inference, value)


def has_entropy_bonus(config: TrainConfig) -> bool:
    """Whether the entropy is computed at all; a coefficient that is traced (`sweeps`) may be any number."""
    return isinstance(config.objective.entropy_coefficient, jax.Array) or config.objective.entropy_coefficient > 0


def entropy_weight_at(config: TrainConfig, iteration: chex.Array) -> chex.Array:
    """Weight of the entropy bonus at an iteration."""
    return schedule(config.objective.entropy_schedule, config.objective.entropy_coefficient, config.iterations)(
        iteration
    )


def kl_limit_at(config: TrainConfig, iteration: chex.Array) -> chex.Array | float:
    """`max_kl` at an iteration: float32 [], or the number itself where it is the same at all."""
    if config.slow_rl.max_kl_schedule == "constant":
        return config.slow_rl.max_kl
    return schedule(config.slow_rl.max_kl_schedule, config.slow_rl.max_kl, config.iterations)(iteration)


def joint_params(networks: Networks, policy_params: PyTree, trial_obs: Any) -> tuple[chex.Array, chex.Array | None]:
    """Parameters of the action distribution over a trial, and the value where the same network has it."""
    outputs = networks.policy_outputs(policy_params, trial_obs)
    return outputs.dist_params, outputs.value


def joint_kl(networks: Networks, coefficient: float, old: PyTree, new: PyTree) -> chex.Array:
    """KL between two `joint_params`, elementwise; float32 [...].

    Where policy and baseline share a network it is that of the action's distribution times a Gaussian about the value,
    whose part is coefficient * (delta value)^2: its Hessian is the Gauss-Newton matrix of the squared error.
    """
    (old_params, old_value), (new_params, new_value) = old, new
    kl = networks.distribution(old_params).kl_divergence(networks.distribution(new_params))
    return kl + coefficient * jnp.square(new_value - old_value) if networks.shares_trunk else kl


def trpo_policy_step(key, networks, config, optimiser, state, batch, mesh: Mesh | None = None):
    """One natural step, or several on the same batch: (policy params, optimiser state, info).

    Where policy and baseline share a network, the objective includes the values' squared error, and the step is natural
    to the joint distribution of `joint_kl`. The line search's limit, and the KL that is reported, are the policy's.
    """
    del key, optimiser
    coefficient = config.baseline.loss_coefficient
    entropy_weight = entropy_weight_at(config, state.iteration)
    num_fisher = max(1, round(config.slow_rl.fisher_fraction * batch.mask.shape[1]))
    fisher_obs = jax.tree.map(lambda x: x[:, :num_fisher], batch.trial_obs)
    fisher_mask = batch.mask[:, :num_fisher]

    def evaluate_fn(policy_params):
        losses = policy_losses(networks, config, policy_params, batch, entropy_weight, mesh)
        return -(losses.policy + coefficient * losses.value), losses.kl

    def dist_params_fn(policy_params):
        return unroll_trials(partial(joint_params, networks), mesh, networks.abreast, networks.starts_alike)(
            policy_params, fisher_obs
        )

    def dist_kl(old, new):
        return masked_mean(joint_kl(networks, coefficient, old, new), fisher_mask)

    constants = TRPOConfig(
        kl_limit_at(config, state.iteration),
        config.slow_rl.cg_iters,
        config.slow_rl.cg_damping,
        config.slow_rl.backtrack_ratio,
        steps=config.slow_rl.steps,
    )
    params, info = trpo_update(state.params["policy"], evaluate_fn, dist_params_fn, dist_kl, constants)
    return params, state.policy_opt_state, info


def joint_loss(
    networks: Networks,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
    mesh: Mesh | None = None,
) -> chex.Array:
    """What first-order algorithms minimise: `policy_losses`, weighted; float32 []."""
    losses = policy_losses(networks, config, policy_params, batch, entropy_weight, mesh)
    loss = losses.policy + config.objective.task_inference_coefficient * losses.inference
    return loss + config.baseline.loss_coefficient * losses.value


class FirstOrder(NamedTuple):
    """What the first-order algorithms ask of a batch.

    Attributes:
      loss_fn: (policy params, minibatch) -> `joint_loss`.
      evaluate_fn: policy params -> (surrogate with entropy bonus on the whole batch, mean KL from the old policy).
      surrogate: the same at the old policy's parameters.
    """

    loss_fn: Callable[[PyTree, PyTree], chex.Array]
    evaluate_fn: Callable[[PyTree], tuple[chex.Array, chex.Array]]
    surrogate: chex.Array


def _first_order(networks, config, batch, iteration, start, mesh: Mesh | None) -> FirstOrder:
    """`start`: the surrogate at the old policy's parameters, elementwise and without the bonus."""
    entropy_weight = entropy_weight_at(config, iteration)

    def loss_fn(policy_params, minibatch):
        return joint_loss(networks, config, policy_params, minibatch, entropy_weight, mesh)

    def evaluate_fn(policy_params):
        loss, kl = surrogate_loss(networks, config, policy_params, batch, entropy_weight, mesh)
        return -loss, kl

    bonus = jnp.zeros_like(batch.mask)
    if has_entropy_bonus(config):
        bonus = networks.distribution(batch.old_dist_params).entropy()
    return FirstOrder(loss_fn, evaluate_fn, masked_mean(start + entropy_weight * bonus, batch.mask))


def a2c_policy_step(key, networks, config, optimiser, state, batch, mesh: Mesh | None = None):
    """One gradient step (Mnih et al. 2016, algorithm S3; Wang et al. 2016): (policy params, optimiser state, info).

    A network that policy and baseline share learns its values in the same step.
    """
    del key
    start = policy_gradient_surrogate(batch.old_log_prob, batch.advantage)
    asked = _first_order(networks, config, batch, state.iteration, start, mesh)
    params, opt_state = state.params["policy"], state.policy_opt_state
    return a2c_update(params, opt_state, optimiser, asked.loss_fn, asked.evaluate_fn, batch, asked.surrogate)


def ppo_policy_step(key, networks, config, optimiser, state, batch, mesh: Mesh | None = None):
    """Several first-order epochs, of "ppo" or "imitation": (policy params, optimiser state, info).

    A network that policy and baseline share learns its values in the same epochs. Which epoch's parameters are kept
    under a KL limit is the policy's surrogate's to say.
    """
    old = networks.distribution(batch.old_dist_params)
    imitates = config.slow_rl.name == "imitation"
    start = expected_log_prob(old, batch.action) if imitates else batch.advantage  # all ratios are 1
    asked = _first_order(networks, config, batch, state.iteration, start, mesh)
    max_kl = math.inf if imitates else kl_limit_at(config, state.iteration)
    constants = PPOConfig(max_kl, config.slow_rl.epochs, config.slow_rl.minibatch_trials)
    params, opt_state = state.params["policy"], state.policy_opt_state
    return ppo_update(key, params, opt_state, optimiser, *asked[:2], batch, asked.surrogate, constants)


POLICY_STEPS = {"trpo": trpo_policy_step, "ppo": ppo_policy_step, "a2c": a2c_policy_step, "imitation": ppo_policy_step}
