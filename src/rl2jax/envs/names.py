"""Names of task distributions, for the command line and experiments only: "bandit:k=5,n=10"."""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rl2jax.envs import (
    BernoulliBandit,
    DependentBandit,
    GridNavigation,
    Harlow,
    InformativeBandit,
    RestlessBandit,
    TabularMDP,
    TaskDistribution,
    TwoStep,
    random_cartpole,
    random_pendulum,
)
from rl2jax.envs.maze import MazeNavigation
from rl2jax.settings import require


class Task(NamedTuple):
    """A parsed name.

    Attributes:
      name: the canonical name, with every setting spelled out (a bandit's prior only where it is not the uniform
        one); parses to an equal task.
      kind: the part before the colon, or "custom" for the user's own; picks preset settings.
      env: the task distribution.
      num_episodes: episodes in a trial.
    """

    name: str
    kind: str
    env: TaskDistribution
    num_episodes: int


class _Kind(NamedTuple):
    make: Callable[..., TaskDistribution]
    settings: dict[str, str]  # setting in the name -> argument of `make`
    defaults: dict[str, int]  # of the settings that a canonical name always has
    num_episodes: int
    unspelled: dict[str, int] = {}  # noqa: RUF012  # values that a canonical name leaves out
    derived: Callable[[dict[str, int]], dict[str, int]] = lambda given: {}  # defaults that depend on other settings


def _maze(
    size: int,
    episode_length: int,
    thin: int = 0,
    turn: int = 1,
    num_mazes: int = 1000,
    num_more: int = 0,
    redraw: int = 0,
    map: int = 0,
) -> MazeNavigation:
    """A maze of whole-number settings."""
    for name, value in (("thin", thin), ("redraw", redraw), ("map", map)):
        require(value in (0, 1), name, value, "0 or 1")
    return MazeNavigation(
        size,
        episode_length,
        thin=bool(thin),
        turn=turn,
        num_mazes=num_mazes,
        num_more=num_more,
        redraw_start=bool(redraw),
        observation="symbols" if map else "frame",
    )


def _maze_horizon(given: dict[str, int]) -> dict[str, int]:
    """The paper's: 250 steps for small mazes, four times as many for large ones."""
    return {"t": 250 if given["size"] <= 5 else 1000}


def _flag(name: str, value: int) -> bool:
    require(value in (0, 1), name, value, "0 or 1")
    return bool(value)


def _restless(jump: int = 0, **settings: Any) -> RestlessBandit:
    """A restless bandit of whole-number settings."""
    return RestlessBandit(jump=_flag("jump", jump), **settings)


def _two_step(fixation: int = 0, **settings: Any) -> TwoStep:
    """A two-step task of whole-number settings."""
    return TwoStep(fixation=_flag("fixation", fixation), **settings)


def _harlow(image: int = 0, **settings: Any) -> Harlow:
    """Harlow's task with whole-number settings."""
    return Harlow(observation="image" if _flag("image", image) else "vector", **settings)


def _grid(open: int = 0, **settings: Any) -> GridNavigation:
    """An I-maze or an open field of whole-number settings."""
    return GridNavigation("open" if _flag("open", open) else "i-maze", **settings)


_KINDS = {
    "bandit": _Kind(
        BernoulliBandit,
        {"k": "num_arms", "alpha": "alpha", "beta": "beta", "good": "good_percent", "j": "num_good"},
        {"k": 5},
        10,
        {"alpha": 1, "beta": 1, "good": 100},
    ),
    "mdp": _Kind(
        TabularMDP,
        {"s": "num_states", "a": "num_actions", "t": "episode_length"},
        {"s": 10, "a": 5, "t": 10},
        10,
    ),
    "maze": _Kind(
        _maze,
        {
            "size": "size",
            "t": "episode_length",
            "thin": "thin",
            "turn": "turn",
            "mazes": "num_mazes",
            "more": "num_more",
            "redraw": "redraw",
            "map": "map",
        },
        {"size": 5},
        2,
        {"thin": 0, "turn": 1, "mazes": 1000, "more": 0, "redraw": 0, "map": 0},
        _maze_horizon,
    ),
    "cartpole": _Kind(random_cartpole, {"t": "episode_length"}, {"t": 100}, 4),
    "pendulum": _Kind(random_pendulum, {"t": "episode_length"}, {"t": 100}, 4),
    # Wang et al. 2016. Where what happens must outlive the papers' trials, one episode holds all of them.
    "dependent": _Kind(DependentBandit, {"p": "better_percent"}, {}, 100),
    "informative": _Kind(InformativeBandit, {"k": "num_targets", "t": "episode_length"}, {"k": 10, "t": 5}, 1),
    "restless": _Kind(
        _restless,
        {
            "t": "episode_length",
            "low": "low_percent",
            "high": "high_percent",
            "jump": "jump",
            "p": "better_percent",
            "block": "block_length",
        },
        {"t": 100, "low": 2, "high": 20},
        1,
        {"jump": 0},
    ),
    "two-step": _Kind(
        _two_step,
        {
            "trials": "num_decisions",
            "common": "common_percent",
            "switch": "switch_permille",
            "p": "better_percent",
            "fixation": "fixation",
        },
        {"trials": 100, "common": 75, "switch": 0},
        1,
        {"p": 90, "fixation": 0},
    ),
    "harlow": _Kind(
        _harlow,
        {
            "trials": "num_choices",
            "objects": "num_objects",
            "size": "object_size",
            "image": "image",
            "fixations": "num_fixations",
            "patience": "patience",
        },
        {"trials": 10},
        1,
        {"objects": 1000, "size": 8, "image": 0, "fixations": 1, "patience": 2},
    ),
    "grid": _Kind(
        _grid,
        {"open": "open", "size": "size", "t": "episode_length", "view": "view_radius"},
        {"size": 7, "t": 200},
        1,
        {"open": 0, "view": 0},
    ),
}
KINDS = tuple(_KINDS)
_LARGEST = 10**6
_EXAMPLES = "bandit:k=5,n=10, mdp:n=10, maze:size=5 or package.module:object"


def parse_task(text: str) -> Task:
    """Parses "bandit:k=5,n=10", "mdp:n=10" (s=, a=, t= optional), "maze:size=5" or "package.module:object[,n=10]".

    A bandit's prior is uniform; "alpha=2,beta=2" makes it Beta(2, 2), "good=20" lets an arm be good with 20 percent,
    "j=3" lets just three be good (see `BernoulliBandit`).

    A maze has `t=` steps at most in each of its `n=` episodes; "thin=1" makes walls without width, "turn=2" or "turn=4"
    turns by 45 or 90 degrees, "map=1" shows a map in place of frames, "redraw=1" draws a start for each episode, and
    "mazes=100" makes fewer of them, "more=20000" more to train on, none a test maze (see `MazeNavigation`).

    The experiments of Wang et al. 2016: "dependent:n=100" (p = 1 - p; "p=90" easy, "p=75" medium, "p=60" hard),
    "informative:t=5", "restless:t=100" ("low=2,high=20" percent, "jump=1", "p=75", "block=50"), "two-step:trials=100"
    ("common=80,switch=25" as in 2018, "fixation=1"), "harlow:trials=10" ("image=1"), "grid:size=7,t=200" ("open=1",
    "view=1"). See `DependentBandit`, `InformativeBandit`, `RestlessBandit`, `TwoStep`, `Harlow`, `GridNavigation`.

    The object is a `TaskDistribution`, or something that returns one when called without arguments; the
    current directory is searched too.

    Raises:
      ValueError: saying what is wrong and what is allowed.
    """
    head, _, rest = text.partition(":")
    if head in _KINDS:
        kind = _KINDS[head]
        given = kind.defaults | _parse_settings(rest, [*kind.settings, "n"], text)
        given = kind.derived(given) | given
        num_episodes = given.pop("n", kind.num_episodes)
        ordered = {name: given[name] for name in kind.settings if name in given}
        settings = {name: value for name, value in ordered.items() if value != kind.unspelled.get(name)}
        env = kind.make(**{kind.settings[name]: value for name, value in settings.items()})
        spelled = ",".join(f"{name}={value}" for name, value in {**settings, "n": num_episodes}.items())
        _check_episodes(num_episodes)
        return Task(f"{head}:{spelled}", head, env, num_episodes)
    if "." in head or rest:
        target, _, settings_text = rest.partition(",")
        num_episodes = _parse_settings(settings_text, ["n"], text).get("n", 2)
        _check_episodes(num_episodes)
        return Task(f"{head}:{target},n={num_episodes}", "custom", _load(head, target, text), num_episodes)
    raise ValueError(f"unknown task {text!r}: name one of {', '.join(_KINDS)}, as in {_EXAMPLES}")


def with_horizon(task: Task, episode_length: int) -> Task:
    """The same task with other most steps of an episode (`t=`).

    Raises:
      ValueError: if its name has none.
    """
    name, found = re.subn(r"(?<=[:,])t=\d+", f"t={episode_length}", task.name)
    require(found == 1, "task", task.name, "one with t= in its name")
    return parse_task(name)


def slug(name: str) -> str:
    """A task's name as a file name: "bandit-k5-n10"."""
    return name.replace(":", "-").replace(",", "-").replace("=", "")


def _check_episodes(num_episodes: int) -> None:
    if num_episodes < 1:
        raise ValueError(f"num_episodes (n) must be an integer >= 1, got {num_episodes}")


def _parse_settings(text: str, known: list[str], task: str) -> dict[str, int]:
    """The settings that a name has."""
    settings = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            allowed = ", ".join(f"{name}=" for name in known)
            raise ValueError(f"task {task!r}: unknown setting {name!r}; allowed are {allowed}")
        if name in settings:
            raise ValueError(f"task {task!r}: {name} is given twice")
        try:
            settings[name] = int(value)
        except ValueError:
            raise ValueError(f"task {task!r}: {name} must be an integer, got {value!r}") from None
        if name != "n" and abs(settings[name]) > _LARGEST:  # arrays of that size would be waited for without end
            raise ValueError(f"task {task!r}: {name} must be at most {_LARGEST}, got {value}")
    return settings


def _load(module_name: str, target: str, text: str) -> TaskDistribution:
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        known = ", ".join(_KINDS)
        raise ValueError(f"unknown task {text!r}: neither one of {known} nor an importable module ({error})") from error
    finally:
        sys.path.pop(0)
    loaded: Any = getattr(module, target, None)
    if loaded is None:
        raise ValueError(f"task {text!r}: module {module_name} has no {target!r}")
    env = loaded
    if callable(loaded) and not isinstance(loaded, TaskDistribution):
        try:
            env = loaded()
        except TypeError as error:
            raise ValueError(f"task {text!r}: {target}() cannot be called without arguments ({error})") from error
    if not isinstance(env, TaskDistribution):
        raise ValueError(f"task {text!r} must be (or return) a rl2jax.envs.TaskDistribution, got {loaded!r}")
    return env
