"""Supervised learning of a fast learner: what is fitted, who acts, and that a memory is learned."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import random_params

from rl2jax.agents import reference_agents
from rl2jax.agents.base import Agent
from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.envs.names import parse_task
from rl2jax.slow_rl.base import expected_log_prob
from rl2jax.slow_rl.imitation import imitating_agent
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.training.teacher import teacher_of
from rl2jax.trials.collect import make_collect
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial
from rl2jax.types import PolicyInfo

ENV = BernoulliBandit(3)
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "imitation",
        "trial.num_episodes": 6,
        "iterations": 60,
        "batch.size": 600,
        "network.units": 16,
        "slow_rl.minibatch_trials": 25,
        "slow_rl.learning_rate": 1e-2,
        "iterations_per_chunk": 60,
    }
)


def _win_stay(key, state, trial_obs):
    """Stays with an arm that paid, else moves on to the next: needs the last action and reward only."""
    del key
    arm = jnp.where(trial_obs.prev_reward > 0, trial_obs.prev_action, trial_obs.prev_action + 1) % 3
    arm = jnp.where(state == 0, 0, arm).astype(jnp.int32)
    return state + 1, arm, ()


WIN_STAY = Agent(lambda key: jnp.zeros((), jnp.int32), _win_stay)


@pytest.fixture(scope="module")
def learned():
    return {
        acts: train(ENV, CONFIG.replace({"imitation.teacher_acts": acts}), jax.random.key(0), teacher=WIN_STAY)
        for acts in (True, False)
    }


@pytest.mark.parametrize("acts", [True, False])
def test_the_student_does_as_the_teacher(learned, acts):
    """On trials of its own: almost every action is the teacher's for the same history."""
    state, metrics = learned[acts]
    assert metrics.finite.all()
    networks = make_networks(ENV, CONFIG)
    student = networks.agent(state.params["policy"], deterministic=True)
    agent = imitating_agent(student, WIN_STAY, student_share=1.0)
    trial = make_trial(ENV, CONFIG)

    @jax.jit
    @jax.vmap
    def play(key):
        key_task, key_play = jax.random.split(key)
        trajectory = rollout(key_play, agent, trial, ENV.sample_params(key_task))
        return trajectory.action == trajectory.agent_info.teacher_action

    assert np.mean(play(jax.random.split(jax.random.key(1), 300))) > 0.98


def test_the_baseline_is_left_alone(learned):
    state, metrics = learned[True]
    first = Learner(ENV, CONFIG, WIN_STAY).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.params["baseline"], first.params["baseline"])
    assert (metrics.baseline_loss == 0).all()
    assert metrics.surrogate_gain[0] > 0  # the teacher's actions became likelier


@pytest.mark.parametrize("acts", [True, False])
def test_who_acts(acts):
    networks = make_networks(ENV, CONFIG)
    student = networks.agent(random_params(networks, seed=0)["policy"])
    agent = imitating_agent(student, WIN_STAY, 0.0 if acts else 1.0)
    trial = make_trial(ENV, CONFIG)

    @jax.jit
    @jax.vmap
    def play(key):
        return rollout(key, agent, trial, ENV.sample_params(key))

    played = play(jax.random.split(jax.random.key(0), 50))
    teacher = np.asarray(played.agent_info.teacher_action)
    assert (np.asarray(played.action) == teacher).all() == acts
    # Either way the teacher judges what the acting one did.
    stayed = np.where(played.reward[:, :-1] > 0, played.action[:, :-1], (played.action[:, :-1] + 1) % 3)
    np.testing.assert_array_equal(teacher[:, 1:], stayed)


def test_a_teacher_is_needed_and_only_then():
    with pytest.raises(ValueError, match="teacher must be an agent, with slow_rl imitation, got None"):
        Learner(ENV, CONFIG)
    with pytest.raises(ValueError, match="teacher must be None: slow_rl ppo has no use for one"):
        Learner(ENV, CONFIG.replace({"slow_rl": "ppo"}), WIN_STAY)
    with pytest.raises(
        ValueError,
        match=r"imitation\.teacher is a setting of slow_rl imitation, and slow_rl is trpo",
    ):
        TrainConfig().replace({"imitation.teacher": "gittins"})


def test_the_softmax_of_values_is_imitated():
    """A teacher that is indifferent between two arms and dislikes the third: the student becomes so, noise or not."""
    told = jnp.array([1.0, 1.0, 0.0])
    indifferent = Agent(
        lambda key: (), lambda key, state, trial_obs: (state, jax.random.randint(key, (), 0, 2, jnp.int32), told)
    )
    config = CONFIG.replace({"imitation.temperature": 0.5})
    state, _ = train(ENV, config, jax.random.key(0), teacher=indifferent)
    networks = make_networks(ENV, config)

    @jax.jit
    def play(params):
        agent, task = networks.agent(params), ENV.sample_params(jax.random.key(2))
        return rollout(jax.random.key(1), agent, make_trial(ENV, config), task)

    played = play(state.params["policy"])
    probs = jax.nn.softmax(played.agent_info.dist_params)
    np.testing.assert_allclose(probs, np.broadcast_to(jax.nn.softmax(told / 0.5), probs.shape), atol=0.05)


def test_mean_log_probabilities():
    """Of given probabilities it is minus the cross-entropy; of actions, the log-probability."""
    distribution = distrax.Categorical(logits=jnp.array([[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]))
    probs = jnp.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    wanted = (probs * jnp.log(distribution.probs)).sum(axis=-1)
    np.testing.assert_allclose(expected_log_prob(distribution, probs), wanted, rtol=1e-5)
    actions = jnp.array([2, 0])
    np.testing.assert_allclose(
        expected_log_prob(distribution, jax.nn.one_hot(actions, 3)), expected_log_prob(distribution, actions), rtol=1e-5
    )


def test_a_teacher_reveals_the_values_it_acts_on():
    """BEB's action is the best of the values it tells, at every step of a trial; it acts the same if it tells them."""
    env = TabularMDP(3, 2, 4)
    task = env.sample_params(jax.random.key(0))

    spec = reference_agents(env)["beb_true_prior"]
    silent, telling = (spec.make(env, 5, **spec.fixed, **more) for more in ({}, spec.teaching))
    key = jax.random.key(1)
    plain, told = (jax.jit(lambda a=a: rollout(key, a, Trial(env, 5), task))() for a in (silent, telling))
    np.testing.assert_array_equal(plain.action, told.action)
    values = np.asarray(told.agent_info)
    assert values.shape == (20, 2)
    chosen = np.take_along_axis(values, np.asarray(told.action)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(chosen, values.max(axis=1))
    assert (values[4:].min(axis=1) < values[4:].max(axis=1)).any()


def test_a_temperature_needs_values():
    task = parse_task("bandit:k=2,n=4")
    config = CONFIG.replace({"trial.num_episodes": 4, "imitation.teacher": "gittins", "imitation.temperature": 0.1})
    with pytest.raises(ValueError, match=r"imitation\.temperature must be 0 with teacher gittins"):
        teacher_of(task, config)


def test_the_students_share_of_steps():
    """A quarter of the steps are the student's, who hits on the taught arm a third of the time."""
    learner = Learner(ENV, CONFIG.replace({"imitation.student_share": 0.25}), WIN_STAY)
    collect = make_collect(learner.trial, learner.agent_of, 400)
    played = jax.jit(collect)(jax.random.key(0), random_params(learner.networks, seed=0, scale=0.0))
    as_taught = np.asarray(played.action == played.agent_info.teacher_action)
    assert abs(as_taught.mean() - (0.75 + 0.25 / 3)) < 4 * np.sqrt(0.25 / as_taught.size)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_who_acts_says_nothing_of_what_the_student_does(share):
    """Where a student acts that draws three actions alike, beside a teacher of another action, each is a third.

    `fold_in(key, 0)` is the first key of `split(key)`: drawn from it, "the student acts" meant "seldom by action 0".
    """

    def draw(key, state, trial_obs):
        distribution = distrax.Categorical(logits=jnp.zeros(3))
        action = distribution.sample(seed=key)
        return state, action, PolicyInfo(distribution.log_prob(action), distribution.logits)

    student = Agent(lambda key: (), draw)
    teacher = Agent(lambda key: (), lambda key, state, trial_obs: (state, jnp.int32(3), ()))
    agent = imitating_agent(student, teacher, share)
    keys = jax.random.split(jax.random.key(0), 30_000)
    actions = jax.jit(jax.vmap(lambda key: agent.step(key, ((), ()), None)[1]))(keys)
    counts = np.bincount(np.asarray(actions), minlength=4)
    expected = len(keys) * np.array([share / 3, share / 3, share / 3, 1 - share])
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(len(keys) / 4))
    assert scipy.stats.chisquare(counts[:3]).pvalue > 1e-4
