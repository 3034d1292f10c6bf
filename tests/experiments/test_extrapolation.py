"""The extrapolation study: settings, shares of the best reference agent's score, rows made once, tables and figures."""

import sys

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from helpers import random_params

from experiments.extrapolation import __main__ as experiment
from experiments.extrapolation import heat_maps as pictures
from experiments.extrapolation import study
from experiments.extrapolation.heat_maps import heat_maps, panels, to_markdown
from experiments.extrapolation.shares import share, shares
from rl2jax.agents import random_agent
from rl2jax.envs import BernoulliBandit, TabularMDP, random_cartpole
from rl2jax.envs.names import parse_task
from rl2jax.results.compare import Comparison, Contender
from rl2jax.results.rows import EvaluationRow, best_reference, read_results, read_rows, write_rows
from rl2jax.results.stats import pairwise_tests
from rl2jax.runs import checkpoint
from rl2jax.runs.run import create_run
from rl2jax.training.config import TrainConfig
from rl2jax.trials.tuning import Tuned

# --- Shares, on fabricated rows.


def row_of(task, agent, mean, error=0.1, **more):
    base = {"task": task, "agent": agent, "num_tasks": 100, "seed": 1, "mean": mean, "standard_error": error}
    return EvaluationRow(**(base | more))


def trained_row(task, trained_on, mean, best="gittins"):
    more = {"trained_on": trained_on, "best_reference": best, "difference_standard_error": 0.05}
    return row_of(task, "rl2", mean, **more)


def rows_of_setting(task, percents):
    """Gittins has 10 points, and the agents trained on n=4 and n=9 these percents of it."""
    k = task.partition("k=")[2].partition(",")[0]
    trained = [trained_row(task, f"bandit:k={k},n={n}", percent / 10) for n, percent in percents.items()]
    return [row_of(task, "greedy", 9.5), row_of(task, "gittins", 10.0), *trained]


ROWS = [
    *rows_of_setting("bandit:k=3,n=9", {4: 91.25, 9: 98.0}),
    *rows_of_setting("bandit:k=3,n=4", {4: 99.0, 9: 50.0}),
    *rows_of_setting("bandit:k=3,j=2,n=4", {4: 97.0, 9: 101.5}),
    *rows_of_setting("bandit:k=3,alpha=2,beta=2,n=4", {4: 96.0}),
    *rows_of_setting("bandit:k=3,good=20,n=4", {9: 95.0}),
]


def test_a_share_and_its_error_on_common_tasks():
    """To first order the error of a / b is that of the mean of (a_i - r b_i) / b, tasks in common."""
    rng = np.random.default_rng(0)
    b = rng.normal(50.0, 10.0, 4000)
    a = 0.6 * b + rng.normal(0.0, 3.0, 4000)

    def error(x):
        return x.std(ddof=1) / np.sqrt(len(x))

    best = row_of("t", "best", b.mean(), error(b))
    found = share(row_of("t", "rl2", a.mean(), error(a), difference_standard_error=error(a - b)), best)
    ratio = a.mean() / b.mean()
    assert found.percent == pytest.approx(100 * ratio)
    assert found.standard_error == pytest.approx(100 * error(a - ratio * b) / b.mean(), rel=1e-6)
    # A constant share has no error, though both means have one.
    half = row_of("t", "rl2", b.mean() / 2, error(b) / 2, difference_standard_error=error(b) / 2)
    assert share(half, best).standard_error == pytest.approx(0.0, abs=1e-4)


def test_shares_are_of_the_best_reference_agent():
    assert best_reference(ROWS[:4]).agent == "gittins"
    found = shares(ROWS)
    assert len(found) == 8
    assert found["bandit:k=3,n=4", "bandit:k=3,n=9"].percent == pytest.approx(91.25)
    assert found["bandit:k=3,n=9", "bandit:k=3,j=2,n=4"].percent == pytest.approx(101.5)


def test_panels_are_in_order():
    """Short trials first, the prior that was trained on first."""
    (line,) = panels("bandit", ROWS)
    assert [panel.prior for panel in line] == [
        "uniform arms",
        "Beta(2, 2) arms",
        "each arm good with 20%",
        "2 of 3 arms good",
    ]
    assert {panel.size for panel in line} == {"k=3"}
    assert line[0].trained == ["bandit:k=3,n=4", "bandit:k=3,n=9"]
    assert [task.name for task in line[0].tested] == ["bandit:k=3,n=4", "bandit:k=3,n=9"]
    assert panels("mdp", ROWS) == []


def rows_of_arms(n, unfit=None):
    """Agents of k=5, 10 and 50 have 100 percent at home, 97 elsewhere; one does not fit elsewhere."""
    rows = []
    for k in (5, 10, 50):
        task = f"bandit:k={k},n={n}"
        trained = [other for other in (5, 10, 50) if other in (k, *({5, 10, 50} - {unfit}))]
        rows.append(row_of(task, "gittins", 10.0))
        rows += [trained_row(task, f"bandit:k={other},n={n}", 10.0 if other == k else 9.7) for other in trained]
    return rows


def test_panels_of_other_numbers_of_arms():
    """One for each length; fewest arms first; whoever fits nowhere else has a row that is blank but for its frame."""
    rows = [*rows_of_arms(100, unfit=5), *rows_of_arms(10), *ROWS]
    ((short, long),) = panels("arms", rows)
    assert (short.size, short.prior, short.varied) == ("n=10", "uniform arms", "k")
    assert long.trained == [f"bandit:k={k},n=100" for k in (5, 10, 50)] == [task.name for task in long.tested]
    figure = heat_maps("arms", rows)
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes if axis.texts]
    away, home = "97.0", "100.0"
    assert texts[0] == [home, away, away, away, home, away, away, away, home]
    assert texts[1] == [home, away, home, away, away, away, home]
    assert [len(axis.patches) for axis in figure.axes[:2]] == [3, 3]
    lines = to_markdown(rows).splitlines()
    start = lines.index("### Bandits, other numbers of arms, n=100, uniform arms")
    assert lines[start + 2] == "| trained on | k=5 | k=10 | k=50 |"
    assert lines[start + 4] == "| k=5 | **100.00 ± 0.50** | – | – |"


def test_rows_labels_that_differ_between_panels_are_shown():
    """Agents of one length may be of other numbers of arms than those of the next."""
    fewer = [row for row in rows_of_arms(500) if row.trained_on != "bandit:k=5,n=500"]
    shown = heat_maps("arms", [*rows_of_arms(10), *rows_of_arms(100), *fewer]).axes
    labels = [[label.get_text() for label in axis.get_yticklabels()] for axis in shown[:3]]
    assert labels[::2] == [["5", "10", "50"], ["10", "50"]]
    assert not any(labels[1])


def test_numbers_of_arms_and_lengths_do_not_mix():
    """Agents of another number of arms are in none of the other panels, nor do they change their colours."""
    mixed = [*rows_of_setting("bandit:k=5,n=10", {10: 98.0}), trained_row("bandit:k=5,n=10", "bandit:k=3,n=10", 20.0)]
    mixed += [row_of("bandit:k=7,n=10", "gittins", 10.0), trained_row("bandit:k=7,n=10", "bandit:k=5,n=10", 9.0)]
    alone = mixed[:3]
    assert panels("bandit", mixed) == panels("bandit", alone)
    assert {panel.size for (panel,) in panels("bandit", mixed)} == {"k=5"}
    assert [axis.get_ylim() for axis in heat_maps("bandit", mixed).axes] == [
        axis.get_ylim() for axis in heat_maps("bandit", alone).axes
    ]
    (line,) = panels("arms", mixed)
    assert [task.name for task in line[0].tested] == ["bandit:k=5,n=10", "bandit:k=7,n=10"]
    other_prior = trained_row("bandit:k=5,alpha=2,beta=2,n=10", "bandit:k=3,n=10", 9.0)
    other_length = trained_row("bandit:k=5,n=20", "bandit:k=3,n=10", 9.0)
    for rows in (ROWS, alone, [*alone, other_prior, other_length]):
        assert panels("arms", rows) == []


def test_the_table_has_every_share():
    text = to_markdown(ROWS)
    lines = text.splitlines()
    uniform = lines.index("### Bandits, k=3, uniform arms")
    assert lines[uniform + 2] == "| trained on | n=4 | n=9 |"
    assert lines[uniform + 4] == "| n=4 | **99.00 ± 0.50** | 91.25 ± 0.49 |"
    assert lines[uniform + 6] == "| best reference agent | gittins 10.00 ± 0.10 | gittins 10.00 ± 0.10 |"
    sparse = lines.index("### Bandits, k=3, each arm good with 20%")
    assert lines[sparse + 4] == "| n=4 | – |"  # nobody has played there


def test_heat_maps_have_numbers_and_mark_the_task_trained_on(tmp_path):
    figure = heat_maps("bandit", ROWS)
    shown = [axis for axis in figure.axes if axis.get_visible() and axis.texts]
    texts = [{text.get_text() for text in axis.texts} for axis in shown]
    assert texts == [{"99.0", "91.2", "50.0", "98.0"}, {"96.0"}, {"95.0"}, {"97.0", "101.5"}]
    assert [len(axis.patches) for axis in shown] == [2, 0, 0, 0]
    assert {patch.get_xy() for patch in shown[0].patches} == {(-0.5, -0.5), (0.5, 0.5)}
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"no row of an agent .* of kind 'mdp'"):
        heat_maps("mdp", ROWS)


def test_the_colours_read_in_shades_of_grey():
    """Luminance grows with the share."""
    colours = matplotlib.colormaps[pictures._COLOURS](np.linspace(0, 1, 50))[:, :3]
    assert (np.diff(colours @ [0.2126, 0.7152, 0.0722]) > 0).all()


# --- What is played.


def test_settings_of_bandits_and_mdps():
    names = [task.name for task in study.tested_tasks(BernoulliBandit(5))]
    assert len(set(names)) == len(names) == 8 + 3 * 3
    wanted = ["bandit:k=5,n=1000", "bandit:k=5,alpha=2,beta=2,n=10", "bandit:k=5,good=20,n=500", "bandit:k=5,j=3,n=100"]
    assert set(wanted) <= set(names)
    assert [task.env for task in study.tested_tasks(TabularMDP(3, 2, 4))] == [TabularMDP(3, 2, 4)] * 5
    with pytest.raises(ValueError, match="must be trained on a BernoulliBandit or a TabularMDP"):
        study.tested_tasks(random_cartpole())


@pytest.mark.parametrize(
    ("trained_on", "tested"),
    [
        ("bandit:k=10,n=100", ["bandit:k=5,n=100", "bandit:k=50,n=100"]),
        ("bandit:k=7,n=10", ["bandit:k=5,n=10", "bandit:k=10,n=10", "bandit:k=50,n=10"]),
        ("bandit:k=5,n=20", []),
        ("bandit:k=5,j=2,n=10", []),
        ("mdp:n=10", []),
    ],
)
def test_other_numbers_of_arms(trained_on, tested):
    assert [task.name for task in study.other_arms(parse_task(trained_on))] == tested


def test_longer_trials_are_played_on_fewer_tasks():
    counts = [study.tasks_to_play(parse_task(name)) for name in ("bandit:n=5", "bandit:n=1000", "mdp:n=100")]
    assert counts == [40_000, 1500, 1500]


def test_gittins_stands_in_where_its_finite_horizon_form_is_too_long():
    assert study.reference_names(parse_task("bandit:n=500"))[0] == "gittins_finite_horizon"
    assert "gittins" not in study.reference_names(parse_task("bandit:n=500"))
    assert study.reference_names(parse_task("bandit:good=20,n=1000"))[0] == "gittins"


def test_reference_agents_are_not_told_the_prior(monkeypatch):
    asked = []

    def tuned(task, name, spec):
        asked.append(task.name)
        return Tuned({"scaling": 0.25}, [], 0, 0, None)

    monkeypatch.setattr(study, "tuned_or_tune", tuned)
    contender = study.reference(parse_task("bandit:k=5,good=20,n=50"), "ucb1")
    assert asked == ["bandit:k=5,n=100"]  # the nearest length of the paper's
    assert contender.context["tuned_on"] == "bandit:k=5,n=100"
    assert contender.context["hyperparameters"]["scaling"] == 0.25


@pytest.mark.parametrize(
    ("tested", "tuned"),
    [
        ("bandit:k=7,n=5", "bandit:k=7,n=10"),
        ("bandit:k=7,j=4,n=10", "bandit:k=7,n=10"),
        ("bandit:k=7,n=200", "bandit:k=7,n=100"),
        ("bandit:k=7,alpha=2,beta=2,n=1000", "bandit:k=7,n=500"),
        ("mdp:n=75", "mdp:n=75"),
    ],
)
def test_where_reference_agents_are_tuned(tested, tuned):
    assert study.tuned_task(parse_task(tested)) == parse_task(tuned)


# --- Rows that are made once.

TASK = parse_task("bandit:k=3,n=4")
SCORES = {"random": 1.0, "greedy": 2.0, "bandit:k=3,n=4": 1.5, "bandit:k=3,n=9": 1.8}


def fake_compare(task, contenders, num_tasks, seed, *, on_progress):
    """Everyone has a known mean, on tasks in common."""
    luck = np.random.default_rng(seed).normal(size=num_tasks)
    totals = {c.name: SCORES[c.name] * (1 + 0.1 * (luck - luck.mean())) for c in contenders}
    rows = []
    for number, (name, total) in enumerate(totals.items()):
        on_progress(name, num_tasks, num_tasks)
        more = {"num_tasks": num_tasks, "seed": seed, "reward_curve": [0.0], **contenders[number].context}
        rows.append(row_of(task.name, name, total.mean(), total.std(ddof=1) / np.sqrt(num_tasks), **more))
    return Comparison(rows, pairwise_tests(totals, paired=True))


@pytest.fixture
def played(monkeypatch):
    """Who was played, setting by setting; without playing."""
    calls = []

    def recorded(task, contenders, *arguments, **options):
        calls.append([contender.name for contender in contenders])
        return fake_compare(task, contenders, *arguments, **options)

    monkeypatch.setattr(study, "REFERENCES", {"bandit": ("random", "greedy")})
    monkeypatch.setattr(study, "compare", recorded)
    return calls


def trained(num_episodes, digest):
    name = f"bandit:k=3,n={num_episodes}"
    return Contender(name, random_agent(TASK.env.action_space()), {"trained_on": name, "parameters_sha256": digest})


def test_rows_are_made_once(tmp_path, played):
    shown = []
    first = study.complete(tmp_path, TASK, [trained(4, "a")], 200, shown.append)
    assert played.pop() == ["random", "greedy", "bandit:k=3,n=4"]
    assert shown[-1] == 1.0
    mine = first[-1]
    assert (mine.agent, mine.best_reference, mine.num_tasks) == ("rl2", "greedy", 200)
    assert mine.reward_curve is None
    found = shares(first)["bandit:k=3,n=4", TASK.name]
    assert found.percent == pytest.approx(75.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-6)  # always the same share
    assert first == read_rows(tmp_path / "bandit-k3-n4.json")
    assert first == study.complete(tmp_path, TASK, [trained(4, "a")], 200)
    assert played == []


def test_rows_of_more_tasks_are_never_replaced_by_rows_of_fewer(tmp_path, played):
    """--most-steps 0 had once left two tasks of each setting."""
    rows = study.complete(tmp_path, TASK, [trained(4, "a")], 200)
    played.clear()
    assert study.complete(tmp_path, TASK, [trained(4, "a")], 2) == rows
    assert played == []
    later = study.complete(tmp_path, TASK, [trained(4, "b")], 2)
    assert {row.num_tasks for row in later} == {200}


def test_a_new_agent_meets_the_best_reference_agent(tmp_path, played):
    first = study.complete(tmp_path, TASK, [trained(4, "a")], 200)
    second = study.complete(tmp_path, TASK, [trained(4, "a"), trained(9, "b")], 200)
    assert played.pop() == ["greedy", "bandit:k=3,n=9"]
    assert sorted(second[:-1], key=str) == sorted(first, key=str)
    third = study.complete(tmp_path, TASK, [trained(4, "c"), trained(9, "b")], 200)
    assert played.pop() == ["greedy", "bandit:k=3,n=4"]
    assert [row.parameters_sha256 for row in third if row.trained_on is not None] == ["b", "c"]


def test_other_tasks_or_reference_agents_are_played_anew(tmp_path, played, monkeypatch):
    study.complete(tmp_path, TASK, [trained(4, "a")], 100)
    rows = study.complete(tmp_path, TASK, [trained(4, "a")], 200)
    assert played.pop() == ["random", "greedy", "bandit:k=3,n=4"]
    assert {row.num_tasks for row in rows} == {200}
    monkeypatch.setattr(study, "SEED", 2)
    study.complete(tmp_path, TASK, [trained(4, "a")], 100)
    assert played.pop() == ["random", "greedy", "bandit:k=3,n=4"]
    path = tmp_path / "bandit-k3-n4.json"
    write_rows(path, [row for row in read_rows(path) if row.agent != "greedy"])
    study.complete(tmp_path, TASK, [trained(4, "a")], 100)
    assert played.pop() == ["random", "greedy", "bandit:k=3,n=4"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run that has not learned anything yet."""
    config = TrainConfig().replace(
        {"slow_rl": "ppo", "trial.num_episodes": 2, "iterations": 1, "batch.size": 20, "network.units": 4}
    )
    run = create_run(tmp_path_factory.mktemp("runs") / "run", parse_task("bandit:k=2,n=2"), config, seed=0)
    checkpoint.save(run.checkpoints, 1, run.learner.init(jax.random.key(0)))
    return run.folder


@pytest.fixture
def command(run_folder, tmp_path, monkeypatch):
    """The command on one small setting, with one reference agent; returns the folder of its rows."""
    results = tmp_path / "extrapolation"
    monkeypatch.setattr(study, "REFERENCES", {"bandit": ("greedy",)})
    monkeypatch.setattr(study, "tested_tasks", lambda env: [parse_task("bandit:k=2,j=1,n=3")])
    options = ["--runs", str(run_folder), "--results", str(results), "--most-steps", "300"]
    monkeypatch.setattr(sys, "argv", ["extrapolation", *options])
    return results


def test_from_a_run_to_the_pictures(command, capsys, monkeypatch):
    experiment.main()
    rows = read_rows(command / "bandit-k2-j1-n3.json")
    assert [(row.agent, row.num_tasks) for row in rows] == [("greedy", 100), ("rl2", 100)]
    assert rows[1].trained_on == "bandit:k=2,n=2"
    assert 50 < shares(rows)["bandit:k=2,n=2", "bandit:k=2,j=1,n=3"].percent < 110
    files = {path.name for path in command.parent.iterdir()}
    assert files == {"extrapolation", "extrapolation.md", "extrapolation-bandit.png"}
    out = capsys.readouterr().out
    assert "cells: 1, standard errors of at most" in out
    assert "extrapolation-bandit.png" in out
    assert "arms" not in out
    monkeypatch.setattr(study, "compare", None)  # would fail if it played again
    experiment.main()


def test_what_is_wrong_is_one_line(command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["extrapolation", "--runs", "nowhere"])
    with pytest.raises(SystemExit, match=r"^error: nowhere holds no run"):
        experiment.main()
    monkeypatch.setattr(sys, "argv", ["extrapolation", "--most-steps", "0"])
    with pytest.raises(SystemExit, match=r"^error: --most-steps must be an integer >= 100, got 0"):
        experiment.main()


def test_rows_of_other_agents_have_folders_of_their_own():
    folders = [
        experiment.results_of(recipe, of_runs) for recipe in ("best", "best-scratch") for of_runs in (False, True)
    ]
    assert [path.name for path in folders] == [
        "extrapolation",
        "extrapolation-runs",
        "extrapolation-best-scratch",
        "extrapolation-runs",
    ]


def test_agents_must_be_told_apart(run_folder):
    with pytest.raises(ValueError, match="--runs: tasks trained on must be all different"):
        study.trained_agents([run_folder, run_folder])


def test_there_must_be_agents(monkeypatch):
    monkeypatch.setattr(study, "list_agents", lambda: [])
    with pytest.raises(ValueError, match=r"no agent of recipe 'best' comes with the package; .* --runs"):
        study.trained_agents([])


def untrained(folder, task, network):
    """A run folder with random parameters."""
    task = parse_task(task)
    config = TrainConfig().replace(
        {
            "slow_rl": "ppo",
            "trial.num_episodes": task.num_episodes,
            "iterations": 1,
            "batch.size": 20,
            "network.units": 4,
            "network": network,
        }
    )
    run = create_run(folder, task, config, seed=0)
    shapes = jax.eval_shape(run.learner.init, jax.random.key(0))
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    checkpoint.save(run.checkpoints, 1, state._replace(params=random_params(run.learner.networks, seed=0)))
    return folder


def test_agents_play_other_numbers_of_arms_where_they_fit(tmp_path, monkeypatch, played):
    """From runs to the third picture: an agent with a memory for each arm fits three arms too, one with a GRU not."""
    here, there = "bandit:k=2,n=10", "bandit:k=3,n=10"
    fits, unfit = untrained(tmp_path / "fits", here, "per_arm"), untrained(tmp_path / "unfit", there, "recurrent")
    monkeypatch.setattr(study, "PAPER_ARMS", (2, 3))
    monkeypatch.setattr(study, "tested_tasks", lambda env: [parse_task(f"bandit:k={env.num_arms},n=10")])
    for name in here, there:
        monkeypatch.setitem(SCORES, name, 1.5)
    options = ["--runs", str(fits), str(unfit), "--results", str(tmp_path / "out"), "--most-steps", "300"]
    monkeypatch.setattr(sys, "argv", ["extrapolation", *options])
    experiment.main()
    assert played == [["random", "greedy", here], ["random", "greedy", here, there]]
    assert set(shares(read_results(tmp_path / "out"))) == {(here, here), (here, there), (there, there)}
    assert (tmp_path / "out-arms.png").read_bytes().startswith(b"\x89PNG")


def test_shipped_agents_play_other_numbers_of_arms(monkeypatch):
    """The row says what it was trained on, whatever it plays."""
    run = "bandit:k=5,n=500"
    (agent,) = [agent for agent in study.trained_agents([], "best-scratch") if agent.task.name == run]
    contender = agent.make(parse_task("bandit:k=7,n=500"))
    assert (contender.name, contender.context["recipe"], contender.context["trained_on"]) == (run, "best-scratch", run)
