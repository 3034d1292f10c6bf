"""What a release promises: dependencies that are declared and bounded, data that is shipped, a light import."""

import ast
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path

import pytest

import rl2jax
from tools import archives, release, versions

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "rl2jax"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose import has another name.
IMPORTED_AS = {"orbax-checkpoint": "orbax", "pillow": "PIL", "tensorboardx": "tensorboardX"}
# Declared, and imported nowhere in src/.
NOT_IMPORTED = {"filelock": "JAX's compilation cache imports it where the cache is bounded"}
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra),
    *archives.pyproject()["build-system"]["requires"],
]


def imports(sources):
    """Top-level names of what is imported: (anywhere, while a module is imported)."""
    anywhere, at_once = set(), set()
    for source in sources:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                anywhere |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                anywhere.add(node.module.split(".")[0])
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
                at_once |= {name.split(".")[0] for name in names}
    foreign = {*sys.stdlib_module_names, "rl2jax"}
    return anywhere - foreign, at_once - foreign


def imported_names(requirements):
    names = [archives.bounds(requirement)[0] for requirement in requirements]
    return {IMPORTED_AS.get(name, name) for name in names}


ANYWHERE, AT_ONCE = imports(path.read_text() for path in PACKAGE.rglob("*.py"))


# --- dependencies


def test_what_is_imported_is_declared():
    extras = [r for extra in ("vision", "tensorboard") for r in PROJECT["optional-dependencies"][extra]]
    assert imported_names(PROJECT["dependencies"]) >= AT_ONCE
    assert imported_names([*PROJECT["dependencies"], *extras]) >= ANYWHERE


def test_what_is_declared_is_imported_or_has_a_reason():
    assert imported_names(PROJECT["dependencies"]) - ANYWHERE == set(NOT_IMPORTED)


def test_an_undeclared_import_is_found():
    """The checks above can fail."""
    anywhere, at_once = imports(["import os, torch.nn", "def f():\n    from pandas import DataFrame"])
    assert (anywhere, at_once) == ({"torch", "pandas"}, {"torch"})


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_bounds_are_on_both_sides(requirement):
    _, lowest, too_high = archives.bounds(requirement)
    assert lowest
    assert too_high


@pytest.mark.parametrize(
    ("requirement", "meant"),
    [
        ("jax>=0.10,<0.12", ("jax", "0.10", "0.12")),
        ("jax[cuda12]>=0.10,<0.12", ("jax", "0.10", "0.12")),
        ("orbax-checkpoint >=0.11 , <0.13", ("orbax-checkpoint", "0.11", "0.13")),
        ("numpy", ("numpy", None, None)),
    ],
)
def test_bounds_are_read(requirement, meant):
    assert archives.bounds(requirement) == meant


def test_bounds_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"NAME>=LOWEST,<TOO_HIGH, got 'jax~=0\.10'"):
        archives.bounds("jax~=0.10")


def test_jax_has_the_same_bounds_in_every_extra():
    assert len({archives.bounds(r)[1:] for r in REQUIREMENTS if archives.bounds(r)[0] == "jax"}) == 1


def test_the_ends_of_the_bounds():
    assert versions.constraints("oldest", ["jax>=0.10,<0.12", "rich>=13,<16"]) == ["jax==0.10", "rich==13"]
    assert versions.constraints("newest", ["jax>=0.10,<0.12"]) == []


# --- the package


def test_the_version_is_stated_once():
    stated = PROJECT["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", stated)
    assert rl2jax.__version__ == version("rl2jax")
    for path in [*PACKAGE.rglob("*.py"), ROOT / "CITATION.cff", ROOT / "mkdocs.yml"]:
        assert stated not in path.read_text(), path
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == stated


def test_every_data_file_is_shipped():
    """What lies beside the code and is not Python must be in the wheel: a pattern of pyproject.toml names it."""
    patterns = archives.pyproject()["tool"]["setuptools"]["package-data"]["rl2jax"]
    data = [p.relative_to(PACKAGE) for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py"]
    data = [path.as_posix() for path in data if not {"__pycache__"} & set(path.parts) and not path.name.startswith(".")]
    assert {Path(path).suffix for path in data} >= {".safetensors", ".json", ".typed"}
    assert [path for path in data if not any(fnmatch(path, pattern) for pattern in patterns)] == []


def test_what_a_reader_needs_is_in_the_source_archive():
    grafted = re.findall(r"^graft (\w+)", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)
    assert {"docs", "examples", "experiments", "tests"} <= set(grafted)
    assert [name for name in release.IN_SOURCE if not (ROOT / name).is_file()] == []


def test_the_citation_names_both_papers():
    citation = (ROOT / "CITATION.cff").read_text()
    assert citation.startswith("cff-version: 1.2.0\n")
    assert "name: The rl2jax authors" in citation
    assert {"arXiv:1611.02779", "arXiv:1611.05763"} <= set(re.findall(r"value: (arXiv:\S+)", citation))


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    linked = re.findall(r"\]\(([^)]+)\)", text)
    assert len(linked) > 14
    assert [path for path in linked if not (ROOT / path).exists()] == []
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {word for line in re.findall(r"`?make ([a-z -]+)", text) for word in line.split()}
    assert {"wheel", "test-versions"} <= named & set(targets)


# --- the import

IMPORT = """
import sys, time
import jax
before, start = set(sys.modules), time.perf_counter()
import rl2jax
print(f"{time.perf_counter() - start:.3f} s beyond jax")
heavy = ("distrax", "tensorflow_probability", "gymnax", "flax", "orbax", "optax", "chex", "scipy", "matplotlib", "rich",
         "typer", "safetensors", "vizdoom", "pandas", "seaborn")
print(sorted({name.split(".")[0] for name in set(sys.modules) - before} & set(heavy)))
print(sorted(name for name in sys.modules if name.startswith("rl2jax")))
"""
USE = """
import sys
from rl2jax import Metrics, TrainConfig, preset, train
import rl2jax, rl2jax.envs
assert rl2jax.envs.BernoulliBandit(num_arms=2).num_actions == 2
assert callable(train) and callable(rl2jax.train) and rl2jax.train is train
assert set(rl2jax.__all__) <= {name for name in rl2jax.__all__ if getattr(rl2jax, name) is not None}
late = ("orbax.checkpoint", "matplotlib.backends.backend_agg", "vizdoom", "torch", "tensorboardX")
print([name for name in late if name in sys.modules])
"""


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_the_package_imports_nothing_heavy():
    """Beyond JAX; the time is printed, and what takes time is held."""
    seconds, heavy, ours = fresh(IMPORT)
    print(seconds)
    assert heavy == "[]"
    assert ours == "['rl2jax', 'rl2jax.files', 'rl2jax.xla']"


def test_names_of_the_package_come_when_they_are_used():
    assert fresh(USE) == ["[]"]


# --- the archives


@pytest.mark.slow
def test_the_archives_are_built_and_complete(tmp_path):
    """Of the last commit; without trying the wheel, which `make wheel` does. Needs a package index."""
    source = archives.export_commit(tmp_path / "source")
    archive, wheel = archives.build(source, tmp_path, tmp_path / "dist")
    in_source, in_wheel = release.check_contents(archive, wheel)
    assert in_source > in_wheel > 100


def test_the_commit_says_whether_the_code_was_changed(tmp_path):
    """And a trained agent, which is no code, changes nothing of it."""
    package = tmp_path / "src" / "rl2jax"
    (package / "runs" / "trained").mkdir(parents=True)
    (package / "files.py").write_text((PACKAGE / "files.py").read_text())

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *names, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit():
        program = "import files; print(files.git_commit())"
        done = subprocess.run([sys.executable, "-c", program], cwd=package, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    (tmp_path / ".gitignore").write_text("__pycache__\n")  # of what runs below; not of the package
    head = git("rev-parse", "--short=12", "HEAD")
    assert commit() == head
    (package / "runs" / "trained" / "agent.safetensors").write_bytes(b"0")
    assert commit() == head
    (package / "other.py").write_text("")
    assert commit() == f"{head}+"
