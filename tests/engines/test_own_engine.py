"""A user's simulator, in NumPy: it plays what the device plays, and trains, evaluates and compares by its name."""

import json
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command import refused, run
from flax import struct

from rl2jax.agents.base import Agent
from rl2jax.agents.random import random_agent
from rl2jax.engines.base import DEVICE, HostEngine, find_engine
from rl2jax.engines.collection import collect, make_collect
from rl2jax.engines.evaluation import evaluator
from rl2jax.envs import BernoulliBandit, EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.training.loop import train
from rl2jax.training.presets import preset
from rl2jax.trials import collect as on_device
from rl2jax.trials.evaluate import evaluation_key
from rl2jax.trials.trial import Trial


@struct.dataclass
class Goal(EnvParams):
    goal: jax.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@struct.dataclass
class Place(EnvState):
    time: jax.Array
    place: jax.Array


@dataclass(frozen=True)
class Line(TaskDistribution[Place, Goal]):
    """Walk from 0 to a hidden goal: left, stay or right, or as far as you say, up to 1; every step pays 0.5 - place."""

    episode_length: int = 6
    steers: bool = False

    ends_early: ClassVar[bool] = True

    def sample_params(self, key):
        goal = jax.random.randint(key, (), -3, 4).astype(jnp.float32)
        return Goal(goal=goal, max_steps_in_episode=self.episode_length)

    def reset_env(self, key, params):
        return jnp.zeros(1), Place(time=jnp.int32(0), place=jnp.float32(0))

    def step_env(self, key, state, action, params):
        move = action if self.steers else action.astype(jnp.float32) - 1
        state = Place(time=state.time + 1, place=state.place + move)
        return state.place[None], state, 0.5 - state.place, self.is_terminated(state, params), {}

    def is_terminated(self, state, params):
        return jnp.abs(state.place - params.goal) < 0.5

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, ()) if self.steers else spaces.Discrete(3)

    def observation_space(self, params=None):
        return spaces.Box(-9.0, 9.0, (1,))

    def task_features(self, params):
        return params.goal[None]

    def expected_reward(self, state, action, params):
        return 2.0 * state.place

    def privileged(self, state, params):
        return {"ahead": params.goal - state.place}


class Walkers(HostEngine):
    """`Line` in NumPy."""

    def __init__(self, env, num_slots=3):
        self.env, self.num_slots = env, num_slots
        self.goal, self.place = np.zeros(num_slots, np.float32), np.zeros(num_slots, np.float32)
        self.time = np.zeros(num_slots, int)

    @classmethod
    def refuses(cls, env):
        return None if isinstance(env, Line) else "it walks on lines only"

    def assign(self, slots, params, seeds):
        self.goal[slots] = params.goal

    def reset(self, slots):
        self.place[slots] = self.time[slots] = 0
        return self.place[slots, None]

    def step(self, action, active):
        assert np.abs(action).max() <= 2
        assert not self.env.steers or np.abs(action).max() <= 1
        self.place += np.where(active, action if self.env.steers else action - 1, 0).astype(np.float32)
        self.time += active
        found = np.abs(self.place - self.goal) < 0.5
        return self.place[:, None], 0.5 - self.place, found, self.time >= self.env.episode_length

    def privileged(self):
        return {"ahead": self.goal - self.place}

    def expected_reward(self, action):
        return 2.0 * self.place


class Unsteady(Walkers):
    """Pays by chance."""

    def assign(self, slots, params, seeds):
        super().assign(slots, params, seeds)
        self.chance = getattr(self, "chance", [None] * self.num_slots)
        for slot, seed in zip(slots, seeds, strict=True):
            self.chance[slot] = np.random.default_rng(seed)

    def step(self, action, active):
        obs, _, *ends = super().step(action, active)
        return obs, [rng.normal() if on else 0 for rng, on in zip(self.chance, active, strict=True)], *ends


class Crooked(Walkers):
    def reset(self, slots):
        return super().reset(slots)[:, 0]


def wanderer(space) -> Agent:
    """Acts by chance, by its memory of the trial and by what is privileged; in a Box often beyond its bounds."""
    factor = 3 if isinstance(space, spaces.Box) else 1

    def init(key):
        return jax.random.uniform(key)

    def step(key, state, seen):
        action = factor * space.sample(key)
        ahead = (seen.privileged["ahead"] + state > 0) & (state > 0.7)
        return state + 0.01 * (1 + seen.prev_reward), jnp.where(ahead, 1, action).astype(action.dtype), (state,)

    return Agent(init, step)


@pytest.mark.parametrize("trials_per_task", [1, 2])
@pytest.mark.parametrize("steers", [False, True])
def test_trajectories_are_those_of_the_device(steers, trials_per_task):
    """All leaves, to the bit, where trials run; else zero. Actions beyond a Box are clipped for the engine only."""
    env = Line(steers=steers)
    trial, agent = Trial(env, 3, first_step_flag=1.0), wanderer(env.action_space())
    batch = trial, lambda params: agent, 8
    key = jax.random.key(1)
    device = jax.jit(on_device.make_collect(*batch, trials_per_task=trials_per_task))(key, ())
    host = make_collect(Walkers(env), *batch, trials_per_task)(key, ())
    assert jax.tree.structure(host) == jax.tree.structure(device)
    running = np.asarray(device.mask) > 0
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(host), jax.tree.leaves(device), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), path
        if ours is host.task_features:
            np.testing.assert_array_equal(ours, theirs)
        else:
            np.testing.assert_array_equal(ours[running], np.asarray(theirs)[running], err_msg=str(path))
            assert not ours[~running].any()
    assert not running.all()
    assert np.abs(host.action).max() > 1
    assert len(np.unique(host.task_features[:, 0])) > 1


def test_what_is_left_to_chance_is_the_trials_own():
    """However many slots there are, and wherever a trial is played."""
    env = Line()
    agent, keys = random_agent(env.action_space()), jax.random.split(jax.random.key(0), 9)
    tasks = on_device.draw_tasks(env, jax.random.key(1), 9)
    few, many = (collect(Unsteady(env, slots), agent, Trial(env, 2), keys, tasks) for slots in (2, 11))
    jax.tree.map(np.testing.assert_array_equal, few, many)
    assert np.unique(few.reward).size > few.mask.sum() * 0.99


def test_an_observation_of_another_shape_is_named():
    env = Line()
    with pytest.raises(ValueError, match=r"Crooked.reset's shape must be \(2, 1\), got \(2,\)"):
        collect(
            Crooked(env, 2),
            random_agent(env.action_space()),
            Trial(env, 1),
            jax.random.split(jax.random.key(0), 4),
            on_device.draw_tasks(env, jax.random.key(1), 4),
        )


class Hollow(Line):
    """What it is stands in the class; who plays it is another's business."""

    reset_env, step_env = TaskDistribution.reset_env, TaskDistribution.step_env
    is_terminated = TaskDistribution.is_terminated


def test_a_task_distribution_without_steps_is_trained_on():
    """As with steps."""
    config = preset("quick", num_episodes=2).replace({"batch.size": 240, "network.units": 4}, iterations=1)
    key, trained = jax.random.key(0), []
    for env in (Line(), Hollow()):
        trained.append(train(env, config, key, engine=Walkers))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), trained[0][1], trained[1][1])
    with pytest.raises(ValueError, match=r"--engine must be one that plays Hollow.*, got 'device'"):
        find_engine(DEVICE, Hollow())


def test_the_same_evaluation():
    env = Line()
    agent, trial, key = random_agent(env.action_space()), Trial(env, 2), evaluation_key(0)

    def look(trajectory, params):
        return {"steps": trajectory.mask.sum(), "goal": params.goal}

    found = []
    for name in (DEVICE, "test_own_engine:Walkers"):
        with evaluator(name, env) as evaluate:
            found.append(evaluate(agent, trial, 20, key, statistic=look))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), *found)


NAME = "test_own_engine:Walkers"
SETTINGS = ["--preset", "quick", "--iterations", "2"]


def test_the_command_line_trains_evaluates_and_compares(tmp_path):
    """As on the device, but for rounding in other programs; a run goes on with either."""
    metrics, rows = [], []
    for engine in (DEVICE, NAME):
        out, file = tmp_path / engine[:4], tmp_path / f"{engine[:4]}.json"
        settings = [*SETTINGS, "--set", "batch.size=240", "--set", "network.units=4", "--engine", engine]
        assert run(["train", "test_own_engine:Line,n=2", *settings, "--out", out]) == 0
        metrics.append([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
        assert run(["evaluate", tmp_path / "devi", "--num-tasks", 30, "--engine", engine, "--json", file]) == 0
        rows += json.loads(file.read_text())
    assert [row["iteration"] for row in metrics[1]] == [1, 2]
    for field in ("mean_return", "entropy", "kl"):
        np.testing.assert_allclose(*([row[field] for row in each] for each in metrics), rtol=1e-3, atol=1e-5)
    assert rows[0]["mean"] == pytest.approx(rows[1]["mean"], rel=1e-6)
    assert ("engine" in rows[0], rows[1]["engine"]) == (False, NAME)
    assert rows[1]["command"].endswith(f"--engine {NAME}")
    file = tmp_path / "compared.json"
    compared = ["--agents", "random", "--run", tmp_path / "devi", "--num-tasks", 30, "--json", file]
    assert run(["compare", "test_own_engine:Line,n=2", *compared, "--engine", NAME]) == 0
    assert {row["agent"]: row["engine"] for row in json.loads(file.read_text())} == {"random": NAME, "rl2": NAME}


not_callable = 3


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("doom", [], "--engine must be device, vizdoom or package.module:object, got 'doom'"),
        ("no_such_module:X", [], "no_such_module cannot be imported"),
        ("test_own_engine:Nobody", [], "module test_own_engine has no 'Nobody'"),
        ("test_own_engine:not_callable", [], "must be a HostEngine's class, or a function that makes one, got 3"),
        (NAME, ["--num-seeds", "2"], f"--engine {NAME} trains one agent in one process"),
        (NAME, ["--set", "batch.lane_steps=8"], f"lane_steps must be 0 with --engine {NAME}, got 8"),
        ("vizdoom", [], "--engine vizdoom: it plays mazes only, such as maze:size=5, got Line"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_a_folder_is_made(engine, options, message, tmp_path, capsys):
    out = tmp_path / "run"
    refused(capsys, ["train", "test_own_engine:Line", *SETTINGS, *options, "--engine", engine, "--out", out], message)
    assert not out.exists()


def test_who_plays_something_else_says_so(tmp_path, capsys):
    message = f"--engine {NAME}: it walks on lines only"
    refused(capsys, ["compare", "bandit:k=2,n=4", "--engine", NAME], message)
    with pytest.raises(ValueError, match="it walks on lines only"):
        find_engine(NAME, BernoulliBandit(2))
    assert find_engine(DEVICE, BernoulliBandit(2), lane_steps=8, alone=False) is None
