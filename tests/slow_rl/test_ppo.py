"""The clipped surrogate by hand, the first update on a real rollout, the KL limit, the epochs as a plain loop."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from helpers import random_params

from rl2jax.envs import BernoulliBandit
from rl2jax.slow_rl.base import Batch, FirstOrder, Problem
from rl2jax.slow_rl.moments import standardise_columns
from rl2jax.slow_rl.ppo import PPO, ppo_update
from rl2jax.slow_rl.sgd import gradient_norm, minibatch_epoch, num_minibatches
from rl2jax.slow_rl.surrogates import clipped_surrogate
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.update import problem_of
from rl2jax.trials.collect import make_collect


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [
        (1.0, 2.0, 2.0),
        (1.1, 2.0, 2.2),
        (1.5, 2.0, 2.4),  # no reward for going further than the clip
        (0.5, 2.0, 1.0),  # but the whole loss of going the wrong way
        (1.0, -2.0, -2.0),
        (0.9, -2.0, -1.8),
        (0.5, -2.0, -1.6),
        (1.5, -2.0, -3.0),
        (1.5, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    """min(r A, clip(r, 0.8, 1.2) A), Schulman et al. 2017, equation 7."""
    old = jnp.full((1,), -1.3)
    result = clipped_surrogate(old + math.log(ratio), old, jnp.full((1,), advantage), 0.2)
    np.testing.assert_allclose(result, [expected], rtol=1e-5)


def test_clipped_surrogate_without_a_clip_is_the_ratio():
    """What TRPO maximises is the same function with an infinite clip range."""
    log_prob, old, advantage = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    result = clipped_surrogate(log_prob, old, advantage, jnp.inf)
    np.testing.assert_allclose(result, np.exp(log_prob - old) * advantage, rtol=1e-5)


def test_clipped_surrogate_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError):
        clipped_surrogate(jnp.zeros((3, 1)), jnp.zeros((3,)), jnp.zeros((3,)), 0.2)


# --- A toy whose parameter walks 1, 2, 3, ... epoch by epoch: gradient -1, learning rate 1, one minibatch.


def walk(surrogate_fn, kl_fn, epochs=5, max_kl=0.01):
    """ppo_update from p = 0; the surrogate at 0 is surrogate_fn(0)."""
    optimiser = optax.chain(optax.sgd(1.0), optax.scale_by_schedule(lambda count: 1.0))  # counts its steps
    params = {"p": jnp.zeros(())}
    batch = {"x": jnp.ones((1, 4))}

    def loss_fn(params, minibatch):
        return -params["p"] * jnp.mean(minibatch["x"])

    def evaluate_fn(params):
        return surrogate_fn(params["p"]), kl_fn(params["p"])

    settings = PPO(epochs=epochs, minibatch_trials=4)
    asked = FirstOrder(loss_fn, evaluate_fn, jnp.asarray(surrogate_fn(0.0), jnp.float32))
    update = partial(ppo_update, optimiser=optimiser, asked=asked, settings=settings, max_kl=max_kl)
    params, opt_state, info = jax.jit(update)(jax.random.key(0), params, optimiser.init(params), batch=batch)
    steps_counted = [int(x) for x in jax.tree.leaves(opt_state)]
    return float(params["p"]), steps_counted, jax.tree.map(float, info)


def test_the_best_epoch_within_the_limit_is_kept():
    """The surrogate peaks at epoch 2, every epoch is within the limit: epoch 2's parameters, not the last."""
    p, counted, info = walk(lambda p: -((p - 2.0) ** 2), lambda p: 1e-4 * p**2)
    assert p == 2.0
    assert info.line_search_steps == 0
    np.testing.assert_allclose([info.kl, info.surrogate_gain], [4e-4, 4.0], rtol=1e-5)
    assert counted == [5]  # the optimiser has seen all five epochs


def test_a_better_epoch_outside_the_limit_is_not_kept():
    """The surrogate rises for ever; KL p^2 / 1000 is within 0.01 up to epoch 3."""
    p, _, info = walk(lambda p: p, lambda p: 1e-3 * p**2)
    assert p == 3.0
    np.testing.assert_allclose([info.kl, info.surrogate_gain], [9e-3, 3.0], rtol=1e-5)


def test_steps_back_by_halves_if_no_epoch_is_within_the_limit():
    """KL p^2 from p = 5: 5 / 2^6 is the first within 0.1 of 0."""
    p, _, info = walk(lambda p: p, lambda p: p**2)
    assert p == 5 / 2**6
    assert info.line_search_steps == 6
    np.testing.assert_allclose([info.kl, info.surrogate_gain], [p**2, p], rtol=1e-5)


@pytest.mark.parametrize("kl_fn", [lambda p: 1e6 * p**2, lambda p: jnp.where(p == 0, 0.0, jnp.nan)])
def test_gives_up_if_even_the_smallest_step_is_outside(kl_fn):
    """Ten halvings leave it outside, or the KL is not a number: the parameters stay."""
    p, _, info = walk(lambda p: p, kl_fn)
    assert p == 0.0
    assert info.line_search_steps == -1
    assert info.kl == 0
    assert info.surrogate_gain == 0


# --- Epochs of minibatches, against a plain loop.

TARGETS = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)  # 3 steps, 7 trials


def regression_loss(params, minibatch):
    return jnp.mean(jnp.square(params - minibatch["target"]))


def evaluate_regression(params):
    return -regression_loss(params, {"target": TARGETS}), jnp.square(params)


def epochs_by_hand(key, optimiser, epochs, minibatch_trials):
    """Adam on minibatches of whole trials; returns parameters, optimiser state, losses, gradient norms."""
    params, norms = jnp.zeros(()), []
    opt_state = optimiser.init(params)
    count = max(1, round(7 / minibatch_trials))
    size = 7 // count
    for key_epoch in jax.random.split(key, epochs):
        order = np.asarray(jax.random.permutation(key_epoch, 7))
        for i in range(count):
            chosen = TARGETS[:, order[i * size : (i + 1) * size]]
            gradient = 2.0 * np.mean(float(params) - chosen.astype(np.float64))
            updates, opt_state = optimiser.update(jnp.float32(gradient), opt_state, params)
            params = params + updates
            norms.append(abs(gradient))
    return params, opt_state, np.mean(norms)


@pytest.mark.parametrize("minibatch_trials", [3, 100])
def test_without_a_limit_it_is_the_epochs_alone(minibatch_trials):
    """max_kl = inf equals plain epochs: two minibatches of 3 of the 7 trials, or one of all 7."""
    key, optimiser = jax.random.key(3), optax.adam(0.1)
    settings = PPO(epochs=3, minibatch_trials=minibatch_trials)
    start = jnp.zeros(())
    surrogate, _ = evaluate_regression(start)
    params, opt_state, info = jax.jit(
        lambda key: ppo_update(
            key,
            start,
            optimiser.init(start),
            optimiser,
            FirstOrder(regression_loss, evaluate_regression, surrogate),
            {"target": jnp.asarray(TARGETS)},
            settings,
            math.inf,
        )
    )(key)
    expected_params, expected_state, expected_norm = epochs_by_hand(key, optimiser, 3, minibatch_trials)
    np.testing.assert_allclose(params, expected_params, rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), opt_state, expected_state)
    np.testing.assert_allclose(info.grad_norm, expected_norm, rtol=1e-4)
    np.testing.assert_allclose(info.kl, expected_params**2, rtol=1e-4)
    np.testing.assert_allclose(info.surrogate_gain, evaluate_regression(expected_params)[0] - surrogate, rtol=1e-3)
    assert info.line_search_steps == 0


@pytest.mark.parametrize(("trials", "minibatch", "expected"), [(7, 3, 2), (128, 128, 1), (5, 128, 1), (300, 128, 2)])
def test_num_minibatches(trials, minibatch, expected):
    """The nearest number of equal minibatches, at least one."""
    assert num_minibatches(trials, minibatch) == expected


def test_an_epoch_meets_every_trial_once():
    """With a divisible batch; the gradient of a linear loss, SGD at rate 1, counts the visits."""
    batch = {"one_hot": jnp.eye(6)[None]}  # [1 step, 6 trials, 6]

    def loss_fn(visits, minibatch):
        return -jnp.sum(visits * minibatch["one_hot"].sum((0, 1)))

    optimiser = optax.sgd(1.0)
    visits, _, info = minibatch_epoch(
        jax.random.key(0), jnp.zeros(6), optimiser.init(jnp.zeros(6)), optimiser, loss_fn, batch, 2
    )
    np.testing.assert_array_equal(visits, np.ones(6))
    np.testing.assert_allclose(info.grad_norm, math.sqrt(2), rtol=1e-6)


# --- The first update of a recurrent policy on a batch it collected itself.

CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 4,
        "batch.size": 40,
        "network.units": 5,
        "slow_rl.epochs": 2,
        "slow_rl.minibatch_trials": 5,
    }
)
TRIAL = make_trial(BernoulliBandit(3), CONFIG)
NETWORKS = make_networks(TRIAL.env, CONFIG)


def clipped(log_prob, batch):
    return clipped_surrogate(log_prob, batch.old_log_prob, batch.advantage, CONFIG.slow_rl.clip_range)


def batch_of(trajectory, advantage):
    return Batch(
        trial_obs=trajectory.trial_obs,
        action=trajectory.action,
        old_log_prob=trajectory.agent_info.log_prob,
        old_dist_params=trajectory.agent_info.dist_params,
        advantage=advantage,
        mask=trajectory.mask,
        task_features=standardise_columns(trajectory.task_features)[None],
    )


@pytest.fixture(scope="module")
def collected():
    """(policy parameters, batch of 10 trials collected with them, advantages that are not all of one sign)."""
    params = random_params(NETWORKS, seed=0)
    trajectory = jax.jit(make_collect(TRIAL, lambda params: NETWORKS.agent(params["policy"]), 10))(
        jax.random.key(1), params
    )
    advantage = np.random.default_rng(2).normal(size=trajectory.reward.shape).astype(np.float32)
    return params, batch_of(trajectory, advantage)


def test_the_first_update_sees_a_ratio_of_one(collected):
    """Recomputed log-probabilities are the stored ones, KL 0, and the gradient is the policy gradient."""
    params, batch = collected

    @jax.jit
    def at_old_params(policy_params):
        dist_params = jax.vmap(NETWORKS.dist_params, (None, 1), 1)(policy_params, batch.trial_obs)
        evaluate = partial(problem_of(NETWORKS, CONFIG, 10).evaluate, batch=batch, surrogate=clipped)
        return dist_params, *jax.value_and_grad(evaluate, has_aux=True)(policy_params)

    @jax.jit
    @jax.grad
    def policy_gradient(policy_params):
        """Of mean(log pi(a) A): no ratio, no clip, no distrax."""
        logits = jax.vmap(NETWORKS.dist_params, (None, 1), 1)(policy_params, batch.trial_obs)
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.action[..., None], -1)[..., 0]
        return jnp.mean(log_probs * batch.advantage)

    dist_params, (surrogate, kl), grads = at_old_params(params["policy"])
    log_prob = NETWORKS.distribution(dist_params).log_prob(batch.action)
    np.testing.assert_allclose(log_prob, batch.old_log_prob, atol=1e-6)
    np.testing.assert_allclose(surrogate, batch.advantage.mean(), atol=1e-6)
    np.testing.assert_allclose(kl, 0.0, atol=1e-7)
    expected = policy_gradient(params["policy"])
    assert optax.tree.norm(expected) > 1e-3
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-6), grads, expected)


class Unclipped(Problem):
    """Adam at any rate, its gradients as they are."""

    def make_optimiser(self, learning_rate, steps_per_iteration=1):
        return optax.adam(learning_rate)


def test_the_kl_limit_holds_at_any_learning_rate(collected):
    """Recomputed at the parameters returned: within max_kl, or else nothing changed."""
    params, batch = collected

    @jax.jit
    def step(learning_rate):
        settings = CONFIG.slow_rl.changed(learning_rate=learning_rate)
        algorithm = settings.make(Unclipped(**vars(problem_of(NETWORKS, CONFIG, 10))))
        state = algorithm.init(params["policy"])
        new, _, info = algorithm.step(jax.random.key(0), state, params["policy"], batch)
        logits = jax.vmap(NETWORKS.dist_params, (None, 1), 1)(new, batch.trial_obs)
        return new, info, jax.nn.log_softmax(logits)

    old = np.asarray(jax.nn.log_softmax(batch.old_dist_params), np.float64)
    outcomes = {}
    for learning_rate in (1e-3, 1.0, 1e8):
        new, info, log_probs = step(learning_rate)
        kl = (np.exp(old) * (old - np.asarray(log_probs, np.float64))).sum(-1).mean()
        assert kl <= CONFIG.slow_rl.max_kl * (1 + 1e-3)
        np.testing.assert_allclose(info.kl, kl, atol=1e-5)
        moved = any(
            (a != b).any() for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params["policy"]), strict=True)
        )
        outcomes[learning_rate] = float(info.line_search_steps), bool(moved)
    assert outcomes[1e-3] == (0.0, True)
    assert outcomes[1.0][0] >= 1  # stepped back
    assert outcomes[1.0][1]
    assert outcomes[1e8] == (-1.0, False)  # given up


def test_losses_over_the_mask(collected):
    """Surrogate with entropy bonus, KL, and squared error of inferred task features, against numpy; half masked out."""
    config = CONFIG.replace({"objective.entropy_coefficient": 0.1, "objective.task_inference_coefficient": 1.0})
    networks = make_networks(TRIAL.env, config)
    params = random_params(networks, seed=3)["policy"]
    _, batch = collected
    mask = np.random.default_rng(4).integers(2, size=batch.mask.shape).astype(np.float32)

    features = np.asarray(batch.task_features)
    np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=1), 1, atol=1e-3)

    @jax.jit
    def losses(policy_params):
        outputs = jax.vmap(networks.policy_outputs, (None, 1), 1)(policy_params, batch.trial_obs)
        problem = problem_of(networks, config, 10)
        return outputs, problem.losses(policy_params, batch._replace(mask=mask), clipped, 0.07)

    (logits, inferred, _), results = jax.tree.map(np.float64, losses(params))
    new, old = (scipy.special.log_softmax(np.float64(x), axis=-1) for x in (logits, batch.old_dist_params))

    def taken(x):
        return np.take_along_axis(x, np.asarray(batch.action)[..., None], -1)[..., 0]

    ratio = np.exp(taken(new) - np.float64(batch.old_log_prob))
    surrogate = np.minimum(ratio * batch.advantage, np.clip(ratio, 0.9, 1.1) * batch.advantage)
    expected = (
        -(surrogate - 0.07 * (np.exp(new) * new).sum(-1)),
        (np.exp(old) * (old - new)).sum(-1),
        ((inferred - features) ** 2).mean(-1),
        np.zeros_like(mask),  # the baseline is another network
    )
    np.testing.assert_allclose(results, [np.mean(x[mask == 1]) for x in expected], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.2, 0.2, 0.2, 0.2]),
        ("linear", [0.2, 0.15, 0.1, 0.0]),
        ("cosine", [0.2, 0.1 * (1 + np.cos(np.pi / 4)), 0.1, 0.0]),
    ],
)
def test_entropy_schedules(name, expected):
    """From the coefficient at the first iteration to 0 after the last."""
    config = TrainConfig().replace(
        {"objective.entropy_coefficient": 0.2, "objective.entropy_schedule": name, "iterations": 100}
    )
    problem = problem_of(NETWORKS, config, 10)
    weights = [float(problem.entropy_weight(jnp.asarray(i))) for i in (0, 25, 50, 100)]
    np.testing.assert_allclose(weights, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("gradient", "norm"),
    [([3.0, 4.0], 5.0), ([0.0, 0.0], 0.0), ([3e-30, 4e-30], 5e-30), ([1e20, 1.0], 1e20), ([jnp.inf, 1.0], 1e30)],
)
def test_a_gradients_norm_is_finite_where_clipping_makes_a_step_of_it(gradient, norm):
    """Its square need not be a float32; only what is not a number is none."""
    grads = {"a": jnp.array(gradient[:1]), "b": jnp.array(gradient[1:])}
    np.testing.assert_allclose(gradient_norm(grads), norm, rtol=1e-6)
    assert jnp.isnan(gradient_norm(grads | {"c": jnp.array([jnp.nan])}))


def test_a_gradients_norm_is_the_same_by_plain_squares_and_by_scaled_ones():
    """On both sides of where one takes over from the other, alone and in a batch of sweeps."""
    sizes = 10.0 ** jnp.arange(-28.0, 28.0)
    grads = {"a": 3.0 * sizes[:, None], "b": 4.0 * sizes[:, None] * jnp.array([1.0, 1e-25])}
    np.testing.assert_allclose(jax.vmap(gradient_norm)(grads), 5.0 * sizes, rtol=1e-6)
    alone = [gradient_norm(jax.tree.map(lambda x, i=i: x[i], grads)) for i in range(len(sizes))]
    np.testing.assert_allclose(jnp.stack(alone), 5.0 * sizes, rtol=1e-6)


def test_a_gradient_that_is_clipped_ends_no_epoch():
    """Elementwise at 40, from one of 1e25, in steps of plain descent at rate 1: two trials, two steps."""
    optimiser = optax.chain(optax.clip(40.0), optax.sgd(1.0))
    params = jnp.zeros(())
    batch = jnp.full((1, 2), 1e25)
    new, _, info = minibatch_epoch(
        jax.random.key(0), params, optimiser.init(params), optimiser, lambda p, x: -jnp.sum(p * x), batch, 1
    )
    assert (float(new), float(info.grad_norm)) == (80.0, pytest.approx(1e25))
