"""Memories that a user brings: what unrolls is what steps, errors say what is missing, and the page's programs run."""

import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl2jax.cli import main as cli
from rl2jax.envs import BernoulliBandit
from rl2jax.networks.cells import RecurrentLayer
from rl2jax.networks.memory import OwnMemory
from rl2jax.networks.settings import Recurrent
from rl2jax.networks.unroll import Lane
from rl2jax.runs.run import create_run
from rl2jax.settings import InputError, UserError
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset
from rl2jax.types import TrialObservation

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "networks.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
INPUTS, UNITS, STEPS = 4, 6, 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the page's module in it, which can be imported."""
    folder = tmp_path_factory.mktemp("own")
    (module,) = (code for _, code in BLOCKS if code.startswith("# memories.py"))
    (folder / "memories.py").write_text(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield folder
        sys.modules.pop("memories", None)


def declared(memory):
    """(weights, memory) off the initial point."""

    class Declared(nn.Module):
        @nn.compact
        def __call__(self):
            return memory.declare_start(self, memory.declare(self, INPUTS))

    params = jax.jit(Declared().init)(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    return Declared().apply(params), memory


MEMORIES = {
    "gru": lambda: RecurrentLayer(UNITS),
    "lstm": lambda: RecurrentLayer(UNITS, cell="lstm", activation="tanh", learned_initial_state=True),
    "layer norm": lambda: RecurrentLayer(UNITS, cell="layer_norm_gru", episodic_units=0.5),
    "flax": lambda: OwnMemory(nn.OptimizedLSTMCell(UNITS), INPUTS),
    "minGRU": lambda: OwnMemory(importlib.import_module("memories").MinGRU(UNITS), INPUTS),
    "transformer": lambda: OwnMemory(importlib.import_module("memories").Transformer(UNITS, window=3), INPUTS),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_unrolling_is_stepping_with_resets(name, folder):
    """Where `first` is 1 the state is the start's again; any pattern of trials, known when traced or not."""
    weights, memory = declared(MEMORIES[name]())
    step, unroll = jax.jit(memory.step), jax.jit(memory.unroll)

    @given(rest=st.lists(st.integers(0, 1), min_size=STEPS - 1, max_size=STEPS - 1), seed=st.integers(0, 9))
    @settings(deadline=None, max_examples=10)
    def check(rest, seed):
        first = np.array([1, *rest], np.float32)
        x = np.random.default_rng(seed).normal(size=(STEPS, INPUTS)).astype(np.float32)
        begun = state = memory.start(weights)
        expected = []
        for time in range(STEPS):
            state, y = step(weights, begun if first[time] else state, x[time])
            expected.append(y)
        np.testing.assert_allclose(unroll(weights, begun, x, first), np.stack(expected), rtol=1e-4, atol=1e-5)
        known = memory.unroll(weights, begun, x, first) if seed == 0 else np.stack(expected)
        np.testing.assert_allclose(known, np.stack(expected), rtol=1e-4, atol=1e-5)

    check()


@pytest.mark.parametrize("target", ["flax.linen:GRUCell", "memories:MinGRU", "memories:Transformer"])
@pytest.mark.parametrize("changes", [{}, {"network.shared_trunk": True, "network.time_input": True}], ids=str)
def test_acting_learning_and_lanes_say_the_same(target, changes, folder):
    config = TrainConfig().replace({"network": target, "network.units": 5, "trial.num_episodes": STEPS, **changes})
    networks = make_networks(BernoulliBandit(3), config)
    assert networks.shares_trunk == bool(changes)
    params = networks.init(jax.random.key(0))["policy"]
    assert {"memory", "head"} <= set(params["params"])
    rng = np.random.default_rng(0)
    seen = TrialObservation(
        obs=np.zeros((STEPS, 1), np.float32),
        prev_action=rng.integers(3, size=STEPS),
        prev_reward=rng.normal(size=STEPS).astype(np.float32),
        prev_done=np.ones(STEPS, np.float32),
    )

    @jax.jit
    def acted(params):
        agent = networks.agent(params)

        def step(state, trial_obs):
            state, _, info = agent.step(jax.random.key(0), state, trial_obs)
            return state, info.dist_params

        return jax.lax.scan(step, agent.init(jax.random.key(0)), seen)[1]

    unrolled = jax.jit(networks.dist_params)(params, seen)
    np.testing.assert_allclose(acted(params), unrolled, rtol=1e-4, atol=1e-5)
    assert np.ptp(unrolled) > 1e-3
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), seen)
    lane = Lane(twice, np.tile(np.eye(1, STEPS, dtype=np.float32)[0], 2))
    expected = np.concatenate([unrolled, unrolled])
    np.testing.assert_allclose(jax.jit(networks.dist_params)(params, lane), expected, rtol=1e-4, atol=1e-5)


# --- Errors, in one line.


@dataclass(frozen=True)
class Stateless:
    def init(self, key, input_size):
        return {}

    def step(self, weights, state, x):
        return state, x


@dataclass(frozen=True)
class Growing(Stateless):
    def start(self, weights):
        return jnp.zeros(1)

    def step(self, weights, state, x):
        return jnp.append(state, 0.0), x

    def unroll(self, weights, state, x, first):
        return x


@dataclass(frozen=True)
class Unready(Growing):
    def step(self, weights, state, x):
        return state, x @ weights["matrix"]


@dataclass(frozen=True)
class Demanding(Growing):
    depth: int


class Plain(nn.Module):
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Stateless, "Stateless, a SequenceModel, lacks start, unroll"),
        (Plain(), "a Flax module, lacks initialize_carry"),
        (Growing(), "a step must return a state like that of its start"),
        (Unready(), "a step with 6 inputs fails: 'matrix'"),
        (Demanding, "cannot be made of settings.* 'depth'"),
        ("flax.linen:Nothing", "has no 'Nothing'"),
        ("nowhere.at_all:Cell", "cannot be imported"),
        ("grru", "must be one of recurrent"),
    ],
    ids=str,
)
def test_what_is_missing_is_said_in_one_line(network, said):
    with pytest.raises(InputError, match=said) as raised:
        make_networks(BernoulliBandit(3), TrainConfig().replace({"network": network}))
    assert "\n" not in str(raised.value)


def test_a_list_is_no_network():
    with pytest.raises(InputError, match=r"network must be a name, settings, or an object of one.s own"):
        TrainConfig().replace({"network": [1]})


def test_a_baseline_that_is_told_needs_the_packages_own():
    config = TrainConfig().replace({"network": nn.GRUCell(3), "baseline.sees_task": True})
    with pytest.raises(InputError, match=r"baseline\.sees_task must be false"):
        make_networks(BernoulliBandit(3), config)


# --- Names.


def test_equal_objects_have_one_name_and_others_another():
    one, same, other = (TrainConfig().replace({"network": nn.GRUCell(units)}) for units in (3, 3, 4))
    assert one == same
    assert one != other
    assert hash(one) == hash(same)
    assert TrainConfig().replace({"network": nn.GRUCell}).network.target == "flax.linen.recurrent:GRUCell"
    assert TrainConfig().replace({"network": Recurrent(units=3)}).get("network.units") == 3


def test_what_cannot_be_found_again_is_not_kept_on_disk(tmp_path):
    from rl2jax.envs.names import parse_task

    task = parse_task("bandit:k=3,n=5")
    tiny = {"batch.size": 60, "iterations": 1, "network.units": 4}
    config = preset("quick", num_episodes=5).replace({**tiny, "network": nn.GRUCell(3)})
    with pytest.raises(UserError, match=r"GRUCell cannot be found again.* package\.module:object"):
        create_run(tmp_path / "run", task, config, seed=0)
    assert not (tmp_path / "run").exists()
    found = config.replace({"network": nn.GRUCell})
    assert TrainConfig.from_json(found.to_json()) == found


# --- The page.


@pytest.mark.parametrize("slow_rl", ["trpo", "ppo", "a2c"])
def test_every_algorithm_learns_in_lanes(slow_rl, folder):
    changes = {"network": "memories:MinGRU", "network.units": 4, "batch.lane_steps": 12, "batch.size": 48}
    config = TrainConfig().replace({"slow_rl": slow_rl, "trial.num_episodes": 5, "iterations": 1, **changes})
    learner = Learner(BernoulliBandit(3), config)
    state = learner.init(jax.random.key(0))
    after, metrics = jax.jit(learner.train_step)(state)
    assert metrics.finite == 1
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after.params, state.params)
    assert moved["baseline"]["params"]["memory"]["gate"] > 0


def test_the_page_runs(folder, capsys):
    """Its Python and its commands, in order, two iterations each."""
    space = {"__name__": "page"}
    for language, code in BLOCKS:
        if language == "python" and not code.startswith("# memories.py"):
            exec(compile(code.replace("iterations=20", 'iterations=2, **{"batch.size": 200}'), "page", "exec"), space)
        elif language == "sh":
            for line in code.splitlines():
                command = re.sub(r"--iterations 20", "--iterations 2 --set batch.size=200", line)
                with pytest.raises(SystemExit) as ended:
                    cli.main(shlex.split(command.replace("2000", "40"))[1:])
                assert ended.value.code in (0, None), line
    assert capsys.readouterr().out.count("Transformer(units=16") == 1
