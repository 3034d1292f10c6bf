"""Settings that docs/appendix_recipes.md tries: each against what it says, and off as if it were not there."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import frame_networks, random_params, recurrent_networks, shared_networks

from rl2jax.devices import make_mesh
from rl2jax.envs import BernoulliBandit
from rl2jax.networks.base import Categorical, Encoding
from rl2jax.networks.cells import (
    ACTIVATIONS,
    CELLS,
    CellWeights,
    Gains,
    RecurrentLayer,
    RecurrentNetwork,
    layer_norm_gru_step,
)
from rl2jax.networks.frames import Frames
from rl2jax.networks.unroll import Lane
from rl2jax.slow_rl.base import Batch
from rl2jax.slow_rl.trpo import TRPO, trpo_update
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks
from rl2jax.training.learner import Learner
from rl2jax.training.update import make_slow_rl, problem_of, trial_returns
from rl2jax.trials.collect import make_collect
from rl2jax.types import TrialObservation

UNITS, ACTIONS, STEPS = 4, 3, 8
ENDS = np.array([0, 0, 0, 1, 0, 1, 1, 0], np.float32)  # the flag at the first step of each episode but the first
SHAPE = (13, 13, 1)


def make(family=recurrent_networks, **settings):
    observation = Frames(SHAPE) if family is frame_networks else Encoding(1, one_hot=False)
    return family(observation, Encoding(ACTIONS, one_hot=True), Categorical(ACTIONS), units=UNITS, **settings)


def trial_inputs(family=recurrent_networks, ends=ENDS):
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(STEPS, *SHAPE), dtype=np.uint8)
    return TrialObservation(
        obs=frames if family is frame_networks else rng.normal(size=(STEPS, 1)).astype(np.float32),
        prev_action=rng.integers(ACTIONS, size=STEPS),
        prev_reward=rng.normal(size=STEPS).astype(np.float32),
        prev_done=ends,
    )


# --- Where the recurrent layer starts, at a trial's and at an episode's start.


def test_a_learned_initial_state_starts_at_zero():
    """All other parameters are drawn as without it, so that training starts from the same networks."""
    plain, learned = make(cell="lstm"), make(cell="lstm", learned_initial_state=True)
    before, after = (jax.jit(networks.init)(jax.random.key(0)) for networks in (plain, learned))
    for name in ("policy", "baseline"):
        np.testing.assert_array_equal(after[name]["params"].pop("lstm_initial"), np.zeros(2 * UNITS))
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize("episodic_units", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("cell", "learned"), [("gru", True), ("gru", False), ("lstm", True)])
def test_networks_start_where_they_should(cell, learned, episodic_units):
    """Step by step in Python: from the learned state (of an LSTM h, then c), and in part back to it at each flag."""
    networks = make(cell=cell, learned_initial_state=learned, episodic_units=episodic_units, activation="tanh")
    params, inputs = random_params(networks, seed=1)["baseline"], trial_inputs()
    weights, kind = networks.baseline_network.apply(params), CELLS[cell]
    fresh = jax.tree.map(np.zeros_like, kind.initial_state(UNITS))
    if learned:
        parts = np.split(params["params"][f"{cell}_initial"], len(jax.tree.leaves(fresh)))
        fresh = jax.tree.unflatten(jax.tree.structure(fresh), parts)
    forgotten = round(episodic_units * UNITS)
    state, expected = fresh, []
    for step in range(STEPS):
        seen = jax.tree.map(lambda x: x[step], inputs)  # noqa: B023
        if ENDS[step]:
            state = jax.tree.map(lambda new, old: np.append(new[:forgotten], old[forgotten:]), fresh, state)
        x = networks.trunk.embed(weights, seen)
        state = jax.tree.map(np.asarray, kind.step(weights.cell, ACTIVATIONS["tanh"], state, x))
        expected.append(kind.output(state) @ weights.head[:, 0] + weights.head_bias[0])
    np.testing.assert_allclose(networks.values(params, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "cell", "trial_steps"),
    [
        (recurrent_networks, "layer_norm_gru", 0),
        (recurrent_networks, "lstm", 9),
        (shared_networks, "lstm", 0),
        (frame_networks, "gru", 9),
    ],
)
def test_acting_learning_and_lanes_start_alike(family, cell, trial_steps):
    """The agent's steps are the learner's unroll; in a lane each trial starts as it would alone."""
    networks = make(family, cell=cell, trial_steps=trial_steps, learned_initial_state=True, episodic_units=0.5)
    params, inputs = random_params(networks, seed=3, scale=0.4)["policy"], trial_inputs(family)

    @jax.jit
    def acted_and_unrolled(params):
        agent = networks.agent(params)

        def step(state, trial_obs):
            state, _, info = agent.step(jax.random.key(0), state, trial_obs)
            return state, info.dist_params

        _, acted = jax.lax.scan(step, agent.init(jax.random.key(0)), inputs)
        return acted, networks.dist_params(params, inputs)

    acted, unrolled = acted_and_unrolled(params)
    np.testing.assert_allclose(acted, unrolled, rtol=1e-4, atol=1e-5)
    lane = jax.tree.map(lambda x: np.concatenate([x, x]), inputs)
    lane = Lane(lane, np.eye(STEPS, dtype=np.float32)[[0, 0]].ravel())
    np.testing.assert_allclose(
        networks.dist_params(params, lane), np.concatenate([unrolled, unrolled]), rtol=1e-4, atol=1e-5
    )


def test_the_first_steps_flag_resets_nothing():
    """A trial starts with its state, whatever flag is shown there."""
    networks = make(episodic_units=1.0, weight_norm=False)
    params = random_params(networks, seed=4)["policy"]
    params["params"]["gru_input"][-1] = 0.0  # the flag's weights
    outputs = [networks.dist_params(params, trial_inputs(ends=ends)) for ends in (np.append(1.0, ENDS[1:]), ENDS)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("network", ["planner", "per_arm", "per_pair"])
@pytest.mark.parametrize(("field", "value"), [("network.learned_initial_state", True), ("network.episodic_units", 0.5)])
def test_networks_without_one_recurrent_layer_refuse_them(network, field, value):
    with pytest.raises(ValueError, match=f"^setting of network {network} must be one of .*, got"):
        TrainConfig().replace({"network": network, field: value})


def test_a_config_says_where_networks_start():
    networks = make_networks(
        BernoulliBandit(2),
        TrainConfig().replace({"network.learned_initial_state": True, "network.episodic_units": 0.25}),
    )
    assert (networks.memory.learned_initial_state, networks.memory.episodic_units) == (True, 0.25)
    assert networks.policy_network.memory.learned_initial_state


# --- Several natural steps on one batch.

MEANS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
GRADIENT = np.random.default_rng(1).normal(size=4).astype(np.float32)
NATURAL = np.linalg.solve(MEANS.T.astype(np.float64) @ MEANS / 6, GRADIENT)
MAX_KL = 0.01
WHOLE_STEP = np.sqrt(2 * MAX_KL / (GRADIENT @ NATURAL)) * NATURAL  # to the edge of the trust region
ROOM = 1 - 1e-3  # keeps rounding from rejecting a step to the edge


def steps_on_a_quadratic(steps, kl_factor=ROOM, max_backtracks=10):
    """Gaussians of unit variance, means linear in the parameters, a linear surrogate; the true KL a factor away."""

    def kl(old, new):
        return 0.5 * jnp.mean(jnp.square(new - old))

    def evaluate(params):
        return GRADIENT @ params, kl_factor * kl(0.0, MEANS @ params)

    constants = TRPO(cg_iters=8, cg_damping=0.0, steps=steps), MAX_KL, max_backtracks
    return jax.jit(lambda params: trpo_update(params, evaluate, lambda p: MEANS @ p, kl, *constants))(jnp.zeros(4))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_natural_steps_share_one_trust_region(steps):
    """Where nothing bends they are one step, to the edge of it."""
    params, info = steps_on_a_quadratic(steps)
    np.testing.assert_allclose(params, WHOLE_STEP, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, ROOM * MAX_KL, rtol=1e-3)
    np.testing.assert_allclose(info.surrogate_gain, GRADIENT @ WHOLE_STEP, rtol=1e-3)
    np.testing.assert_allclose(info.grad_norm, np.linalg.norm(GRADIENT), rtol=1e-5)
    assert info.line_search_steps == 0


def test_the_limit_is_on_the_kl_from_the_policy_that_collected_the_batch():
    """A true KL three times the model's: half a step has 3/4 of the limit; an eighth of the second has 243/256."""
    params, info = steps_on_a_quadratic(2, kl_factor=3.0)
    np.testing.assert_allclose(params, 9 / 16 * WHOLE_STEP, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, 3 * (9 / 16) ** 2 * MAX_KL, rtol=2e-3)
    assert info.line_search_steps == 3


def test_a_step_that_is_given_up_leaves_those_before_it():
    params, info = steps_on_a_quadratic(2, kl_factor=3.99, max_backtracks=5)
    np.testing.assert_allclose(params, WHOLE_STEP / 2, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(info.kl, 3.99 / 4 * MAX_KL, rtol=2e-3)
    np.testing.assert_allclose(info.surrogate_gain, GRADIENT @ WHOLE_STEP / 2, rtol=2e-3)
    assert info.line_search_steps == 0
    params, info = steps_on_a_quadratic(2, kl_factor=1e6, max_backtracks=2)
    np.testing.assert_array_equal(params, 0.0)
    assert (info.line_search_steps, info.kl, info.surrogate_gain) == (-1, 0, 0)


def test_more_natural_steps_raise_the_surrogate_further():
    """200 softmax policies over 3 actions in 5 states, all within the same KL of where they began."""

    def kl(old, new):
        old, new = jax.nn.log_softmax(old), jax.nn.log_softmax(new)
        return jnp.mean(jnp.sum(jnp.exp(old) * (old - new), axis=-1))

    def gain(steps, logits, advantages):
        def evaluate(new):
            return jnp.mean(jnp.sum(jax.nn.softmax(new) * advantages, axis=-1)), kl(logits, new)

        params, info = trpo_update(logits, evaluate, lambda logits: logits, kl, TRPO(steps=steps), 0.1)
        return info.surrogate_gain, evaluate(params)[0] - evaluate(logits)[0], kl(logits, params)

    problems = np.random.default_rng(2).normal(size=(2, 200, 5, 3)).astype(np.float32)
    one, two, four = (
        jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda *p, n=n: gain(n, *p)))(*problems)) for n in (1, 2, 4)
    )
    for told, seen, kls in (one, two, four):
        np.testing.assert_allclose(told, seen, atol=1e-5)
        assert kls.max() <= 0.1 + 1e-6
    assert (two[1] > one[1]).mean() > 0.9
    assert one[1].mean() < two[1].mean() < four[1].mean()


# --- In an update: natural steps, and a KL limit that falls.

SMALL = TrainConfig().replace(
    {
        "trial.num_episodes": 4,
        "iterations": 10,
        "batch.size": 96,
        "network.units": 4,
        "baseline.epochs": 1,
        "trpo.cg_damping": 0.1,
        "slow_rl.max_kl": 0.02,
    }
)


@pytest.fixture(scope="module")
def collected():
    """(state, batch with drawn advantages) of small bandits."""
    learner = Learner(BernoulliBandit(3), SMALL)
    state = learner.init(jax.random.key(0))
    collect = make_collect(learner.trial, learner.agent_of, learner.num_trials)
    played = jax.jit(collect)(jax.random.key(1), state.params)
    advantages = np.random.default_rng(3).normal(size=played.mask.shape).astype(np.float32)
    acted, nothing = played.agent_info, jnp.zeros((1, learner.num_trials, 0))
    batch = (played.trial_obs, played.action, acted.log_prob, acted.dist_params, advantages, played.mask, nothing)
    return state, Batch(*batch)


def updated(collected, changes):
    """(policy's parameters, info) of the algorithm half-way through the iterations, with some settings changed."""
    config, (state, batch) = SMALL.replace(changes), collected
    learner = Learner(BernoulliBandit(3), config)
    algorithm, policy = make_slow_rl(learner.networks, config, learner.num_trials), state.params["policy"]
    half_way = algorithm.init(policy)._replace(iteration=jnp.int32(5))
    params, _, info = jax.jit(algorithm.step)(jax.random.key(2), half_way, policy, batch)
    return params, info


def test_natural_steps_of_an_update_stay_within_its_limit(collected):
    """And raise the surrogate on the same batch further."""
    (_, one), (_, three) = updated(collected, {}), updated(collected, {"trpo.steps": 3})
    assert three.surrogate_gain > one.surrogate_gain > 0
    assert 0 < three.kl <= 0.02
    assert three.grad_norm != one.grad_norm  # a mean


@pytest.mark.parametrize("algorithm", ["trpo", "ppo"])
def test_half_way_a_limit_that_falls_is_half(collected, algorithm):
    first_order = {"ppo.epochs": 2, "ppo.learning_rate": 0.1, "ppo.minibatch_trials": 12}
    common = {"slow_rl": algorithm, **(first_order if algorithm == "ppo" else {})}
    falling, told = updated(collected, {"slow_rl.max_kl_schedule": "linear", **common})
    half, expected = updated(collected, {"slow_rl.max_kl": 0.01, **common})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), falling, half)
    np.testing.assert_allclose(told.kl, expected.kl, rtol=1e-4)
    assert 0 < told.kl <= 0.01


def test_limits_fall_to_nothing_at_the_last_iteration():
    iterations = jnp.arange(11)
    problem = problem_of(None, SMALL, num_trials=24)
    linear, cosine = (problem.scheduled(name, 0.02, iterations) for name in ("linear", "cosine"))
    np.testing.assert_allclose(linear, 0.02 * (1 - np.arange(11) / 10), atol=1e-8)
    np.testing.assert_allclose(cosine, 0.01 * (1 + np.cos(np.pi * np.arange(11) / 10)), atol=1e-8)
    limit = SMALL.slow_rl.max_kl
    assert problem.scheduled("constant", limit, iterations) is limit  # the number itself: the program is what it was
    with pytest.raises(ValueError, match=r"^ppo.max_kl_schedule must be constant with ppo.max_kl inf, got 'linear'$"):
        TrainConfig().replace({"slow_rl": "ppo", "slow_rl.max_kl": math.inf, "slow_rl.max_kl_schedule": "linear"})


# --- A GRU with layer normalisation.


def numpy_layer_norm(x, gain):
    return gain * (x - x.mean()) / np.sqrt(x.var() + 1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_one_step_of_a_layer_normalised_gru(activation):
    """Against the equations in double precision, gates and candidate apart."""
    rng = np.random.default_rng(0)
    shapes = (4, 15), (5, 15), (15,), (15,), (15,), (5,), (4,)
    w, u, b, of_input, of_hidden, h, x = (rng.normal(size=s).astype(np.float32) for s in shapes)
    weights = CellWeights(w, u, b, Gains(of_input, of_hidden))
    found = jax.jit(layer_norm_gru_step, static_argnums=1)(weights, ACTIVATIONS[activation], h, x)
    xw, hu, bias = np.float64(x) @ w, np.float64(h) @ u, np.float64(b)
    gates = numpy_layer_norm(xw[:10], of_input[:10]) + numpy_layer_norm(hu[:10], of_hidden[:10]) + bias[:10]
    r, z = np.split(1 / (1 + np.exp(-gates)), 2)
    c = numpy_layer_norm(xw[10:], of_input[10:]) + r * numpy_layer_norm(hu[10:], of_hidden[10:]) + bias[10:]
    c = np.tanh(c) if activation == "tanh" else np.maximum(c, 0.0)
    np.testing.assert_allclose(found, (1 - z) * h + z * c, rtol=1e-4, atol=1e-5)


def test_its_gains_are_parameters_that_start_at_one():
    """Beside those of a GRU; with a memory horizon its update gates' biases are those of a GRU."""
    network = RecurrentNetwork(3, RecurrentLayer(UNITS, memory_horizon=50, cell="layer_norm_gru"), ACTIONS)
    params = jax.jit(network.init)(jax.random.key(0))["params"]
    for source in ("input", "hidden"):
        np.testing.assert_array_equal(params.pop(f"layer_norm_gru_{source}_gain"), np.ones(3 * UNITS))
    plain = jax.eval_shape(network.clone(memory=RecurrentLayer(UNITS, memory_horizon=50)).init, jax.random.key(0))[
        "params"
    ]
    assert {name.removeprefix("layer_norm_") for name in params} == set(plain)
    reset, update, candidate = np.split(np.asarray(params["layer_norm_gru_bias"]), 3)
    np.testing.assert_array_equal(np.stack([reset, candidate]), 0.0)
    assert -np.log(50) < update.min() < update.max() < 0


def test_the_scale_of_inputs_and_of_weights_does_not_matter_to_it():
    """Nor do they make gradients vanish or explode: what Ba et al. are after."""
    networks = make(cell="layer_norm_gru", weight_norm=False)
    params, inputs = random_params(networks, seed=5)["policy"], trial_inputs()
    larger = {n: 1000.0 * x if n.endswith(("_input", "_hidden")) else x for n, x in params["params"].items()}
    outputs = [networks.dist_params(p, inputs) for p in (params, {"params": larger})]
    np.testing.assert_allclose(*outputs, rtol=1e-2, atol=1e-2)


# --- Common tasks.


def test_trials_of_one_task_are_side_by_side():
    """Each task serves several trials, in which chance and actions differ; seeds and devices change nothing."""
    env = BernoulliBandit(3)
    learner = Learner(
        env,
        TrainConfig().replace(
            {"trial.num_episodes": 5, "batch.size": 5 * 12, "batch.trials_per_task": 4, "network.units": 4}
        ),
    )
    params, keys = random_params(learner.networks, seed=6), jax.random.split(jax.random.key(0), 2)
    collects = [
        make_collect(learner.trial, learner.agent_of, 12, mesh, trials_per_task=4)
        for mesh in (None, make_mesh(jax.devices()[:1]))
    ]
    played = jax.tree.map(np.asarray, jax.jit(jax.vmap(collects[0], (0, None)))(keys, params))
    on_mesh = jax.jit(collects[1])(keys[1], params)
    for seed in range(2):
        tasks = played.task_features[seed].reshape(3, 4, 3)
        assert (tasks == tasks[:, :1]).all()
        assert len(np.unique(tasks[:, 0, 0])) == 3
        assert len(np.unique(played.action[seed].T, axis=0)) > 6
    assert (played.task_features[0] != played.task_features[1]).all()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6), played, on_mesh)
    whole = jax.tree.map(lambda x: x[0], played)
    means = whole.reward.sum(axis=0).reshape(3, 4).mean(axis=1)
    mean, error = trial_returns(whole, 4)
    np.testing.assert_allclose(mean, means.mean(), rtol=1e-6)
    np.testing.assert_allclose(error, means.std() / np.sqrt(3), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch.trials_per_task": 5}, "trials_per_task must be a divisor of the 12 trials of a batch, got 5"),
        ({"batch.trials_per_task": 24}, "trials_per_task must be a divisor of the 12 trials of a batch, got 24"),
        (
            {"batch.trials_per_task": 2, "batch.lane_steps": 20},
            "batch.trials_per_task must be 1 with batch.lane_steps, got 2",
        ),
    ],
)
def test_trials_that_do_not_divide_into_tasks_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Learner(BernoulliBandit(3), TrainConfig().replace({"trial.num_episodes": 5, "batch.size": 60}).replace(changes))
