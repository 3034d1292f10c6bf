"""Settings that are checked."""

import importlib
import sys
from pathlib import Path
from typing import Any


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises ValueError naming the field, its value and what is allowed."""
    if not condition:
        raise ValueError(f"{field} must be {allowed}, got {value!r}")


def load_object(text: str, what: str) -> Any:
    """The object that "package.module:object" names; the current directory is searched too.

    Raises:
      ValueError: if the module cannot be imported, or has no such object.
    """
    module_name, colon, target = text.partition(":")
    require(bool(module_name and colon and target), what, text, "of the form package.module:object")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{what} {text!r}: {module_name} cannot be imported ({error})") from error
    finally:
        sys.path.pop(0)
    loaded = getattr(module, target, None)
    if loaded is None:
        raise ValueError(f"{what} {text!r}: module {module_name} has no {target!r}")
    return loaded
