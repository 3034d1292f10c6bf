"""Recipes: what their stages may use, that one leads to the next, and how they are trained and taken up again."""

import signal

import jax
import pytest
from rich.console import Console

from rl2jax.cli import main as cli
from rl2jax.envs.names import parse_task
from rl2jax.results.published import SCORES
from rl2jax.runs import stages as experiment
from rl2jax.runs.run import RunError, ancestry, last_iteration, load_state, open_run, parameters_digest
from rl2jax.runs.session import train_run
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.training.recipes import RECIPES, Stage, stages, takes_most_likely
from rl2jax.training.teacher import teacher_of

TASKS = [*(task for number in (1, 2) for task in SCORES[number].scores), "maze:size=5", "maze:size=9"]
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
TINY = (Stage("1-first", TASK, CONFIG), Stage("2-second", TASK, CONFIG.replace(iterations=3)))


def run(arguments):
    """Runs the command line in this process; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return ended.value.code or 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", TASKS)
def test_each_stage_starts_where_the_one_before_it_ends(recipe, name, monkeypatch):
    task = parse_task(name)
    chosen = stages(recipe, task)
    assert chosen[-1].task == task
    assert len({stage.name for stage in chosen}) == len(chosen)
    shapes = []
    for stage in chosen:
        assert stage.config.trial.num_episodes == stage.task.num_episodes
        learner = Learner(stage.task.env, stage.config.replace({"slow_rl": "ppo"}))
        shapes.append(jax.eval_shape(learner.init, jax.random.key(0)).params["policy"])
    assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("name", TASKS)
def test_from_scratch_knows_no_teacher(name):
    assert all(stage.config.slow_rl.name in ("ppo", "trpo") for stage in stages("best-scratch", parse_task(name)))


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("bandit:k=50,n=10", "recurrent"),
        ("bandit:k=5,n=100", "recurrent"),
        ("bandit:k=10,n=100", "per_arm"),
        ("bandit:k=5,n=500", "per_arm"),
        ("mdp:s=10,a=5,t=10,n=10", "per_pair"),
        ("mdp:s=10,a=5,t=10,n=100", "per_pair"),
        ("maze:size=5", "recurrent"),
    ],
)
def test_what_is_exchangeable_gets_a_memory_for_each(name, network):
    """Arms of bandits of many pulls, pairs of MDPs; the others keep the preset, by which their agents were trained."""
    task = parse_task(name)
    ((_, _, config),) = stages("best-scratch", task)
    assert config.network.name == network
    assert (config == preset_for(task, "cpu")) == (network == "recurrent")


def test_few_arms_and_pulls_are_trained_for_longer_with_less_noise():
    task = parse_task("bandit:k=5,n=10")
    ((_, _, config),) = stages("best-scratch", task)
    assert config == preset_for(task, "cpu").replace(
        {"iterations": 800, "objective.expected_rewards": True, "baseline.sees_task": True}
    )


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("bandit:k=50,n=10", "recurrent"),
        ("bandit:k=5,n=100", "per_arm"),
        ("bandit:k=50,n=500", "per_arm"),
        ("mdp:s=10,a=5,t=10,n=10", "planner"),
    ],
)
def test_the_best_imitate_with_a_memory_for_each_arm_but_in_short_trials(name, network):
    assert stages("best", parse_task(name))[-1].config.network.name == network


@pytest.mark.parametrize("name", ["bandit:k=5,n=10", "maze:size=5"])
def test_the_teacher_exists(name):
    first = stages("best", parse_task(name))[0]
    assert teacher_of(first.task, first.config) is not None


def test_planners_take_the_most_likely_action_and_others_in_mdps_of_few_episodes():
    """One that samples must explore by chance."""
    chosen = {(recipe, name) for recipe in RECIPES for name in TASKS if takes_most_likely(recipe, parse_task(name))}
    few = {("best-scratch", f"mdp:s=10,a=5,t=10,n={n}") for n in (10, 25, 50)}
    assert chosen == {("best", name) for name in SCORES[2].scores} | few


@pytest.mark.parametrize(("recipe", "name"), [("bestest", "bandit:k=2,n=4"), ("best", "cartpole:n=2")])
def test_what_there_is_not_is_refused(recipe, name):
    with pytest.raises(ValueError, match=r"recipe"):
        stages(recipe, parse_task(name))


def test_a_recipe_is_trained_in_stages_and_not_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "stages", lambda recipe, task: TINY)
    console = Console(quiet=True)
    run = experiment.train_recipe(tmp_path, TASK.name, "best", training_seed=1, console=console)
    assert run.folder == tmp_path / "2-second"
    first = open_run(tmp_path / "1-first")
    (start,) = ancestry(run)
    assert start["parameters_sha256"] == parameters_digest(load_state(first).params["policy"])
    before = (run.folder / "metrics.jsonl").stat().st_mtime_ns
    experiment.train_recipe(tmp_path, TASK.name, "best", training_seed=1, console=console)
    assert (run.folder / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="other settings than best's"):
        experiment.train_recipe(tmp_path, TASK.name, "best", training_seed=2, console=console)


def test_the_command_line_stops_and_resumes(tmp_path, monkeypatch, capsys):
    """The first stage is stopped after an iteration, as Ctrl-C does; --resume does the rest."""
    monkeypatch.setattr(experiment, "stages", lambda recipe, task: TINY)
    out = tmp_path / "run"
    command = ["train", TASK.name, "--preset", "best", "--out", str(out)]
    assert run([*command, "--set", "network.units=8"]) == 2
    assert "--set cannot be combined with --preset best" in capsys.readouterr().err

    train_with_progress = experiment.train_with_progress

    def interrupted(run, console, *, resume, checkpoint_minutes):
        def stop(report):
            signal.raise_signal(signal.SIGINT)

        return train_run(run, resume=resume, on_chunk=stop).finished

    monkeypatch.setattr(experiment, "train_with_progress", interrupted)
    assert run(command) == 0
    assert last_iteration(open_run(out / "1-first")) == 1
    monkeypatch.setattr(experiment, "train_with_progress", train_with_progress)
    assert run(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*command, "--resume"]) == 0
    assert last_iteration(open_run(out / "2-second")) == 3
    with pytest.raises(RunError, match=r"holds 1-first, 2-second: .* its last, .*2-second"):
        open_run(out)
