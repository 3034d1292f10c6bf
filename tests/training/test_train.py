"""train(): over seeds, in chunks, stopped and continued, broken off, and whether anything is learned.

All of it on a task distribution of the test's own, with one small compiled program per algorithm.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rl2jax import Metrics, TrainConfig, train
from rl2jax.envs import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.training.learner import Learner, train_chunk
from rl2jax.training.loop import ChunkReport, NonFiniteError
from rl2jax.training.update import TrainState

# --- A distribution of the user's own: nothing of it is registered anywhere.


@struct.dataclass
class PayingArm(EnvParams):
    arm: Any = struct.field(kw_only=True)
    reward: Any = struct.field(kw_only=True)
    max_steps_in_episode: int = 2


@dataclass(frozen=True)
class WhichArmPays(TaskDistribution[EnvState, PayingArm]):
    """One of two arms pays 1 at every pull, two pulls an episode; in one task of 4000 it pays infinity."""

    episode_length: int = 2

    def sample_params(self, key):
        key_arm, key_reward = jax.random.split(key)
        reward = jnp.where(jax.random.uniform(key_reward) > 1 - 1 / 4000, jnp.inf, 1.0)
        return PayingArm(arm=jax.random.randint(key_arm, (), 0, 2), reward=reward)

    def reset_env(self, key, params):
        return jnp.zeros(1), EnvState(time=jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        reward = jnp.where(action == params.arm, params.reward, 0.0)
        return jnp.ones(1), EnvState(time=state.time + 1), reward, jnp.zeros((), bool), {}

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, (1,), jnp.float32)


ENV = WhichArmPays()
RANDOM, BEST = 5.0, 9.5  # of 10 pulls: half of them pay, or all but the first half of the time

SETTINGS = {
    "trial.num_episodes": 5,
    "iterations": 24,
    "batch.size": 1000,
    "objective.gae_lambda": 0.9,
    "slow_rl.max_kl": 0.05,
    "network.units": 8,
    "baseline.epochs": 3,
    "baseline.minibatch_trials": 25,
    "baseline.learning_rate": 1e-2,
}
FIRST_ORDER = {
    "ppo.clip_range": 0.2,
    "slow_rl.learning_rate": 1e-2,
    "slow_rl.epochs": 3,
    "slow_rl.minibatch_trials": 25,
}
CONFIGS = {
    # With the usual damping the Fisher matrix of so few steps is nearly singular: conjugate gradients then
    # magnify rounding, and two compilations of the same thing differ visibly.
    "trpo": TrainConfig().replace({"slow_rl": "trpo", "trpo.cg_damping": 0.1, **SETTINGS}),
    "ppo": TrainConfig().replace({"slow_rl": "ppo", **FIRST_ORDER, **SETTINGS}),
}
GOOD, BAD = 0, 2  # seeds without and with an infinite reward in 24 batches


def host(tree):
    """Numpy copies: a state that a callback sees is overwritten by the next chunk."""

    def copy(x):
        return np.array(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)

    return jax.tree.map(copy, tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, host(a), host(b))


def all_finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(host(tree)))


def until(iteration):
    """A callback that ends training after this iteration."""
    return lambda report: int(report.state.iteration) == iteration


class Trained(NamedTuple):
    """One run to its end, in chunks of one iteration."""

    config: TrainConfig
    states: list[TrainState]  # after each chunk, on the host
    reports: list[ChunkReport]
    state: TrainState
    metrics: Metrics
    traces: int  # of train_step


@pytest.fixture(scope="module", params=["trpo", "ppo"])
def trained(request):
    config = CONFIGS[request.param]
    states, reports, traces = [], [], []
    original = Learner.train_step

    def callback(report):
        states.append(host(report.state))
        reports.append(report._replace(state=None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "train_step", lambda *args: traces.append(1) or original(*args))
        state, metrics = train(ENV, config, jax.random.key(GOOD), callback=callback)
    return Trained(config, states, reports, state, metrics, len(traces))


@pytest.fixture(scope="module")
def stopped(trained):
    """(state, metrics) of the same run, ended by its callback after iteration 2."""
    return train(ENV, trained.config, jax.random.key(GOOD), callback=until(2))


# --- What training does.


def test_the_game_is_learned(trained):
    """Random, or any habit that ignores rewards, makes 5 of 10; with a memory of one step 9.5."""
    first, last = trained.metrics.mean_return[0], trained.metrics.mean_return[-5:].mean()
    assert abs(first - RANDOM) < 1.0
    assert BEST - 0.5 < last < BEST + 0.2


def test_metrics_mean_what_they_say(trained):
    """Returns within the game's range, entropies of 2 actions, KLs within the limit, norms as in numpy."""
    config, metrics = trained.config, trained.metrics
    assert {x.shape for x in metrics} == {(24,)}
    assert ((metrics.mean_return >= 0) & (metrics.mean_return <= 10)).all()
    assert ((metrics.entropy > 0) & (metrics.entropy <= np.log(2) + 1e-6)).all()
    assert ((metrics.kl >= 0) & (metrics.kl <= config.slow_rl.max_kl)).all()
    assert (metrics.surrogate_gain[:5] > 0).all()
    assert (metrics.finite == 1).all()
    assert metrics.explained_variance[-5:].mean() > metrics.explained_variance[0] + 0.1
    policy = jax.tree.leaves(trained.states[-1].params["policy"])
    norm = np.sqrt(sum(np.square(x).sum(dtype=np.float64) for x in policy))
    np.testing.assert_allclose(metrics.param_norm[-1], norm, rtol=1e-5)


@pytest.mark.parametrize("trained", ["trpo"], indirect=True)  # a program of its own: seconds to compile
def test_vmapped_seeds_equal_separate_runs(trained):
    """jit(vmap(train)) over two keys, one scan on the device, is what a key gives alone, chunk by chunk."""
    config = trained.config.replace(iterations=3)
    keys = jnp.stack([jax.random.key(1), jax.random.key(GOOD)])
    state, metrics = host(jax.jit(jax.vmap(lambda key: train(ENV, config, key)))(keys))
    assert (metrics.mean_return[0] != metrics.mean_return[1]).any()
    alone = trained.states[2], jax.tree.map(lambda x: x[:3], trained.metrics)
    jax.tree.map(
        lambda vmapped, x: np.testing.assert_allclose(vmapped[1], x, rtol=1e-4, atol=1e-4), (state, metrics), alone
    )


# --- Chunks.


def test_callbacks_report_every_chunk(trained):
    assert [int(state.iteration) for state in trained.states] == list(range(1, 25))
    assert_equal(trained.states[-1], trained.state)
    assert_equal(jax.tree.map(lambda *x: np.concatenate(x), *(r.metrics for r in trained.reports)), trained.metrics)
    for report in trained.reports:  # 100 trials of 10 steps, one iteration
        np.testing.assert_allclose(report.steps_per_second * report.seconds, 1000)


def test_training_again_is_not_traced_again(monkeypatch):
    traces, original = [], Learner.train_step
    monkeypatch.setattr(Learner, "train_step", lambda *args: traces.append(1) or original(*args))
    config = CONFIGS["ppo"].replace({"iterations": 1, "network.units": 4, "batch.size": 100})
    for seed in range(3):
        train(ENV, config, jax.random.key(seed))
    assert len(traces) == 1


def test_all_chunks_are_traced_and_compiled_once(trained):
    assert trained.traces == 1
    compiling = [report.compile_seconds for report in trained.reports]
    assert compiling[0] > 100 * max(compiling[1:])


def test_returning_true_ends_training_there(trained, stopped):
    state, metrics = stopped
    assert_equal(state, trained.states[1])
    assert_equal(metrics, jax.tree.map(lambda x: x[:2], trained.metrics))


def test_continuing_equals_not_having_stopped(trained, stopped):
    """Bit for bit, in the state and in the metrics; and the state that was passed in can be used again."""
    before = host(stopped[0])
    state, metrics = train(ENV, trained.config, jax.random.key(9), callback=until(4), state=stopped[0])
    assert_equal(state, trained.states[3])
    assert_equal(metrics, jax.tree.map(lambda x: x[2:4], trained.metrics))
    assert_equal(stopped[0], before)


def test_nothing_is_left_to_do_at_the_last_iteration(trained):
    """Continuing a run that has all its iterations returns it, without metrics."""
    state, metrics = train(ENV, trained.config, jax.random.key(9), callback=until(1), state=trained.state)
    assert_equal(state, trained.state)
    assert {x.shape for x in metrics} == {(0,)}


# --- Numbers that are not finite.


@pytest.fixture(scope="module")
def broken(trained):
    """Training until the infinite reward comes: (states after good chunks, the error)."""
    states = []
    with pytest.raises(NonFiniteError) as error:
        train(ENV, trained.config, jax.random.key(BAD), callback=lambda report: states.append(host(report.state)))
    return states, error.value


def test_a_non_finite_update_is_refused_and_the_last_state_kept(broken):
    """The error carries the state after the last good iteration, and names the bad one."""
    states, error = broken
    assert 2 <= len(states) < 24  # some iterations were good
    assert_equal(error.state, states[-1])
    assert all_finite(states[-1])
    assert f"iteration {len(states) + 1} " in str(error)


def test_without_callback_the_metrics_tell(trained, broken):
    """On the device the iteration is thrown away: same state, `finite` 0, and so again from there."""
    states, error = broken
    state = jax.tree.map(jnp.copy, error.state)
    for _ in range(2):
        state, metrics = train_chunk(Learner(ENV, trained.config), state, 1)
        assert metrics.finite.tolist() == [0.0]
        assert_equal(state, states[-1])


@pytest.mark.parametrize("trained", ["ppo"], indirect=True)
def test_a_poisoned_optimiser_is_not_finite(trained, stopped):
    """Adam's moments can overflow in an update whose step is then given up: no later update works any more."""
    poison = jax.tree.map(lambda x: x * jnp.nan if x.dtype == jnp.float32 else x, stopped[0].slow_rl)
    state = jax.tree.map(jnp.copy, stopped[0]._replace(slow_rl=poison))
    _, metrics = train_chunk(Learner(ENV, trained.config), state, 1)
    assert metrics.line_search_steps.tolist() == [-1.0]
    assert metrics.finite.tolist() == [0.0]


# --- Settings that do not fit.


@pytest.mark.parametrize("callback", [None, until(1)])
def test_a_batch_smaller_than_a_trial_is_refused_before_anything_runs(callback):
    with pytest.raises(ValueError, match=r"batch.size must be at least one trial \(10 steps.*got 9$"):
        train(ENV, CONFIGS["ppo"].replace({"batch.size": 9}), jax.random.key(0), callback=callback)
