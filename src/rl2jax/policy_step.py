"""One update of the policy on a batch: by TRPO, by clipped ratios, or towards a teacher's actions."""

import math
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.config import TrainConfig
from rl2jax.devices import vmap_trials
from rl2jax.moments import masked_mean
from rl2jax.networks import PolicyAndBaseline
from rl2jax.ppo import PPOConfig, clipped_surrogate, ppo_update
from rl2jax.trpo import TRPOConfig, trpo_update
from rl2jax.types import PyTree


class PolicyBatch(NamedTuple):
    """What the surrogate needs of a batch; leaves [num_steps, num_trials, ...].

    `action` is what was done, or with a teacher what it would do: its action, or the probabilities of all of them.

    `task_features` is [1, num_trials, num_task_features], each feature with mean 0 and variance 1 over trials.
    """

    trial_obs: Any
    action: chex.Array
    old_log_prob: chex.Array
    old_dist_params: chex.Array
    advantage: chex.Array
    mask: chex.Array
    task_features: chex.Array


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
    networks: PolicyAndBaseline,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[chex.Array, chex.Array]:
    """(negative surrogate with entropy bonus, mean KL from the old policy) on a batch.

    The surrogate is the plain probability ratio times the advantage for "trpo" (Schulman et al. 2015,
    equation 14), the clipped one for "ppo", and the teacher's actions' log-probability for "imitation".
    """
    loss, kl, _ = policy_losses(networks, config, policy_params, batch, entropy_weight, mesh)
    return loss, kl


def policy_losses(
    networks: PolicyAndBaseline,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """`surrogate_loss`, and the mean squared error of the inferred task features (0 if none are inferred)."""
    unroll = vmap_trials(networks.policy_outputs, mesh, (None, 1), (1, 1))
    dist_params, inferred = unroll(policy_params, batch.trial_obs)
    distribution = networks.distribution(dist_params)
    old = networks.distribution(batch.old_dist_params)
    log_prob = expected_log_prob(distribution, batch.action)
    clip_range = config.clip_range if config.algorithm == "ppo" else jnp.inf
    if config.algorithm == "imitation":
        surrogate = log_prob
    else:
        surrogate = clipped_surrogate(log_prob, batch.old_log_prob, batch.advantage, clip_range)
    entropy = distribution.entropy() if config.entropy_coefficient else jnp.zeros_like(surrogate)
    objective = masked_mean(surrogate + entropy_weight * entropy, batch.mask)
    kl = masked_mean(old.kl_divergence(distribution), batch.mask)
    if not networks.num_task_features:
        return -objective, kl, jnp.zeros(())
    error = jnp.mean(jnp.square(inferred - batch.task_features), axis=-1)
    return -objective, kl, masked_mean(error, batch.mask)


def entropy_weight_at(config: TrainConfig, iteration: chex.Array) -> chex.Array:
    """Weight of the entropy bonus at an iteration."""
    return schedule(config.entropy_schedule, config.entropy_coefficient, config.iterations)(iteration)


def trpo_policy_step(key, networks, config, optimiser, state, batch, mesh: Mesh | None = None):
    """One natural step: (policy params, optimiser state, info)."""
    del key, optimiser
    entropy_weight = entropy_weight_at(config, state.iteration)
    num_fisher = max(1, round(config.fisher_fraction * batch.mask.shape[1]))
    fisher_obs = jax.tree.map(lambda x: x[:, :num_fisher], batch.trial_obs)
    fisher_mask = batch.mask[:, :num_fisher]

    def evaluate_fn(policy_params):
        loss, kl = surrogate_loss(networks, config, policy_params, batch, entropy_weight, mesh)
        return -loss, kl

    def dist_params_fn(policy_params):
        return vmap_trials(networks.dist_params, mesh, (None, 1), 1)(policy_params, fisher_obs)

    def dist_kl(old, new):
        kl = networks.distribution(old).kl_divergence(networks.distribution(new))
        return masked_mean(kl, fisher_mask)

    constants = TRPOConfig(config.max_kl, config.cg_iters, config.cg_damping, config.backtrack_ratio)
    params, info = trpo_update(state.params["policy"], evaluate_fn, dist_params_fn, dist_kl, constants)
    return params, state.policy_opt_state, info


def ppo_policy_step(key, networks, config, optimiser, state, batch, mesh: Mesh | None = None):
    """Several first-order epochs, of "ppo" or "imitation": (policy params, optimiser state, info)."""
    entropy_weight = entropy_weight_at(config, state.iteration)

    def loss_fn(policy_params, minibatch):
        loss, _, inference_error = policy_losses(networks, config, policy_params, minibatch, entropy_weight, mesh)
        return loss + config.task_inference_coefficient * inference_error

    def evaluate_fn(policy_params):
        loss, kl = surrogate_loss(networks, config, policy_params, batch, entropy_weight, mesh)
        return -loss, kl

    old = networks.distribution(batch.old_dist_params)
    entropy = old.entropy() if config.entropy_coefficient else jnp.zeros_like(batch.mask)
    imitates = config.algorithm == "imitation"
    start = expected_log_prob(old, batch.action) if imitates else batch.advantage  # all ratios are 1
    surrogate = masked_mean(start + entropy_weight * entropy, batch.mask)
    constants = PPOConfig(math.inf if imitates else config.max_kl, config.policy_epochs, config.policy_minibatch_trials)
    return ppo_update(
        key,
        state.params["policy"],
        state.policy_opt_state,
        optimiser,
        loss_fn,
        evaluate_fn,
        batch,
        surrogate,
        constants,
    )


POLICY_STEPS = {"trpo": trpo_policy_step, "ppo": ppo_policy_step, "imitation": ppo_policy_step}
