"""The two halves of an iteration: collect a batch of trials, update the networks on it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.advantages import discounted_returns, generalised_advantages, standardise
from rl2jax.agents.base import Agent
from rl2jax.config import TrainConfig
from rl2jax.imitation import imitating_agent
from rl2jax.networks import PolicyAndBaseline, distribution_for, encoding_for
from rl2jax.ppo import PPOConfig, clipped_surrogate, ppo_update
from rl2jax.rollout import rollout
from rl2jax.sgd import minibatch_epoch, num_minibatches
from rl2jax.trial import Trial
from rl2jax.trpo import TRPOConfig, trpo_update
from rl2jax.types import Metrics, PyTree, Trajectory

Collect = Callable[[chex.PRNGKey, PyTree], Trajectory]


class Moments(NamedTuple):
    """Running mean and variance of the discounted returns, the scale of the baseline; float32 []."""

    count: chex.Array
    mean: chex.Array
    variance: chex.Array


class TrainState(NamedTuple):
    """Everything the next iteration needs; a PyTree, saved whole by a checkpoint.

    Attributes:
      params: {"policy": ..., "baseline": ...}.
      policy_opt_state: Adam's state ("ppo"; empty for "trpo").
      baseline_opt_state: Adam's state.
      return_moments: scale of the baseline's output.
      key: the run's random stream.
      iteration: iterations done; int32 [].
    """

    params: dict[str, PyTree]
    policy_opt_state: PyTree
    baseline_opt_state: PyTree
    return_moments: Moments
    key: chex.PRNGKey
    iteration: chex.Array


class PolicyBatch(NamedTuple):
    """What the surrogate needs of a batch; leaves [num_steps, num_trials, ...].

    `task_features` is [1, num_trials, num_task_features], each feature with mean 0 and variance 1 over trials.
    """

    trial_obs: Any
    action: chex.Array
    old_log_prob: chex.Array
    old_dist_params: chex.Array
    advantage: chex.Array
    mask: chex.Array
    task_features: chex.Array


class BaselineBatch(NamedTuple):
    """What fitting the baseline needs of a batch; leaves [num_steps, num_trials, ...]."""

    trial_obs: Any
    target: chex.Array
    mask: chex.Array


def make_trial(env: Any, config: TrainConfig) -> Trial:
    """The trial that a config describes."""
    return Trial(env, config.num_episodes, config.first_step_flag)


def make_networks(env: Any, config: TrainConfig) -> PolicyAndBaseline:
    """The networks that a config describes, for an environment's spaces.

    Raises:
      ValueError: if the environment's spaces are not supported, or it has no task features to infer.
    """
    inferred = config.task_inference_coefficient > 0
    num_task_features = _count_task_features(env) if inferred else 0
    if inferred and num_task_features == 0:
        raise ValueError(
            f"task_inference_coefficient must be 0 for {env.name}, whose task_features are empty, "
            f"got {config.task_inference_coefficient}"
        )
    action_space = env.action_space(None)
    return PolicyAndBaseline(
        observation=encoding_for(env.observation_space(None), "observation space"),
        action=encoding_for(action_space, "action space"),
        distribution=distribution_for(action_space),
        units=config.gru_units,
        activation=config.activation,
        weight_norm=config.weight_norm,
        memory_horizon=config.memory_horizon,
        num_task_features=num_task_features,
    )


def _count_task_features(env: Any) -> int:
    features = jax.eval_shape(lambda key: env.task_features(env.sample_params(key)), jax.random.key(0))
    return features.shape[0]


def num_trials_in_batch(trial: Trial, config: TrainConfig) -> int:
    """Whole trials in a batch.

    Raises:
      ValueError: if a batch is smaller than one trial.
    """
    if config.batch_size < trial.num_steps:
        raise ValueError(
            f"batch_size must be at least one trial ({trial.num_steps} steps: {trial.num_episodes} episodes of "
            f"up to {trial.env.episode_length}), got {config.batch_size}"
        )
    return config.batch_size // trial.num_steps


def make_collect(
    trial: Trial,
    networks: PolicyAndBaseline,
    num_trials: int,
    teacher: Agent | None = None,
    teacher_acts: bool = True,
) -> Collect:
    """Returns collect(key, params) -> a batch of trials on freshly drawn tasks, one task a trial.

    With a teacher the trials are those of `imitation.imitating_agent`.
    """

    def collect(key: chex.PRNGKey, params: PyTree) -> Trajectory:
        key_tasks, key_rollouts = jax.random.split(key)
        tasks = jax.vmap(trial.env.sample_params)(jax.random.split(key_tasks, num_trials))
        agent = networks.agent(params["policy"])
        if teacher is not None:
            agent = imitating_agent(agent, teacher, teacher_acts)
        out_axes: Any = Trajectory._make([1] * 6 + [0])  # time-major; task features have no time
        play = jax.vmap(lambda key, task: rollout(key, agent, trial, task), out_axes=out_axes)
        return play(jax.random.split(key_rollouts, num_trials), tasks)

    return collect


def masked_mean(x: chex.Array, mask: chex.Array) -> chex.Array:
    """Mean of `x` over the entries where `mask` is 1."""
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def schedule(name: str, start: float, steps: int) -> optax.Schedule:
    """From `start`: constant, or linearly or as a cosine to 0 after `steps`."""
    schedules = {
        "constant": optax.constant_schedule(start),
        "linear": optax.linear_schedule(start, 0.0, steps),
        "cosine": optax.cosine_decay_schedule(start, steps),
    }
    return schedules[name]


def make_optimisers(config: TrainConfig, num_trials: int):
    """(policy's, baseline's) Adam with elementwise clipping and the config's learning-rate schedule."""

    def optimiser(learning_rate: float, epochs: int, minibatch_trials: int):
        steps = config.iterations * epochs * num_minibatches(num_trials, minibatch_trials)
        learning_rates = schedule(config.learning_rate_schedule, learning_rate, steps)
        return optax.chain(optax.clip(config.gradient_clip), optax.adam(learning_rates))

    policy = optimiser(config.policy_learning_rate, config.policy_epochs, config.policy_minibatch_trials)
    baseline = optimiser(config.baseline_learning_rate, config.baseline_epochs, config.baseline_minibatch_trials)
    return (optax.identity() if config.algorithm == "trpo" else policy), baseline


def surrogate_loss(
    networks: PolicyAndBaseline,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
) -> tuple[chex.Array, chex.Array]:
    """(negative surrogate with entropy bonus, mean KL from the old policy) on a batch.

    The surrogate is the plain probability ratio times the advantage for "trpo" (Schulman et al. 2015,
    equation 14), the clipped one for "ppo", and the teacher's actions' log-probability for "imitation".
    """
    loss, kl, _ = policy_losses(networks, config, policy_params, batch, entropy_weight)
    return loss, kl


def policy_losses(
    networks: PolicyAndBaseline,
    config: TrainConfig,
    policy_params: PyTree,
    batch: PolicyBatch,
    entropy_weight: chex.Array | float = 0.0,
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """`surrogate_loss`, and the mean squared error of the inferred task features (0 if none are inferred)."""
    dist_params, inferred = jax.vmap(networks.policy_outputs, (None, 1), 1)(policy_params, batch.trial_obs)
    distribution = networks.distribution(dist_params)
    old = networks.distribution(batch.old_dist_params)
    log_prob = distribution.log_prob(batch.action)
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


def trpo_policy_step(key, networks, config, optimiser, state, batch):
    """One natural step: (policy params, optimiser state, info)."""
    del key, optimiser
    entropy_weight = entropy_weight_at(config, state.iteration)
    num_fisher = max(1, round(config.fisher_fraction * batch.mask.shape[1]))
    fisher_obs = jax.tree.map(lambda x: x[:, :num_fisher], batch.trial_obs)
    fisher_mask = batch.mask[:, :num_fisher]

    def evaluate_fn(policy_params):
        loss, kl = surrogate_loss(networks, config, policy_params, batch, entropy_weight)
        return -loss, kl

    def dist_params_fn(policy_params):
        return jax.vmap(networks.dist_params, (None, 1), 1)(policy_params, fisher_obs)

    def dist_kl(old, new):
        kl = networks.distribution(old).kl_divergence(networks.distribution(new))
        return masked_mean(kl, fisher_mask)

    constants = TRPOConfig(config.max_kl, config.cg_iters, config.cg_damping, config.backtrack_ratio)
    params, info = trpo_update(state.params["policy"], evaluate_fn, dist_params_fn, dist_kl, constants)
    return params, state.policy_opt_state, info


def ppo_policy_step(key, networks, config, optimiser, state, batch):
    """Several first-order epochs, of "ppo" or "imitation": (policy params, optimiser state, info)."""
    entropy_weight = entropy_weight_at(config, state.iteration)

    def loss_fn(policy_params, minibatch):
        loss, _, inference_error = policy_losses(networks, config, policy_params, minibatch, entropy_weight)
        return loss + config.task_inference_coefficient * inference_error

    def evaluate_fn(policy_params):
        loss, kl = surrogate_loss(networks, config, policy_params, batch, entropy_weight)
        return -loss, kl

    old = networks.distribution(batch.old_dist_params)
    entropy = old.entropy() if config.entropy_coefficient else jnp.zeros_like(batch.mask)
    imitates = config.algorithm == "imitation"
    start = old.log_prob(batch.action) if imitates else batch.advantage  # all ratios are 1
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


def update_moments(moments: Moments, x: chex.Array, mask: chex.Array) -> Moments:
    """Merges a batch into running moments (Chan et al. 1979, the pairwise formula)."""
    count = jnp.sum(mask)
    mean = masked_mean(x, mask)
    variance = masked_mean(jnp.square(x - mean), mask)
    total = moments.count + count
    delta = mean - moments.mean
    new_variance = moments.variance * moments.count + variance * count + delta**2 * moments.count * count / total
    return Moments(total, moments.mean + delta * count / total, new_variance / total)


def fit_baseline(key, networks, config, optimiser, params, opt_state, batch: BaselineBatch):
    """Epochs of least squares on normalised returns: (params, optimiser state, last epoch's loss)."""

    def loss_fn(params, minibatch: BaselineBatch):
        values = jax.vmap(networks.values, (None, 1), 1)(params, minibatch.trial_obs)
        return masked_mean(jnp.square(values - minibatch.target), minibatch.mask)

    def epoch(carry, key_epoch):
        params, opt_state = carry
        params, opt_state, info = minibatch_epoch(
            key_epoch, params, opt_state, optimiser, loss_fn, batch, config.baseline_minibatch_trials
        )
        return (params, opt_state), info.loss

    keys = jax.random.split(key, config.baseline_epochs)
    (params, opt_state), losses = jax.lax.scan(epoch, (params, opt_state), keys)
    return params, opt_state, losses[-1]


def make_update(networks: PolicyAndBaseline, config: TrainConfig, num_trials: int):
    """Returns update(state, trajectory, key) -> (state, metrics)."""
    policy_optimiser, baseline_optimiser = make_optimisers(config, num_trials)
    policy_step = POLICY_STEPS[config.algorithm]
    imitates = config.algorithm == "imitation"
    per_trial = (1, None)

    def update(state: TrainState, trajectory: Trajectory, key: chex.PRNGKey) -> tuple[TrainState, Metrics]:
        key_policy, key_baseline = jax.random.split(key)
        mask = trajectory.mask
        returns = jax.vmap(discounted_returns, per_trial, 1)(trajectory.reward, config.discount)

        # The first batch has no scale yet: its own moments serve.
        new_moments = update_moments(state.return_moments, returns, mask)
        moments = jax.tree.map(
            lambda new, old: jnp.where(state.iteration == 0, new, old), new_moments, state.return_moments
        )
        scale = jnp.sqrt(moments.variance) + 1e-6
        output = jax.vmap(networks.values, (None, 1), 1)(state.params["baseline"], trajectory.trial_obs)
        values = (moments.mean + scale * output) * mask
        advantages = jax.vmap(generalised_advantages, (1, 1, None, None), 1)(
            trajectory.reward, values, config.discount, config.gae_lambda
        )
        acted = trajectory.agent_info
        batch = PolicyBatch(
            trajectory.trial_obs,
            acted.teacher_action if imitates else trajectory.action,
            acted.log_prob,
            acted.dist_params,
            standardise(advantages, mask),
            mask,
            standardise_columns(trajectory.task_features)[None],
        )
        policy_params, policy_opt_state, info = policy_step(
            key_policy, networks, config, policy_optimiser, state, batch
        )

        baseline = state.params["baseline"], state.baseline_opt_state
        if imitates:  # nothing is estimated: the baseline stays as it is
            baseline_params, baseline_opt_state, baseline_loss = *baseline, jnp.zeros(())
        else:
            new_scale = jnp.sqrt(new_moments.variance) + 1e-6
            targets = BaselineBatch(trajectory.trial_obs, (returns - new_moments.mean) / new_scale, mask)
            baseline_params, baseline_opt_state, baseline_loss = fit_baseline(
                key_baseline, networks, config, baseline_optimiser, *baseline, targets
            )

        new_state = TrainState(
            params={"policy": policy_params, "baseline": baseline_params},
            policy_opt_state=policy_opt_state,
            baseline_opt_state=baseline_opt_state,
            return_moments=new_moments,
            key=state.key,
            iteration=state.iteration + 1,
        )
        total_reward = jnp.sum(trajectory.reward, axis=0)
        residual_variance = masked_variance(returns - values, mask)
        metrics = Metrics(
            mean_return=jnp.mean(total_reward),
            return_standard_error=jnp.std(total_reward) / math.sqrt(total_reward.shape[0]),
            kl=info.kl,
            entropy=masked_mean(networks.distribution(batch.old_dist_params).entropy(), mask),
            surrogate_gain=info.surrogate_gain,
            line_search_steps=info.line_search_steps,
            explained_variance=1.0 - residual_variance / (masked_variance(returns, mask) + 1e-12),
            baseline_loss=baseline_loss,
            grad_norm=info.grad_norm,
            param_norm=optax.tree.norm(policy_params),
            finite=jnp.ones(()),
        )
        return new_state, metrics

    return update


def standardise_columns(x: chex.Array) -> chex.Array:
    """Each column of [rows, columns] with mean 0 and standard deviation 1 (0 where it is constant)."""
    return (x - jnp.mean(x, axis=0)) / (jnp.std(x, axis=0) + 1e-6)


def masked_variance(x: chex.Array, mask: chex.Array) -> chex.Array:
    """Variance of `x` over the entries where `mask` is 1."""
    return masked_mean(jnp.square(x - masked_mean(x, mask)), mask)


def init_train_state(
    networks: PolicyAndBaseline, config: TrainConfig, num_trials: int, key: chex.PRNGKey
) -> TrainState:
    """Fresh networks, optimisers and random stream."""
    key_networks, key_run = jax.random.split(key)
    params = networks.init(key_networks)
    policy_optimiser, baseline_optimiser = make_optimisers(config, num_trials)
    return TrainState(
        params=params,
        policy_opt_state=policy_optimiser.init(params["policy"]),
        baseline_opt_state=baseline_optimiser.init(params["baseline"]),
        return_moments=Moments(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        key=key_run,
        iteration=jnp.zeros((), jnp.int32),
    )
