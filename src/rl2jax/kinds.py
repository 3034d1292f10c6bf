"""Kinds of task, each written down beside its distribution, and the table of their names; help needs no JAX."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

from rl2jax.settings import require

# The name on the command line -> where its `Kind` is, "module:object"; loaded when it is asked for.
KINDS: dict[str, str] = {
    "bandit": "rl2jax.envs.bandit:BANDIT",
    "mdp": "rl2jax.envs.tabular_mdp:MDP",
    "maze": "rl2jax.envs.maze.navigation:MAZE",
    "cartpole": "rl2jax.envs.classic_control:CARTPOLE",
    "pendulum": "rl2jax.envs.classic_control:PENDULUM",
    # Wang et al. 2016. Where what happens must outlive the papers' trials, one episode holds all of them.
    "dependent": "rl2jax.envs.bandit:DEPENDENT",
    "informative": "rl2jax.envs.informative:INFORMATIVE",
    "restless": "rl2jax.envs.restless:RESTLESS",
    "two-step": "rl2jax.envs.two_step:TWO_STEP",
    "harlow": "rl2jax.envs.harlow:HARLOW",
    "grid": "rl2jax.envs.grid:GRID",
}
EXAMPLES = ("bandit:k=5,n=10", "mdp:n=10", "maze:size=5")


class Choice(NamedTuple):
    """A setting that is 0 or 1 in a name: which argument it is, and what either value means."""

    argument: str
    values: tuple[Any, Any] = (False, True)


@dataclass(frozen=True, eq=False)
class Kind:
    """What belongs to a kind of task. References are "module:object", in rooms above this one, loaded when used.

    Attributes:
      name: in front of the colon.
      make: of the arguments that `settings` names: the task distribution. If it is a class, its instances are of this
        kind whatever they are called (`kind_of`).
      settings: setting in a task's name -> argument of `make`; their order is that of canonical names.
      defaults: of the settings that a canonical name always has.
      num_episodes: in a trial, if the name does not say.
      unspelled: values that a canonical name leaves out.
      derived: given settings -> defaults that depend on them.
      words: what people call it.
      usual: settings that the names of agents, and titles, leave out where all of them are so.
      aside: settings that the names of agents leave out: they play the same tasks.
      presets: preset -> settings of the training that differ from it.
      short_trials: the same for trials of few steps, on top.
      policy_minibatch_steps: of the laptop presets.
      teacher: the reference agent that recipes imitate.
      recipes: recipe -> reference; task -> its stages, or the config of the only one.
      agents: reference; name -> `agents.ReferenceAgent`.
      limit: reference; a `limits.KnownLimit`.
      statistics: field of an agent's row -> reference; trial -> statistic of `evaluate`.
      evaluation: reference; how `rl2jax evaluate` evaluates a run.
      recording: reference; how a report shows trials step by step.
    """

    name: str
    make: Callable[..., Any] | None = None
    settings: Mapping[str, str | Choice] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    num_episodes: int = 2
    unspelled: Mapping[str, int] = field(default_factory=dict)
    derived: Callable[[Mapping[str, int]], Mapping[str, int]] = lambda given: {}
    words: str = ""
    usual: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    short_trials: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    policy_minibatch_steps: int = 2_500
    teacher: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)
    agents: str = "rl2jax.agents.random:ONLY_RANDOM"
    limit: str = ""
    statistics: Mapping[str, str] = field(default_factory=dict)
    evaluation: str = "rl2jax.results.evaluations:evaluate_run"
    recording: str = ""

    def make_env(self, settings: Mapping[str, int]) -> Any:
        """The task distribution of these settings."""
        assert self.make is not None
        arguments: dict[str, Any] = {}
        for name, value in settings.items():
            means = self.settings[name]
            if isinstance(means, Choice):
                require(value in (0, 1), name, value, "0 or 1")
                arguments[means.argument] = means.values[value]
            else:
                arguments[means] = value
        return self.make(**arguments)

    def spelled(self, settings: Mapping[str, int]) -> str:
        """The name of a task: "bandit:k=5,n=10"; of a user's own "package.module:object,n=2"."""
        return f"{self.name}{',' if ':' in self.name else ':'}{_joined(settings, ',')}"

    def title(self, settings: Mapping[str, int]) -> str:
        """A task's settings for people, without the usual ones: "k=5, n=10"; of a user's own "object, n=2"."""
        own = self.name.partition(":")[2]
        return ", ".join(filter(None, [own, _joined(self.unusual(settings), ", ")]))

    def unusual(self, settings: Mapping[str, int]) -> dict[str, int]:
        """Settings without the usual ones, if all of those are there."""
        usual = self.usual.items() if self.usual.items() <= settings.items() else ()
        return dict(item for item in settings.items() if item not in usual)


def _joined(settings: Mapping[str, int], separator: str) -> str:
    return separator.join(f"{name}={value}" for name, value in settings.items())


def load(reference: str) -> Any:
    """What a reference means, "module:object"."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def find_kind(name: str) -> Kind:
    """The kind of this name; of any other name one that nothing belongs to."""
    return load(KINDS[name]) if name in KINDS else Kind(name)


def all_kinds() -> Iterator[Kind]:
    """Those of the table, in its order."""
    return map(find_kind, KINDS)


def kind_of(env: Any) -> Kind:
    """The kind that a task distribution is of, under whatever name: that of the class it is an instance of."""
    found = (kind for kind in all_kinds() if isinstance(kind.make, type) and isinstance(env, kind.make))
    return next(found, Kind("custom"))
