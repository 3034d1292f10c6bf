"""The two halves of an iteration: collect a batch of trials, update the networks on it."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.devices import side_by_side, vmap_trials
from rl2jax.networks.base import Networks
from rl2jax.networks.unroll import Lane, unroll_trials
from rl2jax.settings import require
from rl2jax.slow_rl.advantages import discounted_returns, generalised_advantages, standardise
from rl2jax.slow_rl.imitation import ImitationInfo
from rl2jax.slow_rl.moments import Moments, masked_mean, masked_variance, standardise_columns, update_moments
from rl2jax.slow_rl.sgd import minibatch_epoch, num_minibatches
from rl2jax.training.config import TrainConfig
from rl2jax.training.policy_step import POLICY_STEPS, PolicyBatch, schedule
from rl2jax.trials.trial import Trial
from rl2jax.types import Metrics, PyTree, Trajectory


class TrainState(NamedTuple):
    """Everything the next iteration needs; a PyTree, saved whole by a checkpoint.

    Attributes:
      params: {"policy": ..., "baseline": ...}; "baseline" is empty where the policy's network is the baseline's too.
      policy_opt_state: the optimiser's state (empty for "trpo").
      baseline_opt_state: the optimiser's state.
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


class BaselineBatch(NamedTuple):
    """What fitting the baseline needs of a batch; leaves [num_steps, num_trials, ...].

    `task_features` is [1, num_trials, num_task_features], or has all steps in lanes, as in `PolicyBatch`.
    """

    trial_obs: Any
    target: chex.Array
    mask: chex.Array
    task_features: chex.Array


def steps_in_lane(trial: Trial, config: TrainConfig) -> int:
    """Steps along a batch's axis of time: of a lane, or the most of a trial, where each has a lane of its own."""
    return config.batch.lane_steps or trial.num_steps


def num_trials_in_batch(trial: Trial, config: TrainConfig) -> int:
    """Whole trials in a batch; with `BatchSettings.lane_steps` lanes.

    Raises:
      ValueError: if a batch is smaller than one trial, or lane, or its trials do not divide into tasks.
    """
    if config.batch.lane_steps:
        allowed = f"at least one lane (lane_steps, {config.batch.lane_steps})"
        require(config.batch.size >= config.batch.lane_steps, "batch_size", config.batch.size, allowed)
        return config.batch.size // config.batch.lane_steps
    if config.batch.size < trial.num_steps:
        raise ValueError(
            f"batch_size must be at least one trial ({trial.num_steps} steps: {trial.num_episodes} episodes of "
            f"up to {trial.env.episode_length}), got {config.batch.size}"
        )
    num_trials, each = config.batch.size // trial.num_steps, config.batch.trials_per_task
    require(num_trials % each == 0, "trials_per_task", each, f"a divisor of the {num_trials} trials of a batch")
    return num_trials


def make_optimisers(config: TrainConfig, num_trials: int):
    """(policy's, baseline's) optimiser with clipping and the config's learning-rate schedule."""

    def optimiser(learning_rate: float, iterations: int, steps: int):
        learning_rates = schedule(config.optimiser.schedule, learning_rate, iterations * steps)
        clip = [optax.clip(config.optimiser.clip)]
        if config.optimiser.norm_clip < math.inf:
            clip.append(optax.clip_by_global_norm(config.optimiser.norm_clip))
        return optax.chain(*clip, _OPTIMISERS[config.optimiser.name](learning_rates))

    policy = optax.identity()
    if hasattr(config.slow_rl, "learning_rate"):
        policy_iterations = max(1, config.iterations - config.baseline.warmup_iterations)
        policy_steps = 1
        if hasattr(config.slow_rl, "epochs"):
            policy_steps = config.slow_rl.epochs * num_minibatches(num_trials, config.slow_rl.minibatch_trials)
        policy = optimiser(config.slow_rl.learning_rate, policy_iterations, policy_steps)
    baseline_steps = config.baseline.epochs * num_minibatches(num_trials, config.baseline.minibatch_trials)
    baseline = optimiser(config.baseline.learning_rate, config.iterations, baseline_steps)
    return policy, baseline


# Mnih et al. 2016, section 4, with a decay of 0.99. Dividing by an unbiased mean square keeps the first steps, which
# they start from 0, from being ten times the later ones.
_rmsprop = partial(optax.rmsprop, decay=0.99, eps=1e-5, eps_in_sqrt=False, bias_correction=True)
_OPTIMISERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": optax.adam, "rmsprop": _rmsprop}


def values_over_trials(networks: Networks, mesh: Mesh | None = None) -> Callable:
    """`Networks.values` of a batch: (params, trial_obs, task_features [num_trials, ...]) -> [num_steps, num_trials]."""
    if networks.baseline_sees_task:  # in a lane there are several tasks
        return vmap_trials(networks.values, mesh, (None, 1, 0), 1)
    unroll = unroll_trials(networks.values, mesh, networks.abreast, networks.starts_alike)
    return lambda params, trial_obs, task_features: unroll(params, trial_obs)


def fit_baseline(key, networks, config, optimiser, params, opt_state, batch: BaselineBatch, mesh: Mesh | None = None):
    """Epochs of least squares on (normalised) returns: (params, optimiser state, last epoch's loss)."""
    values_of = values_over_trials(networks, mesh)

    def loss_fn(params, minibatch: BaselineBatch):
        values = values_of(params, minibatch.trial_obs, minibatch.task_features[0])
        return masked_mean(jnp.square(values - minibatch.target), minibatch.mask)

    def epoch(carry, key_epoch):
        params, opt_state = carry
        params, opt_state, info = minibatch_epoch(
            key_epoch, params, opt_state, optimiser, loss_fn, batch, config.baseline.minibatch_trials
        )
        return (params, opt_state), info.loss

    keys = jax.random.split(key, config.baseline.epochs)
    (params, opt_state), losses = jax.lax.scan(epoch, (params, opt_state), keys)
    return params, opt_state, losses[-1]


def make_update(networks: Networks, config: TrainConfig, num_trials: int, mesh: Mesh | None = None):
    """Returns update(state, trajectory, key) -> (state, metrics)."""
    policy_optimiser, baseline_optimiser = make_optimisers(config, num_trials)
    policy_step = POLICY_STEPS[config.slow_rl.name]
    shared, imitates = networks.shares_trunk, config.slow_rl.name == "imitation"
    # Nobody who imitates asks what a state is worth; but a shared network learns it by the way.
    estimates = shared or not imitates
    values_of = values_over_trials(networks, mesh)
    per_trial = (1, None, 1)
    in_lanes = config.batch.lane_steps > 0
    fits = estimates and not shared  # the baseline's network has epochs of its own
    # Epochs of minibatches take the same time on both networks, and sharing so few trials among devices saves little.
    alike = fits and config.slow_rl.name == "ppo"
    one_each = mesh if alike and mesh is not None and mesh.size == 2 else None
    mesh_of_each = mesh if one_each is None else None

    def learn_policy(key, state, batch):
        return policy_step(key, networks, config, policy_optimiser, state, batch, mesh_of_each)

    def learn_baseline(key, params, opt_state, batch):
        return fit_baseline(key, networks, config, baseline_optimiser, params, opt_state, batch, mesh_of_each)

    def update(state: TrainState, trajectory: Trajectory, key: chex.PRNGKey) -> tuple[TrainState, Metrics]:
        key_policy, key_baseline = jax.random.split(key)
        mask = trajectory.mask
        seen = Lane(trajectory.trial_obs, trajectory.first) if in_lanes else trajectory.trial_obs
        rewards = trajectory.expected_reward if config.objective.expected_rewards else trajectory.reward
        task_features = standardise_columns(trajectory.task_features)
        by_trial = task_features[0] if in_lanes else task_features  # no baseline sees it in lanes
        trial_done = trajectory.trial_done if in_lanes else None
        returns = jax.vmap(discounted_returns, per_trial, 1)(rewards, config.objective.discount, trial_done)

        # The first batch has no scale yet, but of a baseline that came with one: its own moments serve.
        new_moments = update_moments(state.return_moments, returns, mask)
        moments = jax.tree.map(
            lambda new, old: jnp.where(state.return_moments.count == 0, new, old), new_moments, state.return_moments
        )
        mean, scale = _baseline_scale(config, moments)
        if estimates:
            value_params = state.params["policy" if shared else "baseline"]
            output = values_of(value_params, seen, by_trial)
            values = (mean + scale * output) * (1.0 if in_lanes else mask)
        else:
            values = jnp.zeros_like(mask)
        if in_lanes:  # where a lane's end cuts a trial, its value stands for all that would have followed
            rewards = jnp.where(mask > 0, rewards, values)
            returns = jax.vmap(discounted_returns, per_trial, 1)(rewards, config.objective.discount, trial_done)
            new_moments = update_moments(state.return_moments, returns, mask)
        new_mean, new_scale = _baseline_scale(config, new_moments)
        target = (returns - new_mean) / new_scale
        advantages = jax.vmap(generalised_advantages, (1, 1, None, None, 1), 1)(
            rewards, values, config.objective.discount, config.objective.gae_lambda, trial_done
        )
        by_step = task_features if in_lanes else task_features[None]
        acted = trajectory.agent_info
        batch = PolicyBatch(
            seen,
            _taught(acted, config.slow_rl.temperature) if imitates else trajectory.action,
            acted.log_prob,
            acted.dist_params,
            standardise(advantages, mask) if config.objective.normalise_advantages else advantages * mask,
            mask,
            by_step,
            target if shared else None,
        )
        targets = BaselineBatch(seen, target, mask, by_step)
        baseline = state.params["baseline"], state.baseline_opt_state
        of_policy, of_baseline = (key_policy, state, batch), (key_baseline, *baseline, targets)
        if one_each is not None:
            stepped, fitted = side_by_side(learn_policy, learn_baseline, one_each)(of_policy, of_baseline)
        else:
            stepped = learn_policy(*of_policy)
            fitted = learn_baseline(*of_baseline) if fits else (*baseline, jnp.zeros(()))
        policy_params, policy_opt_state, info = stepped
        baseline_params, baseline_opt_state, baseline_loss = fitted
        if config.baseline.warmup_iterations:
            new = policy_params, policy_opt_state, info
            old = state.params["policy"], state.policy_opt_state, jax.tree.map(jnp.zeros_like, info)
            warm = state.iteration >= config.baseline.warmup_iterations
            policy_params, policy_opt_state, info = jax.tree.map(lambda n, o: jnp.where(warm, n, o), new, old)

        if shared:  # the baseline learned with the policy
            fitted_values = values_of(policy_params, seen, by_trial)
            baseline_loss = masked_mean(jnp.square(fitted_values - target), mask)

        new_state = TrainState(
            params={"policy": policy_params, "baseline": baseline_params},
            policy_opt_state=policy_opt_state,
            baseline_opt_state=baseline_opt_state,
            return_moments=new_moments,
            key=state.key,
            iteration=state.iteration + 1,
        )
        mean_return, return_standard_error = (
            lane_returns(trajectory) if in_lanes else trial_returns(trajectory, config.batch.trials_per_task)
        )
        residual_variance = masked_variance(returns - values, mask)
        metrics = Metrics(
            mean_return=mean_return,
            return_standard_error=return_standard_error,
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


def trial_returns(trajectory: Trajectory, trials_per_task: int = 1) -> tuple[chex.Array, chex.Array]:
    """Mean total reward of a batch's trials, and its standard error, that of the means over each task; float32 []."""
    total_reward = jnp.sum(trajectory.reward, axis=0)
    if trials_per_task > 1:
        total_reward = jnp.mean(total_reward.reshape(-1, trials_per_task), axis=1)
    return jnp.mean(total_reward), jnp.std(total_reward) / math.sqrt(total_reward.shape[0])


def lane_returns(trajectory: Trajectory) -> tuple[chex.Array, chex.Array]:
    """The same of the trials that ended in a batch's lanes; if none did, of all as far as they went."""
    first: Any
    done: Any
    first, done = trajectory.first, trajectory.trial_done
    to_go = jax.vmap(discounted_returns, (1, None, 1), 1)(trajectory.reward, 1.0, done)
    ended = first * jax.lax.cummax(done, axis=0, reverse=True)
    counted = jnp.where(jnp.sum(ended) > 0, ended, first)
    error = jnp.sqrt(masked_variance(to_go, counted) / jnp.sum(counted))
    return masked_mean(to_go, counted), error


def _baseline_scale(config: TrainConfig, moments: Moments) -> tuple[chex.Array, chex.Array]:
    """(mean, scale) of what the baseline's output is relative to; float32 []."""
    if not config.objective.normalise_returns:
        return jnp.zeros(()), jnp.ones(())
    return moments.mean, jnp.sqrt(moments.variance) + 1e-6


def _taught(acted: ImitationInfo, temperature: float) -> chex.Array:
    """The teacher's action, or the softmax of its actions' values at a temperature."""
    if temperature == 0.0:
        return acted.teacher_action
    return jax.nn.softmax(acted.teacher_info / temperature)


def init_train_state(networks: Networks, config: TrainConfig, num_trials: int, key: chex.PRNGKey) -> TrainState:
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
