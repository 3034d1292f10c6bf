"""compare, limits, table, figure and the reproduction of a table, as a user meets them."""

import json

import pytest
from command import refused, run
from rich.console import Console

from rl2jax import limits
from rl2jax.results.compare import select_agents
from rl2jax.results.reproduction import tables as reproduce
from rl2jax.results.reproduction.tables import Plan
from rl2jax.results.rows import read_rows
from rl2jax.training import presets

TASK = "bandit:k=3,n=4"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "results-cache"))


# --- compare


def test_compare_writes_rows_and_tests(tmp_path, capsys):
    path = tmp_path / "rows.json"
    agents = "random,greedy,bayes_optimal"
    assert run(["compare", TASK, "--agents", agents, "--num-tasks", 2000, "--seed", 3, "--json", path]) == 0
    shown = capsys.readouterr().out
    assert f"{TASK}, seed 3" in shown
    assert "After Holm's adjustment" in shown
    rows = {row["agent"]: row for row in read_rows(path)}
    assert list(rows) == agents.split(",")
    assert rows["random"]["mean"] < rows["greedy"]["mean"]
    assert rows["greedy"]["hyperparameters"] == {"tie_breaking": "lowest"}
    assert rows["greedy"]["command"] == f"rl2jax compare {TASK} --num-tasks 2000 --seed 3 --agents {agents}"
    tests = json.loads((tmp_path / "rows.tests.json").read_text())
    assert len(tests) == 3
    assert all(test["paired"] for test in tests)


def test_one_task_has_no_errors(tmp_path):
    """The bug that was fixed: the tests' standard error, not a number, is no JSON."""
    path = tmp_path / "rows.json"
    assert run(["compare", TASK, "--agents", "random,greedy", "--num-tasks", 1, "--json", path]) == 0
    (test,) = json.loads((tmp_path / "rows.tests.json").read_text())
    assert test["standard_error"] is None
    assert [row["standard_error"] for row in read_rows(path)] == [None, None]


def test_compare_says_what_is_wrong(tmp_path, capsys):
    refused(capsys, ["compare", TASK, "--json", tmp_path], "--json", "is a folder")
    refused(capsys, ["compare", TASK, "--seed", -1], "--seed", "-1")
    refused(capsys, ["compare", TASK, "--agents", "greedi"], "--agents", "greedi", "greedy")
    refused(capsys, ["compare", TASK, "--agents", ""], "nothing to compare")
    refused(capsys, ["compare", TASK, "--num-tasks", 0], "--num-tasks", "0")
    refused(capsys, ["compare", TASK, "--protocol", "large", "--json", tmp_path / "no" / "x.json"], "does not exist")
    refused(capsys, ["compare", TASK, "--protocol", "small"], "--protocol", "small")
    refused(capsys, ["compare", TASK, "--protocol", "paper", "--num-tasks", 5], "1000", "5")
    refused(capsys, ["compare", "bandit:k=0,n=4"], "num_arms (k)")
    refused(capsys, ["compare", TASK, "--run", tmp_path], "holds no run")


# --- limits


def test_limits_of_a_short_bandit_are_exact(tmp_path, capsys):
    path = tmp_path / "limit.json"
    assert run(["limits", "bandit:k=5,n=10", "--num-tasks", 100, "--json", path]) == 0
    assert "Bayes-optimal value 6.659988" in capsys.readouterr().out
    (row,) = read_rows(path)
    wanted = {"task", "exact", "upper_bound", "upper_bound_standard_error", "method", "best_policy", "best_policy_mean"}
    assert wanted <= set(row)
    assert (row["agent"], row["best_policy"], row["method"]) == ("limit", "bayes_optimal", "dynamic programming")


def test_limits_of_mdps_are_the_oracles(capsys, monkeypatch):
    easy = limits.mdp.MDP_LIMIT._replace(best_known=("greedy_true_prior",))  # nothing to tune
    monkeypatch.setattr(limits.mdp, "MDP_LIMIT", easy)
    assert run(["limits", "mdp:s=2,a=2,t=3,n=2", "--num-tasks", 100]) == 0
    shown = capsys.readouterr().out
    assert "no agent exceeds" in shown
    assert "(oracle)" in shown
    assert "best known policy: greedy_true_prior" in shown


def test_limits_say_what_is_wrong(capsys):
    refused(capsys, ["limits", "rl2jax.envs:random_cartpole,n=2"], "limits are known for")
    refused(capsys, ["limits", TASK, "--num-tasks", 1], "--num-tasks", "1")


# --- table, figure, and what reproduce-table1 does


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """One cell of table 1, made twice: a tiny network, three agents."""
    folder = tmp_path_factory.mktemp("table")
    plan = Plan(1, "quick", 0, 300, 1, folder / "runs", folder / "results" / "table1", ("bandit:k=5,n=10",))
    tiny = presets.PRESETS["quick"].replace({"iterations": 3, "batch.size": 200, "network.units": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setitem(presets.PRESETS, "quick", tiny)
        patch.setattr(reproduce, "select_agents", lambda task, _: select_agents(task, ["random", "gittins", "greedy"]))
        console = Console(record=True, width=200)
        reproduce.reproduce(plan, console)
        patch.setattr(reproduce, "compare_with_progress", None)  # would fail if it played again
        patch.setattr(reproduce, "limit_row", None)
        reproduce.reproduce(plan, console)
    return folder, console.export_text()


def test_a_reproduction_ends_with_table_figure_and_page(reproduced):
    folder, shown = reproduced
    first, second = (shown.index(text) for text in ("of training in all", "nothing left to train"))
    assert first < second
    names = {path.name for path in (folder / "results").iterdir()}
    assert names == {
        *(f"table1.{suffix}" for suffix in ("md", "tex", "csv", "html")),
        "table1-against-paper.md",
        "figure2.png",
        "table1",
    }
    rows = {row["agent"]: row for row in read_rows(folder / "results" / "table1" / "bandit-k5-n10-quick-seed0.json")}
    assert rows["rl2"]["preset"] == "quick"
    assert rows["rl2"]["command"].startswith("rl2jax train bandit:k=5,n=10 --preset quick --seed 0 --out DIR && ")
    assert rows["rl2"]["learning_curve"]["iteration"] == [1, 2, 3]


def test_another_agents_row_is_not_taken_for_ours(reproduced, monkeypatch):
    """The bug that was fixed: a row of the same preset and seed, but of another training, was reported."""
    folder, _ = reproduced
    results = folder / "results" / "table1"
    (row_file,) = results.glob("*-quick-seed0.json")
    rows = read_rows(row_file)
    (ours,) = [row for row in rows if row["agent"] == "rl2"]
    assert not reproduce._holds(row_file, {**ours, "parameters_sha256": "another"})
    assert reproduce._holds(row_file, {"agent": "rl2", "parameters_sha256": ours["parameters_sha256"]})


@pytest.mark.parametrize("form", ["terminal", "markdown", "latex", "csv"])
def test_table_in_every_format(reproduced, capsys, monkeypatch, tmp_path, form):
    """Scores of ours, which are in no published column; with --all an agent that the paper does not have."""
    monkeypatch.setenv("COLUMNS", "300")  # or the terminal's table is folded
    (row_file,) = (reproduced[0] / "results" / "table1").glob("*-quick-seed0.json")
    rows = {row["agent"]: row for row in read_rows(row_file)}
    beyond = {**rows["greedy"], "agent": "bayes_optimal", "mean": 6.543, "standard_error": 0.01}
    (tmp_path / "rows.json").write_text(json.dumps([*rows.values(), beyond]))

    def text(row):
        mean, error = row["mean"], row["standard_error"]
        digits = 3 if row is beyond else 2
        plus_minus = {"latex": r" $\pm$ ", "csv": ","}.get(form, " ± ")
        return f"{mean}{plus_minus}{error}" if form == "csv" else f"{mean:.{digits}f}{plus_minus}{error:.{digits}f}"

    table = ["table", 1, "--results", tmp_path, "--format", form]
    for options in ([], ["--all"]):
        assert run([*table, *options]) == 0
        shown = capsys.readouterr().out
        for agent in ("random", "greedy", "rl2"):
            assert text(rows[agent]) in shown
        assert (text(beyond) in shown) == (options == ["--all"])


def test_table_and_figure_say_what_is_wrong(reproduced, capsys, tmp_path):
    folder, _ = reproduced
    results = ["--results", folder / "results" / "table1"]
    refused(capsys, ["table", 3, *results], "table must be one of 1, 2, got 3")
    refused(capsys, ["table", 1, *results, "--format", "word"], "--format", "word")
    refused(capsys, ["table", 1, "--results", tmp_path / "nowhere"], "--results", "folder with rows")
    refused(capsys, ["figure", 2, *results, "--out", tmp_path / "figure.doc"], "--out", ".png")
    (tmp_path / "empty").mkdir()
    refused(capsys, ["table", 1, "--results", tmp_path / "empty"], "--results", "no row of table 1")
    refused(capsys, ["figure", 4, *results, "--out", tmp_path / "figure.png"], "figure must be one of")
    assert run(["figure", 2, *results, "--out", tmp_path / "figure.svg"]) == 0
    assert (tmp_path / "figure.svg").read_text().lstrip().startswith("<?xml")
