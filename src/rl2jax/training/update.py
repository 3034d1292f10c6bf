"""The second half of an iteration: the networks learn from a batch of trials, in three steps.

`make_targets` says what there is to learn, `make_step` learns it, `metrics_of` tells what happened.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.devices import side_by_side
from rl2jax.networks.base import Networks
from rl2jax.settings import InputError, require
from rl2jax.slow_rl.advantages import discounted_returns
from rl2jax.slow_rl.base import Info, Problem, SlowRL
from rl2jax.slow_rl.baseline import baseline_optimiser, fit_baseline, values_over_trials
from rl2jax.slow_rl.moments import Moments, masked_mean, masked_variance
from rl2jax.slow_rl.targets import Targets, make_targets
from rl2jax.training.config import TrainConfig
from rl2jax.trials.trial import Trial
from rl2jax.types import Metrics, PyTree, Trajectory


class TrainState(NamedTuple):
    """Everything the next iteration needs; a PyTree, saved whole by a checkpoint.

    Attributes:
      params: {"policy": ..., "baseline": ...}; "baseline" is empty where the policy's network is the baseline's too.
      slow_rl: the algorithm's State.
      baseline_opt_state: the optimiser's state.
      return_moments: scale of the baseline's output.
      key: the run's random stream.
      iteration: iterations done; int32 [].
    """

    params: dict[str, PyTree]
    slow_rl: PyTree
    baseline_opt_state: PyTree
    return_moments: Moments
    key: chex.PRNGKey
    iteration: chex.Array


class Learned(NamedTuple):
    """What the second of the three steps leaves behind.

    Attributes:
      params, slow_rl, baseline_opt_state: as in `TrainState`.
      info: what the algorithm tells; zeros while the baseline warms up.
      baseline_loss: mean squared error over the last epoch of fitting, or of a shared network after the update.
    """

    params: dict[str, PyTree]
    slow_rl: PyTree
    baseline_opt_state: PyTree
    info: Info
    baseline_loss: chex.Array


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
        require(config.batch.size >= config.batch.lane_steps, "batch.size", config.batch.size, allowed)
        return config.batch.size // config.batch.lane_steps
    if config.batch.size < trial.num_steps:
        raise InputError(
            f"batch.size must be at least one trial ({trial.num_steps} steps: {trial.num_episodes} episodes of "
            f"up to {trial.env.episode_length}), got {config.batch.size}"
        )
    num_trials, each = config.batch.size // trial.num_steps, config.batch.trials_per_task
    require(num_trials % each == 0, "trials_per_task", each, f"a divisor of the {num_trials} trials of a batch")
    return num_trials


def problem_of(networks: Networks, config: TrainConfig, num_trials: int, mesh: Mesh | None = None) -> Problem:
    """What the config's algorithm may ask for."""
    return Problem(
        networks=networks,
        objective=config.objective,
        optimiser=config.optimiser,
        value_coefficient=config.baseline.loss_coefficient,
        iterations=config.iterations,
        warmup_iterations=config.baseline.warmup_iterations,
        num_trials=num_trials,
        trials_per_task=config.batch.trials_per_task,
        mesh=mesh,
    )


def make_slow_rl(networks: Networks, config: TrainConfig, num_trials: int, mesh: Mesh | None = None) -> SlowRL:
    """The config's algorithm."""
    return config.slow_rl.make(problem_of(networks, config, num_trials, mesh))


def _baseline_optimiser(config: TrainConfig, num_trials: int) -> optax.GradientTransformation:
    return baseline_optimiser(config.baseline, config.optimiser, config.iterations, num_trials)


def init_train_state(networks: Networks, config: TrainConfig, num_trials: int, key: chex.PRNGKey) -> TrainState:
    """Fresh networks, optimisers and random stream."""
    key_networks, key_run = jax.random.split(key)
    params = networks.init(key_networks)
    return TrainState(
        params=params,
        slow_rl=make_slow_rl(networks, config, num_trials).init(params["policy"]),
        baseline_opt_state=_baseline_optimiser(config, num_trials).init(params["baseline"]),
        return_moments=Moments(jnp.zeros(()), jnp.zeros(()), jnp.zeros(())),
        key=key_run,
        iteration=jnp.zeros((), jnp.int32),
    )


Update = Callable[[TrainState, Trajectory, chex.PRNGKey], tuple[TrainState, Metrics]]
Step = Callable[[chex.PRNGKey, TrainState, Targets], Learned]


def make_update(networks: Networks, config: TrainConfig, num_trials: int, mesh: Mesh | None = None) -> Update:
    """Returns update(state, trajectory, key) -> (state, metrics): targets, step, metrics."""
    step = make_step(networks, config, num_trials, mesh)
    estimates = networks.shares_trunk or config.slow_rl.fits_baseline  # a shared network learns it by the way

    def update(state: TrainState, trajectory: Trajectory, key: chex.PRNGKey) -> tuple[TrainState, Metrics]:
        targets = make_targets(
            networks, config.objective, state.return_moments, state.params, trajectory, estimates, mesh
        )
        learned = step(key, state, targets)
        new_state = TrainState(
            params=learned.params,
            slow_rl=learned.slow_rl,
            baseline_opt_state=learned.baseline_opt_state,
            return_moments=targets.moments,
            key=state.key,
            iteration=state.iteration + 1,
        )
        return new_state, metrics_of(networks, trajectory, targets, learned, config.batch.trials_per_task)

    return update


def make_step(networks: Networks, config: TrainConfig, num_trials: int, mesh: Mesh | None = None) -> Step:
    """Returns step(key, state, targets) -> `Learned`: the algorithm on the policy, beside it the baseline's fit."""
    fits = config.slow_rl.fits_baseline and not networks.shares_trunk  # the baseline's network has its own epochs
    # Where both take the same time, sharing so few trials among two devices saves little: each does one.
    alike = fits and config.slow_rl.beside_baseline
    one_each = mesh if alike and mesh is not None and mesh.size == 2 else None
    mesh_of_each = mesh if one_each is None else None
    algorithm = make_slow_rl(networks, config, num_trials, mesh_of_each)
    optimiser = _baseline_optimiser(config, num_trials)

    def fit(key, params, opt_state, batch):
        return fit_baseline(key, networks, config.baseline, optimiser, params, opt_state, batch, mesh_of_each)

    def step(key: chex.PRNGKey, state: TrainState, targets: Targets) -> Learned:
        key_policy, key_baseline = jax.random.split(key)
        baseline = state.params["baseline"], state.baseline_opt_state
        of_policy = key_policy, state.slow_rl, state.params["policy"], targets.batch
        of_baseline = key_baseline, *baseline, targets.baseline
        if one_each is not None:
            stepped, fitted = side_by_side(algorithm.step, fit, one_each)(of_policy, of_baseline)
        else:
            stepped = algorithm.step(*of_policy)
            fitted = fit(*of_baseline) if fits else (*baseline, jnp.zeros(()))
        if config.baseline.warmup_iterations:
            stepped = _kept_while_cold(config.baseline.warmup_iterations, state, stepped)
        policy_params, slow_rl, info = stepped
        baseline_params, opt_state, loss = fitted
        if networks.shares_trunk:  # the baseline learned with the policy
            batch = targets.batch
            values = values_over_trials(networks, mesh)(policy_params, batch.trial_obs, targets.task_features)
            loss = masked_mean(jnp.square(values - targets.baseline.target), batch.mask)
        return Learned({"policy": policy_params, "baseline": baseline_params}, slow_rl, opt_state, info, loss)

    return step


def _kept_while_cold(warmup_iterations: int, state: TrainState, stepped: tuple[PyTree, Any, Info]):
    """(policy's params, State, info) of the algorithm, or as they were, until the baseline is fitted."""
    old = state.params["policy"], state.slow_rl, jax.tree.map(jnp.zeros_like, stepped[2])
    warm = state.iteration >= warmup_iterations
    return jax.tree.map(lambda n, o: jnp.where(warm, n, o), stepped, old)


def metrics_of(
    networks: Networks, trajectory: Trajectory, targets: Targets, learned: Learned, trials_per_task: int = 1
) -> Metrics:
    """What happened in an iteration; `finite` is for the caller to find out."""
    batch, mask, in_lanes = targets.batch, trajectory.mask, not isinstance(trajectory.trial_done, tuple)
    mean_return, error = lane_returns(trajectory) if in_lanes else trial_returns(trajectory, trials_per_task)
    residual_variance = masked_variance(batch.returns - batch.value, mask)
    return Metrics(
        mean_return=mean_return,
        return_standard_error=error,
        kl=learned.info.kl,
        entropy=masked_mean(networks.distribution(batch.old_dist_params).entropy(), mask),
        surrogate_gain=learned.info.surrogate_gain,
        line_search_steps=learned.info.line_search_steps,
        explained_variance=1.0 - residual_variance / (masked_variance(batch.returns, mask) + 1e-12),
        baseline_loss=learned.baseline_loss,
        grad_norm=learned.info.grad_norm,
        param_norm=optax.tree.norm(learned.params["policy"]),
        finite=jnp.ones(()),
    )


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
