"""A user's updates, as a user would write them: V-trace on a settings class, and plain REINFORCE as a function."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from rl2jax.settings import bounded
from rl2jax.slow_rl.a2c import gradient_step
from rl2jax.slow_rl.base import SlowRL, SlowRLSettings, State
from rl2jax.slow_rl.surrogates import policy_gradient_surrogate


def v_trace(log_ratio, reward, value, discount, most):
    """Targets v_s of one trial (Espeholt et al. 2018, equation 1), ratios cut at `most`; all [num_steps]."""
    ratio = jnp.minimum(jnp.exp(log_ratio), most)
    after = jnp.append(value[1:], 0.0)
    deltas = ratio * (reward + discount * after - value)

    def back(following, inputs):
        delta, ratio = inputs
        correction = delta + discount * ratio * following
        return correction, correction

    return value + jax.lax.scan(back, jnp.zeros(()), (deltas, ratio), reverse=True)[1]


@dataclass(frozen=True)
class VTrace(SlowRLSettings):
    """Several gradient steps on one batch, whose targets are corrected for how far the policy has gone."""

    section: ClassVar[str] = "vtrace"
    learning_rate: float = bounded(1e-2, above=0, at_most=10, swept=True)
    steps: int = bounded(2, at_least=1)
    most: float = bounded(1.0, above=0, swept=True)

    def make(self, problem):
        optimiser = problem.make_optimiser(self.learning_rate, self.steps)
        corrected = jax.vmap(v_trace, (1, 1, 1, None, None), 1)

        def surrogate(log_prob, batch):
            discount = problem.objective.discount
            log_ratio = jax.lax.stop_gradient(log_prob) - batch.old_log_prob
            targets = corrected(log_ratio, batch.reward, batch.value, discount, self.most)
            after = jnp.concatenate([targets[1:], jnp.zeros_like(targets[:1])])
            ratio = jnp.minimum(jnp.exp(log_ratio), self.most)
            return policy_gradient_surrogate(log_prob, ratio * (batch.reward + discount * after - batch.value))

        def init(params):
            return State(optimiser.init(params), jnp.zeros((), jnp.int32))

        def step(key, state, params, batch):
            del key
            asked = problem.first_order(batch, surrogate, surrogate(batch.old_log_prob, batch), state.iteration)
            opt_state = state.opt_state
            for _ in range(self.steps):
                params, opt_state, info = gradient_step(params, opt_state, optimiser, asked, batch)
            return params, State(opt_state, state.iteration + 1), info

        return SlowRL(init, step)


def reinforce(settings, problem):
    """log pi(a) times the return, one step of plain gradient ascent; keeps no state at all."""

    def surrogate(log_prob, batch):
        return log_prob * batch.returns

    def step(key, state, params, batch):
        del key
        asked = problem.first_order(batch, surrogate, surrogate(batch.old_log_prob, batch), jnp.int32(0))
        optimiser = problem.make_optimiser(settings.learning_rate)
        params, _, info = gradient_step(params, optimiser.init(params), optimiser, asked, batch)
        return params, state, info

    return SlowRL(lambda params: (), step)


def nonsense(settings, problem):
    """Not what is asked for."""
    return settings, problem
