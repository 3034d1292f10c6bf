"""What a release is made of: a commit's files, the two archives built from them, and environments to try them in."""

import re
import subprocess
import sys
import tarfile
import tomllib
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,]+\])?(?P<bounds>[^;#]*)")


def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def bounds(requirement: str) -> tuple[str, str | None, str | None]:
    """Name, lower bound (included) and upper bound (excluded) of a requirement, such as "jax>=0.10,<0.12".

    Raises:
      ValueError: if it is not of that form.
    """
    found = _REQUIREMENT.fullmatch(requirement.strip())
    parts = found["bounds"].split(",") if found and found["bounds"].strip() else []
    limits = {part.strip()[: 1 + (">=" in part)]: part.strip().lstrip("<>=") for part in parts}
    if found is None or not set(limits) <= {">=", "<"}:
        raise ValueError(f"a requirement must be NAME>=LOWEST,<TOO_HIGH, got {requirement!r}")
    return found["name"].lower(), limits.get(">="), limits.get("<")


def run(*command: str | Path, cwd: Path | None = None, environment: dict[str, str] | None = None) -> None:
    """Runs a command, its output to the terminal.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """
    subprocess.run([str(word) for word in command], check=True, cwd=cwd, env=environment)


def commit() -> str:
    """The commit that a release would be of, short."""
    return subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()


def export_commit(folder: Path) -> Path:
    """Writes the files of the last commit, and nothing that is not committed, into a folder; returns it."""
    archive = subprocess.check_output(["git", "archive", "HEAD"], cwd=ROOT)
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder


def make_environment(folder: Path, python: str = sys.executable) -> Path:
    """Makes an empty virtual environment in place of what is there; returns its interpreter."""
    run(python, "-m", "venv", "--clear", folder)
    return folder / "bin" / "python"


def pip_install(python: Path, *what: str | Path) -> None:
    """Installs into an environment, as a user's pip would."""
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def build(source: Path, scratch: Path, out: Path) -> tuple[Path, Path]:
    """Builds the source archive of a project, and from that archive alone its wheel.

    Args:
      source: the project's files.
      scratch: folder for an environment with the build's requirements.
      out: where both end.

    Returns:
      (source archive, wheel).
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for earlier in (*out.glob("rl2jax-*.tar.gz"), *out.glob("rl2jax-*.whl")):
        earlier.unlink()
    python = make_environment(scratch / "build-environment")
    pip_install(python, *pyproject()["build-system"]["requires"])
    backend = f"import setuptools.build_meta as backend; print(backend.build_sdist({str(out)!r}))"
    subprocess.run([python, "-W", "ignore", "-c", backend], check=True, cwd=source, stdout=subprocess.DEVNULL)
    (archive,) = out.glob("rl2jax-*.tar.gz")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", out)
    run(python, "-m", "pip", "wheel", *options, archive, cwd=scratch)
    (wheel,) = out.glob("rl2jax-*.whl")
    return archive, wheel
