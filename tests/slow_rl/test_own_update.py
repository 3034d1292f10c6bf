"""A user's own update: from Python and the command line, with runs on disk, resumed, in seeds and in sweeps."""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import own_updates
import pytest
from helpers import continue_to
from own_updates import VTrace, nonsense, reinforce, v_trace

import rl2jax
from rl2jax.cli.main import main
from rl2jax.envs import BernoulliBandit
from rl2jax.runs.run import load_state, open_run
from rl2jax.settings import InputError
from rl2jax.slow_rl.advantages import generalised_advantages
from rl2jax.slow_rl.base import OwnSlowRL
from rl2jax.training import presets
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner

PAGE = (Path(__file__).parents[2] / "docs" / "howto" / "slow_rl.md").read_text()
RLOO_CODE, PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ENV = BernoulliBandit(3)
CONFIG = TrainConfig().replace(
    {"trial.num_episodes": 4, "iterations": 2, "batch.size": 96, "network.units": 4, "baseline.epochs": 1}
)
SMALL = ["iterations=2", "batch.size=80", "batch.trials_per_task=4", "network.units=4", "baseline.epochs=1"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the page's module in it."""
    (tmp_path / "rloo.py").write_text(RLOO_CODE)
    (tmp_path / "mine.py").write_text(Path(own_updates.__file__).read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("rloo", "mine"):
        sys.modules.pop(name, None)


def ran(*words):
    """`rl2jax` with these words ends well."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code in (0, None)


def trained(*words):
    """`rl2jax train` of a small bandit."""
    ran("train", "bandit:k=3,n=4", *(word for setting in SMALL for word in ("--set", setting)), *words)


def leaves(state):
    return [np.asarray(x) for x in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))]


def test_the_page_s_update_is_short_and_by_hand(folder):
    assert len(RLOO_CODE.splitlines()) < 60
    import rloo

    reward = jnp.array([[1.0, 0.0, 2.0, 5.0], [1.0, 0.0, 0.0, 1.0]])  # returns 2, 0 of one task, 2, 6 of another
    np.testing.assert_allclose(rloo.leave_one_out(reward, 2), [[2.0, -2.0, -4.0, 4.0]] * 2)


def test_the_page_s_python_runs(folder, monkeypatch, capsys):
    tiny = presets.PRESETS["quick"].replace({"batch.size": 200, "network.units": 4})
    monkeypatch.setitem(presets.PRESETS, "quick", tiny)
    exec(PYTHON.replace('"iterations": 20', '"iterations": 2'), {})
    assert re.match(r"leave one out: \d\.\d\d", capsys.readouterr().out)


def test_the_page_s_update_learns(folder):
    """Two arms, 6 pulls: chance is 3."""
    from rloo import RLOO

    changes = {"trial.num_episodes": 6, "iterations": 60, "batch.size": 1200, "batch.trials_per_task": 4}
    config = CONFIG.replace({**changes, "network.units": 8, "network.memory_horizon": 6})
    state, metrics = rl2jax.train(BernoulliBandit(2), config, jax.random.key(0), slow_rl=RLOO(learning_rate=0.03))
    assert np.mean(metrics.mean_return[-10:]) > 3.15
    assert state.slow_rl.iteration == 60
    before = Learner(BernoulliBandit(2), config.replace(slow_rl=RLOO)).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.params["baseline"], before.params["baseline"])  # not fitted


@pytest.mark.parametrize(("name", "section"), [("rloo:RLOO", "rloo"), ("mine:VTrace", "vtrace")])
def test_runs_on_disk_resume_to_the_same_bits(folder, name, section):
    own = ["--set", f"slow_rl={name}", "--set", f"{section}.learning_rate=0.02"]
    trained(*own, "--out", "whole")
    trained(*own, "--set", "iterations=1", "--out", "parts")
    continue_to(folder / "parts", 2)
    sys.modules.pop(name.split(":")[0])  # as in a new process
    ran("train", "bandit:k=3,n=4", "--resume", "--out", "parts")
    whole, parts = (open_run(folder / name) for name in ("whole", "parts"))
    assert (parts.config.get("slow_rl"), parts.config.get(f"{section}.learning_rate")) == (name, 0.02)
    for again, before in zip(leaves(load_state(parts)), leaves(load_state(whole)), strict=True):
        np.testing.assert_array_equal(again, before)


def test_settings_and_seeds_in_one_program(folder):
    own = ["--set", "slow_rl=rloo:RLOO", "--vary", "rloo.learning_rate=0.01,0.03", "--num-seeds", "2"]
    trained(*own, "--out", "many")
    found = {path.parent.relative_to(folder / "many") for path in (folder / "many").glob("*/*/run.json")}
    assert len(found) == 4
    alone = open_run(folder / "many" / "rloo.learning_rate=0.03" / "seed-1")
    state, _ = rl2jax.train(ENV, alone.config, jax.random.key(1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), load_state(alone).params, state.params
    )


def test_seeds_and_sweeps_in_python():
    keys = jnp.stack([jax.random.key(3)] * 2)
    state, _ = rl2jax.train(ENV, CONFIG, keys[0], slow_rl=VTrace)
    swept, _ = rl2jax.train_sweep(ENV, CONFIG, keys, {"vtrace.most": np.float32([1.0, 0.5])}, slow_rl=VTrace)
    seeds, _ = rl2jax.train_seeds(ENV, CONFIG, keys, slow_rl=VTrace())
    for many in (swept, seeds):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-6), many.params, state.params)
    assert any((x[0] != x[1]).any() for x in jax.tree.leaves(swept.params["policy"]))


def test_a_function_is_an_update_too():
    config = CONFIG.replace(slow_rl=reinforce)
    assert config.slow_rl == OwnSlowRL(target="own_updates:reinforce")
    assert TrainConfig.from_json(config.to_json()) == config
    assert CONFIG.replace(slow_rl=VTrace).slow_rl == VTrace()  # nothing of TRPO's steps
    changed = config.replace({"slow_rl.learning_rate": 0.1})
    assert changed.replace(slow_rl=reinforce) == changed
    state, metrics = rl2jax.train(ENV, CONFIG, jax.random.key(0), slow_rl="own_updates:reinforce")
    assert state.slow_rl == ()
    assert metrics.finite.all()
    assert (metrics.grad_norm > 0).all()


def test_what_is_no_update_is_refused():
    with pytest.raises(InputError, match="what own_updates:nonsense returns must be a SlowRL"):
        Learner(ENV, CONFIG.replace(slow_rl=nonsense)).init(jax.random.key(0))
    with pytest.raises(InputError, match="slow_rl must be a name, settings, or an object of one's own, got 3"):
        CONFIG.replace(slow_rl=3)
    with pytest.raises(InputError, match="slow_rl 'own_updates:none': module own_updates has no 'none'"):
        CONFIG.replace(slow_rl="own_updates:none")
    with pytest.raises(InputError, match=r"setting of slow_rl own_updates:VTrace must be one of .*got 'clip_range'"):
        CONFIG.replace({"slow_rl": VTrace, "slow_rl.clip_range": 0.1})


def test_v_trace_of_the_policy_that_collected_the_batch_is_gae_of_lambda_1():
    """Where all ratios are 1 the targets are the returns to the trial's end."""
    reward, value = np.random.default_rng(0).normal(size=(2, 6)).astype(np.float32)
    targets = v_trace(jnp.zeros(6), reward, value, 0.9, 1.0)
    expected = value + generalised_advantages(jnp.asarray(reward), jnp.asarray(value), 0.9, 1.0)
    np.testing.assert_allclose(targets, expected, rtol=1e-4, atol=1e-5)
