"""Trials after one another in lanes, or with one first step for all, say what they say side by side."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl2jax import devices as devices_module
from rl2jax.envs import BernoulliBandit
from rl2jax.networks import recurrent as networks_module
from rl2jax.networks import settings as settings_module
from rl2jax.networks.unroll import Lane, as_lane, unroll_trials
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.update import values_over_trials
from rl2jax.trials import rollout as rollout_module
from rl2jax.trials.rollout import rollout, steps_apart
from rl2jax.types import TRIALS_AXIS, TrialObservation

CONFIG = TrainConfig().replace(
    {"trial.num_episodes": 7, "batch.size": 7 * 13, "network.units": 8, "baseline.minibatch_trials": 5, "iterations": 2}
)
CELLS = [
    {},
    {"network.cell": "lstm"},
    {"network.time_input": True},
    {"network.learned_initial_state": True},
    {"network.episodic_units": 0.5},
]


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr(networks_module, "cores_per_device", lambda: 1)


def batch_of(config: TrainConfig, num_trials: int):
    """(networks, params, trials' observations)."""
    env = BernoulliBandit(3)
    networks, trial = make_networks(env, config), make_trial(env, config)
    params = networks.init(jax.random.key(0))
    # An initial state of zeros, and gates without biases, would hide what a lane carries over.
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    task = env.sample_params(jax.random.key(2))
    keys = jax.random.split(jax.random.key(3), num_trials)
    play = jax.vmap(lambda key: rollout(key, networks.agent(params["policy"]), trial, task), out_axes=TRIALS_AXIS)
    return networks, params, play(keys).trial_obs


@pytest.mark.parametrize("changes", CELLS, ids=str)
@pytest.mark.parametrize("abreast", [4, 5])
def test_outputs_and_derivatives_are_those_of_trials_side_by_side(changes, abreast):
    """13 trials in 3 lanes are filled up by 2."""
    networks, params, trial_obs = batch_of(CONFIG.replace(changes), 13)

    def outputs(abreast):
        def of(policy):
            return unroll_trials(networks.dist_params, None, abreast)(policy, trial_obs)

        tangent = jax.tree.map(jnp.cos, params["policy"])
        said, moved = jax.jvp(of, (params["policy"],), (tangent,))
        return said, moved, jax.vjp(of, params["policy"])[1](jnp.sin(said))

    of_both = (jax.jit(outputs, static_argnums=0)(count) for count in (0, abreast))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), *of_both)


@pytest.mark.parametrize(
    "changes", [*CELLS, {"network.episodic_units": 0.5, "network.time_input": True, "network.cell": "lstm"}], ids=str
)
@pytest.mark.parametrize("abreast", [0, 5])
@pytest.mark.parametrize("num_steps", [7, 2, 1])
def test_trials_that_start_alike_say_the_same_by_one_first_step(changes, abreast, num_steps):
    """And have the same derivatives, side by side and in lanes; first_step_flag 1 must not make them forget."""
    config = CONFIG.replace(
        {"trial.num_episodes": num_steps, "batch.size": 13 * num_steps, "trial.first_step_flag": 1.0, **changes}
    )
    networks, params, trial_obs = batch_of(config, 13)
    assert networks.starts_alike

    def outputs(abreast, starts_alike):
        def of(policy):
            return unroll_trials(networks.dist_params, None, abreast, starts_alike)(policy, trial_obs)

        tangent = jax.tree.map(jnp.cos, params["policy"])
        said, moved = jax.jvp(of, (params["policy"],), (tangent,))
        return said, moved, jax.vjp(of, params["policy"])[1](jnp.sin(said))

    each, alike = (jax.jit(outputs, static_argnums=(0, 1))(*layout) for layout in ((0, False), (abreast, True)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), each, alike)


@pytest.mark.parametrize("abreast", [0, 4])
def test_the_first_step_is_taken_once_whatever_a_trial_s_own_record_says(abreast):
    """The first trial's is everybody's: what the others have there is never read."""
    networks, params, trial_obs = batch_of(CONFIG, 12)
    altered = trial_obs._replace(prev_reward=trial_obs.prev_reward.at[0, 1:].set(9.0))
    said = unroll_trials(networks.dist_params, None, abreast, True)
    np.testing.assert_array_equal(said(params["policy"], trial_obs), said(params["policy"], altered))


def test_trials_that_come_in_lanes_share_no_start():
    networks, params, trial_obs = batch_of(CONFIG, 6)
    lanes = Lane(trial_obs, jnp.zeros((7, 6)).at[jnp.array([0, 3])].set(1.0))
    each, alike = (unroll_trials(networks.dist_params, None, 0, way)(params["policy"], lanes) for way in (False, True))
    np.testing.assert_array_equal(each, alike)


@given(num_trials=st.integers(1, 12), abreast=st.integers(1, 14))
@settings(deadline=None, max_examples=15)
def test_any_number_of_trials_comes_back_in_order(num_trials, abreast):
    """Whatever the lanes' number, and filled up or not."""
    reward = jnp.arange(3.0 * num_trials).reshape(3, num_trials)
    trial_obs = TrialObservation(reward[..., None], jnp.zeros((3, num_trials), jnp.int32), reward, reward)

    def function(params, lane):
        trial_obs = as_lane(lane).trial_obs
        return params * trial_obs.prev_reward, trial_obs.obs

    doubled, obs = unroll_trials(function, None, abreast)(2.0, trial_obs)
    np.testing.assert_array_equal(doubled, 2 * reward)
    np.testing.assert_array_equal(obs[..., 0], reward)


def test_a_baseline_that_sees_the_task_sees_one_in_each_lane(monkeypatch):
    monkeypatch.setattr(networks_module, "_UNITS_OF_CORE", 4 * CONFIG.network.units)
    config = CONFIG.replace({"baseline.sees_task": True})
    networks, params, trial_obs = batch_of(config, 13)
    assert networks.abreast == 4
    features = jax.random.normal(jax.random.key(4), (13, 3))
    expected = [
        networks.values(params["baseline"], jax.tree.map(lambda x, i=i: x[:, i], trial_obs), features[i])
        for i in range(13)
    ]
    got = values_over_trials(networks)(params["baseline"], trial_obs, features)
    np.testing.assert_allclose(got, np.stack(expected, axis=1), rtol=1e-5, atol=1e-6)


# With less damping conjugate gradients magnify rounding.
UPDATES = {"trpo": {"trpo.cg_damping": 0.1}, "ppo": {"ppo.minibatch_trials": 5}, "a2c": {}}


@pytest.mark.parametrize("changes", [{}, {"network.shared_trunk": True}, {"baseline.sees_task": True}], ids=str)
@pytest.mark.parametrize("algorithm", ["trpo", "ppo", "a2c"])
def test_an_iteration_learns_the_same_where_trials_start_alike(algorithm, changes, monkeypatch):
    config = CONFIG.replace({"slow_rl": algorithm, **UPDATES[algorithm], **changes})
    learned = []
    for alike in (True, False):
        monkeypatch.setattr(settings_module, "starts_alike", lambda trial, alike=alike: alike)
        monkeypatch.setattr(rollout_module, "starts_alike", lambda trial, alike=alike: alike)
        learner = Learner(BernoulliBandit(3), config)
        assert learner.networks.starts_alike == alike
        assert steps_apart(learner.trial) == 2 * alike
        learned.append(jax.jit(learner.train_step)(learner.init(jax.random.key(0))))
    (one, its_metrics), (other, metrics) = learned
    np.testing.assert_allclose(its_metrics.mean_return, metrics.mean_return)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one.params, other.params)


@pytest.mark.parametrize("algorithm", ["trpo", "ppo"])
def test_an_iteration_learns_the_same_in_lanes(algorithm, monkeypatch):
    """13 trials fill no lanes evenly, nor do minibatches of 4."""
    fraction = {"trpo.fisher_fraction": 0.5} if algorithm == "trpo" else {}
    config = CONFIG.replace({"slow_rl": algorithm, **UPDATES[algorithm], **fraction})
    learned = []
    for abreast in (13, 4):
        monkeypatch.setattr(networks_module, "_UNITS_OF_CORE", abreast * config.network.units)
        learner = Learner(BernoulliBandit(3), config)
        assert not learner.networks.shares_trunk
        assert learner.networks.abreast == abreast
        learned.append(jax.jit(learner.train_step)(learner.init(jax.random.key(0))))
    (one, its_metrics), (other, metrics) = learned
    np.testing.assert_allclose(its_metrics.kl, metrics.kl, rtol=1e-2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one.params, other.params)


@pytest.mark.parametrize(("cores", "devices", "abreast"), [(1, 1, 256), (2, 1, 512), (2, 2, 256), (2, 8, 256)])
def test_a_core_has_as_many_as_it_caches(cores, devices, abreast, monkeypatch):
    monkeypatch.setattr(networks_module, "cores_per_device", devices_module.cores_per_device)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    assert make_networks(BernoulliBandit(3), CONFIG.replace({"network.units": 256})).abreast == abreast


def test_only_a_processor_has_lanes(monkeypatch):
    networks = make_networks(BernoulliBandit(3), CONFIG)
    assert networks.abreast > 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert networks.abreast == 0
