"""What several commands share: where they write progress, what a task is called, checks of options."""

import tempfile
from pathlib import Path

from rich.console import Console

from rl2jax.kinds import EXAMPLES, KINDS
from rl2jax.settings import InputError

console = Console(stderr=True, highlight=False)

_OTHERS = [name for name in KINDS if not any(example.startswith(f"{name}:") for example in EXAMPLES)]
TASK_HELP = f"{', '.join([*EXAMPLES, *_OTHERS])} (docs have their settings), or package.module:object for your own."
ENGINE_HELP = (
    "Who plays the trials: device; vizdoom, which plays mazes; or package.module:object for a simulator of your own."
)


def check_file(option: str, path: Path | None) -> None:
    """Refuses a file that cannot be written before the work that would fill it."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise InputError(f"{option}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise InputError(f"{option} must be a file, {path} is a folder")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{option}: {path} cannot be written: {error.strerror or error}") from None


def check_num_tasks(num_tasks: int, least: int = 1) -> None:
    """Refuses a number of tasks that no evaluation would come to the end of, or learn anything from."""
    if not least <= num_tasks < 2**31:
        raise InputError(f"--num-tasks must be from {least} to {2**31 - 1}, got {num_tasks}")


def check_seed(seed: int | None) -> None:
    """Refuses a seed that JAX would not take."""
    if seed is not None and not 0 <= seed < 2**32:
        raise InputError(f"--seed must be an integer from 0 to {2**32 - 1}, got {seed}")


def names(text: str) -> list[str]:
    """Of "gittins, ucb1", both."""
    return [name.strip() for name in text.split(",") if name.strip()]
