"""Training on the real engine is what it is on the device; without ViZDoom one line says what to install."""

import json
import sys

import jax
import numpy as np
import pytest
from command import refused, run

from rl2jax.engines.vizdoom.mazes import VizdoomMazes
from rl2jax.envs.names import parse_task
from rl2jax.training.learner import Learner
from rl2jax.training.on_engine import EngineLearner
from rl2jax.training.presets import preset_for
from rl2jax.training.teacher import teacher_of
from rl2jax.trials.collect import make_collect

TASK = parse_task("maze:size=3,t=12,mazes=4,n=2")
CONFIG = preset_for(TASK, "quick").replace(
    {"batch.size": 96, "network.units": 8, "iterations": 2, "slow_rl.minibatch_trials": 2}
)


@pytest.mark.parametrize("algorithm", [pytest.param("ppo", marks=pytest.mark.slow), "imitation"])
def test_the_engine_plays_the_batch_that_the_device_would(algorithm):
    """Same keys, same mazes; as no frame differs in a way that matters to the policy, same trials."""
    pytest.importorskip("vizdoom")
    config = CONFIG.replace(
        {"slow_rl": algorithm} | ({"imitation.teacher": "explorer"} if algorithm == "imitation" else {})
    )
    learner = Learner(TASK.env, config, teacher_of(TASK, config))
    params = jax.jit(learner.networks.init)(jax.random.key(0))
    on_device = jax.jit(make_collect(learner.trial, learner.agent_of, learner.num_trials))
    expected = on_device(jax.random.key(1), params)
    with VizdoomMazes(TASK.env, num_workers=1, games_per_worker=2) as games:
        played = EngineLearner(learner, games).collect(jax.random.key(1), params)
    assert jax.tree.structure(played) == jax.tree.structure(expected)
    assert np.array_equal(played.action * played.mask, expected.action * expected.mask)
    for field in ("reward", "episode_done", "mask", "task_features"):
        np.testing.assert_allclose(getattr(played, field), getattr(expected, field), atol=1e-6)
    different = np.abs(played.trial_obs.obs.astype(int) - np.asarray(expected.trial_obs.obs))[played.mask > 0]
    assert different.mean() < 0.5


def test_games_of_other_mazes_are_refused():
    pytest.importorskip("vizdoom")
    other = parse_task("maze:size=3,t=12,mazes=5,n=2").env
    learner = Learner(TASK.env, CONFIG)
    params = jax.jit(learner.networks.init)(jax.random.key(0))
    with VizdoomMazes(other, 1, 1) as games, pytest.raises(ValueError, match="env must be"):
        EngineLearner(learner, games).collect(jax.random.key(1), params)


@pytest.mark.parametrize(
    ("settings", "message"),
    [("map=1", "observation must be frame in ViZDoom"), ("redraw=1", "redraw_start must be False in ViZDoom")],
)
def test_mazes_that_vizdoom_cannot_play_are_refused_before_a_folder_is_made(settings, message, tmp_path, capsys):
    out = tmp_path / "run"
    refused(capsys, ["train", f"maze:size=3,{settings}", "--engine", "vizdoom", "--out", out], message)
    assert not out.exists()


@pytest.mark.slow
def test_training_on_the_engine_follows_training_on_the_device(tmp_path):
    pytest.importorskip("vizdoom")
    returns = []
    for engine in ("device", "vizdoom"):
        settings = ["--preset", "quick", "--set", "batch.size=96", "--set", "network.units=8", "--iterations", "2"]
        assert run(["train", TASK.name, *settings, "--engine", engine, "--out", tmp_path / engine]) == 0
        rows = (tmp_path / engine / "metrics.jsonl").read_text().splitlines()
        returns.append([json.loads(row)["mean_return"] for row in rows])
    np.testing.assert_allclose(returns[0], returns[1], atol=0.5)
    assert returns[0][0] == pytest.approx(returns[1][0], abs=1e-5)
    assert run(["evaluate", tmp_path / "vizdoom", "--num-tasks", 5, "--engine", "vizdoom"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "maze:size=3", "--engine", "doom"], "--engine must be device, vizdoom or package"),
        (["train", "bandit:k=2,n=4", "--engine", "vizdoom"], "--engine vizdoom: it plays mazes only"),
        (["train", "maze:size=3", "--engine", "vizdoom", "--num-seeds", "2"], "trains one agent in one process"),
        (["twin-check", "mdp:n=3"], "--engine vizdoom: it plays mazes only"),
    ],
)
def test_bad_engines_are_refused(arguments, message, tmp_path, capsys):
    if arguments[0] == "train":
        arguments = [*arguments, "--out", str(tmp_path / "run")]
    refused(capsys, arguments, message)


def test_without_vizdoom_a_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    arguments = ["train", "maze:size=3", "--engine", "vizdoom", "--out", str(tmp_path / "run")]
    refused(capsys, arguments, "pip install 'rl2jax[vision]'")
    assert not (tmp_path / "run").exists()
