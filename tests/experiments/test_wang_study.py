"""The experiments of Wang et al.: rows are made once, claims follow from rows, and the page from both."""

import copy

import numpy as np
import pytest
from rich.console import Console

from experiments.wang import __main__ as wang
from experiments.wang import bandits, dependent, harlow, informative, navigation, restless, two_step
from experiments.wang.study import Plan, Reference, interval, mean_and_error, pooled, rows_of
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import read_rows, write_rows


def row(agent, task, measured, **more):
    trained = {"trained_on": parse_task(task).name} if agent == "rl2" else {}
    made = {"agent": agent, "task": task, "measured": measured, "num_tasks": 9, "seed": 1, "commit": "c"}
    return made | trained | more


def regret(total, error=0.01):
    return {"regret": total, "regret_error": error, "curve": [total / 2, total]}


def made_up():
    """Rows by which every claim holds, of each study."""
    tasks = list(dependent.NAMES)
    independent = {"gittins": 1.7, "thompson": 2.8, "ucb1": 5.4, "ucb1_tuned": 1.8}
    stays = {"coefficients": [1.0, 0.01, 0.0, 0.5], "coefficients_error": [0.01] * 4, "stay": [0.9, 0.5, 0.4, 0.8]}
    lagged = {"lagged": [[0.5, -0.5, -0.5, 0.5]], "lagged_error": [[0.1] * 4], "model_based": 2.0, "model_free": 0.0}
    ways = {"visits": 9.0, "visits_error": 0.1, "complete": 0.9, "steps_error": [0.1] * 6}
    rates = {"learning_rate_low": 0.3, "learning_rate_high": 0.6, "regret": 9.0}
    rates |= {f"{name}_error": 0.01 for name in list(rates)}
    return {
        "bandits": [row(name, bandits.TASK, regret(value)) for name, value in independent.items()]
        + [row("rl2", bandits.TASK, regret(2.0 + seed / 10), training_seed=seed) for seed in range(3)],
        "dependent": [row("gittins", task, regret(3.0)) for task in tasks]
        + [row("rl2", task, regret(1.0 + (task != on)), trained_on=on) for on in tasks for task in tasks],
        "informative": [
            row(agent, informative.TASK, {"informative": [share, 0.0], "target": [0.0, 1.0], "target_after_told": 0.99})
            for agent, share in (("informed", 1.0), ("rl2", 0.97))
        ],
        "restless": [
            row("rescorla_wagner", restless.TASK, rates | {"regret": 10.0}),
            row("rl2", restless.TASK, rates),
        ],
        "two_step": [
            row("rl2", task, {**stays, **lagged, "stay_error": [0.01] * 4})
            for task in (two_step.FIXED, two_step.SWITCHING)
        ],
        "harlow": [row("rl2", harlow.TASK, {"accuracy": [0.5, 0.95], "choices_made": [1.0, 1.0]})],
        "navigation": [
            row(agent, task, {**ways, "steps": steps})
            for task in (navigation.MAZE, navigation.FIELD)
            for agent, steps in (("shortest_path", [5.0] * 6), ("rl2", [20.0, 9.0, 8.0, 7.0, 7.0, 7.0]))
        ],
    }


def test_every_study_has_rows_here():
    assert list(made_up()) == list(wang.STUDIES)


@pytest.mark.parametrize("name", list(wang.STUDIES))
def test_claims_hold_where_they_should(name):
    claims = wang.STUDIES[name].claims(made_up()[name])
    assert claims
    assert all(claim.holds for claim in claims), claims


@pytest.mark.parametrize(
    ("name", "agent", "field", "value", "number_failing"),
    [
        ("bandits", "rl2", "regret", 2.79, 1),  # one seed's interval overlaps Thompson's
        ("bandits", "gittins", "regret", 1.99, 1),
        ("dependent", "rl2", "regret", 2.0, 4),  # no better on its own column
        ("informative", "rl2", "informative", [0.9, 0.0], 1),
        ("informative", "rl2", "target_after_told", None, 1),
        ("restless", "rl2", "learning_rate_high", 0.32, 1),
        ("restless", "rl2", "regret", 11.0, 1),
        ("two_step", "rl2", "coefficients", [1.0, 0.2, 0.0, 0.5], 2),  # of both tasks
        ("two_step", "rl2", "coefficients", [1.0, 0.0, 0.0, 0.01], 2),
        ("harlow", "rl2", "accuracy", [0.5, 0.89], 1),
        ("navigation", "rl2", "steps", [20.0, 17.0, 8.0, 7.0, 7.0, 7.0], 2),
        ("navigation", "rl2", "steps", None, 2),
    ],
)
def test_claims_fail_where_they_should(name, agent, field, value, number_failing):
    rows = copy.deepcopy(made_up()[name])
    changed = [r for r in rows if r["agent"] == agent and r.get("trained_on") in (None, parse_task(r["task"]).name)]
    for r in changed[:1] if name == "bandits" else changed:
        r["measured"][field] = value
    assert sum(not claim.holds for claim in wang.STUDIES[name].claims(rows)) == number_failing


def test_the_report_is_made_of_rows_alone(tmp_path):
    results = tmp_path / "wang"
    results.mkdir()
    for name, rows in made_up().items():
        write_rows(results / f"{name}.json", rows)
    wang.write_report(results)
    text, page = results.with_suffix(".md").read_text(), results.with_suffix(".html").read_text()
    for study in wang.STUDIES.values():
        assert (results / f"{study.name}.png").stat().st_size > 1000
        assert (results / f"{study.name}.svg").read_text().startswith("<svg")
        assert study.title in text
        assert study.title.replace("'", "&#x27;") in page
    assert "**no**" not in text
    assert "<strong>no" not in page
    assert page.count("<figure>") == len(wang.STUDIES)


def test_a_study_that_was_stopped_is_left_out(tmp_path):
    """Its file has rows, but not yet of every agent that is to be trained."""
    results = tmp_path / "wang"
    results.mkdir()
    rows = made_up()
    write_rows(results / "dependent.json", rows["dependent"][:-1])
    write_rows(results / "harlow.json", rows["harlow"])
    wang.write_report(results)
    text = results.with_suffix(".md").read_text()
    assert harlow.STUDY.title in text
    assert dependent.STUDY.title not in text


def test_rows_are_made_once(tmp_path):
    """An agent is trained and plays once; other tasks, other rows; what is on disk is not lost."""
    study = bandits.STUDY._replace(references=(Reference("thompson"), Reference("nobody")), num_seeds=1, num_tasks=40)
    plan = Plan("cpu", 3, 1, tmp_path / "runs", tmp_path, Console(quiet=True), iterations=2)
    rows = rows_of(study, plan)
    assert [(r["agent"], r.get("training_seed"), r.get("iteration")) for r in rows] == [
        ("thompson", None, None),
        ("rl2", 3, 2),
    ]
    assert read_rows(tmp_path / "bandits.json") == rows
    assert rows[1]["hyperparameters"]["slow_rl"] == "a2c"
    assert rows[1]["hyperparameters"]["batch.size"] == 10_000
    marked = [{**r, "commit": "kept"} for r in rows]
    write_rows(tmp_path / "bandits.json", marked)
    assert rows_of(study, plan) == marked
    assert {r["commit"] for r in rows_of(study._replace(num_tasks=30), plan)} != {"kept"}


def test_errors_and_intervals():
    values = np.array([1.0, 2.0, 4.0])
    mean, error = mean_and_error(values)
    np.testing.assert_allclose([mean, error], [7 / 3, values.std(ddof=1) / np.sqrt(3)])
    np.testing.assert_allclose(interval((1.0, 0.5)), (0.02, 1.98))
    agreeing = [{"x": 1.0, "x_error": 0.3}, {"x": 1.0, "x_error": 0.4}]
    np.testing.assert_allclose(pooled(agreeing, "x"), (1.0, np.sqrt((0.09 + 0.16) / 2)))  # both of the same tasks
    apart = [{"x": 0.0, "x_error": 0.0}, {"x": 2.0, "x_error": 0.0}]
    np.testing.assert_allclose(pooled(apart, "x"), (1.0, 1.0))  # sample deviation sqrt 2, over sqrt 2
