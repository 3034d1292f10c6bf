"""The command line as a user meets it: exit codes, one-line errors, runs that are killed and resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from command import COMMAND, TRAIN, final_state, refused, run, wait_for_rows
from helpers import change_config, continue_to


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert run([*TRAIN, "--iterations", 4, "--out", folder]) == 0
    return folder


def test_a_trained_run_has_a_row_per_iteration(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    wanted = {"mean_return", "return_standard_error", "kl", "entropy", "surrogate_gain", "line_search_steps"}
    wanted |= {"explained_variance", "grad_norm", "param_norm", "steps_per_second"}
    assert wanted <= set(rows[0])
    description = json.loads((trained / "run.json").read_text())
    assert description["task"] == "bandit:k=2,n=4"
    assert description["config"]["network.units"] == 4
    assert description["config"]["ppo.max_kl"] == "inf"


def test_evaluate_writes_a_list_of_rows(trained, tmp_path, capsys):
    path = tmp_path / "row.json"
    assert run(["evaluate", trained, "--num-tasks", 300, "--seed", 5, "--json", path]) == 0
    (row,) = json.loads(path.read_text())
    assert {"task", "agent", "hyperparameters", "num_tasks", "mean", "standard_error", "seed"} <= set(row)
    assert row["task"] == "bandit:k=2,n=4"
    assert (row["num_tasks"], row["seed"], row["action_selection"]) == (300, 5, "sample")
    assert 1.0 < row["mean"] < 3.0  # 4 pulls of arms uniform on [0, 1]: random is 2.0
    assert sum(row["reward_curve"]) == pytest.approx(row["mean"], abs=1e-3)
    assert f"{row['mean']:.2f}"[:3] in capsys.readouterr().out
    assert run(["evaluate", trained, "--num-tasks", 300, "--seed", 5, "--deterministic", "--json", path]) == 0
    assert json.loads(path.read_text())[0]["action_selection"] == "mode"


@pytest.mark.parametrize(
    ("task", "options", "parts"),
    [
        ("chess:k=5", [], ["unknown task", "chess", "bandit"]),
        ("bandit:k=0,n=10", [], ["num_arms (k)", ">= 1", "0"]),
        ("bandit:k=5,n=0", [], ["num_episodes (n)", ">= 1"]),
        ("bandit:k=five", [], ["k must be an integer", "five"]),
        ("bandit:q=5", [], ["unknown setting", "q", "k="]),
        ("bandit:k=3,k=4", [], ["k is given twice"]),
        ("bandit:k=99999999999", [], ["k must be at most 1000000", "99999999999"]),
        ("bandit:k=5,n=10", ["--set", "iterations=2", "--iterations", 3], ["--iterations 3", "iterations=2"]),
        ("bandit:k=5,n=10", ["--preset", "best", "--resume"], ["holds no training by recipe best", "--resume"]),
        ("bandit:k=5,n=10", ["--set", "slow_rl.max_kl=-0.01"], ["max_kl", "-0.01", "> 0"]),
        ("bandit:k=5,n=10", ["--set", "slow_rl.max_kl=nan"], ["max_kl", "nan"]),
        ("bandit:k=5,n=10", ["--set", "colour=3"], ["colour", "rl2jax settings"]),
        ("bandit:k=5,n=10", ["--set", "network.units=many"], ["network.units", "integer", "many"]),
        ("bandit:k=5,n=10", ["--set", "batch.size=9"], ["batch.size", "one trial", "10 steps", "9"]),
        ("bandit:k=5,n=10", ["--seed", 99999999999999999999], ["--seed", "99999999999999999999"]),
        ("bandit:k=5,n=10", ["--checkpoint-minutes", -3], ["--checkpoint-minutes", "-3"]),
        ("bandit:k=5,n=10", ["--preset", "huge"], ["preset", "huge", "paper"]),
        ("bandit:k=5,n=10", ["--algorithm", "sarsa"], ["slow_rl", "sarsa", "trpo, ppo"]),
        ("nosuchmodule.sub:thing", [], ["nosuchmodule", "importable"]),
        ("json:dumps", [], ["json:dumps"]),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, task, options, parts):
    out = tmp_path / "run"
    refused(capsys, ["train", task, *options, "--out", out], *parts)
    assert not out.exists()


def test_a_folder_with_a_run_is_not_overwritten(capsys, trained):
    before = final_state(trained), (trained / "metrics.jsonl").read_bytes()
    refused(capsys, [*TRAIN, "--iterations", 4, "--out", trained], "already holds a run", "--resume")
    assert before == (final_state(trained), (trained / "metrics.jsonl").read_bytes())


def test_a_folder_with_other_files_is_refused(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(capsys, [*TRAIN, "--out", tmp_path], "not empty")
    refused(capsys, [*TRAIN, "--out", tmp_path / "thesis.tex"], "is a file")


def test_resume_with_other_settings_is_refused(capsys, trained):
    resume = [*TRAIN, "--iterations", 4, "--resume", "--out", trained]
    refused(capsys, [*resume, "--set", "objective.discount=0.5"], "discount", "0.99", "0.5")
    refused(capsys, [*resume, "--seed", 9], "seed")
    refused(capsys, ["train", "bandit:k=3,n=4", "--resume", "--out", trained], "task", "k=2", "k=3")


def test_evaluate_without_a_run(capsys, tmp_path):
    refused(capsys, ["evaluate", tmp_path, "--num-tasks", 10], "holds no run")
    refused(capsys, ["train", "bandit:k=2,n=4", "--resume", "--out", tmp_path / "x"], "holds no run")


@pytest.mark.parametrize("num_tasks", [0, 10**20])
def test_a_number_of_tasks_without_sense(capsys, trained, num_tasks):
    refused(capsys, ["evaluate", trained, "--num-tasks", num_tasks], "--num-tasks", str(num_tasks), "2147483647")


def test_a_recipe_does_not_go_on_in_another_runs_folder(capsys, trained, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out in (trained, tmp_path):
        before = sorted(out.iterdir())
        arguments = ["train", "bandit:k=2,n=4", "--preset", "best", "--resume", "--out", out]
        refused(capsys, arguments, "holds no training by recipe best")
        assert sorted(out.iterdir()) == before


def test_a_row_that_cannot_be_written_is_refused_before_the_work(capsys, trained, monkeypatch):
    """/proc takes no files, not even root's."""
    monkeypatch.setattr("rl2jax.results.evaluations.evaluate_run", None)
    refused(capsys, ["evaluate", trained, "--num-tasks", 10, "--json", "/proc/row.json"], "--json", "/proc")


def test_the_same_run_twice_is_no_comparison(capsys, trained):
    twice = ["--run", trained, "--run", trained / ".." / trained.name]
    refused(capsys, ["compare", "bandit:k=2,n=4", "--agents", "random", *twice], "--run", "twice")


def test_a_truncated_checkpoint_is_named(capsys, trained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    biggest = max((p for p in copy.rglob("state/**/*") if p.is_file()), key=lambda p: p.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-7])
    refused(capsys, ["evaluate", copy, "--num-tasks", 10], "damaged", "delete that folder")


def test_a_checkpoint_of_another_architecture_is_named(capsys, trained, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    change_config(copy, **{"network.units": 6})
    refused(capsys, ["evaluate", copy, "--num-tasks", 10], "another architecture")


def test_a_read_only_folder(capsys, mounted):
    refused(capsys, [*TRAIN, "--out", mounted("ro") / "run"], "Read-only", "--out")


def test_a_full_disk_keeps_the_last_checkpoint(capsys, mounted):
    folder = mounted("size=600k") / "run"
    assert run([*TRAIN, "--iterations", 2, "--out", folder]) == 0
    before = final_state(folder)
    continue_to(folder, 4)
    filler = folder.parent / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1024"], capture_output=True)  # until it is full
    refused(capsys, ["train", "bandit:k=2,n=4", "--resume", "--out", folder], "No space left")
    filler.unlink()
    assert final_state(folder) == before
    assert run(["train", "bandit:k=2,n=4", "--resume", "--out", folder]) == 0


@pytest.mark.parametrize(("algorithm", "iterations"), [("ppo", 8), pytest.param("trpo", 9, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_never_stopped(tmp_path, algorithm, iterations):
    """kill -9 in the middle, with a checkpoint after every chunk of 2; a last chunk of 1 is one more to compile."""
    options = [*TRAIN, "--algorithm", algorithm, "--set", "slow_rl.max_kl=0.01", "--set", "iterations_per_chunk=2"]
    options += ["--iterations", str(iterations)]
    assert run([*options, "--out", tmp_path / "whole"]) == 0
    killed = [*map(str, options), "--checkpoint-minutes", "0", "--out", str(tmp_path / "killed")]
    # Slowed down at each chunk, so that the kill lands in the middle.
    slowed = "import time, rl2jax.runs.session as r; rows = r.metric_rows\n"
    slowed += "r.metric_rows = lambda report: (time.sleep(0.2), rows(report))[1]\n"
    process = subprocess.Popen(
        [sys.executable, "-c", slowed + "from rl2jax.cli.main import main; main()", *killed],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_rows(tmp_path / "killed", 4, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = (tmp_path / "killed" / "metrics.jsonl").read_text().count("\n")
    assert done < iterations
    assert run([*options, "--resume", "--out", tmp_path / "killed"]) == 0
    assert final_state(tmp_path / "killed") == final_state(tmp_path / "whole")

    def learned(folder):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in row.items() if "second" not in k} for row in rows]

    assert learned(tmp_path / "killed") == learned(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_another_process_is_refused_and_a_signal_saves_and_exits_cleanly(capsys, tmp_path, number):
    folder = tmp_path / "run"
    options = [*TRAIN, "--iterations", 100000, "--out", folder]
    process = subprocess.Popen([*COMMAND, *map(str, options)], stderr=subprocess.PIPE, text=True)
    try:
        wait_for_rows(folder, 1, process)
        refused(capsys, [*options, "--resume"], "another process")
        wait_for_rows(folder, 3, process)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, error
    assert "--resume" in error
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    from rl2jax.runs.checkpoint import iterations_on_disk

    assert iterations_on_disk(folder / "checkpoints")[-1] == json.loads(rows[-1])["iteration"]


def test_non_finite_rewards_stop_with_the_iteration(capsys, tmp_path, monkeypatch):
    (tmp_path / "poison.py").write_text(
        "from dataclasses import dataclass\nimport jax.numpy as jnp\nfrom rl2jax.envs import BernoulliBandit\n"
        "@dataclass(frozen=True)\nclass Poison(BernoulliBandit):\n    num_arms: int = 2\n"
        "    def step_env(self, key, state, action, params):\n"
        "        obs, state, reward, done, info = super().step_env(key, state, action, params)\n"
        "        return obs, state, reward / 0.0, done, info\n"
    )
    monkeypatch.chdir(tmp_path)
    refused(capsys, ["train", "poison:Poison,n=4", *TRAIN[2:], "--out", tmp_path / "run"], "iteration 1", "non-finite")


def test_version_and_help(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip().count(".") == 2
    assert run(["train", "--help"]) == 0
    assert "bandit:k=5,n=10" in capsys.readouterr().out
