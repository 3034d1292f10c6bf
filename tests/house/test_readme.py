"""The README: its Python and its tables; and the short task distribution of docs/howto/tasks.md, trained."""

import math
import re
from pathlib import Path

import jax
import pytest

import rl2jax
import rl2jax.training.config
from experiments.readme import summary, with_tables
from rl2jax.cli.main import main
from rl2jax.envs.names import parse_task
from rl2jax.results.rows import EvaluationRow

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TASKS, COMPARE = ((ROOT / "docs" / "howto" / f"{name}.md").read_text() for name in ("tasks", "compare"))


def block(containing, text=README):
    return next(b for b in re.findall(r"```python\n(.*?)```", text, re.S) if containing in b)


@pytest.fixture
def corridor(tmp_path, monkeypatch):
    (tmp_path / "corridor.py").write_text(block("class Corridor", TASKS))
    monkeypatch.chdir(tmp_path)
    return parse_task("corridor:Corridor,n=3")


def test_the_class_is_under_30_lines():
    lines = block("class Corridor", TASKS).split("@dataclass(frozen=True)")[1].strip().splitlines()
    assert len(lines) + 1 < 30


def test_the_readmes_training_runs(capsys, monkeypatch):
    """As it stands, on a preset `quick` that is quicker still; it prints the return of the last iteration."""
    tiny = rl2jax.training.presets.PRESETS["quick"].replace({"iterations": 2, "batch.size": 600, "network.units": 4})
    monkeypatch.setitem(rl2jax.training.presets.PRESETS, "quick", tiny)
    space = {}
    exec(block("rl2jax.train(env, config, jax.random.key(0))"), space)
    printed = float(capsys.readouterr().out)
    assert math.isfinite(printed)
    assert printed == pytest.approx(float(space["metrics"].mean_return[1]), rel=1e-5)
    assert int(space["state"].iteration) == 2


def test_the_agent_of_ones_own_is_evaluated(capsys):
    exec(block("always_the_first", COMPARE), {})
    assert float(capsys.readouterr().out) == pytest.approx(5.0, abs=5 * 3.3 / 1000**0.5)


def test_the_short_task_trains(corridor):
    """Knowing the goal after the first episode is worth more than acting blindly."""
    config = rl2jax.preset("quick", "custom", corridor.num_episodes).replace(
        {
            "iterations": 25,
            "batch.size": 3000,
            "network.units": 16,
            "slow_rl.minibatch_trials": 25,
            "iterations_per_chunk": 25,
        }
    )
    _, metrics = rl2jax.train(corridor.env, config, jax.random.key(0))
    assert metrics.finite.all()
    assert metrics.mean_return[-1] > metrics.mean_return[0] + 0.5


def test_its_commands_have_these_options(capsys):
    """Every --option in a shell block is one of the command's."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    commands = set(re.findall(r"rl2jax ([a-z][a-z-]*)", shell))
    assert {"train", "evaluate", "compare"} <= commands
    for name in sorted(commands):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        lines = re.findall(rf"rl2jax {name} ([^#\n]*)", README)
        assert {option for line in lines for option in re.findall(r"--[a-z-]+", line.split("`")[0])} <= known


def test_the_readmes_shipped_agent_plays(capsys):
    """1000 bandits of k=5, n=10: the optimum is 6.66, chance 5."""
    exec(block("load_agent"), {})
    assert float(capsys.readouterr().out) == pytest.approx(6.66, abs=5 * 2.2 / 1000**0.5)


def test_a_table_says_how_far_the_papers_recipe_went():
    """A finished training counts before one that is not, whoever played more tasks; other presets not at all."""

    def row(agent, mean=6.4, **more):
        base = {"task": "bandit:k=5,n=10", "seed": 0, "standard_error": 0.0071, "hyperparameters": {"iterations": 1000}}
        return EvaluationRow(agent=agent, mean=mean, **(base | more))

    begun = row("rl2_paper", iteration=120, num_tasks=100_000, recipe="paper")
    other = row("rl2", iteration=1000, num_tasks=100_000, preset="cpu")
    line = summary(1, [begun, other]).splitlines()[2]
    assert line.split("|")[3:6] == [" 6.4000 ± 0.0071 after 120 of 1000 iterations ", " – ", " – "]
    done = row("rl2", 6.6, iteration=1000, num_tasks=1000, preset="paper")
    assert summary(1, [begun, other, done]).splitlines()[2].split("|")[3] == " 6.6000 ± 0.0071 "


def test_its_tables_are_those_of_the_rows():
    """Mend with `python -m experiments.readme`."""
    assert with_tables(README) == README
    assert README.count("| k=") == 9
