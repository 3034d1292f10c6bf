"""The scripts in examples/: their parts against what is known, and each from end to end, quickly."""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params
from matplotlib.image import imread

from rl2jax.agents import reference_agents
from rl2jax.envs import BernoulliBandit
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks
from rl2jax.trials.evaluate import evaluation_key, play_tasks
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def examples():
    yield {name: load(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)


def run(example, folder, capsys):
    """What its quick form prints; its picture must have been drawn."""
    example.main(["--quick", "--out", str(folder)])
    printed = capsys.readouterr().out
    picture = imread(printed.strip().splitlines()[-1])
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05
    return printed


def test_make_examples_and_the_page_name_all_of_them():
    made = re.findall(r"python examples/(\w+)\.py", (ROOT / "Makefile").read_text())
    shown = re.findall(
        r"^python examples/(\w+)\.py", (ROOT / "docs" / "howto" / "examples.md").read_text(), re.MULTILINE
    )
    assert sorted(made) == sorted(set(shown)) == NAMES


# --- watch_an_agent


def test_watching_shows_every_pull_and_every_episode(examples, tmp_path, capsys):
    printed = run(examples["watch_an_agent"], tmp_path, capsys)
    arms = re.findall(r"^arm \d, pays +\d+%: ([#o.]+) +(\d+) pulls", printed, re.MULTILINE)
    assert [len(marks) - marks.count(".") for marks, _ in arms] == [int(pulls) for _, pulls in arms]
    assert sum(int(pulls) for _, pulls in arms) == 10
    paid = sum(marks.count("#") for marks, _ in arms)
    assert f"total reward {paid};" in printed
    episodes = re.findall(r"^ +(\d+)  ((?:\d:\d[* ] ?)+) +(\d+)", printed, re.MULTILINE)
    assert [int(number) for number, _, _ in episodes] == list(range(1, 11))
    assert [path.count("*") for _, path, _ in episodes] == [int(new) for _, _, new in episodes]
    pairs = {pair for _, path, _ in episodes for pair in re.findall(r"\d:\d", path)}
    assert sum(int(new) for _, _, new in episodes) == len(pairs)


# --- guess_the_number


def test_halving_needs_what_a_balanced_tree_does(examples):
    """Of 15 numbers 1, 2, 4 and 8 take 1, 2, 3 and 4 guesses; each takes one when it is asked again."""
    example = examples["guess_the_number"]
    trial, agent = Trial(example.GuessTheNumber(), example.GAMES), example.halving_agent(15)
    params = jax.vmap(lambda number: example.Params(number=number, max_steps_in_episode=8))(jnp.arange(15))
    guesses = jax.jit(jax.vmap(lambda p: example.guesses_per_game(rollout(jax.random.key(0), agent, trial, p), p)))(
        params
    )
    assert sorted(guesses[:, 0].tolist()) == [1.0] + [2.0] * 2 + [3.0] * 4 + [4.0] * 8
    np.testing.assert_array_equal(guesses[:, 1], 1.0)


@pytest.mark.parametrize(("guess", "answer", "reward"), [(4, 1, -0.1), (5, 2, 1.0), (6, 2, -0.1)])
def test_a_guess_is_answered(examples, guess, answer, reward):
    example = examples["guess_the_number"]
    env, params = example.GuessTheNumber(), example.Params(number=jnp.int32(5), max_steps_in_episode=8)
    _, state = env.reset_env(jax.random.key(0), params)
    obs, _, got, right, _ = env.step_env(jax.random.key(0), state, jnp.int32(guess), params)
    assert (int(obs), float(got), bool(right)) == (answer, pytest.approx(reward), guess == 5)


def test_the_trained_agent_beats_chance(examples, tmp_path, capsys):
    printed = run(examples["guess_the_number"], tmp_path, capsys)
    rows = re.findall(r"^(\w+) +(-?[\d.]+) \+- ([\d.]+)", printed, re.MULTILINE)
    scores = {name: (float(mean), float(error)) for name, mean, error in rows}
    (trained, error), (chance, other_error) = scores["trained"], scores["random"]
    assert trained > chance + 5 * (error**2 + other_error**2) ** 0.5
    assert scores["halving"][0] == pytest.approx(2 - 0.1 * 2 / 3, abs=0.02)  # one of three numbers at once, two later


# --- read_its_mind


def test_ridge_is_least_squares_and_finds_a_linear_map(examples):
    example, rng = examples["read_its_mind"], np.random.default_rng(0)
    states = rng.normal(size=(7, 40, 5)) * 3
    weights, constant = rng.normal(size=(5, 2)), np.array([0.3, -1.0])
    (found,) = example.ridge(states, states @ weights + constant, [1e-12])
    np.testing.assert_allclose(found, np.vstack([weights, constant]), atol=1e-9)
    noisy = states @ weights + rng.normal(size=(7, 40, 2))
    x, penalty = example.with_one(states), 0.1
    scale, n = np.mean(states**2), 7 * 40
    (found,) = example.ridge(states, noisy, [penalty])
    shrunk = penalty * n * scale * np.diag([1.0] * 5 + [0.0])
    np.testing.assert_allclose(found, np.linalg.solve(x.T @ x + shrunk, x.T @ noisy.reshape(n, 2)), atol=1e-9)


def test_r_squared_of_the_truth_and_of_its_mean(examples):
    r_squared, values = examples["read_its_mind"].r_squared, np.arange(12.0).reshape(2, 3, 2)
    assert r_squared(values, values) == 1
    assert r_squared(np.full_like(values, values.mean()), values) == pytest.approx(0)


@pytest.fixture(scope="module")
def gittins():
    """The index agent on 6 bandits: (agent, its trials)."""
    env = BernoulliBandit(3)
    agent = reference_agents(env)["gittins"].make(env, 12, discount=0.9)
    return agent, play_tasks(agent, Trial(env, 12), 6, evaluation_key(0)).trajectory


def test_a_replay_is_what_was_played(examples, gittins):
    """An agent that draws nothing, shown its own trials, does the same again."""
    agent, seen = gittins
    np.testing.assert_array_equal(examples["read_its_mind"].replay(agent, seen.trial_obs).action, seen.action)


def test_a_memory_in_several_parts_is_read_as_one_vector(examples, gittins):
    """As that of an agent with a memory for each arm: its memories, their sum, what is read of them, the time."""
    env = BernoulliBandit(3)
    config = TrainConfig().replace(
        {
            "network": "per_arm",
            "network.units": 4,
            "trial.num_episodes": 12,
            "objective.task_inference_coefficient": 0.0,
        }
    )
    networks = make_networks(env, config)
    agent = networks.agent(random_params(networks, seed=0)["policy"])
    state = examples["read_its_mind"].replay(agent, gittins[1].trial_obs).state
    start = jax.tree.leaves(agent.init(jax.random.key(0)))
    assert state.shape == (12, 6, sum(leaf.size for leaf in start))
    assert state[..., -1].tolist() == [[step + 1] * 6 for step in range(12)]


def test_beliefs_are_counts_of_the_past(examples, gittins):
    seen = gittins[1]
    means, pulls = examples["read_its_mind"].beliefs(seen, 3)
    for step, task, arm in np.ndindex(12, 6, 3):
        paid = [r for a, r in zip(seen.action[:step, task], seen.reward[:step, task], strict=True) if a == arm]
        assert pulls[step, task, arm] == len(paid)
        assert means[step, task, arm] == pytest.approx((1 + sum(paid)) / (2 + len(paid)))


def test_minds_are_read(examples, tmp_path, capsys):
    """The arms of the trial itself are in the hidden state, those of another are not."""
    printed = run(examples["read_its_mind"], tmp_path, capsys)
    means = printed.split("R2 of an arm's posterior mean")[1].split("R2 of")[0]
    scores = {name: float(last) for name, last in re.findall(r"^(trained|another trial's) .* (-?[\d.]+)$", means, re.M)}
    assert scores["trained"] > 0.8
    assert scores["another trial's"] < 0.1
    agreement = re.search(r"same arm .* ([\d.]+)$", printed, re.MULTILINE)
    assert float(agreement[1]) > 0.75  # an arm equal to the one that Gittins takes counts as another
