"""The recurrent networks against numpy: one step, initialisation, weight normalisation, distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from helpers import random_params, recurrent_networks

from rl2jax.envs import spaces
from rl2jax.networks.base import (
    Categorical,
    DiagonalGaussian,
    Encoding,
    distribution_for,
    encoding_for,
)
from rl2jax.networks.cells import ACTIVATIONS, CellWeights, RecurrentLayer, RecurrentNetwork, gru_step
from rl2jax.networks.products import product
from rl2jax.types import TrialObservation

UNITS, INPUTS, ACTIONS, STEPS = 16, 6, 3, 5  # inputs: 1 number, 3 actions, reward, flag


def make(distribution=None, **settings):
    return recurrent_networks(
        Encoding(1, one_hot=False), Encoding(ACTIONS, one_hot=True), distribution or Categorical(ACTIONS), **settings
    )


def trial_inputs(seed=0):
    rng = np.random.default_rng(seed)
    return TrialObservation(
        obs=rng.normal(size=(STEPS, 1)).astype(np.float32),
        prev_action=rng.integers(ACTIONS, size=STEPS),
        prev_reward=rng.normal(size=STEPS).astype(np.float32),
        prev_done=rng.integers(2, size=STEPS).astype(np.float32),
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_gru(w, u, b, activation, h, x):
    """Cho et al. 2014 gate by gate, in double precision; w, u, b in the order reset, update, candidate."""
    (wr, wz, wc), (ur, uz, uc), (br, bz, bc) = (np.split(np.float64(m), 3, axis=-1) for m in (w, u, b))
    r = sigmoid(x @ wr + h @ ur + br)
    z = sigmoid(x @ wz + h @ uz + bz)
    c = activation(x @ wc + r * (h @ uc) + bc)
    return (1 - z) * h + z * c


NUMPY_ACTIVATIONS = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_gru_step(activation):
    rng = np.random.default_rng(0)
    w, u, b, h, x = (rng.normal(size=s).astype(np.float32) for s in ((4, 15), (5, 15), (15,), (5,), (4,)))
    result = jax.jit(gru_step, static_argnums=1)(CellWeights(w, u, b), ACTIVATIONS[activation], h, x)
    expected = numpy_gru(w, u, b, NUMPY_ACTIVATIONS[activation], h.astype(np.float64), x)
    assert np.abs(expected - numpy_gru(w, u, b, lambda x: x, h, x)).max() > 0.1  # the activation matters here
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


# --- Initialisation.


def initialised(**settings):
    network = RecurrentNetwork(INPUTS, RecurrentLayer(UNITS, **settings), ACTIONS)

    @jax.jit
    def init(key):
        variables = network.init(key)
        return variables["params"], network.apply(variables)

    return jax.tree.map(np.asarray, init(jax.random.key(0)))


@pytest.fixture(scope="module")
def normalised():
    """(parameters, effective weights) of a network with weight normalisation, as initialised."""
    return initialised()


def gates(matrix):
    return np.split(matrix, 3, axis=1)


def test_hidden_matrices_are_orthogonal_gate_by_gate(normalised):
    _, weights = normalised
    blocks = gates(weights.cell.hidden)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(UNITS), atol=1e-5)
    assert np.abs(blocks[0] - blocks[1]).max() > 0.1
    assert np.abs(blocks[1] - blocks[2]).max() > 0.1


def test_input_matrices_and_head_are_xavier_gate_by_gate(normalised):
    """Uniform within sqrt(6 / (rows + columns)), where columns are those of one gate, not of all three."""
    _, weights = normalised
    for block in gates(weights.cell.input):
        bound = np.sqrt(6 / (INPUTS + UNITS))
        assert 0.9 * bound < np.abs(block).max() <= bound
        assert scipy.stats.kstest(block.ravel() / bound, "uniform", (-1, 2)).pvalue > 1e-3
    bound = np.sqrt(6 / (UNITS + ACTIONS))
    assert 0.9 * bound < np.abs(weights.head).max() <= bound


def test_biases_start_at_zero(normalised):
    _, weights = normalised
    np.testing.assert_array_equal(weights.cell.bias, 0.0)
    np.testing.assert_array_equal(weights.head_bias, 0.0)
    assert weights.constants.shape == (0,)


def test_initial_effective_weights_are_the_directions(normalised):
    """No data-dependent initialisation: every scale starts at its column's norm."""
    params, weights = normalised
    effective = {"gru_input": weights.cell.input, "gru_hidden": weights.cell.hidden, "head": weights.head}
    for name, matrix in effective.items():
        np.testing.assert_allclose(matrix, params[name], rtol=1e-6)
        np.testing.assert_allclose(params[f"{name}_scale"], np.linalg.norm(params[name], axis=0), rtol=1e-5)
    assert set(params) == {*effective, *(f"{name}_scale" for name in effective), "gru_bias", "head_bias"}


def test_memory_horizon_sets_the_update_gate_only():
    """The update gates' biases are uniform on [-log T, 0]: time scales of 1 to T, log-uniform."""
    network = RecurrentNetwork(INPUTS, RecurrentLayer(256, memory_horizon=50), ACTIONS)
    bias = jax.jit(lambda key: network.init(key)["params"]["gru_bias"])(jax.random.key(0))
    reset, update, candidate = np.split(np.asarray(bias), 3)
    np.testing.assert_array_equal(np.stack([reset, candidate]), 0.0)
    assert scipy.stats.kstest(-update / np.log(50), "uniform").pvalue > 1e-3


def test_without_weight_normalisation_there_are_no_scales():
    """The matrices are the parameters, and nothing else is declared."""
    network = RecurrentNetwork(INPUTS, RecurrentLayer(UNITS, weight_norm=False), ACTIONS, weight_norm=False)
    shapes = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert set(shapes) == {"gru_input", "gru_hidden", "gru_bias", "head", "head_bias"}
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    weights = network.apply({"params": params})
    np.testing.assert_array_equal(weights.cell.input, params["gru_input"])
    np.testing.assert_array_equal(weights.cell.hidden, params["gru_hidden"])
    np.testing.assert_array_equal(weights.head, params["head"])


# --- Weight normalisation and the whole network, off the initial point.


def plain_weights(params, name):
    """w = g v / |v|, column by column (Salimans & Kingma 2016, equation 2)."""
    v = np.float64(params[name])
    return np.float64(params[f"{name}_scale"]) * v / np.linalg.norm(v, axis=0)


def numpy_network(params, inputs, activation="relu"):
    """Outputs over a trial from the parameters of one network, in double precision."""
    one_hot = np.eye(ACTIONS)[inputs.prev_action]
    x = np.concatenate([inputs.obs, one_hot, inputs.prev_reward[:, None], inputs.prev_done[:, None]], axis=1)
    h, outputs = np.zeros(UNITS), []
    for t in range(STEPS):
        h = numpy_gru(
            plain_weights(params, "gru_input"),
            plain_weights(params, "gru_hidden"),
            params["gru_bias"],
            NUMPY_ACTIVATIONS[activation],
            h,
            x[t],
        )
        outputs.append(h @ plain_weights(params, "head") + params["head_bias"])
    return np.array(outputs)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_policy_and_baseline_against_numpy(activation):
    """Embedding (s, a, r, d), weight normalisation, GRU from a zero state, linear heads; a network each."""
    networks, inputs = make(units=UNITS, activation=activation), trial_inputs()
    params = random_params(networks, seed=1)

    @jax.jit
    def outputs(params):
        return networks.dist_params(params["policy"], inputs), networks.values(params["baseline"], inputs)

    dist_params, values = outputs(params)
    expected = numpy_network(params["policy"]["params"], inputs, activation)
    np.testing.assert_allclose(dist_params, expected, rtol=1e-4, atol=1e-4)
    expected = numpy_network(params["baseline"]["params"], inputs, activation)
    np.testing.assert_allclose(values, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_scaling_a_direction_changes_nothing_and_scaling_a_scale_does():
    networks, inputs = make(units=UNITS), trial_inputs()
    params = random_params(networks, seed=2)["policy"]["params"]
    compiled = jax.jit(lambda p: networks.dist_params({"params": p}, inputs))

    def dist_params(params):
        return np.asarray(compiled(params))

    before = dist_params(params)
    longer = {name: 7.0 * x if f"{name}_scale" in params else x for name, x in params.items()}
    np.testing.assert_allclose(dist_params(longer), before, rtol=1e-4, atol=1e-5)
    doubled = params | {"head_scale": 2.0 * params["head_scale"]}
    bias = params["head_bias"]
    np.testing.assert_allclose(dist_params(doubled) - bias, 2.0 * (before - bias), rtol=1e-4, atol=1e-5)


def test_acting_step_by_step_equals_unrolling():
    """The agent's `step` and the learner's `unroll` are one function of the inputs; Gaussian policy."""
    networks, inputs = make(DiagonalGaussian(2), units=UNITS), trial_inputs()
    params = random_params(networks, seed=3)["policy"]

    @jax.jit
    def both(params):
        agent = networks.agent(params, deterministic=True)

        def step(state, trial_obs):
            state, action, info = agent.step(jax.random.key(0), state, trial_obs)
            return state, (action, info)

        _, (actions, info) = jax.lax.scan(step, agent.init(jax.random.key(0)), inputs)
        return actions, info, networks.dist_params(params, inputs)

    actions, info, unrolled = both(params)
    np.testing.assert_allclose(info.dist_params, unrolled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actions, unrolled[:, :2], rtol=1e-5, atol=1e-6)  # the mode is the mean
    log_std = params["params"]["constants"]
    np.testing.assert_allclose(unrolled[:, 2:], np.tile(log_std, (STEPS, 1)), rtol=1e-6)
    np.testing.assert_allclose(info.log_prob, np.full(STEPS, -np.sum(log_std) - np.log(2 * np.pi)), rtol=1e-4)


def test_deterministic_takes_the_likeliest_action():
    networks = make(units=4)
    params = random_params(networks, seed=4)["policy"]
    inputs = jax.tree.map(lambda x: jnp.asarray(x[0]), trial_inputs())

    @jax.jit
    def act(key):
        chosen = [networks.agent(params, d).step(key, jnp.zeros(4), inputs)[1:] for d in (True, False)]
        return [(action, info.dist_params) for action, info in chosen]

    (mode, logits), (samples, _) = jax.vmap(act)(jax.random.split(jax.random.key(0), 200))
    assert set(np.asarray(mode)) == {int(np.argmax(logits[0]))}
    assert len(set(np.asarray(samples))) > 1


def test_inferred_task_features_are_a_second_head_of_the_policy():
    """The last outputs are the action distribution's, in acting and in learning; those before infer the task."""
    networks, inputs = make(units=UNITS, num_task_features=7), trial_inputs()
    params = random_params(networks, seed=5)["policy"]
    first = jax.tree.map(lambda x: x[0], inputs)

    @jax.jit
    def outputs(params):
        _, _, info = networks.agent(params).step(jax.random.key(0), jnp.zeros(UNITS), first)
        return *networks.policy_outputs(params, inputs), info.dist_params

    dist_params, inferred, value, acting = outputs(params)
    assert value is None  # another network has it
    expected = numpy_network(params["params"], inputs)
    np.testing.assert_allclose(dist_params, expected[:, 7:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(inferred, expected[:, :7], rtol=1e-4, atol=1e-4)
    assert inferred.shape == (STEPS, 7)
    np.testing.assert_allclose(acting, expected[0, 7:], rtol=1e-4, atol=1e-4)


# --- Distributions and encodings.


def test_gaussian_log_probability_against_scipy():
    rng = np.random.default_rng(0)
    mean, log_std, x = rng.normal(size=(3, 7, 2)).astype(np.float32)
    distribution = DiagonalGaussian(2)(jnp.concatenate([mean, log_std], axis=-1))
    expected = scipy.stats.norm(mean, np.exp(log_std)).logpdf(x).sum(-1)
    np.testing.assert_allclose(distribution.log_prob(x), expected, rtol=1e-4)
    entropy = scipy.stats.norm(mean, np.exp(log_std)).entropy().sum(-1)
    np.testing.assert_allclose(distribution.entropy(), entropy, rtol=1e-4)


def test_categorical_log_probability_against_numpy():
    logits = np.array([[0.0, 1.0, -2.0], [3.0, 3.0, 3.0]], np.float32)
    expected = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)[[0, 1], [2, 0]]
    np.testing.assert_allclose(Categorical(3)(jnp.asarray(logits)).log_prob(jnp.array([2, 0])), expected, rtol=1e-5)


def test_spaces_choose_encodings_and_distributions():
    """One-hot and softmax for Discrete; the vector itself, and a Gaussian, for Box."""
    box, number = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, ())
    assert encoding_for(spaces.Discrete(4), "x") == Encoding(4, one_hot=True)
    assert encoding_for(box, "x") == Encoding(2, one_hot=False)
    assert encoding_for(number, "x") == Encoding(1, one_hot=False)
    assert distribution_for(spaces.Discrete(4)) == Categorical(4)
    assert distribution_for(box) == DiagonalGaussian(2)
    np.testing.assert_array_equal(Encoding(4, one_hot=True)(jnp.asarray(2)), [0, 0, 1, 0])
    np.testing.assert_array_equal(Encoding(1, one_hot=False)(jnp.asarray(2.5)), [2.5])


IMAGE = spaces.Box(0.0, 1.0, (3, 4))
PAIR = spaces.Dict({"a": spaces.Discrete(2)})


@pytest.mark.parametrize(("space", "name"), [(IMAGE, r"Box\(.*\(3, 4\)"), (PAIR, r"Dict\(.*Discrete\(2")])
def test_unsupported_spaces_are_named(space, name):
    with pytest.raises(ValueError, match=f"observation space must be Discrete or a Box .* got {name}"):
        encoding_for(space, "observation space")
    with pytest.raises(ValueError, match=f"action space must be Discrete or a Box of rank 1, got {name}"):
        distribution_for(space)


def test_a_single_number_is_no_action_space():
    with pytest.raises(ValueError, match=r"Box of rank 1, got Box\(.*shape=\(\)"):
        distribution_for(spaces.Box(-1.0, 1.0, ()))


# --- Precision of the products.


@pytest.mark.parametrize("precision", ["default", "float32", "bfloat16"])
def test_products_round_their_factors_as_told(precision):
    rng = np.random.default_rng(0)
    x, matrix = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    rounded = jnp.bfloat16 if precision == "bfloat16" else np.float32
    expected = x.astype(rounded).astype(np.float64) @ matrix.astype(rounded).astype(np.float64)
    result = jax.jit(product, static_argnums=2)(x, matrix, precision)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_a_rounded_network_is_close_and_differentiable():
    inputs, found = trial_inputs(), []
    for precision in ("default", "bfloat16"):
        networks = make(units=UNITS, matmul_precision=precision)
        params = random_params(networks, seed=0, scale=0.3)["policy"]

        def loss(params, networks=networks):
            return jnp.sum(networks.dist_params(params, inputs) ** 2)

        value, gradient = jax.jit(jax.value_and_grad(loss))(params)
        found.append((float(value), float(optax.tree.norm(gradient))))
    assert found[0] != found[1]
    np.testing.assert_allclose(found[0], found[1], rtol=0.05)
