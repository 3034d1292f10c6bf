"""Files that are never half written nor silently changed, where caches live, and which source tree this is."""

import contextlib
import errno
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

_NO_DIGEST = "0" * 64  # stands where a text's digest will, while that is computed


def cache_folder() -> Path:
    """Where this machine keeps what can be computed again: $XDG_CACHE_HOME/rl2jax, by default ~/.cache/rl2jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl2jax"


def git_commit() -> str | None:
    """The commit of the source tree this runs from, with "+" if its code was changed since; None outside git.

    Trained agents are not code: whoever ships one and then plays with it plays by the same program.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", ".", ":(exclude)runs/trained") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a temporary file beside `path` and renames it: readers see the old content or the new, never a part.

    Raises:
      OSError: naming `path`, if it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def leftovers_of(path: Path) -> list[Path]:
    """Temporary files of `write_atomically(path)` in processes that were killed."""
    return [found for found in path.parent.glob(f".{path.name}.*.tmp") if found.is_file()]


def read_regular(path: Path) -> bytes:
    """A file's content.

    Raises:
      OSError: if it cannot be read, or is a device or a pipe, which may never end.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def sha256(content: bytes) -> str:
    """Its digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sealed(description: dict[str, Any]) -> str:
    """JSON that begins with its own SHA-256, as `file_sha256`: of the same text with zeros in its place."""
    text = json.dumps({"file_sha256": _NO_DIGEST, **description}, indent=2) + "\n"
    return text.replace(_NO_DIGEST, sha256(text.encode()), 1)


def unsealed(content: bytes) -> dict[str, Any]:
    """What `sealed` wrote; not parsed before the digest was found right.

    Raises:
      ValueError: if any of it was changed.
    """
    seal = _SEAL.match(content)
    if seal is None:
        raise ValueError("its digest is missing")
    zeros = content[: seal.start(1)] + _NO_DIGEST.encode() + content[seal.end(1) :]
    if sha256(zeros) != seal[1].decode():
        raise ValueError("it was truncated or changed since it was written")
    return json.loads(content)


_SEAL = re.compile(rb'{\n  "file_sha256": "([0-9a-f]{64})"')
