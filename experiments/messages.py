"""How an experiment ends on the terminal when it is stopped, or when what the user asked for cannot be done."""

import contextlib
import sys
from collections.abc import Iterator

from rl2jax.cli.main import is_for_the_user
from rl2jax.runs.stages import Interrupted


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """A stop or a user's error inside ends the process with one line; anything else keeps its traceback."""
    try:
        yield
    except Interrupted as stopped:
        sys.exit(str(stopped))
    except KeyboardInterrupt:
        sys.exit("stopped; what was done is saved, start again to continue")
    except (ValueError, RuntimeError, OSError) as error:
        if not is_for_the_user(error):
            raise
        sys.exit(f"error: {error}")
