"""Synchronous advantage actor-critic: one gradient step on a batch.

Mnih et al. 2016, algorithm S3, where all workers' gradients are summed into one step, as Wang et al. 2016 train.
"""

from dataclasses import dataclass
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import optax

from rl2jax.settings import bounded
from rl2jax.slow_rl.base import Batch, FirstOrder, Info, Problem, SlowRL, SlowRLSettings, State
from rl2jax.slow_rl.sgd import gradient_norm
from rl2jax.slow_rl.surrogates import policy_gradient_surrogate
from rl2jax.types import PyTree


@dataclass(frozen=True)
class A2C(SlowRLSettings):
    """One gradient step on the policy gradient of the whole batch (Mnih et al. 2016, Wang et al. 2016).

    Attributes:
      learning_rate: of the policy.
    """

    section: ClassVar[str] = "a2c"
    name: ClassVar[str] = "a2c"
    learning_rate: float = bounded(1e-3, above=0, at_most=10, swept=True)

    def make(self, problem: Problem) -> SlowRL:
        """One step on log pi(a) A; a network that policy and baseline share learns its values in it too."""
        optimiser = problem.make_optimiser(self.learning_rate)

        def init(params: PyTree) -> State:
            return State(optimiser.init(params), jnp.zeros((), jnp.int32))

        def step(key: chex.PRNGKey, state: State, params: PyTree, batch: Batch):
            del key
            before = policy_gradient_surrogate(batch.old_log_prob, batch.advantage)
            asked = problem.first_order(batch, log_prob_times_advantage, before, state.iteration)
            params, opt_state, info = gradient_step(params, state.opt_state, optimiser, asked, batch)
            return params, State(opt_state, state.iteration + 1), info

        return SlowRL(init, step)


def log_prob_times_advantage(log_prob: chex.Array, batch: Batch) -> chex.Array:
    """What A2C maximises; [num_steps, num_trials]."""
    return policy_gradient_surrogate(log_prob, batch.advantage)


def gradient_step(
    params: PyTree, opt_state: PyTree, optimiser: optax.GradientTransformation, asked: FirstOrder, batch: PyTree
) -> tuple[PyTree, PyTree, Info]:
    """One gradient step on the whole batch.

    Args:
      params: what is optimised.
      opt_state: the optimiser's state; it carries on from batch to batch.
      optimiser: an optax optimiser.
      asked: the loss, the surrogate, and what that is at `params`.
      batch: what the loss is given.

    Returns:
      (params, opt_state, info).
    """
    grads = jax.grad(asked.loss_fn)(params, batch)
    updates, opt_state = optimiser.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    new_surrogate, kl = asked.evaluate_fn(params)
    return params, opt_state, Info(kl, new_surrogate - asked.surrogate, jnp.zeros(()), gradient_norm(grads))
