"""The baseline: its values over a batch, and how it is fitted to returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from rl2jax.devices import vmap_trials
from rl2jax.networks.base import Networks
from rl2jax.networks.unroll import unroll_trials
from rl2jax.slow_rl.moments import masked_mean
from rl2jax.slow_rl.optimisers import make_optimiser
from rl2jax.slow_rl.settings import BaselineSettings, OptimiserSettings
from rl2jax.slow_rl.sgd import minibatch_epochs, num_minibatches
from rl2jax.types import PyTree


class BaselineBatch(NamedTuple):
    """What fitting the baseline needs of a batch; leaves [num_steps, num_trials, ...].

    `task_features` is [1, num_trials, num_task_features], or has all steps in lanes, as in `Batch`.
    """

    trial_obs: Any
    target: chex.Array
    mask: chex.Array
    task_features: chex.Array


def values_over_trials(networks: Networks, mesh: Mesh | None = None) -> Callable:
    """`Networks.values` of a batch: (params, trial_obs, task_features [num_trials, ...]) -> [num_steps, num_trials]."""
    if networks.baseline_sees_task:  # in a lane there are several tasks
        return vmap_trials(networks.values, mesh, (None, 1, 0), 1)
    unroll = unroll_trials(networks.values, mesh, networks.abreast, networks.starts_alike)
    return lambda params, trial_obs, task_features: unroll(params, trial_obs)


def baseline_optimiser(
    settings: BaselineSettings, optimiser: OptimiserSettings, iterations: int, num_trials: int
) -> optax.GradientTransformation:
    """Its optimiser, over all the training's iterations of batches with so many trials."""
    steps = settings.epochs * num_minibatches(num_trials, settings.minibatch_trials)
    return make_optimiser(optimiser, settings.learning_rate, iterations * steps)


def fit_baseline(
    key: chex.PRNGKey,
    networks: Networks,
    settings: BaselineSettings,
    optimiser: optax.GradientTransformation,
    params: PyTree,
    opt_state: PyTree,
    batch: BaselineBatch,
    mesh: Mesh | None = None,
) -> tuple[PyTree, PyTree, chex.Array]:
    """Epochs of least squares on (normalised) returns: (params, optimiser state, last epoch's loss).

    Args:
      key: for the shuffles.
      networks: whose baseline is fitted.
      settings: epochs and minibatches.
      optimiser: as from `baseline_optimiser`.
      params: the baseline's.
      opt_state: the optimiser's.
      batch: what it is fitted to.
      mesh: devices that share the trials.
    """
    values_of = values_over_trials(networks, mesh)

    def loss_fn(params, minibatch: BaselineBatch):
        values = values_of(params, minibatch.trial_obs, minibatch.task_features[0])
        return masked_mean(jnp.square(values - minibatch.target), minibatch.mask)

    keys = jax.random.split(key, settings.epochs)
    params, opt_state, epochs = minibatch_epochs(
        keys, params, opt_state, optimiser, loss_fn, batch, settings.minibatch_trials
    )
    return params, opt_state, epochs.loss[-1]
