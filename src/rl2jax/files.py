"""Files that are never half written, where caches live, and which source tree this is."""

import os
import subprocess
from pathlib import Path


def cache_folder() -> Path:
    """Where this machine keeps what can be computed again: $XDG_CACHE_HOME/rl2jax, by default ~/.cache/rl2jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl2jax"


def git_commit() -> str | None:
    """The commit of the source tree this runs from, with "+" if it was changed since; None outside git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a temporary file beside `path` and renames it: readers see the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
