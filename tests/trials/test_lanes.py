"""Lanes, in which trial follows trial: what is played, what is learned from it, and what is not changed by it."""

from dataclasses import dataclass
from itertools import pairwise

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import refused, run
from flax import struct
from helpers import frame_networks, host_leaves, random_params, recurrent_networks, shared_networks

from rl2jax.agents.base import Agent
from rl2jax.envs import BernoulliBandit, EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.networks.base import Categorical, Encoding
from rl2jax.networks.frames import Frames
from rl2jax.networks.unroll import Lane
from rl2jax.slow_rl.advantages import discounted_returns, generalised_advantages
from rl2jax.slow_rl.imitation import imitating_agent
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import environment_cost, phase_costs, sequential_steps
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.learner import Learner
from rl2jax.training.loop import train
from rl2jax.training.update import lane_returns, make_update
from rl2jax.trials.collect import make_collect
from rl2jax.trials.rollout import rollout_lane
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

# --- A task whose trials vary in length.


@struct.dataclass
class Goal(EnvParams):
    goal: chex.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = 6


@struct.dataclass
class Place(EnvState):
    place: chex.Array


@dataclass(frozen=True)
class Corridor(TaskDistribution[Place, Goal]):
    """Five places in a row; the goal is the first or the last. An episode starts in the middle and ends at the goal."""

    episode_length: int = 6

    def sample_params(self, key):
        return Goal(goal=4 * jax.random.bernoulli(key).astype(jnp.int32))

    def reset_env(self, key, params):
        return jnp.int32(2), Place(time=jnp.int32(0), place=jnp.int32(2))

    def step_env(self, key, state, action, params):
        state = Place(time=state.time + 1, place=jnp.clip(state.place + 2 * action - 1, 0, 4))
        found = self.is_terminated(state, params)
        return state.place, state, found - 0.1, found, {}

    def is_terminated(self, state, params):
        return state.place == params.goal

    def task_features(self, params):
        return params.goal[None].astype(jnp.float32)

    def action_space(self, params=None):
        return spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Discrete(5)


TRIAL = Trial(Corridor(), 2)
LANE, LANES = 40, 8


def _remembers(key, state, trial_obs):
    """Acts at random; knows how many steps it has made, and the key it was made with."""
    del trial_obs
    count, birth = state
    action = jax.random.bernoulli(key).astype(jnp.int32)
    return (count + 1, birth), action, {"count": count, "birth": birth}


REMEMBERS = Agent(lambda key: (jnp.zeros((), jnp.int32), jax.random.bits(key)), _remembers)


def spans(trial_done):
    """(first, last + 1, whether it ended) of each trial in one lane; numpy [num_steps]."""
    bounds = [0, *(np.flatnonzero(trial_done) + 1)]
    found = [(a, b, True) for a, b in pairwise(bounds)]
    return found + ([(bounds[-1], len(trial_done), False)] if bounds[-1] < len(trial_done) else [])


def played(agent, seed=0):
    """Numpy leaves [LANES, LANE, ...]."""
    play = jax.jit(jax.vmap(lambda key: rollout_lane(key, agent, TRIAL, LANE)))
    return jax.tree.map(np.asarray, play(jax.random.split(jax.random.key(seed), LANES)))


@pytest.fixture(scope="module")
def lanes():
    return played(REMEMBERS)


def test_trial_follows_trial(lanes):
    """Each trial has its two episodes, its placeholders, one task and one memory; the next has its own."""
    births, goals = set(), []
    for lane in range(LANES):
        of_lane = jax.tree.map(lambda x, lane=lane: x[lane], lanes)
        seen = of_lane.trial_obs
        for first, end, ended in spans(of_lane.trial_done):
            assert of_lane.episode_done[first:end].sum() == 2 if ended else of_lane.episode_done[first:end].sum() < 2
            np.testing.assert_array_equal(of_lane.first[first:end], np.arange(end - first) == 0)
            assert seen.obs[first] == 2
            assert seen.prev_action[first] == seen.prev_reward[first] == seen.prev_done[first] == 0
            np.testing.assert_array_equal(seen.prev_action[first + 1 : end], of_lane.action[first : end - 1])
            np.testing.assert_array_equal(seen.prev_reward[first + 1 : end], of_lane.reward[first : end - 1])
            np.testing.assert_array_equal(of_lane.agent_info["count"][first:end], np.arange(end - first))
            (birth,) = set(of_lane.agent_info["birth"][first:end].tolist())
            births.add(birth)
            (goal,) = set(of_lane.task_features[first:end, 0].tolist())
            goals.append(goal)
    assert len(births) == len(goals) > 4 * LANES
    assert 0.25 < np.mean(np.array(goals) == 4) < 0.75


def test_only_the_last_step_of_a_trial_that_is_cut_does_not_count(lanes):
    """Its reward and flag are zero; trials that end with their lane lose nothing. Both happen here."""
    ended = lanes.trial_done[:, -1] == 1
    assert 0 < ended.sum() < LANES
    assert (lanes.mask[:, :-1] == 1).all()
    np.testing.assert_array_equal(lanes.mask[:, -1], ended)
    np.testing.assert_array_equal(lanes.reward[:, -1] != 0, ended)
    np.testing.assert_array_equal(lanes.expected_reward, lanes.reward)
    np.testing.assert_array_equal(lanes.episode_done[:, -1], ended)
    assert (lanes.reward[:, :-1] != 0).all()


def test_a_students_and_a_teachers_memory_begin_with_each_trial():
    """Whoever acts, the teacher's count of steps is that of the trial."""
    counts = Agent(REMEMBERS.init, lambda key, state, seen: ((state[0] + 1, state[1]), state[0] % 2, ()))
    student = make_networks(TRIAL.env, TrainConfig().replace({"network.units": 3})).agent
    networks = make_networks(TRIAL.env, TrainConfig().replace({"network.units": 3}))
    agent = imitating_agent(student(random_params(networks, 0)["policy"]), counts, 0.5)
    seen = played(agent, seed=1)
    for lane in range(LANES):
        for first, end, _ in spans(seen.trial_done[lane]):
            np.testing.assert_array_equal(seen.agent_info.teacher_action[lane, first:end], np.arange(end - first) % 2)
    assert 0.6 < (seen.action == seen.agent_info.teacher_action).mean() < 0.9  # half are the student's


# --- Returns and advantages.

STEPS = 9
numbers, units = st.floats(-10, 10, width=32), st.floats(0, 1, width=32)
series = st.lists(numbers, min_size=STEPS, max_size=STEPS).map(lambda x: np.array(x, np.float32))
ends = st.lists(st.integers(0, 1), min_size=STEPS, max_size=STEPS).map(lambda x: np.array(x, np.float32))
returns_fn, gae_fn = jax.jit(discounted_returns), jax.jit(generalised_advantages)


@hypothesis.given(series, series, ends, units, units)
def test_returns_and_advantages_are_those_of_separate_trials(rewards, values, trial_done, discount, gae_lambda):
    """Against sums over each trial alone, in double precision; the value stands for what a cut trial has not seen."""
    expected_returns, expected_advantages = np.zeros(STEPS), np.zeros(STEPS)
    given_rewards = rewards.copy()
    for first, end, ended in spans(trial_done):
        r, v = rewards[first:end].astype(float), values[first:end].astype(float)
        last = end - first if ended else end - first - 1  # steps that count
        after = 0.0 if ended else v[last]
        following = np.append(v[1:last], after)
        for t in range(last):
            powers = np.arange(last - t)
            delta = r[t:last] + discount * following[t:] - v[t:last]
            expected_returns[first + t] = (discount**powers * r[t:last]).sum() + discount ** (last - t) * after
            expected_advantages[first + t] = ((discount * gae_lambda) ** powers * delta).sum()
        if not ended:
            given_rewards[end - 1] = values[end - 1]
            expected_returns[end - 1] = values[end - 1]
    np.testing.assert_allclose(returns_fn(given_rewards, discount, trial_done), expected_returns, atol=1e-3)
    advantages = gae_fn(given_rewards, values, discount, gae_lambda, trial_done)
    np.testing.assert_allclose(advantages, expected_advantages, atol=1e-3)


def test_mean_return_is_of_the_trials_that_ended(lanes):
    """If none ended, of all as far as they went."""

    def totals(trajectory, complete_only):
        return [
            trajectory.reward[lane, first:end].sum()
            for lane in range(LANES)
            for first, end, ended in spans(trajectory.trial_done[lane])
            if ended or not complete_only
        ]

    early = jax.tree.map(lambda x: x[:, :3], lanes)  # no trial is shorter than 4 steps
    assert early.trial_done.sum() == 0
    for trajectory, complete_only in ((lanes, True), (early, False)):
        expected = totals(trajectory, complete_only)
        mean, error = lane_returns(jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), trajectory))
        np.testing.assert_allclose(mean, np.mean(expected), rtol=1e-5)
        np.testing.assert_allclose(error, np.std(expected) / np.sqrt(len(expected)), rtol=1e-4)


# --- The networks.


def observations(rng, networks, num_steps):
    """A trial's, as numpy arrays."""
    if isinstance(networks.observation, Frames):
        obs = rng.integers(0, 256, (num_steps, *networks.observation.shape)).astype(np.uint8)
    else:
        obs = rng.integers(0, networks.observation.size, num_steps)
    reward, done = rng.normal(size=num_steps).astype(np.float32), rng.integers(0, 2, num_steps).astype(np.float32)
    return TrialObservation(obs, rng.integers(0, networks.action.size, num_steps), reward, done)


@pytest.mark.parametrize(
    ("family", "observation", "cell"),
    [
        (recurrent_networks, Encoding(4, True), "gru"),
        (shared_networks, Encoding(4, True), "lstm"),
        (frame_networks, Frames((13, 14, 3)), "gru"),
    ],
)
def test_an_unroll_over_a_lane_is_that_of_its_trials(family, observation, cell):
    """Memory and time start anew with each trial, in policy and baseline."""
    networks = family(observation, Encoding(3, True), Categorical(3), units=4, cell=cell, trial_steps=5)
    rng, params = np.random.default_rng(0), random_params(networks, 1)
    trials = [observations(rng, networks, length) for length in (3, 1, 5)]
    lane = jax.tree.map(lambda *parts: np.concatenate(parts), *trials)
    first = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0], np.float32)
    value_params = params["policy" if networks.shares_trunk else "baseline"]

    @jax.jit
    def outputs(trial_obs):
        return networks.dist_params(params["policy"], trial_obs), networks.values(value_params, trial_obs)

    apart = jax.tree.map(lambda *parts: np.concatenate(parts), *map(outputs, trials))
    for x, y in zip(outputs(Lane(lane, first)), apart, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-5)
    forgetful = outputs(lane)[0]
    assert np.abs(forgetful - apart[0]).max() > 1e-3


# --- Learning.

BANDIT = BernoulliBandit(3)
COMMON = {
    "trial.num_episodes": 4,
    "iterations": 1,
    "network.units": 5,
    "baseline.epochs": 1,
    "objective.gae_lambda": 0.7,
}
ALGORITHMS = {
    "ppo": TrainConfig().replace(
        {
            "slow_rl": "ppo",
            "slow_rl.epochs": 2,
            "slow_rl.max_kl": np.inf,
            "objective.task_inference_coefficient": 0.5,
            "network.time_input": True,
            **COMMON,
        }
    ),
    "trpo": TrainConfig().replace({"trpo.cg_damping": 0.1, "objective.expected_rewards": True, **COMMON}),
    "a2c": TrainConfig().replace(
        {"slow_rl": "a2c", "network.shared_trunk": True, "network.cell": "lstm", "network.time_input": True, **COMMON}
    ),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_update_on_lanes_is_that_on_their_trials_apart(algorithm):
    """Three trials of four pulls fill a lane: the same trajectory, cut apart, teaches the same."""
    in_lanes = ALGORITHMS[algorithm].replace({"batch.size": 72, "batch.lane_steps": 12})
    apart = in_lanes.replace({"batch.lane_steps": 0})
    learner, other = Learner(BANDIT, in_lanes), Learner(BANDIT, apart)
    assert (learner.num_trials, learner.lane_steps, other.num_trials, other.lane_steps) == (6, 12, 18, 4)
    state = learner.init(jax.random.key(0))
    collect = make_collect(learner.trial, learner.agent_of, 6, lane_steps=12)
    lanes = jax.jit(collect)(jax.random.key(1), state.params)
    assert lanes.mask.all()

    def cut(x):
        """[12, 6, ...] to [4, 18, ...]."""
        return jnp.moveaxis(x.reshape(3, 4, 6, *x.shape[2:]), 0, 1).reshape(4, 18, *x.shape[2:])

    trials = jax.tree.map(cut, lanes)
    trials = trials._replace(trial_done=(), first=(), task_features=trials.task_features[0])
    updates = [
        jax.jit(make_update(one.networks, one.config, one.num_trials))(state, trajectory, jax.random.key(2))
        for one, trajectory in ((learner, lanes), (other, trials))
    ]
    for a, b in zip(host_leaves(updates[0][0].params), host_leaves(updates[1][0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)
    for name, a, b in zip(updates[0][1]._fields, updates[0][1], updates[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-5, err_msg=name)
    before, after = host_leaves(state.params), host_leaves(updates[0][0].params)
    assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) > 1e-4


def test_the_learner_sees_the_policy_that_acted():
    """Over a lane of trials of varying length the networks say what they said when they acted, at every step."""
    config = TrainConfig().replace(
        {
            "trial.num_episodes": 2,
            "network.units": 4,
            "network.time_input": True,
            "batch.size": LANE * LANES,
            "batch.lane_steps": LANE,
        }
    )
    learner = Learner(Corridor(), config)
    params = random_params(learner.networks, 3)
    collect = make_collect(learner.trial, learner.agent_of, LANES, lane_steps=LANE)
    lanes = jax.jit(collect)(jax.random.key(0), params)
    assert len({len(spans(column)) for column in np.asarray(lanes.trial_done).T}) > 1
    again = jax.jit(jax.vmap(learner.networks.dist_params, (None, 1), 1))(
        params["policy"], Lane(lanes.trial_obs, lanes.first)
    )
    np.testing.assert_allclose(again, lanes.agent_info.dist_params, rtol=1e-4, atol=1e-5)


LEARNS = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 2,
        "iterations": 40,
        "batch.size": 800,
        "batch.lane_steps": 40,
        "slow_rl.minibatch_trials": 5,
        "baseline.minibatch_trials": 5,
        "slow_rl.epochs": 3,
        "baseline.epochs": 3,
        "slow_rl.max_kl": np.inf,
        "ppo.clip_range": 0.2,
        "objective.gae_lambda": 0.9,
        "slow_rl.learning_rate": 1e-2,
        "baseline.learning_rate": 1e-2,
        "network.units": 16,
        "iterations_per_chunk": 40,
    }
)


def test_it_learns_where_trials_vary_in_length():
    """Finding the goal and going back there returns 1.4 on average; 1.2 without a memory; a random walk less than 1."""
    state, metrics = train(Corridor(), LEARNS, jax.random.key(0))
    assert metrics.finite.all()
    assert metrics.mean_return[0] < 1.0
    assert metrics.mean_return[-5:].mean() > 1.3
    assert metrics.explained_variance[-5:].mean() > 0.3
    del state


def test_imitation_in_lanes_learns_what_the_teacher_does():
    """To go right at even steps of a trial, left at odd ones: a memory that starts anew with each trial."""
    config = LEARNS.replace(
        {"slow_rl": "imitation", "imitation.student_share": 0.5, "network.time_input": True, "iterations": 25}
    )
    alternates = Agent(REMEMBERS.init, lambda key, state, seen: ((state[0] + 1, state[1]), 1 - state[0] % 2, ()))
    state, metrics = train(Corridor(), config, jax.random.key(0), teacher=alternates)
    assert metrics.finite.all()
    networks = make_networks(Corridor(), config)
    lanes = played(networks.agent(state.params["policy"], deterministic=True))
    for lane in range(LANES):
        for first, end, _ in spans(lanes.trial_done[lane]):
            np.testing.assert_array_equal(lanes.action[lane, first:end], 1 - np.arange(end - first) % 2)


# --- Settings, and what is told.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch.lane_steps": 1}, "batch.lane_steps must be 0 or at least 2, got 1"),
        ({"batch.lane_steps": -5}, "batch.lane_steps must be >= 0, got -5"),
        (
            {"batch.lane_steps": 8, "baseline.sees_task": True},
            "baseline.sees_task must be false with batch.lane_steps, got True",
        ),
        (
            {"batch.lane_steps": 8, "network": "planner"},
            "network must be recurrent, or one's own, with batch.lane_steps, got 'planner'",
        ),
        ({"batch.lane_steps": 8, "batch.size": 7}, r"batch.size must be at least one lane \(lane_steps, 8\), got 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Learner(Corridor(), TrainConfig().replace({"trial.num_episodes": 2}).replace(changes))


SETTINGS = ["--preset", "quick", "--iterations", "1", "--set", "batch.lane_steps=30", "--set", "batch.size=65"]


def test_the_command_line_says_lanes(tmp_path, capsys):
    assert run(["train", "bandit:k=2,n=4", *SETTINGS, "--set", "network.units=4", "--out", tmp_path]) == 0
    assert "1 iterations of 2 lanes x 30 steps" in " ".join(capsys.readouterr().err.split())


def test_an_engine_is_refused_before_a_folder_is_made(tmp_path, capsys):
    pytest.importorskip("vizdoom")
    out, message = tmp_path / "run", "lane_steps must be 0 with --engine vizdoom, got 30"
    refused(capsys, ["train", "maze:size=3,t=12,n=2", *SETTINGS, "--engine", "vizdoom", "--out", out], message)
    assert not out.exists()


def test_costs_count_the_steps_of_lanes():
    """Twice the lane: as many operations in a batch of as many steps, and loops twice as long."""
    short, long = (
        Learner(
            BANDIT,
            ALGORITHMS["ppo"].replace({"batch.size": 960, "batch.lane_steps": steps, "slow_rl.minibatch_trials": 960}),
        )
        for steps in (12, 24)
    )
    assert phase_costs(short)["gradient"] == phase_costs(long)["gradient"]
    assert 2 * sequential_steps(short) == sequential_steps(long)
    trial = make_trial(BANDIT, short.config)
    in_lane = environment_cost(trial, 1, lane_steps=4).operations  # as long as a trial, but a task drawn at each step
    assert in_lane > environment_cost(trial).operations
