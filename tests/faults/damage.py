"""Ways in which files are damaged: what several fault tests share."""

import os
import shutil
from pathlib import Path

DEEP = b"[" * 50_000
HUGE = (2**63).to_bytes(8, "little")


def contents(folder: Path) -> dict[Path, bytes]:
    """What is in a folder, by path."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put_back(paths: list[Path], originals: dict[Path, bytes]) -> None:
    """Undoes `damage`; paths without an original are removed."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if path in originals:
            path.write_bytes(originals[path])


def damage(rng, files: list[Path], strangers: list[bytes]) -> tuple[str, list[Path]]:
    """Damages one or two of `files` in a way drawn from `rng`.

    Args:
      rng: numpy's.
      files: what may be damaged.
      strangers: contents of sound files of the same kind that belong elsewhere.

    Returns:
      (what was done, paths to put back); some draws change nothing, which the caller has to notice.
    """
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    at, other_at = sorted(rng.integers(len(content) + 1, size=2)) if content else (0, 0)
    kind = KINDS[rng.choice(len(KINDS), p=_SHARES)]
    if kind == "flip" and content:
        at = min(at, len(content) - 1)
        path.write_bytes(content[:at] + bytes([content[at] ^ rng.integers(1, 256)]) + content[at + 1 :])
    elif kind == "truncate":
        path.write_bytes(content[:at])
    elif kind == "insert":
        path.write_bytes(content[:at] + rng.bytes(rng.integers(1, 40)) + content[at:])
    elif kind == "cut":
        path.write_bytes(content[:at] + content[other_at:])
    elif kind == "repeat":
        path.write_bytes(content[:other_at] + content[at:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        other = files[rng.integers(len(files))]
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return f"{path.name} swapped with {other.name}", [path, other]
    elif kind == "stranger" and strangers:
        path.write_bytes(strangers[rng.integers(len(strangers))])
    elif kind == "huge header":
        path.write_bytes(HUGE + content[8:])
    elif kind == "nested":
        path.write_bytes((content[:at] if rng.random() < 0.5 else HUGE) + DEEP)
    elif kind == "link":
        target = ["/dev/zero", path.name, "nowhere", "..", str(files[rng.integers(len(files))])][rng.integers(5)]
        path.unlink()
        path.symlink_to(target)
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "extra":
        path = path.with_name(f"{path.name}{rng.integers(10)}")
        path.write_bytes(rng.bytes(5))
    return f"{path.name}: {kind} at {at}", [path]


_WEIGHTS = {"flip": 20, "truncate": 8, "insert": 8, "cut": 6, "repeat": 4, "empty": 2, "delete": 3, "swap": 4}
_WEIGHTS |= {"stranger": 3, "huge header": 2, "nested": 2, "link": 4, "pipe": 2, "folder": 2, "extra": 2}
KINDS = tuple(_WEIGHTS)
_SHARES = [weight / sum(_WEIGHTS.values()) for weight in _WEIGHTS.values()]
