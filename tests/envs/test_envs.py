"""Task distributions: frequencies, moments and dynamics against the definitions, in numpy.

A distribution of the user's own is written, and trained on, in test_train.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rl2jax.agents import random_agent
from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.envs.adapter import GymnaxTasks
from rl2jax.envs.classic_control import random_cartpole, random_pendulum
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

# No test below is about chance: seeds are fixed, and 4 standard errors or p = 0.001 say "as defined".
P_VALUE = 1e-3


def keys(seed, count):
    return jax.random.split(jax.random.key(seed), count)


def episode_flags(terminated, truncated):
    return np.asarray(terminated | truncated)


# --- Bandits.


@pytest.fixture(scope="module")
def bandit_pulls():
    """One bandit of 3 arms, 2000 pulls of each through gymnax's `step`, which resets after every pull."""
    env = BernoulliBandit(3)

    @jax.jit
    def play(key):
        params = env.sample_params(key)
        _, state = env.reset(key, params)

        def pull(state, inputs):
            key, arm = inputs
            obs, state, reward, terminated, truncated, _ = env.step(key, state, arm, params)
            return state, (obs, reward, terminated | truncated)

        arms = jnp.tile(jnp.arange(3), 2000)
        _, pulls = jax.lax.scan(pull, state, (jax.random.split(key, 6000), arms))
        return params.probs, jax.tree.map(lambda x: x.reshape(2000, 3, *x.shape[1:]), pulls)

    return jax.tree.map(np.asarray, play(jax.random.key(0)))


def test_bandit_arms_pay_with_their_probabilities(bandit_pulls):
    """In the first 1000 episodes and in the last 1000: resets leave the task as it is."""
    probs, (_, rewards, _) = bandit_pulls
    assert set(np.unique(rewards)) == {0.0, 1.0}
    assert probs.std() > 0.1  # or else arms could be confused unnoticed
    for half in (rewards[:1000], rewards[1000:]):
        assert (np.abs(half.mean(0) - probs) < 4 * np.sqrt(probs * (1 - probs) / 1000)).all()


def test_bandit_episodes_are_single_pulls_without_observation(bandit_pulls):
    _, (obs, _, episode_done) = bandit_pulls
    assert episode_done.all()
    np.testing.assert_array_equal(obs, 0.0)
    assert BernoulliBandit(3).episode_length == 1


def test_bandit_probabilities_are_independent_and_uniform():
    probs = np.asarray(jax.jit(jax.vmap(BernoulliBandit(2).sample_params))(keys(1, 4000)).probs)
    assert scipy.stats.kstest(probs.ravel(), "uniform").pvalue > P_VALUE
    assert abs(np.corrcoef(probs.T)[0, 1]) < 4 / np.sqrt(4000)


# --- Tabular MDPs.

MDP = TabularMDP(num_states=4, num_actions=2, episode_length=5)


@pytest.fixture(scope="module")
def mdp_tasks():
    """4000 tasks: (reward means, transition probabilities, task features)."""

    def draw(key):
        params = MDP.sample_params(key)
        return params.reward_mean, params.transition_probs, MDP.task_features(params)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys(2, 4000)))


def test_mdp_reward_means_are_normal(mdp_tasks):
    """N(1, 1), each state-action pair on its own."""
    means = mdp_tasks[0].reshape(4000, 8)
    assert scipy.stats.kstest(means.ravel() - 1.0, "norm").pvalue > P_VALUE
    assert np.abs(np.corrcoef(means.T) - np.eye(8)).max() < 4.5 / np.sqrt(4000)


def test_mdp_transitions_are_flat_dirichlet(mdp_tasks):
    """Rows are distributions; one entry is Beta(1, 3), with covariance -1 / 80 to any other of its row."""
    probs = mdp_tasks[1]
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(-1), 1.0, atol=1e-6)
    for entry in range(4):
        assert scipy.stats.kstest(probs[:, 1, 1, entry], "beta", (1, 3)).pvalue > P_VALUE
    covariance = np.cov(probs.reshape(-1, 4).T)
    np.testing.assert_allclose(covariance, (np.eye(4) * 4 - 1) / 80, atol=2e-3)


def test_mdp_task_features_are_the_reward_means(mdp_tasks):
    means, _, features = mdp_tasks
    np.testing.assert_array_equal(features, means.reshape(4000, -1))


def test_mdp_steps_follow_the_task():
    """From each state-action pair: next states by its transition row (chi-square), rewards N(mean, 1)."""
    count = 2000

    @jax.jit
    def draw(key):
        params = MDP.sample_params(key)
        _, start = MDP.reset_env(key, params)

        def one(key, state, action):
            obs, new, reward, terminated, _ = MDP.step_env(key, start.replace(state=state), action, params)
            return obs, new.state, new.time, reward, terminated

        over_keys = jax.vmap(one, (0, None, None))
        steps = jax.vmap(jax.vmap(over_keys, (None, None, 0)), (None, 0, None))(
            jax.random.split(key, count), jnp.arange(4), jnp.arange(2)
        )
        return params.reward_mean, params.transition_probs, steps

    means, probs, (obs, new, time, reward, terminated) = jax.tree.map(np.asarray, draw(jax.random.key(3)))
    np.testing.assert_array_equal(obs, new)
    assert (time == 1).all()
    assert not terminated.any()
    for s, a in np.ndindex(4, 2):
        seen = np.bincount(new[s, a], minlength=4)
        assert scipy.stats.chisquare(seen, probs[s, a] / probs[s, a].sum(dtype=np.float64) * count).pvalue > P_VALUE
        assert scipy.stats.kstest(reward[s, a] - means[s, a], "norm").pvalue > P_VALUE


def test_mdp_episodes_last_exactly_t_steps_and_start_in_state_0():
    @jax.jit
    def play(key):
        params = MDP.sample_params(key)
        obs, state = MDP.reset(key, params)

        def step(state, key):
            obs, state, _, terminated, truncated, _ = MDP.step(key, state, 1, params)
            return state, (obs, terminated, truncated)

        return obs, jax.lax.scan(step, state, jax.random.split(key, 15))[1]

    first, (obs, terminated, truncated) = jax.tree.map(np.asarray, play(jax.random.key(4)))
    ends = np.arange(15) % 5 == 4
    np.testing.assert_array_equal(truncated, ends)
    assert not terminated.any()
    assert first == 0
    np.testing.assert_array_equal(obs[ends], 0)
    assert (obs[~ends] != 0).any()


def test_mdp_random_agent_earns_one_a_step():
    """Reward means have mean 1, so a trial of n episodes of T steps pays n T on average."""
    trial = Trial(MDP, num_episodes=3)
    agent = random_agent(MDP.action_space())

    @jax.jit
    @jax.vmap
    def total(key):
        return rollout(key, agent, trial, MDP.sample_params(key)).reward.sum()

    totals = np.asarray(total(keys(5, 2000)))
    assert abs(totals.mean() - 3 * 5 * 1.0) < 4 * totals.std() / np.sqrt(2000)


# --- gymnax environments as task distributions.


def params_of(env, seed=6, count=500):
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(env.sample_params))(keys(seed, count)))


def test_cartpole_physics_is_drawn_and_derived_fields_agree():
    """Each of four within a factor of 2 of the usual, over the whole range; the rest follow or stay."""
    p = params_of(random_cartpole(7))
    for drawn, usual in ((p.masscart, 1.0), (p.masspole, 0.1), (p.length, 0.5), (p.force_mag, 10.0)):
        assert scipy.stats.kstest((np.log2(drawn / usual) + 1) / 2, "uniform").pvalue > P_VALUE
    np.testing.assert_allclose(p.total_mass, p.masscart + p.masspole, rtol=1e-6)
    np.testing.assert_allclose(p.polemass_length, p.masspole * p.length, rtol=1e-6)
    assert (p.max_steps_in_episode == 7).all()
    np.testing.assert_allclose(p.gravity, 9.8, rtol=1e-6)


def test_pendulum_physics_is_drawn():
    p = params_of(random_pendulum(7))
    for drawn, usual in ((p.g, 10.0), (p.m, 1.0), (p.l, 1.0)):
        unit = (np.log(drawn / usual) / np.log(1.5) + 1) / 2
        assert scipy.stats.kstest(unit, "uniform").pvalue > P_VALUE
    assert (p.max_steps_in_episode == 7).all()


def cartpole_step(p, obs, action):
    """Barto, Sutton & Anderson 1983 with Euler integration, as in OpenAI's gym."""
    x, x_dot, theta, theta_dot = obs.T
    force = np.where(action == 1, p.force_mag, -p.force_mag)
    total = p.masscart + p.masspole
    temp = (force + p.masspole * p.length * theta_dot**2 * np.sin(theta)) / total
    theta_acc = (9.8 * np.sin(theta) - np.cos(theta) * temp) / (
        p.length * (4 / 3 - p.masspole * np.cos(theta) ** 2 / total)
    )
    x_acc = temp - p.masspole * p.length * theta_acc * np.cos(theta) / total
    return np.stack([x + 0.02 * x_dot, x_dot + 0.02 * x_acc, theta + 0.02 * theta_dot, theta_dot + 0.02 * theta_acc], 1)


def pendulum_step(p, obs, action):
    """(cos, sin, speed) of gym's pendulum after one step of 0.05."""
    theta, speed, torque = np.arctan2(obs[:, 1], obs[:, 0]), obs[:, 2], np.clip(action[:, 0], -2, 2)
    speed = speed + (3 * p.g / (2 * p.l) * np.sin(theta) + 3 / (p.m * p.l**2) * torque) * 0.05
    speed = np.clip(speed, -8, 8)
    theta = theta + speed * 0.05
    return np.stack([np.cos(theta), np.sin(theta), speed], 1)


@pytest.mark.parametrize(("make", "dynamics"), [(random_cartpole, cartpole_step), (random_pendulum, pendulum_step)])
def test_gymnax_tasks_keep_their_physics_over_resets(make, dynamics):
    """Every transition of a trial of 4 episodes follows the one set of parameters drawn for it."""
    trial = Trial(make(20), num_episodes=4)
    agent = random_agent(trial.env.action_space())

    @jax.jit
    def play(key):
        params = trial.env.sample_params(key)
        return params, rollout(key, agent, trial, params)

    params, trajectory = jax.tree.map(np.asarray, play(jax.random.key(7)))
    running = trajectory.mask[1:] == 1
    obs, following = trajectory.trial_obs.obs[:-1][running], trajectory.trial_obs.obs[1:][running]
    inside = trajectory.episode_done[:-1][running] == 0
    predicted = dynamics(params, obs.astype(np.float64), trajectory.action[:-1][running])
    assert (~inside).sum() == 3
    np.testing.assert_allclose(following[inside], predicted[inside], atol=1e-4)
    assert np.abs(following[~inside] - predicted[~inside]).max(axis=1).min() > 1e-3  # episodes do start afresh


@pytest.mark.parametrize("make", [random_cartpole, random_pendulum])
def test_equal_gymnax_tasks_share_compiled_code(make):
    """Equal instances hash equal and do not retrace; another length does."""
    assert make(10) == make(10)
    assert hash(make(10)) == hash(make(10))
    assert make(10) != make(11)

    traces = []

    @partial(jax.jit, static_argnums=0)
    def traced(env):
        traces.append(env)
        return jnp.zeros(env.episode_length)

    traced(make(10))
    traced(make(10))
    assert len(traces) == 1
    traced(make(11))
    assert len(traces) == 2


def test_gymnax_tasks_of_different_environments_differ():
    assert random_cartpole(10) != random_pendulum(10)
    assert random_cartpole(10) != GymnaxTasks(random_cartpole(10).env, len, 10)


# --- Errors.


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        (lambda: BernoulliBandit(0), "num_arms", "0"),
        (lambda: TabularMDP(num_states=-3), "num_states", "-3"),
        (lambda: TabularMDP(num_actions=0), "num_actions", "0"),
        (lambda: TabularMDP(episode_length=0), "episode_length", "0"),
        (lambda: random_cartpole(0), "episode_length", "0"),
        (lambda: random_pendulum(-1), "episode_length", "-1"),
        (lambda: Trial(BernoulliBandit(2), 0), "num_episodes", "0"),
    ],
)
def test_bad_sizes_name_field_and_value(make, field, value):
    with pytest.raises(ValueError, match=rf"{field}.* got {value}$"):
        make()


def test_a_task_distribution_has_no_default_task():
    with pytest.raises(TypeError, match="sample_params"):
        _ = BernoulliBandit(2).default_params
