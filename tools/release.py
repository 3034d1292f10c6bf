"""`make wheel`: builds the archives of the last commit, installs the wheel elsewhere, and has it train and play.

What is tried is what a user of `pip install rl2jax` has: an environment of its own, in a folder outside the source
tree, that is deleted at the end.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath

from tools import archives

DIST = archives.ROOT / "dist"
# In the source archive beside the package: what a reader needs to check the numbers, and a maintainer to make the next.
IN_SOURCE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "docs/index.md",
    "examples/watch_an_agent.py",
    "experiments/results/table1.md",
    "mkdocs.yml",
    "pyproject.toml",
    "tests/conftest.py",
)
NEVER = ("__pycache__", "runs", "build", "dist", ".venv", ".git")
TRAINED_ELSEWHERE = """
import jax
import rl2jax
from rl2jax.trials.evaluate import evaluate, evaluation_key
from rl2jax.trials.trial import Trial

assert rl2jax.__version__ == {version!r}, rl2jax.__version__
assert {folder!r} in rl2jax.__file__, rl2jax.__file__
agent = rl2jax.load_agent("bandit-k5-n10")
trial = Trial(rl2jax.envs.BernoulliBandit(num_arms=5), num_episodes=10)
mean = evaluate(agent, trial, 1000, evaluation_key(seed=0)).mean
print(f"the shipped agent's mean over 1000 bandits: {{mean:.3f}}")
assert mean > 6.3, mean  # chance is 5, the optimum 6.66, the standard error 0.07
"""


def committed(below: str) -> set[str]:
    """Names of the committed files in a folder, relative to it."""
    listed = subprocess.check_output(["git", "ls-tree", "-r", "--name-only", f"HEAD:{below}"], cwd=archives.ROOT)
    return set(listed.decode().splitlines())


def check_contents(archive: Path, wheel: Path) -> tuple[int, int]:
    """How many files the source archive and the wheel have.

    Raises:
      ValueError: naming what is missing from them, or should not be there.
    """
    with tarfile.open(archive) as files:
        in_source = {name.partition("/")[2] for name in files.getnames() if files.getmember(name).isfile()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    package = committed("src/rl2jax")
    wanted = {*IN_SOURCE, *(f"src/rl2jax/{name}" for name in package)}
    wanted |= {
        f"{folder}/{name}" for folder in ("docs", "examples", "experiments", "tests") for name in committed(folder)
    }
    for where, missing in (
        (archive, wanted - in_source),
        (wheel, {f"rl2jax/{name}" for name in package} - in_wheel),
    ):
        if missing:
            raise ValueError(f"{where.name} lacks {', '.join(sorted(missing))}: see MANIFEST.in and pyproject.toml")
    strange = {name for name in in_source | in_wheel if set(PurePosixPath(name).parts) & set(NEVER)}
    strange |= {name for name in in_wheel if not name.startswith("rl2jax")}
    if strange:
        raise ValueError(f"the archives must not have {', '.join(sorted(strange))}")
    return len(in_source), len(in_wheel)


def try_elsewhere(wheel: Path, folder: Path, python: str) -> tuple[float, float]:
    """Installs the wheel into a new environment in an empty folder, and uses it as the README says.

    Returns:
      Seconds until it was installed, and until a training from scratch was evaluated.

    Raises:
      subprocess.CalledProcessError: if anything fails.
    """
    start = time.monotonic()
    executable = archives.make_environment(folder / "environment", python)
    archives.pip_install(executable, wheel)
    installed = time.monotonic() - start
    unaware = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "RL2JAX", "JAX_", "VIRTUAL_ENV"))}
    environment = {**unaware, "XDG_CACHE_HOME": str(folder / "cache")}

    def user(*words: str) -> None:
        print("$ " + " ".join(words) if words[0] == "rl2jax" else "$ python -c ...", flush=True)
        archives.run(executable.parent / words[0], *words[1:], cwd=folder, environment=environment)

    user("rl2jax", "train", "bandit:k=5,n=10", "--preset", "quick", "--out", "runs/first")
    user("rl2jax", "evaluate", "runs/first", "--num-tasks", "100000", "--json", "row.json")
    first_result = time.monotonic() - start
    user("rl2jax", "agents")
    version = archives.pyproject()["project"]["version"]
    user("python", "-c", TRAINED_ELSEWHERE.format(version=version, folder=str(folder)))
    return installed, first_result


def main(arguments: list[str] | None = None) -> None:
    """Builds, checks, tries, and deletes what it was tried in."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description=__doc__.split("\n")[0])
    parser.add_argument("--build-only", action="store_true", help="build and check the archives, try nothing")
    parser.add_argument("--python", default=sys.executable, help="to try it with (default: %(default)s)")
    a = parser.parse_args(arguments)
    changes = subprocess.check_output(["git", "status", "--porcelain"], cwd=archives.ROOT, text=True).splitlines()
    if changes:
        print(f"not in the archives: {len(changes)} changes that are not committed (git status)", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix="rl2jax-release-"))
    try:
        source = archives.export_commit(scratch / "source")
        archive, wheel = archives.build(source, scratch, DIST)
        shutil.rmtree(source)
        in_source, in_wheel = check_contents(archive, wheel)
        for path, count in ((archive, in_source), (wheel, in_wheel)):
            size = path.stat().st_size / 1e6
            print(f"dist/{path.name}: {count} files, {size:.1f} MB, of commit {archives.commit()}", flush=True)
        if not a.build_only:
            (scratch / "user").mkdir()
            installed, first_result = try_elsewhere(wheel, scratch / "user", a.python)
            print(f"installed after {installed:.0f} s; first agent trained and evaluated after {first_result:.0f} s")
    except ValueError as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
