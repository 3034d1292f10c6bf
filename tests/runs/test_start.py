"""A run that starts from another run's parameters."""

import json
import shutil

import jax
import numpy as np
import pytest

from rl2jax.envs.names import parse_task
from rl2jax.runs import checkpoint
from rl2jax.runs.run import RunError, ancestry, create_run, load_state, open_run, parameters_digest
from rl2jax.runs.session import train_run
from rl2jax.training.config import TrainConfig

CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": 4,
        "iterations": 2,
        "batch.size": 40,
        "network.units": 4,
        "slow_rl.max_kl": float("inf"),
        "slow_rl.epochs": 1,
    }
)
TASK = parse_task("bandit:k=2,n=4")


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run, trained on trials of 4 pulls."""
    run = create_run(tmp_path_factory.mktemp("runs") / "first", TASK, CONFIG, seed=3)
    train_run(run)
    return run


def longer(first, folder, **changes):
    """A run on trials of 8 pulls that starts from it."""
    task = parse_task("bandit:k=2,n=8")
    return create_run(
        folder, task, CONFIG.replace({"trial.num_episodes": 8, "iterations": 4, **changes}), seed=5, start=first
    )


def test_it_starts_with_the_other_runs_parameters_and_its_own_randomness(first, tmp_path):
    run = longer(first, tmp_path / "run")
    start, source = load_state(run), load_state(first)
    assert equal(start.params, source.params)
    assert int(start.iteration) == 0
    assert not equal(jax.random.key_data(start.key), jax.random.key_data(source.key))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(start.slow_rl))
    assert float(start.return_moments.count) == 0  # longer trials have another scale
    trained = train_run(run).state  # without resume, as a new run is
    assert int(trained.iteration) == 4
    assert not equal(trained.params, source.params)


def test_of_the_same_seed_it_meets_other_tasks(first, tmp_path):
    """In every stage: no trial's key of the first batch is one of an earlier stage's, whatever the batches' sizes."""
    stages = [first]
    for number, batch in enumerate((40, 80)):
        config = CONFIG.replace({"batch.size": batch})
        stages.append(create_run(tmp_path / f"{number}", TASK, config, seed=3, start=stages[-1]))
        checkpoint.save(stages[-1].checkpoints, 1, load_state(stages[-1]))
    keys = [load_state(stage, 0).key for stage in stages[1:]] + [first.learner.init(jax.random.key(3)).key]
    trials = [jax.random.key_data(jax.random.split(jax.random.split(key, 3)[1], 20)) for key in keys]
    drawn = {tuple(key) for keys_of_stage in trials for key in np.asarray(keys_of_stage).tolist()}
    assert len(drawn) == 60


def test_killed_and_resumed_equals_never_stopped(first, tmp_path):
    whole, cut = longer(first, tmp_path / "whole"), longer(first, tmp_path / "cut")
    train_run(whole, checkpoint_minutes=0)
    half = cut._replace(config=cut.config.replace(iterations=2))  # constant rates: iterations do not change the steps
    train_run(half, checkpoint_minutes=0)
    train_run(cut, resume=True)
    assert equal(load_state(whole).params, load_state(cut).params)


def test_it_remembers_where_it_came_from(first, tmp_path):
    second = longer(first, tmp_path / "second")
    train_run(second)
    third = create_run(tmp_path / "third", TASK, CONFIG, seed=0, start=open_run(second.folder))
    assert ancestry(first) == []
    earlier = ancestry(third)
    assert [run["task"] for run in earlier] == ["bandit:k=2,n=4", "bandit:k=2,n=8"]
    assert [run["iteration"] for run in earlier] == [2, 4]
    assert [run["seed"] for run in earlier] == [3, 5]
    assert earlier[0]["parameters_sha256"] == parameters_digest(load_state(first).params["policy"])
    assert TrainConfig.from_json(earlier[1]["config"]) == second.config


def test_a_baseline_of_other_inputs_starts_afresh(first, tmp_path):
    run = longer(first, tmp_path / "run", **{"baseline.sees_task": True})
    start = load_state(run)
    assert equal(start.params["policy"], load_state(first).params["policy"])
    assert start.params["baseline"]["params"].keys() > load_state(first).params["baseline"]["params"].keys()


def test_another_policy_is_refused_by_name(first, tmp_path):
    with pytest.raises(RunError, match=r"gru_bias.* \(12,\) there and \(24,\) here"):
        longer(first, tmp_path / "run", **{"network.units": 8})
    assert not (tmp_path / "run").exists()


def test_a_making_that_was_cut_off_is_made_again(first, tmp_path):
    """Killed between checkpoint 0 and run.json; checkpoints of a training are not overwritten."""
    run = longer(first, tmp_path / "run")
    (run.folder / "run.json").unlink()
    again = longer(first, tmp_path / "run")
    assert json.loads((again.folder / "run.json").read_text())["started_from"]
    train_run(again)
    (run.folder / "run.json").unlink()
    with pytest.raises(RunError, match="not empty"):
        longer(first, tmp_path / "run")
    shutil.rmtree(run.folder)


def test_a_baseline_of_the_same_trials_keeps_its_scale(first, tmp_path):
    """With the weight of one step; not where a return is discounted otherwise, nor in longer trials."""
    before = load_state(first).return_moments
    same = load_state(create_run(tmp_path / "same", TASK, CONFIG, seed=5, start=first)).return_moments
    assert (float(same.count), float(same.mean), float(same.variance)) == (1.0, before.mean, before.variance)
    for name, run in {
        "discounted": create_run(
            tmp_path / "discounted", TASK, CONFIG.replace({"objective.discount": 0.5}), seed=5, start=first
        ),
        "longer": longer(first, tmp_path / "longer"),
    }.items():
        assert not any(map(float, load_state(run).return_moments)), name


def test_the_first_batch_is_valued_on_the_scale_that_came(first, tmp_path):
    """The update of a fresh batch is that of the run it started from, whatever the batch's own moments are."""
    run = create_run(tmp_path / "same", TASK, CONFIG, seed=5, start=first)
    state, old = load_state(run), load_state(first)
    learner = run.learner
    step = jax.jit(learner.train_step)
    _, here = step(state)
    _, there = step(state._replace(return_moments=old.return_moments, iteration=old.iteration))
    np.testing.assert_allclose(here.explained_variance, there.explained_variance, rtol=1e-5)
    _, fresh = step(state._replace(return_moments=jax.tree.map(np.zeros_like, old.return_moments)))
    assert abs(float(fresh.explained_variance - there.explained_variance)) > 1e-4
