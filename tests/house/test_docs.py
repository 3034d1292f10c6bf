"""The pages of docs/: their Python runs, their commands parse, their names exist, and the site builds where it can."""

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import typer.main

import rl2jax.training.loop
import rl2jax.training.seeds  # noqa: F401  # whose whole training is replaced
from rl2jax.agents import reference_agents
from rl2jax.cli import main as cli
from rl2jax.envs.names import parse_task
from rl2jax.settings import described
from rl2jax.training.config import SLOW_RL, all_sections, parse_overrides, setting_names
from rl2jax.training.learner import Learner
from rl2jax.training.presets import PRESETS, preset, preset_for
from rl2jax.training.recipes import RECIPES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
# A comment before a block that needs what a test machine lacks: `<!-- needs a GPU -->`.
BLOCKS = re.compile(r"(<!-- needs [^\n]* -->\n+)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WITH_PYTHON = [page for page, text in PAGES.items() if "```python" in text]
COMMANDS = typer.main.get_command(cli.app).commands


def blocks(page, language):
    return [code for needs, of, code in BLOCKS.findall(PAGES[page]) if of == language and not needs]


def command_lines(page):
    """The shell lines of a page, without comments and variables before them."""
    for block in blocks(page, "sh") + [code for _, of, code in BLOCKS.findall(PAGES[page]) if of == ""]:
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            if words:
                yield words


SHELL = [(page, words) for page in PAGES for words in command_lines(page)]


def shortened(code):
    """The same program with less work: two iterations, few tasks."""
    code = re.sub(r"\b(iterations=)\d+", r"\g<1>2", code)
    code = re.sub(r"\b(iterations_per_chunk=)\d+", r"\g<1>1", code)
    code = re.sub(r"\b(report\.iteration >= )\d+", r"\g<1>1", code)
    return re.sub(r"\b2000\b", "40", code).replace("np.arange(4)", "np.arange(2)")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A folder of its own, and a preset `quick` that is quicker still."""
    tiny = PRESETS["quick"].replace({"iterations": 2, "batch.size": 600, "network.units": 4})
    monkeypatch.setitem(PRESETS, "quick", tiny)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("corridor", None)


@pytest.fixture
def only_traced(monkeypatch):
    """Whole trainings are traced, which finds what is wrong with their settings, but neither compiled nor run."""

    def trained(learner, state, length):
        _, metrics = jax.eval_shape(lambda state: learner.train_chunk(state, length), state)
        return state, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), metrics)

    for module in ("rl2jax.training.loop", "rl2jax.training.seeds"):
        monkeypatch.setattr(sys.modules[module], "whole_training", trained)


def run_page(page, folder):
    """All blocks in order, in one namespace; commands of ours too, where a later block reads what they leave."""
    space = {"__name__": "__main__"}  # dataclasses look their module up
    for needs, language, code in BLOCKS.findall(PAGES[page]):
        named = re.match(r"# (\w+\.py)\n", code)
        if needs:
            continue
        if named:
            (folder / named[1]).write_text(code)
        elif language == "python":
            name = f"{page}: {code.splitlines()[0]}"
            exec(compile(shortened(code), name, "exec"), space)
        elif language == "sh" and page == "tutorial.md":
            for line in code.splitlines():
                if line.startswith("rl2jax "):
                    shorter = re.sub(r"(--iterations) \d+", r"\1 2", line)
                    with pytest.raises(SystemExit) as ended:
                        cli.main(shlex.split(re.sub(r"(--num-tasks) \d+", r"\1 40", shorter))[1:])
                    assert ended.value.code in (0, None), line


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_a_pages_python_runs(page, small, only_traced, capsys):
    run_page(page, small)
    assert capsys.readouterr().out


@pytest.mark.parametrize(("page", "words"), SHELL, ids=[f"{p}: {' '.join(w)}"[:90] for p, w in SHELL])
def test_a_command_parses(page, words):
    """Every option is one, has a value of its kind, and a task's and a training's settings are allowed."""
    if "rl2jax" in words:
        check_ours(words[words.index("rl2jax") + 1 :])
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif words[:2] == ["pip", "install"]:
        extra = re.fullmatch(r"rl2jax\[(\w+)\]", words[-1])[1]
        assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    else:
        assert words[0] in (".", "git"), f"{page}: unknown command {words[0]}"


def check_ours(words):
    command = COMMANDS[words[0]]
    given = command.make_context(words[0], list(words[1:])).params
    task = given.get("task", "bandit")
    if not isinstance(task, str) or task.split(":")[0] in ("corridor", "TASK"):
        return
    if any(":" in assignment for assignment in given.get("set_") or ()):  # an object that the page defines
        return
    parsed = parse_task(task)
    if words[0] == "compare" and given["agents"]:
        assert set(given["agents"].split(",")) <= set(reference_agents(parsed.env))
    if words[0] == "train" and given["preset"] not in (*RECIPES, "RECIPE"):
        config = preset_for(parsed, given["preset"] or "paper")
        config = config.replace({"slow_rl": given["algorithm"]}) if given["algorithm"] else config
        config = config.replace(parse_overrides(given["set_"] or [], config))
        if config.slow_rl.name == "imitation":
            assert config.slow_rl.teacher in reference_agents(parsed.env)
        else:
            Learner(parsed.env, config)


def test_an_unknown_option_is_found():
    """The check above can fail."""
    with pytest.raises(Exception, match="No such option"):
        check_ours(["train", "bandit:k=5", "--outt", "runs/x"])
    with pytest.raises(ValueError, match="gru_unit"):
        check_ours(["train", "bandit:k=5", "--out", "runs/x", "--set", "gru_unit=3"])


NAMES = sorted({name for text in PAGES.values() for name in re.findall(r"`(rl2jax(?:\.\w+)+)(?:\(\))?`", text)})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if importlib.util.find_spec(parts[0]) and _is_module(".".join(parts[:length])):
            found = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part)
            return
    raise AssertionError(name)


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


FIELDS = set(setting_names())
# "slow_rl.epochs" is the setting of whichever algorithm is chosen.
ALIASES = FIELDS | {f"slow_rl.{name.partition('.')[2]}" for name in FIELDS if name.partition(".")[0] in SLOW_RL}
CHOICES = {
    word
    for section in all_sections().values()
    for _, _, _, allowed, _ in described(section)
    for word in re.findall(r"[\w-]+", allowed)
} | set(SLOW_RL)


@pytest.mark.parametrize("page", ["howto/algorithms.md", "troubleshooting.md"])
def test_settings_that_pages_set_exist(page):
    """`setting=value` of TrainConfig."""
    named = set(re.findall(r"`(?:--set )?([a-z][\w.]*)=\S+`", PAGES[page]))
    assert named, page
    assert named <= ALIASES, named - ALIASES


def test_settings_that_are_explained_exist():
    """A word in backticks on the page of settings is one, or a choice that one has, or a preset."""
    text = PAGES["howto/algorithms.md"]
    words = set(re.findall(r"`([\w.]+)`", text)) - {"Agent"}  # the class
    words -= {word for word in words if word.startswith("rl2jax.")}
    known = ALIASES | CHOICES | set(PRESETS)
    assert words <= known, words - known


def table_under(heading):
    """Words in backticks of each cell of each row of a table on the page of settings, without its head."""
    section = PAGES["howto/algorithms.md"].split(f"## {heading}\n")[1].split("\n## ")[0]
    _, _, *rows = re.findall(r"^\|(.*)\|$", section, re.MULTILINE)
    return [[re.findall(r"`([\w.]+)`", cell) for cell in row.split("|")] for row in rows]


def test_tables_of_settings_name_settings_and_their_choices():
    for names, _ in table_under("Networks"):
        (name,) = names
        assert name in FIELDS
    algorithms, _, reads = zip(*table_under("Algorithms"), strict=True)
    assert [name for (name,) in algorithms] == list(SLOW_RL)
    for names in reads:
        assert names
        assert set(names) <= ALIASES, set(names) - ALIASES


def test_every_module_is_on_one_page_of_the_reference():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    placed = [module for page in hooks.ROOMS for module in hooks.modules_of(page)]
    left_out = [name for name in hooks.module_names() if name.split(".")[0] in hooks.ELSEWHERE]
    assert sorted(placed + left_out) == sorted(hooks.module_names())


def test_curves_are_drawn_from_their_rows():
    """Every picture that a page shows has rows beside it, made of settings that exist."""
    spec = importlib.util.spec_from_file_location("make_curves", DOCS / "curves" / "make_curves.py")
    curves = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curves)
    shown = set(re.findall(r"\(curves/([\w-]+)\.png\)", PAGES["troubleshooting.md"]))
    assert shown == set(curves.SICK)
    for name in curves.SICK:
        assert len(curves.draw(name).axes) == len(curves.PANELS)
        row = curves.read(name)
        assert row["changes"] == {**curves.HEALTHY, **curves.SICK[name][1]}
        preset("quick").replace(row["changes"])


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="pip install 'rl2jax[docs]'")
def test_the_site_builds(tmp_path):
    """Strictly: a link or a name that leads nowhere is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = (tmp_path / "site" / "api" / "training.html").read_text()
    assert 'id="rl2jax.training.loop.train"' in reference
    assert "https://fonts" not in reference
