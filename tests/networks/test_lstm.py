"""The LSTM against Flax's, and what every family of networks has: the choice of cell, and the time as an input."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import frame_networks, random_params, recurrent_networks, shared_networks

from rl2jax.envs import BernoulliBandit
from rl2jax.networks.base import Categorical, Encoding
from rl2jax.networks.cells import ACTIVATIONS, CellWeights, LSTMState, RecurrentLayer, RecurrentNetwork, lstm_step
from rl2jax.networks.frames import Frames
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks
from rl2jax.types import TrialObservation

UNITS, INPUTS, ACTIONS, STEPS = 8, 6, 3, 7  # inputs: 1 number, 3 actions, reward, flag
SHAPE = (13, 13, 1)


def make(family=recurrent_networks, **settings):
    observation = Frames(SHAPE) if family is frame_networks else Encoding(1, one_hot=False)
    return family(observation, Encoding(ACTIONS, one_hot=True), Categorical(ACTIONS), units=UNITS, **settings)


def trial_inputs(family=recurrent_networks):
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(STEPS, *SHAPE), dtype=np.uint8)
    return TrialObservation(
        obs=frames if family is frame_networks else rng.normal(size=(STEPS, 1)).astype(np.float32),
        prev_action=rng.integers(ACTIONS, size=STEPS),
        prev_reward=rng.normal(size=STEPS).astype(np.float32),
        prev_done=rng.integers(2, size=STEPS).astype(np.float32),
    )


def flax_params(weights):
    """Those of Flax's cell: i, f, g, o as here; the bias is with the hidden state's products."""
    gates = "ifgo"
    into, hidden, bias = (np.split(np.asarray(x), 4, axis=-1) for x in weights[:3])
    return {
        **{f"i{gate}": {"kernel": into[n]} for n, gate in enumerate(gates)},
        **{f"h{gate}": {"kernel": hidden[n], "bias": bias[n]} for n, gate in enumerate(gates)},
    }


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("cell", [nn.OptimizedLSTMCell, nn.LSTMCell])
def test_one_step_is_flaxs(cell, activation):
    rng = np.random.default_rng(0)
    shapes = (INPUTS, 4 * UNITS), (UNITS, 4 * UNITS), (4 * UNITS,), (UNITS,), (UNITS,), (INPUTS,)
    w, u, b, h, c, x = (rng.normal(size=s).astype(np.float32) for s in shapes)
    weights, function = CellWeights(w, u, b), ACTIVATIONS[activation]
    result = jax.jit(lstm_step, static_argnums=1)(weights, function, LSTMState(h, c), x)
    flax_cell = cell(UNITS, activation_fn=function)
    (memory, hidden), _ = flax_cell.apply({"params": flax_params(weights)}, (c, h), x)
    np.testing.assert_allclose(result.memory, memory, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(result.hidden, hidden, rtol=1e-5, atol=1e-5)


def test_a_network_of_lstms_is_flaxs_over_a_trial():
    """Weight normalisation, embedding, the scan from zeros, and the head; policy and baseline."""
    networks, inputs = make(cell="lstm", activation="tanh"), trial_inputs()
    params = random_params(networks, seed=1)
    one_hot = np.eye(ACTIONS)[inputs.prev_action]
    x = np.concatenate([inputs.obs, one_hot, inputs.prev_reward[:, None], inputs.prev_done[:, None]], axis=1)
    cell = nn.OptimizedLSTMCell(UNITS)

    def flax_outputs(network, tree):
        weights = network.apply(tree)
        state, outputs = (jnp.zeros(UNITS), jnp.zeros(UNITS)), []
        for seen in jnp.asarray(x, jnp.float32):
            state, hidden = cell.apply({"params": flax_params(weights.cell)}, state, seen)
            outputs.append(hidden @ weights.head + weights.head_bias)
        return np.array(outputs)

    dist_params = jax.jit(networks.dist_params)(params["policy"], inputs)
    np.testing.assert_allclose(
        dist_params, flax_outputs(networks.policy_network, params["policy"]), rtol=1e-4, atol=1e-4
    )
    values = jax.jit(networks.values)(params["baseline"], inputs)
    expected = flax_outputs(networks.baseline_network, params["baseline"])[:, 0]
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-4)


def test_initial_weights_of_an_lstm():
    """Orthogonal and Xavier gate by gate as a GRU's, with names of their own; all biases 0."""
    network = RecurrentNetwork(INPUTS, RecurrentLayer(UNITS, cell="lstm"), ACTIONS)
    params = network.init(jax.random.key(0))
    weights = network.apply(params)
    names = {"lstm_input", "lstm_hidden", "head"}
    assert set(params["params"]) == {*names, *(f"{n}_scale" for n in names), "lstm_bias", "head_bias"}
    blocks = np.split(np.asarray(weights.cell.hidden), 4, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block.T @ block, np.eye(UNITS), atol=1e-5)
    assert all(np.abs(blocks[0] - other).max() > 0.1 for other in blocks[1:])
    bound = np.sqrt(6 / (INPUTS + UNITS))
    assert 0.8 * bound < np.abs(weights.cell.input).max() <= bound
    np.testing.assert_array_equal(weights.cell.bias, 0.0)


def test_memory_horizon_opens_the_forget_gate_and_closes_the_input_gate():
    """Chrono initialisation (Tallec & Ollivier 2018, section 2): b_f = -b_i = log tau."""
    network = RecurrentNetwork(INPUTS, RecurrentLayer(256, memory_horizon=50, cell="lstm"), ACTIONS)
    bias = jax.jit(lambda key: network.init(key)["params"]["lstm_bias"])(jax.random.key(0))
    into, forget, candidate, out = np.split(np.asarray(bias), 4)
    np.testing.assert_array_equal(into, -forget)
    np.testing.assert_array_equal(np.stack([candidate, out]), 0.0)
    assert scipy.stats.kstest(forget / np.log(50), "uniform").pvalue > 1e-3


def test_a_remembering_lstm_remembers():
    """Without inputs c decays by sigmoid(log tau) = tau / (1 + tau) a step."""
    tau = 20.0
    bias = jnp.array([-50.0, math.log(tau), 0.0, 0.0])
    state, nothing = LSTMState(jnp.zeros(1), jnp.ones(1)), jnp.zeros(1)
    for _ in range(5):
        state = lstm_step(CellWeights(jnp.zeros((1, 4)), jnp.zeros((1, 4)), bias), jnp.tanh, state, nothing)
    np.testing.assert_allclose(state.memory, (tau / (1 + tau)) ** 5, rtol=1e-5)


def test_what_a_baseline_sees_of_the_task_enters_every_gate():
    """Task inputs act as a bias that is the same at every step."""
    networks = make(cell="lstm", num_baseline_task_inputs=2)
    params, inputs = random_params(networks, seed=2)["baseline"], trial_inputs()
    task = jnp.array([0.5, -2.0])
    effective = networks.baseline_network.apply(params)
    assert effective.task.shape == (2, 4 * UNITS)
    without = {**params["params"], "lstm_bias": params["params"]["lstm_bias"] + task @ effective.task}
    values = networks.values(params, inputs, task)
    np.testing.assert_allclose(networks.values({"params": without}, inputs, jnp.zeros(2)), values, rtol=1e-4)


# --- Acting and learning are one function, for every cell, with and without the time.

FAMILIES = [recurrent_networks, shared_networks, frame_networks]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("cell", "trial_steps"), [("gru", 20), ("lstm", 0), ("lstm", 20)])
def test_acting_step_by_step_equals_unrolling(family, cell, trial_steps):
    networks, inputs = make(family, cell=cell, trial_steps=trial_steps), trial_inputs(family)
    params = random_params(networks, seed=3, scale=0.4)["policy"]

    @jax.jit
    def both(params):
        agent = networks.agent(params)

        def step(state, trial_obs):
            state, _, info = agent.step(jax.random.key(0), state, trial_obs)
            return state, info.dist_params

        _, acted = jax.lax.scan(step, agent.init(jax.random.key(0)), inputs)
        return acted, networks.dist_params(params, inputs)

    acted, unrolled = both(params)
    np.testing.assert_allclose(acted, unrolled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_time_is_the_last_input(family):
    """Its weights at zero, a network is the one without a time input; otherwise it sees step / steps of a trial."""
    plain, timed = make(family, weight_norm=False), make(family, weight_norm=False, trial_steps=20)
    inputs, without = trial_inputs(family), random_params(plain, seed=4, scale=0.4)["policy"]

    def with_time(row):
        tree = jax.tree.map(jnp.asarray, without["params"])
        cell = tree["core"] if family is frame_networks else tree
        cell = {**cell, "gru_input": jnp.concatenate([cell["gru_input"], row[None]])}
        return {"params": {**tree, "core": cell} if family is frame_networks else cell}

    dist_params, row = jax.jit(timed.dist_params), np.random.default_rng(5).normal(size=3 * UNITS).astype(np.float32)
    np.testing.assert_allclose(
        dist_params(with_time(jnp.zeros(3 * UNITS)), inputs), plain.dist_params(without, inputs), rtol=1e-4, atol=1e-5
    )
    seen, first = dist_params(with_time(row), inputs), plain.dist_params(without, inputs)[0]
    np.testing.assert_allclose(seen[0], first, rtol=1e-4, atol=1e-5)  # at time 0
    assert np.abs(seen[1:] - plain.dist_params(without, inputs)[1:]).max() > 1e-2
    joined = timed._join_time(jnp.zeros((3, 2)), jnp.array([0, 5, 20]))
    np.testing.assert_allclose(joined[:, -1], [0.0, 0.25, 1.0])


def test_a_shared_network_has_all_heads():
    """Value, inferred features, actions: columns of one head, on one hidden state."""
    networks, inputs = make(shared_networks, num_task_features=2), trial_inputs()
    params = random_params(networks, seed=6)
    assert params["baseline"] == {}
    weights = networks.policy_network.apply(params["policy"])
    outputs = networks.unroll(weights, inputs)
    found = networks.policy_outputs(params["policy"], inputs)
    np.testing.assert_array_equal(found.value, outputs[:, 0])
    np.testing.assert_array_equal(found.inferred, outputs[:, 1:3])
    np.testing.assert_array_equal(found.dist_params, outputs[:, 3:])
    np.testing.assert_array_equal(networks.values(params["policy"], inputs), outputs[:, 0])


def test_the_hidden_state_of_both_families_is_one_function():
    """With the policy's recurrent weights, and its columns of the head, a shared network's actions are the policy's."""
    apart, shared = make(weight_norm=False), make(shared_networks, weight_norm=False)
    inputs, tree = trial_inputs(), random_params(make(shared_networks, weight_norm=False), seed=7)["policy"]
    policy = {**tree["params"], "head": tree["params"]["head"][:, 1:], "head_bias": tree["params"]["head_bias"][1:]}
    expected = apart.dist_params({"params": policy}, inputs)
    np.testing.assert_allclose(shared.dist_params(tree, inputs), expected, rtol=1e-6)


# --- What a config asks for.


def test_a_config_names_cell_trunk_and_time():
    env = BernoulliBandit(2)
    config = TrainConfig().replace({"trial.num_episodes": 7, "network.units": 4})
    assert make_networks(env, config).trial_steps == 0
    networks = make_networks(
        env, config.replace({"network.cell": "lstm", "network.shared_trunk": True, "network.time_input": True})
    )
    assert networks.policy_heads == {"value": 1, "inferred": 0, "policy": 2}
    assert (networks.memory.cell, networks.trial_steps) == ("lstm", 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline.sees_task": True}, "baseline.sees_task must be false for BernoulliBandit"),
        ({"baseline.warmup_iterations": 2}, "baseline.warmup_iterations must be 0 for BernoulliBandit"),
    ],
)
def test_a_shared_trunk_has_no_baseline_of_its_own(changes, said):
    with pytest.raises(ValueError, match=said):
        make_networks(BernoulliBandit(2), TrainConfig().replace({"network.shared_trunk": True, **changes}))
