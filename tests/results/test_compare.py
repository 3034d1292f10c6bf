"""Comparisons in pairs, tuning on tasks of its own, and what an agent pulls; with agents whose scores are known."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest

from rl2jax.agents import Agent, ReferenceAgent
from rl2jax.envs import BernoulliBandit
from rl2jax.envs.names import Task, parse_task
from rl2jax.kinds import Kind
from rl2jax.results.compare import Contender, compare, run_contender, select_agents
from rl2jax.runs.run import create_run
from rl2jax.runs.session import train_run
from rl2jax.training.config import TrainConfig
from rl2jax.training.teacher import teacher_of
from rl2jax.trials import tuning
from rl2jax.trials.behaviour.pulls import pull_shares
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial


@dataclass(frozen=True)
class Ladder(BernoulliBandit):
    """Arm i pays i plus a number of the task's own, which all agents meet alike."""

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, action + 10.0 * params.probs[0], terminated, info


ENV = Ladder(4)
TASK = Task("ladder", Kind("custom"), ENV, 3)
TRIAL = Trial(ENV, 3)


def stubborn(env, num_episodes, arm):
    """Pulls one arm."""
    del env, num_episodes
    return Agent(lambda key: (), lambda key, state, trial_obs: (state, jnp.asarray(arm, jnp.int32), ()))


def contender(name, arm, draws=0):
    return Contender(name, stubborn(None, None, arm), {"hyperparameters": {"arm": arm}}, draws)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "rl2jax" / "tuned"


# --- Comparisons.


def test_agents_meet_the_same_tasks():
    """The tasks' part cancels in pairs: differences have no spread, and every test is decided."""
    result = compare(TASK, [contender("low", 1), contender("high", 3)], 50, seed=0)
    low, high = result.rows
    assert (low["agent"], high["agent"]) == ("low", "high")
    assert high["mean"] - low["mean"] == pytest.approx(6.0, abs=1e-4)
    assert low["standard_error"] > 0.5
    assert (low["not_below_best"], high["not_below_best"]) == (False, True)
    (test,) = result.tests
    assert (test.better, test.worse, test.paired, test.num_tasks) == ("high", "low", True, 50)
    assert test.standard_error < 1e-5
    assert high["hyperparameters"] == {"arm": 3}
    assert sum(high["reward_curve"]) == pytest.approx(high["mean"], abs=1e-3)


def test_the_papers_protocol_does_not_pair():
    result = compare(TASK, [contender("low", 1), contender("high", 2)], 50, seed=0, protocol="paper")
    (test,) = result.tests
    assert not test.paired
    assert test.standard_error > 1.0
    assert all(row["protocol"] == "paper" for row in result.rows)


@pytest.mark.parametrize(
    ("draws", "count"),
    [(500, 2000), (2 * 10**5, 1000)],  # 1e6 a step in all; never fewer than the paper's 1000
)
def test_agents_with_many_draws_play_fewer_tasks(draws, count):
    shown = []
    slow = contender("slow", 3, draws=draws)
    result = compare(
        TASK, [contender("fast", 1), slow], 2500, seed=0, on_progress=lambda *progress: shown.append(progress)
    )
    assert [row["num_tasks"] for row in result.rows] == [2500, count]
    assert result.tests[0].num_tasks == count
    assert {(name, total) for name, _, total in shown} == {("fast", 2500), ("slow", count)}


def test_names_must_differ():
    with pytest.raises(ValueError, match="names of agents must be all different"):
        compare(TASK, [contender("same", 1), contender("same", 3)], 5, seed=0)


def test_each_is_shown_the_first_flag_it_was_trained_with():
    """The bug that was fixed: runs trained with flag 1 were compared under flag 0."""
    agent = Agent(lambda key: (), lambda key, state, seen: (state, 3 * seen.prev_done.astype(jnp.int32), ()))
    plain = Contender("plain", agent, {})
    result = compare(TASK, [plain, Contender("flagged", agent, {}, first_step_flag=1.0)], 20, seed=0)
    assert result.rows[1]["mean"] - result.rows[0]["mean"] == pytest.approx(3.0, abs=1e-4)


def test_unknown_agents_are_named():
    with pytest.raises(ValueError, match=r"--agents must be one of random.*, got 'gitins'"):
        select_agents(parse_task("bandit:k=3,n=20"), ["random", "gitins"])
    assert list(select_agents(parse_task("bandit:k=3,n=20"), ["random"])) == ["random"]


def test_a_trained_run_competes(tmp_path):
    task = parse_task("bandit:k=3,n=4")
    config = TrainConfig().replace(
        {"slow_rl": "ppo", "trial.num_episodes": 4, "iterations": 2, "batch.size": 40, "network.units": 4}
    )
    run = create_run(tmp_path / "run", task, config, seed=2)
    train_run(run)
    entrant = run_contender(run, task)
    assert entrant.context["trained_on"] == "bandit:k=3,n=4"
    assert (entrant.context["training_seed"], entrant.context["iteration"]) == (2, 2)
    result = compare(task, [entrant], 20, seed=0)
    assert 0 <= result.rows[0]["mean"] <= 4
    with pytest.raises(ValueError, match=r"task must be of the kind of bandit:k=5,n=4, got 'bandit:k=3,n=4'"):
        run_contender(run, parse_task("bandit:k=5,n=4"))
    curve = result.rows[0]["learning_curve"]
    assert curve["iteration"] == [1, 2]
    assert len(curve["mean_return"]) == 2
    assert result.rows[0]["command"] == f'rl2jax compare {task.name} --num-tasks 20 --seed 0 --agents "" --run DIR'
    assert "learning_curve" not in run_contender(run, parse_task("bandit:k=3,n=5")).context


# --- Tuning.

SPEC = ReferenceAgent(stubborn, grid=({"arm": 1}, {"arm": 3}, {"arm": 2}))


def test_the_grid_is_scored_on_tasks_of_its_own():
    tuned = tuning.tune(SPEC, TRIAL, num_tasks=20)
    assert tuned.hyperparameters == {"arm": 3}
    assert [score["hyperparameters"]["arm"] for score in tuned.scores] == [1, 3, 2]
    means = np.array([score["mean"] for score in tuned.scores])
    np.testing.assert_allclose(means - means[0], [0, 6, 3], atol=1e-4)  # the same tasks for all settings
    evaluated = evaluate(stubborn(None, None, 1), TRIAL, 20, evaluation_key(tuned.seed))
    assert abs(evaluated.mean - means[0]) > 1e-3  # and not those of an evaluation of that seed


def test_what_was_tuned_is_found_again(cache, monkeypatch):
    assert tuning.find_tuned(TASK, "stubborn", SPEC) is None
    first = tuning.tuned_or_tune(TASK, "stubborn", SPEC)
    assert tuning.find_tuned(TASK, "stubborn", SPEC) == first
    monkeypatch.setattr(tuning, "tune", None)  # would fail if it tuned again
    assert tuning.tuned_or_tune(TASK, "stubborn", SPEC) == first
    tuning.write_tuned(tuning.tuned_file(cache, TASK), {"other": first})
    assert set(tuning.read_tuned(tuning.tuned_file(cache, TASK))) == {"stubborn", "other"}


def test_another_grid_is_tuned_anew(cache):
    tuning.tuned_or_tune(TASK, "stubborn", SPEC)
    assert tuning.find_tuned(TASK, "stubborn", SPEC._replace(grid=({"arm": 0}, {"arm": 1}))) is None
    tuning.tuned_file(cache, TASK).write_text("[broken")
    assert tuning.find_tuned(TASK, "stubborn", SPEC) is None


def test_one_setting_needs_no_tuning(cache):
    assert tuning.tuned_or_tune(TASK, "stubborn", SPEC._replace(grid=({"arm": 2},))).hyperparameters == {"arm": 2}
    assert not cache.exists()


def test_ones_own_task_need_not_count_its_actions():
    """gymnax's `num_actions` raises where a task does not say it; agents that draw little do not ask."""

    class Uncounted:
        @property
        def num_actions(self):
            raise NotImplementedError

    spec = ReferenceAgent(lambda env, num_episodes: None)
    assert tuning.draws_per_step(spec, Uncounted(), {}) == 0
    assert tuning.draws_per_step(spec._replace(draws_per_step=2), BernoulliBandit(5), {"num_samples": 3}) == 30


def test_a_teacher_must_be_known():
    config = TrainConfig().replace({"slow_rl": "imitation", "imitation.teacher": "nobody"})
    with pytest.raises(ValueError, match=r"teacher must be one of random.*, got 'nobody'"):
        teacher_of(parse_task("bandit:k=3,n=4"), config)


# --- What is pulled.


def shares_of(agent, trial, num_tasks):
    return evaluate(agent, trial, num_tasks, evaluation_key(0), statistic=pull_shares(trial)).statistic


def test_pull_shares_of_an_oracle_and_of_a_stubborn_agent():
    """Arms are counted by rank: the best arm is rank 0, and a fixed arm has every rank equally often."""

    @dataclass(frozen=True)
    class Tells(BernoulliBandit):
        def reset_env(self, key, params):
            _, state = super().reset_env(key, params)
            return jnp.argmax(params.probs).astype(jnp.float32)[None], state

    oracle = Agent(lambda key: (), lambda key, s, trial_obs: (s, trial_obs.obs[0].astype(jnp.int32), ()))
    trial = Trial(Tells(4), 30)
    shares = shares_of(oracle, Trial(Tells(4), 1), 400)
    np.testing.assert_allclose(shares, [[1, 0, 0, 0]])
    shares = shares_of(stubborn(None, None, 2), trial, 4000)
    assert shares.shape == (25, 4)
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(shares, 0.25, atol=4 * np.sqrt(0.25 * 0.75 / 4000))


def test_many_arms_are_grouped_by_rank():
    shares = shares_of(stubborn(None, None, 0), Trial(BernoulliBandit(50), 2), 500)
    assert shares.shape == (2, 10)
    np.testing.assert_allclose(shares, 0.1, atol=4 * np.sqrt(0.1 * 0.9 / 500))
