"""`make test-versions`: the suite's core at both ends of what pyproject.toml allows, in environments of their own.

oldest  every dependency at its lower bound
newest  the newest of everything that the bounds, the interpreter and the package index allow

Environments, and what passed in them, are kept in build/versions: a second call runs what is missing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rl2jax.files import write_atomically
from tools import archives

FOLDER = archives.ROOT / "build" / "versions"
ENDS = ("oldest", "newest")
CORE = ("trpo", "trial_rollout", "networks", "train", "checkpoint", "shipped")
# What decides whether the package works; the rest of a long list is in the same file.
NAMED = ("jax", "jaxlib", "flax", "optax", "chex", "gymnax", "distrax", "numpy", "scipy", "orbax-checkpoint")
_LIST = """import json; from importlib.metadata import distributions
print(json.dumps({d.name.lower(): d.version for d in distributions()}))"""


def newest_python() -> str:
    """The newest of the interpreters on the path that the package may run on; else the one that runs this."""
    for minor in range(14, sys.version_info.minor, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    return sys.executable


def constraints(end: str, requirements: list[str]) -> list[str]:
    """Lines of a constraints file for one end of the bounds.

    Args:
      end: one of `ENDS`.
      requirements: as in pyproject.toml.
    """
    if end == "newest":
        return []
    return [f"{name}=={lowest}" for name, lowest, _ in map(archives.bounds, requirements)]


def prepare(end: str, python: str, wheel: Path) -> tuple[Path, dict[str, str]]:
    """The interpreter of an environment, which is made if it is not there as pyproject.toml has it; and its versions.

    Raises:
      subprocess.CalledProcessError: if the package index cannot provide these versions for this interpreter.
    """
    project = archives.pyproject()["project"]
    development = [r for r in project["optional-dependencies"]["dev"] if r.split(">")[0] in ("pytest", "hypothesis")]
    lines = constraints(end, project["dependencies"])
    folder = FOLDER / end
    wanted = json.dumps([python, lines, development])
    stamp, executable = folder / "made-of.json", folder / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"{end}: making {folder} with {python}", flush=True)
        archives.make_environment(folder, python)
        limits = folder / "constraints.txt"
        limits.write_text("\n".join(lines) + "\n")
        archives.pip_install(executable, *project["dependencies"], *development, "--constraint", limits)
        stamp.write_text(wanted)
    archives.pip_install(executable, "--force-reinstall", "--no-deps", wheel)
    subprocess.run(
        [folder / "bin" / "rl2jax", "agents"], check=True, stdout=subprocess.DEVNULL
    )  # the command line starts
    return executable, json.loads(subprocess.check_output([executable, "-c", _LIST], text=True))


def test_file(root: Path, name: str) -> Path | None:
    """tests/*/test_NAME.py of a source tree, relative to it; None if there is none."""
    found = sorted(root.glob(f"tests/*/test_{name}.py"))
    return found[0].relative_to(root) if found else None


def run_test(python: Path, name: str, source: Path) -> tuple[bool, str]:
    """Whether tests/*/test_NAME.py passes in an environment, and the last line that pytest printed."""
    # Other versions warn of other things: warnings are shown here, not errors.
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        str(test_file(source, name)),
    ]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=source, env=environment, stdout=subprocess.PIPE, text=True)
    lines = done.stdout.strip().splitlines() or [f"ended with {done.returncode}"]
    if done.returncode:
        print("\n".join(lines[-40:]), flush=True)
    return done.returncode == 0, lines[-1].strip("= ")


def run_end(end: str, commit: str, python: Path, versions: dict[str, str], names: list[str], source: Path) -> list[str]:
    """Runs the test files of one end that have not passed with this commit and these versions; returns what fails."""
    record = FOLDER / f"{end}.json"
    described: dict[str, Any] = {"commit": commit, "versions": versions, "passed": {}}
    before = json.loads(record.read_text()) if record.exists() else {}
    if {**before, "passed": {}} == described:
        described = before
    failed = []
    print(f"{end}, commit {commit}: " + ", ".join(f"{name} {versions[name]}" for name in NAMED), flush=True)
    for name in names:
        if name in described["passed"]:
            print(f"{end}: test_{name}.py passed before: {described['passed'][name]}", flush=True)
            continue
        passed, verdict = run_test(python, name, source)
        print(f"{end}: test_{name}.py {verdict}", flush=True)
        if passed:
            described["passed"][name] = verdict
            write_atomically(record, json.dumps(described, indent=1))
        else:
            failed.append(f"{end}: test_{name}.py")
    return failed


def main(arguments: list[str] | None = None) -> None:
    """Builds the last commit's wheel, and tests it at both ends."""
    parser = argparse.ArgumentParser(prog="python -m tools.versions", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=ENDS, help="one end")
    parser.add_argument("--tests", nargs="+", default=list(CORE), metavar="NAME", help="of tests/*/test_NAME.py")
    parser.add_argument("--oldest-python", default=sys.executable, help="default: %(default)s")
    parser.add_argument("--newest-python", default=newest_python(), help="default: %(default)s")
    a = parser.parse_args(arguments)
    missing = [name for name in a.tests if test_file(archives.ROOT, name) is None]
    if missing:
        parser.error(f"--tests must be names of tests/*/test_NAME.py, got {' '.join(missing)}")
    commit = archives.commit()
    scratch = FOLDER / "source"
    shutil.rmtree(scratch, ignore_errors=True)
    source = archives.export_commit(scratch / "files")
    _, wheel = archives.build(source, scratch, scratch / "dist")
    shutil.rmtree(source / "src")  # the tests are to import what was installed
    failed = []
    for end in [a.only] if a.only else ENDS:
        python, versions = prepare(end, getattr(a, f"{end}_python"), wheel)
        failed += run_end(end, commit, python, versions, a.tests, source)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
