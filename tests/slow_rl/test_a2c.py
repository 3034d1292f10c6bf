"""A2C: its gradient against the written-out loss and PPO's first, its inputs, its optimisers, and that it learns."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_params

from rl2jax.envs import BernoulliBandit
from rl2jax.slow_rl.a2c import gradient_step
from rl2jax.slow_rl.base import Batch, FirstOrder, Problem
from rl2jax.slow_rl.surrogates import policy_gradient_surrogate
from rl2jax.slow_rl.targets import make_targets
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.loop import train
from rl2jax.training.update import init_train_state, problem_of
from rl2jax.trials.collect import make_collect

CONFIG = TrainConfig().replace(
    {
        "slow_rl": "a2c",
        "trial.num_episodes": 4,
        "iterations": 10,
        "batch.size": 24,
        "objective.discount": 0.8,
        "objective.gae_lambda": 1.0,
        "objective.normalise_advantages": False,
        "objective.normalise_returns": False,
        "objective.entropy_coefficient": 1.0,
        "objective.entropy_schedule": "linear",
        "network.shared_trunk": True,
        "baseline.loss_coefficient": 0.05,
        "network.cell": "lstm",
        "network.units": 4,
        "network.activation": "tanh",
        "network.time_input": True,
    }
)
TRIAL = make_trial(BernoulliBandit(3), CONFIG)
NETWORKS = make_networks(TRIAL.env, CONFIG)


@pytest.fixture(scope="module")
def collected():
    """(parameters, 6 trials collected with them)."""
    params = random_params(NETWORKS, seed=0)
    collect = jax.jit(make_collect(TRIAL, lambda params: NETWORKS.agent(params["policy"]), 6))
    return params, collect(jax.random.key(1), params)


@pytest.fixture(scope="module")
def batch(collected):
    """A batch with any advantages and targets, and some steps masked out."""
    _, trajectory = collected
    rng = np.random.default_rng(2)
    advantage, target = rng.normal(size=(2, *trajectory.mask.shape)).astype(np.float32)
    return Batch(
        trajectory.trial_obs,
        trajectory.action,
        trajectory.agent_info.log_prob,
        trajectory.agent_info.dist_params,
        advantage,
        rng.integers(2, size=advantage.shape).astype(np.float32),
        trajectory.task_features[None],
        target,
    )


class Descent(Problem):
    """Plain gradient descent in the place of the optimiser."""

    rate = 1.0

    def make_optimiser(self, learning_rate, steps_per_iteration=1):
        return optax.sgd(self.rate)


class SlowDescent(Descent):
    rate = 1e-2


def stepped(config, params, batch, iteration=0, kind=Descent):
    """(parameters, info) after one step of the config's algorithm."""
    algorithm = config.slow_rl.make(kind(**vars(problem_of(NETWORKS, config, 6))))
    state = algorithm.init(params["policy"])._replace(iteration=jnp.asarray(iteration))
    new, state, info = jax.jit(algorithm.step)(jax.random.key(0), state, params["policy"], batch)
    assert state.iteration == iteration + 1
    return new, info


def moved(config, params, batch, iteration=0):
    """Minus the parameters' change under gradient descent of rate 1: the gradient; and the info."""
    new, info = stepped(config, params, batch, iteration)
    return jax.tree.map(lambda old, new: old - new, params["policy"], new), info


def close(tree, expected):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-6), tree, expected)


def test_the_step_is_the_gradient_of_the_written_out_loss(collected, batch):
    """Wang et al. 2016: -log pi(a) A + 0.05 (R - V)^2 - w H, w half of itself after half the training."""
    params, _ = collected

    @jax.jit
    @jax.grad
    def expected(policy_params):
        outputs = jax.vmap(NETWORKS.policy_outputs, (None, 1), 1)(policy_params, batch.trial_obs)
        log_probs = jax.nn.log_softmax(outputs.dist_params)
        log_prob = jnp.sum(jax.nn.one_hot(batch.action, 3) * log_probs, axis=-1)
        entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
        loss = -log_prob * batch.advantage + 0.05 * (batch.target - outputs.value) ** 2 - 0.5 * entropy
        return jnp.sum(loss * batch.mask) / jnp.sum(batch.mask)

    gradient, info = moved(CONFIG, params, batch, iteration=5)
    assert optax.tree.norm(gradient) > 1e-2
    close(gradient, expected(params["policy"]))
    np.testing.assert_allclose(info.grad_norm, optax.tree.norm(gradient), rtol=1e-3)
    assert info.line_search_steps == 0


def test_ppos_first_step_is_a2cs(collected, batch):
    """At a ratio of 1 no clip is active: one epoch of one minibatch has the same gradient."""
    params, _ = collected
    ppo = CONFIG.replace(
        {"slow_rl": "ppo", "slow_rl.max_kl": math.inf, "slow_rl.epochs": 1, "slow_rl.minibatch_trials": 6}
    )
    gradient, info = moved(CONFIG, params, batch)
    by_ppo, ppo_info = moved(ppo, params, batch)
    close(gradient, by_ppo)
    np.testing.assert_allclose([info.kl, info.grad_norm], [ppo_info.kl, ppo_info.grad_norm], rtol=1e-3)


def test_a_small_step_gains_what_the_gradient_promises(collected, batch):
    """The reported gain is of log pi(a) A + w H between the old and the new parameters."""
    params, _ = collected
    _, info = stepped(CONFIG.replace({"baseline.loss_coefficient": 1e-9}), params, batch, kind=SlowDescent)
    np.testing.assert_allclose(info.surrogate_gain, 1e-2 * info.grad_norm**2, rtol=0.1)
    assert 0 < info.kl < 1e-2


def test_the_surrogate_has_no_gradient_through_the_advantage():
    log_prob, advantage = jnp.array([-1.0, -2.0]), jnp.array([3.0, -1.0])
    by_log_prob, by_advantage = jax.grad(lambda a, b: policy_gradient_surrogate(a, b).sum(), (0, 1))(
        log_prob, advantage
    )
    np.testing.assert_array_equal(by_log_prob, advantage)
    np.testing.assert_array_equal(by_advantage, 0.0)


def test_one_step_whatever_the_epochs(collected, batch):
    """On a quadratic: p - rate * gradient."""
    optimiser = optax.sgd(0.1)
    params = jnp.array([1.0, -2.0])
    asked = FirstOrder(
        lambda p, batch: jnp.sum(batch * p**2) / 2,
        lambda p: (-jnp.sum(p**2), jnp.float32(0.25)),
        jnp.float32(-5.0),
    )
    new, _, info = gradient_step(params, optimiser.init(params), optimiser, asked, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(new, [0.9, -1.4], rtol=1e-6)
    np.testing.assert_allclose(info, [0.25, 5.0 - 0.81 - 1.96, 0.0, math.sqrt(37.0)], rtol=1e-5)


# --- What the update makes of a trajectory.


def test_advantages_are_monte_carlo_returns_minus_values(collected):
    """As they are: no scale, of advantages or of returns, even after batches that have one."""
    params, trajectory = collected
    state = jax.jit(lambda key: init_train_state(NETWORKS, CONFIG, 6, key))(jax.random.key(0))._replace(params=params)

    @jax.jit
    def batches(moments):
        found = []
        for _ in range(2):
            targets = make_targets(NETWORKS, CONFIG.objective, moments, params, trajectory, estimates=True)
            moments = targets.moments
            found.append((targets.batch.target, targets.batch.advantage))
        return found

    rewards, returns = np.asarray(trajectory.reward, np.float64), []
    for reward in rewards[::-1]:
        returns.insert(0, reward + 0.8 * (returns[0] if returns else 0.0))
    values = jax.jit(jax.vmap(NETWORKS.values, (None, 1), 1))(params["policy"], trajectory.trial_obs)
    for target, advantage in batches(state.return_moments):
        np.testing.assert_allclose(target, returns, rtol=1e-5)
        np.testing.assert_allclose(advantage, np.array(returns) - values, rtol=1e-4, atol=1e-5)


# --- Optimisers.


def by_optimiser(config, gradients):
    optimiser = problem_of(NETWORKS, config, 6).make_optimiser(config.slow_rl.learning_rate)
    opt_state, updates = optimiser.init(gradients[0]), []
    for gradient in gradients:
        update, opt_state = optimiser.update(gradient, opt_state)
        updates.append(np.asarray(update))
    return np.array(updates)


def test_rmsprop_by_hand():
    """Mean squares decay by 0.99 and are divided by the weight they have gathered; one step an iteration."""
    config = CONFIG.replace({"optimiser.name": "rmsprop", "slow_rl.learning_rate": 0.1, "optimiser.schedule": "linear"})
    gradients = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    mean_square, expected = 0.0, []
    for count, gradient in enumerate(gradients.astype(np.float64)):
        mean_square = 0.99 * mean_square + 0.01 * gradient**2
        unbiased = mean_square / (1 - 0.99 ** (count + 1))
        expected.append(-0.1 * (1 - count / 10) * gradient / (np.sqrt(unbiased) + 1e-5))
    np.testing.assert_allclose(by_optimiser(config, gradients), expected, rtol=1e-4)


def test_the_gradient_s_norm_is_clipped_as_one_vector():
    config = CONFIG.replace({"optimiser.name": "rmsprop", "optimiser.norm_clip": 1.0, "slow_rl.learning_rate": 1.0})
    gradients = np.array([[0.6, -0.8], [6.0, -8.0]], np.float32)  # the second becomes the first
    updates = by_optimiser(config, gradients)
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            *by_optimiser(config.replace({"optimiser.norm_clip": math.inf}), gradients), rtol=1e-4
        )


# --- All of it together.


@pytest.mark.parametrize(
    ("algorithm", "shared_trunk"),
    [
        ("trpo", True),
        ("ppo", False),
        ("a2c", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("trpo", False), ("ppo", True), ("a2c", False)]),
    ],
)
def test_every_algorithm_trains_every_kind_of_network(algorithm, shared_trunk):
    """LSTM, time, either optimiser; policy and baseline both move, and the loss is finite."""
    config = CONFIG.replace(
        {
            "slow_rl": algorithm,
            "iterations": 1,
            "network.shared_trunk": shared_trunk,
            **{"trpo": {"trpo.cg_iters": 2}, "ppo": {"ppo.epochs": 1}, "a2c": {}}[algorithm],
            "optimiser.name": "rmsprop" if shared_trunk else "adam",
            "baseline.epochs": 1,
        }
    )
    state, metrics = train(TRIAL.env, config, jax.random.key(0))
    assert metrics.finite.all()
    start = make_networks(TRIAL.env, config)
    assert jax.tree.structure(state.params) == jax.tree.structure(jax.eval_shape(start.init, jax.random.key(0)))
    assert (state.params["baseline"] == {}) == shared_trunk


def test_an_lstm_learns_a_bandit_by_a2c():
    """Two arms, 6 pulls: chance is 3, the best possible about 3.6."""
    config = CONFIG.replace(
        {
            "trial.num_episodes": 6,
            "batch.size": 6 * 200,
            "iterations": 100,
            "objective.entropy_coefficient": 0.2,
            "network.units": 8,
            "network.weight_norm": False,
            "network.memory_horizon": 6,
            "optimiser.name": "rmsprop",
            "slow_rl.learning_rate": 2e-2,
        }
    )
    _, metrics = train(BernoulliBandit(2), config, jax.random.key(0))
    last = np.asarray(metrics.mean_return)[-20:]
    assert last.mean() > 3.25  # its standard error is 0.02
