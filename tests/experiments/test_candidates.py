"""Candidates of a recipe: valid settings, equal time, what rows say, and a tiny study that is stopped and continued."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import experiments.candidates.__main__ as experiment
from experiments.candidates import equal_time, study
from experiments.candidates.catalogue import CANDIDATES, base_config, differences, parts_of
from experiments.candidates.equal_time import iterations_for, median, takes_as_long, time_ratios
from experiments.candidates.reports import NUM_BLOCKS, block_means, difference, read_results, score, to_markdown
from rl2jax.agents import reference_agents
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import read_objects
from rl2jax.runs import stages as experiment_of_package
from rl2jax.runs.run import ancestry, open_run
from rl2jax.training.cost import Peak
from rl2jax.training.families import make_networks
from rl2jax.training.loop import NonFiniteError
from rl2jax.training.presets import preset

TASKS = [parse_task(name) for name in experiment.BUDGETS]
NAMES = [candidate.name for candidate in CANDIDATES]
BASE_SETTINGS = preset("cpu").replace(iterations=100).to_json()


# --- The list.


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind.name)
@pytest.mark.parametrize("candidate", CANDIDATES, ids=NAMES)
def test_a_candidate_is_valid(candidate, task):
    parts = parts_of(candidate, task)
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert parts[-1].stage.task == task
    shapes = set()
    for share, (_, trained_on, config) in parts:
        assert 0 < share <= 1
        assert config.trial.num_episodes == trained_on.num_episodes
        assert parse_task(trained_on.name) == trained_on
        shapes.add(make_networks(trained_on.env, config).policy_network)  # refuses what does not fit
        if config.slow_rl.name == "imitation":
            assert config.slow_rl.teacher in reference_agents(trained_on.env)
    assert len(shapes) == 1  # one can start from the other


def test_candidates_differ_from_the_base_and_from_each_other():
    assert len(set(NAMES)) == len(NAMES)
    for task in TASKS:
        base = base_config(task, {})
        settings = [
            [(part.share, differences(part.stage.config, base)) for part in parts_of(candidate, task)]
            for candidate in CANDIDATES
        ]
        assert settings[0] == [(1.0, {})]
        assert all(settings.count(one) == 1 for one in settings)


def test_numbers_are_scaled_and_whole_ones_stay_whole():
    (part,) = parts_of(named("policy-epochs-half"), TASKS[0], {"slow_rl.epochs": 1})
    assert part.stage.config.slow_rl.epochs == 1
    (part,) = parts_of(named("learning-rate-half"), TASKS[1])
    assert part.stage.config.slow_rl.learning_rate == base_config(TASKS[1], {}).slow_rl.learning_rate / 2


def test_a_curriculum_starts_with_the_memory_of_the_whole_trial():
    first, main = parts_of(named("curriculum"), TASKS[0])
    assert (first.stage.task.name, first.share) == ("bandit:k=5,n=25", 0.3)
    assert first.stage.config.network.memory_horizon == main.stage.config.network.memory_horizon == 100
    # as many steps in a minibatch
    assert first.stage.config.slow_rl.minibatch_trials == 4 * main.stage.config.slow_rl.minibatch_trials


def test_only_what_there_is_can_be_chosen():
    assert [c.name for c in experiment.chosen(["tanh"])] == ["base", "tanh"]
    with pytest.raises(ValueError, match=r"--only must be of base .*, got 'nonesuch'"):
        experiment.chosen(["nonesuch"])


def named(name):
    return CANDIDATES[NAMES.index(name)]


# --- Equal time.


def test_iterations_are_the_budget_over_the_ratio():
    assert [iterations_for(100, ratio) for ratio in (0.5, 1.0, 3.0, 1000.0)] == [200, 100, 33, 1]
    assert iterations_for(0.3 * 100, 0.5) == 60
    for ratio in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="ratio must be finite and > 0"):
            iterations_for(100, ratio)


def test_what_needs_timing():
    base = preset("cpu")
    assert takes_as_long(
        base.replace({"objective.gae_lambda": 0.9, "slow_rl.learning_rate": 1.0, "iterations": 3}), base
    )
    assert not takes_as_long(base.replace({"objective.gae_lambda": 0.9, "slow_rl.epochs": 8}), base)
    assert not takes_as_long(base.replace({"objective.expected_rewards": True}), base)


def test_ratios_do_not_see_a_machine_that_slows_down(monkeypatch):
    """Each sample is held against the base just before and just after it: a steady drift cancels."""
    clock = iter(range(10, 100))
    cost = {"base": 1.0, "candidate": 3.0}
    monkeypatch.setattr(equal_time, "_iterating", lambda learner: lambda: cost[learner] * next(clock))
    assert time_ratios("candidate", "base", rounds=4) == pytest.approx([3.0] * 4)
    assert median([0.5, 0.9, 0.123456]) == 0.5
    assert median([2 / 3]) == 0.6667


class Progress(NamedTuple):
    iteration: jax.Array


@dataclass(frozen=True)
class Work:
    """A program of so many dependent operations, in the place of a learner."""

    operations: int

    def init(self, key):
        return Progress(jax.random.uniform(key, (1000,)))

    def train_chunk(self, state, length):
        return jax.tree.map(
            lambda x: jax.lax.fori_loop(0, length * self.operations, lambda _, y: jnp.sin(y), x), state
        ), ()


def test_a_longer_program_has_a_larger_ratio():
    ratios = time_ratios(Work(4000), Work(1000), rounds=3)
    assert len(ratios) == 3
    assert 2.0 < median(ratios) < 8.0


# --- What rows say.


def blocks(mean, seeds=3, spread=0.1, noise=1.0, seed=0):
    """Block means of several seeds on common tasks, [seeds, NUM_BLOCKS]."""
    tasks = noise * np.random.default_rng(99).normal(size=NUM_BLOCKS)
    return mean + tasks + spread * np.random.default_rng(seed).normal(size=(seeds, 1)) + np.zeros((seeds, NUM_BLOCKS))


def test_blocks_keep_the_mean_and_its_error():
    total = np.random.default_rng(0).integers(0, 100, 20_000).astype(np.float32)
    means = np.array([block_means(total)])
    estimate = score(means)
    assert estimate.mean == pytest.approx(total.mean(dtype=np.float64))
    assert estimate.over_tasks == pytest.approx(total.std() / math.sqrt(len(total)), rel=0.15)
    assert math.isnan(estimate.over_seeds)


def test_a_difference_is_paired_over_tasks():
    a, b = blocks(5.0, spread=0.0), blocks(4.0, spread=0.0)
    assert score(a).over_tasks > 0.05
    assert difference(a, b).mean == pytest.approx(1.0)
    assert difference(a, b).over_tasks < 1e-12


def test_with_one_source_of_error_the_test_is_the_usual_one():
    """Tasks all alike: Welch's test of the seeds. Seeds all alike: the paired test of the tasks."""
    a, b = blocks(5.0, noise=0.0, seed=1), blocks(4.9, seeds=5, noise=0.0, seed=2)
    welch = scipy.stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert difference(a, b).p == pytest.approx(welch.pvalue)
    assert difference(a, b).over_seeds == pytest.approx((a[:, 0].mean() - b[:, 0].mean()) / welch.statistic)
    rng = np.random.default_rng(3)
    x, y = (np.tile(rng.normal(size=NUM_BLOCKS), (3, 1)) for _ in range(2))
    assert difference(x, y).p == pytest.approx(scipy.stats.ttest_rel(x[0], y[0]).pvalue)


def test_one_seed_has_a_difference_but_no_test():
    a, b = blocks(5.0, seeds=1, noise=2.0), blocks(4.0)
    estimate, gain = difference(a, b), a[0] - b.mean(axis=0)
    assert math.isnan(estimate.p)
    assert math.isnan(estimate.over_seeds)
    assert estimate.mean == pytest.approx(gain.mean())
    assert estimate.over_tasks == pytest.approx(scipy.stats.sem(gain))


def rows(candidate, mean, *, changes=None, seeds=3, first=None, **more):
    part = {"name": "main", "task": "t", "share": 1.0, "changes": changes or {}, "ratio": 1.5, "iterations": 67}
    parts = [*([first] if first else []), {**part, "steps": 1_340_000}]
    common = {"task": "bandit:k=5,n=100", "base": BASE_SETTINGS, "num_tasks": 20_000, "seed": 1}
    row = {**common, "candidate": candidate, "summary": f"About {candidate}.", "parts": parts}
    means = blocks(mean, seeds, spread=0.01, seed=sum(map(ord, candidate)))
    return [{**row, "training_seed": s, "block_means": x.tolist(), **more} for s, x in enumerate(means)]


def lines_of(table):
    """Candidate -> cells."""
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    return {line[0]: line for line in cells}


def test_the_table_ranks_what_rows_say():
    first = {"name": "first", "task": "u", "share": 0.3, "changes": {"trial.num_episodes": 25}, "ratio": 1.1}
    found = [
        *rows("base", 77.0),
        *rows("worse", 75.0, changes={"objective.gae_lambda": 0.9}),
        *rows("better", 79.0, changes={"a": True, "b": 0.02}, first={**first, "iterations": 27, "steps": 540_000}),
        *rows("alone", 78.0, seeds=1),
    ]
    table = to_markdown(found)
    lines = lines_of(table)
    assert [*lines][1:] == ["base", "better", "alone", "worse"]
    settings = "30% of the time `trial.num_episodes=25`; then `a=True` `b=0.02`"
    assert lines["better"][1:6] == [settings, "1.10, 1.50", "27 + 67", "1.9 M", "0, 1, 2"]
    gain = difference(*(np.array([row["block_means"] for row in found[at : at + 3]]) for at in (6, 0)))
    error = f"{gain.over_seeds:.2f}"
    assert lines["better"][7] == f"**{gain.mean:+.2f} ± {error} ± 0.00**"
    assert float(lines["better"][8]) == pytest.approx(gain.p, rel=0.1)
    assert lines["worse"][7].startswith("**-")
    assert lines["alone"][5] == "0"
    assert lines["alone"][6].count("±") == lines["alone"][7].count("±") == 1  # no error over seeds
    assert lines["alone"][8] == lines["base"][7] == lines["base"][8] == ""
    assert "- **worse**: About worse." in table
    assert "in the time of 100 iterations of the base" in table


def test_a_difference_within_the_error_is_not_bold():
    lines = lines_of(to_markdown([*rows("base", 77.0), *rows("same", 77.0)]))
    assert "**" not in lines["same"][7]


def test_a_failure_is_an_outcome():
    failed = rows("wild", 3.0, seeds=2)
    del failed[1]["block_means"]
    failed[1]["failure"] = "not finite in iteration 7"
    lines = lines_of(to_markdown([*rows("base", 77.0), *failed]))
    assert lines["wild"][5:] == ["0, 1", "failed: seed 1, not finite in iteration 7", "", ""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": 400}, "num_tasks of the rows in .* must be 20000 like that of the others .*, got 400"),
        ({"base": {**BASE_SETTINGS, "iterations": 50}}, "iterations of the rows in .* must be 100 .*, got 50"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        to_markdown([*rows("base", 77.0), *rows("other", 77.0, **change)])


def test_settings_that_came_later_do_not_make_rows_different():
    older = {name: value for name, value in BASE_SETTINGS.items() if name != "objective.expected_rewards"}
    assert "other" in to_markdown([*rows("base", 77.0), *rows("other", 77.0, base=older)])


# --- All of it.

TINY = ["network.units=4", "batch.size=60", "slow_rl.minibatch_trials=10", "baseline.minibatch_trials=10"]
# The number of iterations does not enter the program: all of them share one that was compiled before.
TINY += ["optimiser.schedule=constant", "objective.entropy_schedule=constant"]


def run(tmp_path, *names, task="bandit:k=2,n=4", num_tasks=NUM_BLOCKS, iterations=3, also=()):
    folders = ["--out", tmp_path / "runs", "--results", tmp_path / "results"]
    sizes = ["--iterations", iterations, "--num-tasks", num_tasks, "--seeds", 4]
    words = ["--tasks", task, "--only", *names, *folders, *sizes, "--set", *TINY, *also]
    experiment.main([str(word) for word in words])


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    monkeypatch.setattr(experiment, "measure_peak", lambda: Peak(1e11, 1e10))


def stop(*_, **__):
    raise KeyboardInterrupt


def forbidden(*_, **__):
    raise AssertionError("done already")


@pytest.mark.slow
def test_a_tiny_study(tmp_path, monkeypatch):
    """Stopped while it plays, continued without training again, added to; then nothing is left to do."""
    folder = tmp_path / "results" / "bandit-k2-n4"
    with monkeypatch.context() as patched:
        patched.setattr(study, "evaluate", stop)
        with pytest.raises(SystemExit, match="stopped; what was done is saved"):
            run(tmp_path, "base")
    assert not folder.exists()
    monkeypatch.setattr(study, "time_ratios", lambda learner, base: [0.4, 0.5, 0.9])
    with monkeypatch.context() as patched:
        patched.setattr(experiment_of_package, "train_with_progress", forbidden)
        run(tmp_path, "base")
    (base,) = read_objects(folder / "base-seed4.json")
    run(tmp_path, "curriculum")
    assert read_objects(folder / "base-seed4.json") == [base]

    (row,) = read_objects(folder / "curriculum-seed4.json")
    (timed,) = read_objects(folder / "curriculum-time.json")
    first, main = row["parts"]
    assert (timed["ratio"], timed["ratios"]) == (0.5, [0.4, 0.5, 0.9])
    assert (first["task"], first["ratio"], first["iterations"]) == ("bandit:k=2,n=1", 0.5, 2)  # 0.3 * 3 / 0.5
    assert (main["ratio"], main["iterations"], main["steps"]) == (1.0, 2, 2 * 60)
    assert row["iteration"] == 2
    (ancestor,) = ancestry(open_run(tmp_path / "runs" / "bandit-k2-n4" / "curriculum-seed4" / "main"))
    assert ancestor["task"] == "bandit:k=2,n=1"

    assert base["hyperparameters"] == base["base"]
    assert np.mean(row["block_means"]) == pytest.approx(row["mean"])
    assert [r["candidate"] for r in read_results(tmp_path / "results")] == ["base", "curriculum"]
    assert (tmp_path / "results" / "candidates.md").read_text() == to_markdown(read_results(tmp_path / "results"))

    for name in ("time_ratios", "train_stage", "evaluate"):
        monkeypatch.setattr(study, name, forbidden)
    run(tmp_path, "curriculum")
    with pytest.raises(SystemExit, match=r"num_tasks of the rows in .* must be 400"):
        run(tmp_path, "base", num_tasks=2 * NUM_BLOCKS)
    with pytest.raises(SystemExit, match=r"iterations of the rows in .* must be 9"):
        run(tmp_path, "base", iterations=9)


def test_a_training_that_diverges_leaves_a_row(tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise NonFiniteError(SimpleNamespace(iteration=np.int32(2)))

    monkeypatch.setattr(study, "train_stage", diverge)
    run(tmp_path, "base")
    (row,) = read_objects(tmp_path / "results" / "bandit-k2-n4" / "base-seed4.json")
    assert row["failure"] == "not finite in iteration 3"
    assert "failed: seed 4, not finite in iteration 3" in (tmp_path / "results" / "candidates.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "cartpole", "iterations": 2}, "--tasks must be of kind bandit or mdp, got 'cartpole:t=100,n=4'"),
        ({"num_tasks": 100}, "--num-tasks must be a multiple of 200"),
        ({"iterations": 0}, "iterations must be >= 1, got 0"),
        (
            {"also": ["trial.num_episodes=5"]},
            "--set must be another field: this one is n= in the task, got 'trial.num_episodes'",
        ),
    ],
)
def test_what_could_only_fail_later_is_refused_first(tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        run(tmp_path, "base", **options)


def test_the_document_has_a_place_for_the_table():
    """The new one stands in place of the old; the rest of the page stays."""
    text = experiment.DOCUMENT.read_text()
    before, rest = text.split("<!-- candidates -->\n")
    old, after = rest.split("<!-- end of candidates -->")
    assert "| candidate |" in old
    wanted = f"{before}<!-- candidates -->\nof this test\n<!-- end of candidates -->{after}"
    assert experiment.put_table(text, "candidates", "of this test\n") == wanted
