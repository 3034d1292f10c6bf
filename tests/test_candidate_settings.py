"""Settings that candidates of docs/recipes.md need: each against what it says, and off as if it were not there."""

import jax
import numpy as np
import pytest
from helpers import random_params

from rl2jax.config import TrainConfig
from rl2jax.envs import BernoulliBandit
from rl2jax.families import make_networks
from rl2jax.networks import Categorical, Encoding, PolicyAndBaseline
from rl2jax.recurrent import ACTIVATIONS, CELLS
from rl2jax.shared_network import SharedVectorNetwork
from rl2jax.types import TrialObservation
from rl2jax.vision_network import Frames, SharedVisionNetwork

UNITS, ACTIONS, STEPS = 4, 3, 8
ENDS = np.array([0, 0, 0, 1, 0, 1, 1, 0], np.float32)  # the flag at the first step of each episode but the first
SHAPE = (13, 13, 1)


def make(family=PolicyAndBaseline, **settings):
    observation = Frames(SHAPE) if family is SharedVisionNetwork else Encoding(1, one_hot=False)
    return family(observation, Encoding(ACTIONS, one_hot=True), Categorical(ACTIONS), units=UNITS, **settings)


def trial_inputs(family=PolicyAndBaseline, ends=ENDS):
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(STEPS, *SHAPE), dtype=np.uint8)
    return TrialObservation(
        obs=frames if family is SharedVisionNetwork else rng.normal(size=(STEPS, 1)).astype(np.float32),
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
        x = networks.embed(weights, seen)
        state = jax.tree.map(np.asarray, kind.step(weights.cell, ACTIVATIONS["tanh"], state, x))
        expected.append(kind.output(state) @ weights.head[:, 0] + weights.head_bias[0])
    np.testing.assert_allclose(networks.values(params, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "cell", "trial_steps"),
    [
        (PolicyAndBaseline, "gru", 0),
        (PolicyAndBaseline, "lstm", 9),
        (SharedVectorNetwork, "lstm", 0),
        (SharedVisionNetwork, "gru", 9),
    ],
)
def test_acting_learning_and_lanes_start_alike(family, cell, trial_steps):
    """The agent's steps are the learner's unroll; in a lane each trial starts as it would alone."""
    settings = {"cell": cell, "trial_steps": trial_steps, "learned_initial_state": True, "episodic_units": 0.5}
    networks = make(family, **settings)
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
    lane = lane._replace(first=np.eye(STEPS, dtype=np.float32)[[0, 0]].ravel())
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


@pytest.mark.parametrize("network", ["planner", "per_arm"])
@pytest.mark.parametrize(
    ("field", "value", "off"), [("learned_initial_state", True, "false"), ("episodic_units", 0.5, "0")]
)
def test_networks_without_one_recurrent_layer_refuse_them(network, field, value, off):
    with pytest.raises(ValueError, match=f"^{field} must be {off} with network {network}, got {value}$"):
        TrainConfig(network=network, **{field: value})


def test_a_config_says_where_networks_start():
    networks = make_networks(BernoulliBandit(2), TrainConfig(learned_initial_state=True, episodic_units=0.25))
    assert (networks.learned_initial_state, networks.episodic_units) == (True, 0.25)
    assert networks.policy_network.learned_initial_state
