"""Settings in sections: frozen dataclasses whose fields know what they allow, and errors that are meant for users."""

import dataclasses
import difflib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

_LARGEST_FLOAT32 = 3.4028234e38
_BOUNDS = "bounds"


class UserError(Exception):
    """What the user can mend. The command line shows its message as one line; all else keeps its traceback."""


class InputError(UserError, ValueError):
    """A value that is not allowed; the message names the field, the value and what is allowed."""


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises InputError naming the field, its value and what is allowed."""
    if not condition:
        raise InputError(f"{field} must be {allowed}, got {value!r}")


_MOST_LISTED = 24  # names that a message lists


def require_known(name: str, known: Iterable[str], what: str) -> None:
    """Raises InputError for a name that is not among those known, with the nearest one and, if short, the list."""
    known = list(known)
    if name not in known:
        near = [other for other in known if other.rpartition(".")[2] == name]  # "clip_range" for "ppo.clip_range"
        near = near or difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        allowed = f"one of {', '.join(known)}" if len(known) <= _MOST_LISTED else "one that `rl2jax settings` lists"
        raise InputError(f"{what} must be {allowed}, got {name!r}{meant}")


@dataclass(frozen=True)
class Bounds:
    """What a field allows; None: nothing is said.

    Attributes:
      at_least, above, at_most, below: of a number.
      finite: whether inf is refused; bounds from above refuse it too.
      choices: of a name.
      swept: whether the field is only a number in the program, so that trainings in one program may differ in it.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    finite: bool = True
    choices: tuple[str, ...] = ()
    swept: bool = False

    def __str__(self) -> str:
        """As in "must be ...": ">= 0", "between 0 and 1", "one of adam, rmsprop"."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        low, high = (self.at_least, self.at_most)
        if low is not None and high is not None and high <= 1:
            return f"between {low:g} and {high:g}"
        parts = [
            f"{sign} {bound:g}"
            for sign, bound in ((">=", low), (">", self.above), ("<=", high), ("<", self.below))
            if bound is not None
        ]
        return " and ".join(parts)

    def allow(self, value: Any) -> bool:
        """Whether a value of the right type is within the bounds."""
        if self.choices:
            return value in self.choices
        if isinstance(value, float | int) and not isinstance(value, bool):
            return (
                (self.at_least is None or value >= self.at_least)
                and (self.above is None or value > self.above)
                and (self.at_most is None or value <= self.at_most)
                and (self.below is None or value < self.below)
                and not (self.finite and math.isinf(value))
            )
        return True


def bounded(default: Any, **bounds: Any) -> Any:
    """A field of a section, with its default and its `Bounds`."""
    return dataclasses.field(default=default, metadata={_BOUNDS: Bounds(**bounds)})


def choice(default: str, *others: str) -> Any:
    """A field that is one of a few names."""
    return bounded(default, choices=(default, *others))


@dataclass(frozen=True)
class Section:
    """A group of settings: a frozen dataclass whose fields are int, float, str or bool, checked when it is made.

    A number may be a traced array instead (`training.sweeps`), which is not checked.

    Attributes:
      section: what its settings' names begin with: "ppo" in "ppo.clip_range".
    """

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            name, bounds = f"{self.section}.{field.name}".strip("."), field.metadata.get(_BOUNDS, Bounds(finite=False))
            object.__setattr__(self, field.name, checked_value(name, kind_of(field), getattr(self, field.name), bounds))
        self.check()

    def require(self, condition: bool, name: str, allowed: str) -> None:
        """Raises InputError naming a field, its value and what is allowed."""
        require(condition, f"{self.section}.{name}", getattr(self, name), allowed)

    def check(self) -> None:
        """Raises InputError if fields do not go together; for subclasses."""

    def changed(self, **changes: Any) -> Self:
        """A copy with some fields changed; checked again."""
        for name in changes:
            require_known(name, field_names(type(self)), f"setting of {self.section}")
        return dataclasses.replace(self, **changes)


def name_of(section: Any) -> str:
    """How a choice is written in settings: its registered name, or "package.module:object" of a user's own."""
    name = getattr(section, "target", "") or section.name
    return name or f"{type(section).__module__}:{type(section).__qualname__}"


def is_traced(value: Any) -> bool:
    """Whether a value is an array, or stands for one while a program is traced."""
    return hasattr(value, "aval")


def swept_fields(section: type) -> list[str]:
    """Names of a section's fields in which trainings in one program may differ."""
    return [field.name for field in dataclasses.fields(section) if getattr(field.metadata.get(_BOUNDS), "swept", False)]


def shared_values(before: Section, kind: type[Section]) -> dict[str, Any]:
    """The values of fields that a section and another class both have, where that class allows them."""
    values = {}
    for field in dataclasses.fields(kind):
        value = getattr(before, field.name, None)
        if field.name in field_names(type(before)) and field.metadata.get(_BOUNDS, Bounds(finite=False)).allow(value):
            values[field.name] = value
    return values


def field_names(section: type) -> list[str]:
    """Names of a section's fields."""
    return [field.name for field in dataclasses.fields(section)]


_KINDS: dict[Any, type] = {"int": int, "float": float, "str": str, "bool": bool}
_ARTICLES = {int: "an integer", float: "a number", str: "a name", bool: "true or false"}


def kind_of(field: dataclasses.Field) -> Any:
    """int, float, str or bool."""
    return _KINDS[field.type] if isinstance(field.type, str) else field.type


def checked_value(name: str, kind: type, value: Any, bounds: Bounds) -> Any:
    """A value of a field's type and within its bounds; an int becomes a float where that is wanted.

    Raises:
      InputError: naming the field, the value and what is allowed.
    """
    if is_traced(value):
        return value
    article = _ARTICLES[kind]
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if kind in (int, float) and is_int:
        shown = value if abs(value) < 10**20 else "one of more than 20 digits"  # Python refuses to print thousands
        require(abs(value) < 2**31, name, shown, f"{article} less than 2^31")
    if kind is float and is_int:
        value = float(value)
    require(isinstance(value, kind) and (is_int or kind is not int), name, value, article)
    if kind is float:
        require(not math.isnan(value), name, value, "a number")
        require(math.isinf(value) or abs(value) <= _LARGEST_FLOAT32, name, value, "a number that float32 can hold")
    endless = kind is float and math.isinf(value) and bounds.finite
    require(bounds.allow(value), name, value, "finite" if endless and bounds.at_most is None else str(bounds))
    return value


def parsed_value(name: str, field: dataclasses.Field, text: str) -> Any:
    """The value of a field that a text says.

    Raises:
      InputError: naming the field, the text and what is allowed.
    """
    kind = kind_of(field)
    if kind is bool:
        require(text.lower() in ("true", "false"), name, text, "true or false")
        return text.lower() == "true"
    try:
        return kind(text.replace("_", "") if kind is int else text)
    except ValueError:
        raise InputError(f"{name} must be {_ARTICLES[kind]}, got {text!r}") from None


def described(section: type) -> list[tuple[str, str, str, str, str]]:
    """(name, type, default, what is allowed, what it means) of each field of a section; meanings from docstrings."""
    meanings: dict[str, str] = {}
    for kind in reversed(section.__mro__):
        meanings |= _attributes(inspect.getdoc(kind) or "")
    rows = []
    for field in dataclasses.fields(section):
        if field.name == "target":
            continue
        allowed = str(field.metadata.get(_BOUNDS, ""))
        rows.append((field.name, kind_of(field).__name__, f"{field.default}", allowed, meanings.get(field.name, "")))
    return rows


def _attributes(docstring: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    _, _, listed = docstring.partition("Attributes:\n")
    found = re.findall(r"^  (\w+): (.*?)(?=^  \w+: |\Z|\n\n)", listed, flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


_GIVEN: dict[str, Any] = {}  # objects that were given in Python, by the names under which settings know them


def name_object(given: Any, what: str) -> str:
    """The name of a user's own object in settings: "package.module:object", by which `load_object` finds it.

    One that no module holds, such as one made on the spot, or defined in a script, gets a number: it is found in this
    process only (`require_findable`). Equal objects of one class have one name.

    Raises:
      InputError: if it is not hashable.
    """
    kind = given if hasattr(given, "__qualname__") else type(given)
    try:
        hash(given)
    except TypeError:
        raise InputError(f"{what} {kind.__qualname__} must be hashable (a dataclass: with frozen=True)") from None
    for name, known in _GIVEN.items():
        if known is given or (type(known) is type(given) and known == given):
            return name
    module = sys.modules.get(kind.__module__)
    own = next((own for own, value in vars(module).items() if value is given), None) if module else None
    name = f"{kind.__module__}:{own}"
    if own is None or kind.__module__ == "__main__" or name in _GIVEN:
        name = f"{kind.__module__}:{kind.__qualname__}#{len(_GIVEN) + 1}"
    _GIVEN[name] = given
    return name


def require_findable(target: str, what: str) -> None:
    """Raises InputError for a name from `name_object` that means nothing to another process."""
    if "#" in target or target.startswith("__main__:"):
        raise InputError(
            f"{what} {target.partition('#')[0]} cannot be found again by what is kept on disk: "
            "give it a name in a module of its own, and pass package.module:object"
        )


def load_object(text: str, what: str) -> Any:
    """The object that "package.module:object" names; the current directory is searched too.

    Raises:
      InputError: if the module cannot be imported, or has no such object.
    """
    if text in _GIVEN:
        return _GIVEN[text]
    module_name, colon, target = text.partition(":")
    require(bool(module_name and colon and target), what, text, "of the form package.module:object")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise InputError(f"{what} {text!r}: {module_name} cannot be imported ({error})") from error
    finally:
        sys.path.pop(0)
    loaded = getattr(module, target, None)
    if loaded is None:
        raise InputError(f"{what} {text!r}: module {module_name} has no {target!r}")
    return loaded
