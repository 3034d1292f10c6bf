"""Names of task distributions, for the command line and experiments only: "bandit:k=5,n=10"."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl2jax.envs.base import TaskDistribution
from rl2jax.kinds import EXAMPLES, KINDS, Kind, find_kind
from rl2jax.settings import InputError, require

_LARGEST = 10**6


@dataclass(frozen=True)
class Task:
    """A parsed name. What counts is its name and its task distribution.

    Attributes:
      name: the canonical name, with every setting spelled out (a bandit's prior only where it is not the uniform
        one); parses to an equal task.
      kind: what belongs to the part before the colon; of the user's own nothing does.
      env: the task distribution.
      num_episodes: episodes in a trial.
      settings: those that the name has, "n" among them.
    """

    name: str
    kind: Kind = field(compare=False)
    env: TaskDistribution
    num_episodes: int
    settings: Mapping[str, int] = field(default_factory=dict, compare=False)

    def with_settings(self, **changes: int) -> "Task":
        """The same task with other settings, such as t=50 or n=100.

        Raises:
          ValueError: if names of its kind have no such setting, or not this value.
        """
        for name in changes:
            require(name in (*self.kind.settings, "n"), "task", self.name, f"one with {name}= in its name")
        return _make_task(self.kind, {**self.settings, **changes})

    @property
    def title(self) -> str:
        """Its settings for people: "k=5, n=10"; the paper's sizes of MDPs are left out."""
        return self.kind.title(self.settings)


def parse_task(text: str) -> Task:
    """Parses "bandit:k=5,n=10", "mdp:n=10" (s=, a=, t= optional), "maze:size=5" or "package.module:object[,n=10]".

    `kinds.KINDS` has all kinds; docs/howto/tasks.md lists their settings. What those mean, say the task distributions
    whose arguments they are.

    The object is a `TaskDistribution`, or something that returns one when called without arguments; the
    current directory is searched too.

    Raises:
      ValueError: saying what is wrong and what is allowed.
    """
    head, _, rest = text.partition(":")
    if head in KINDS:
        kind = find_kind(head)
        return _make_task(kind, _parse_settings(rest, [*kind.settings, "n"], text))
    if "." in head or rest:
        target, _, settings_text = rest.partition(",")
        given = _parse_settings(settings_text, ["n"], text)
        env = _load(head, target, text)
        return _make_task(Kind(f"{head}:{target}", lambda: env), given)
    examples = f"{', '.join(EXAMPLES)} or package.module:object"
    raise InputError(f"unknown task {text!r}: name one of {', '.join(KINDS)}, as in {examples}")


def read_name(name: str) -> tuple[Kind, dict[str, Any]]:
    """Kind and settings of a canonical name, as rows have it; nothing is checked, made, or loaded for it."""
    head, _, rest = name.partition(":")
    if head not in KINDS:
        target, _, rest = rest.partition(",")
        head = f"{head}:{target}"
    pairs = (part.partition("=") for part in rest.split(",") if part)
    return find_kind(head), {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def slug(name: str) -> str:
    """A task's name as a file name: "bandit-k5-n10"."""
    return name.replace(":", "-").replace(",", "-").replace("=", "")


def _make_task(kind: Kind, given: Mapping[str, int]) -> Task:
    """The task of these settings, in the order of canonical names, with what they leave open."""
    given = {**kind.defaults, **given}
    given = {**kind.derived(given), **given}
    spelled = (name for name in kind.settings if name in given and given[name] != kind.unspelled.get(name))
    settings = {name: given[name] for name in spelled}
    env, num_episodes = kind.make_env(settings), given.get("n", kind.num_episodes)
    require(num_episodes >= 1, "num_episodes (n)", num_episodes, "an integer >= 1")
    settings["n"] = num_episodes
    return Task(kind.spelled(settings), kind, env, num_episodes, settings)


def _parse_settings(text: str, known: list[str], task: str) -> dict[str, int]:
    """The settings that a name has."""
    settings = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            allowed = ", ".join(f"{name}=" for name in known)
            raise InputError(f"task {task!r}: unknown setting {name!r}; allowed are {allowed}")
        if name in settings:
            raise InputError(f"task {task!r}: {name} is given twice")
        try:
            settings[name] = int(value)
        except ValueError:
            raise InputError(f"task {task!r}: {name} must be an integer, got {value!r}") from None
        if name != "n" and abs(settings[name]) > _LARGEST:  # arrays of that size would be waited for without end
            raise InputError(f"task {task!r}: {name} must be at most {_LARGEST}, got {value}")
    return settings


def _load(module_name: str, target: str, text: str) -> TaskDistribution:
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        known = ", ".join(KINDS)
        raise InputError(f"unknown task {text!r}: neither one of {known} nor an importable module ({error})") from error
    finally:
        sys.path.pop(0)
    loaded: Any = getattr(module, target, None)
    if loaded is None:
        raise InputError(f"task {text!r}: module {module_name} has no {target!r}")
    env = loaded
    if callable(loaded) and not isinstance(loaded, TaskDistribution):
        try:
            env = loaded()
        except TypeError as error:
            raise InputError(f"task {text!r}: {target}() cannot be called without arguments ({error})") from error
    if not isinstance(env, TaskDistribution):
        raise InputError(f"task {text!r} must be (or return) a rl2jax.envs.TaskDistribution, got {loaded!r}")
    return env
