"""The settings of a training run: sections, each beside the code that reads it, composed here."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rl2jax.networks.settings import NETWORKS, NetworkSettings, OwnNetwork, Recurrent
from rl2jax.settings import (
    InputError,
    Section,
    bounded,
    field_names,
    is_traced,
    load_object,
    name_object,
    name_of,
    parsed_value,
    require,
    require_findable,
    require_known,
    shared_values,
    swept_fields,
)
from rl2jax.slow_rl.a2c import A2C
from rl2jax.slow_rl.base import OwnSlowRL, SlowRLSettings
from rl2jax.slow_rl.imitation import Imitation
from rl2jax.slow_rl.ppo import PPO
from rl2jax.slow_rl.settings import BaselineSettings, Objective, OptimiserSettings
from rl2jax.slow_rl.trpo import TRPO
from rl2jax.trials.collect import BatchSettings
from rl2jax.trials.trial import TrialSettings

SLOW_RL: dict[str, type[SlowRLSettings]] = {algorithm.name: algorithm for algorithm in (TRPO, PPO, A2C, Imitation)}
# Fields of the config whose section is of a class that is chosen by name.
_CHOSEN: dict[str, dict[str, Any]] = {"slow_rl": SLOW_RL, "network": NETWORKS}
# What stands for a user's own object, "package.module:object", that is no settings class itself.
_OWN: dict[str, type[Section]] = {"slow_rl": OwnSlowRL, "network": OwnNetwork}


@dataclass(frozen=True)
class RunSettings(Section):
    """How long training lasts.

    Attributes:
      iterations: policy iterations, one batch each.
      iterations_per_chunk: so many are one call on the device; logs and checkpoints come between calls.
    """

    iterations: int = bounded(1000, at_least=1)
    iterations_per_chunk: int = bounded(1, at_least=1)


@dataclass(frozen=True)
class TrainConfig(RunSettings):
    """Settings of one run; the defaults are the paper's for bandits (appendix A.1, table 1).

    A setting's name is its section's and its own: "objective.discount", "network.units", "ppo.clip_range". `slow_rl`
    and `network` are chosen by name, and then have the settings of what was chosen and no others.

    Attributes:
      iterations, iterations_per_chunk: as `RunSettings`.
      trial: what is played (`TrialSettings`).
      batch: what an iteration collects (`BatchSettings`).
      objective: what is maximised (`Objective`).
      slow_rl: the algorithm's settings: `TRPO`, `PPO`, `A2C`, `Imitation`, or a user's own `SlowRLSettings`.
      network: the network's: `Recurrent`, `Planner`, `PerArm` or `PerPair`.
      optimiser: of gradient steps (`OptimiserSettings`).
      baseline: how it learns (`BaselineSettings`).

    Raises:
      InputError: at construction, naming the setting, its value and what is allowed.
    """

    trial: TrialSettings = field(default_factory=TrialSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    objective: Objective = field(default_factory=Objective)
    slow_rl: Any = field(default_factory=TRPO)
    network: Any = field(default_factory=Recurrent)
    optimiser: OptimiserSettings = field(default_factory=OptimiserSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)

    def __post_init__(self) -> None:
        RunSettings(self.iterations, self.iterations_per_chunk)
        for name, kind in _SECTIONS.items():
            section = getattr(self, name)
            require(isinstance(section, kind), name, section, f"a {kind.__name__}")
        self.check()

    def check(self) -> None:
        """Sections fit each other."""
        inference = self.objective.task_inference_coefficient
        if not self.slow_rl.infers_task:
            allowed = f"0 with slow_rl {name_of(self.slow_rl)}"
            require(is_traced(inference) or inference == 0, "objective.task_inference_coefficient", inference, allowed)
        if self.batch.lane_steps:
            takes_lanes = [name for name, family in NETWORKS.items() if family.takes_lanes]
            require(not self.baseline.sees_task, "baseline.sees_task", True, "false with batch.lane_steps")
            allowed = f"{' or '.join(takes_lanes)}, or one's own, with batch.lane_steps"
            require(self.network.takes_lanes, "network", name_of(self.network), allowed)

    def replace(self, changes: Mapping[str, Any] | None = None, /, **top: Any) -> "TrainConfig":
        """A copy with some settings changed: `config.replace({"network.units": 64}, iterations=100)`; checked again.

        `slow_rl` and `network` take a name, settings, a settings class, or an object of one's own
        (`settings.name_object`). A name of ours keeps the values of fields that both have, where they are allowed; a
        settings class of one's own starts with its defaults.

        Raises:
          InputError: for a setting that there is not, that belongs to an algorithm or network which is not the chosen
            one, or whose value is not allowed.
        """
        wanted = {**(changes or {}), **top}
        sections: dict[str, Any] = {name: wanted.pop(name) for name in list(wanted) if name in _SECTIONS}
        for name in _CHOSEN:
            if name in sections and not isinstance(sections[name], Section):
                sections[name] = _chosen(name, sections[name], getattr(self, name))
        parts: dict[str, dict[str, Any]] = {}
        for path, value in wanted.items():
            name, own = self._place(path, sections)
            parts.setdefault(name, {})[own] = value
        numbers = parts.pop("", {})
        for name, values in parts.items():
            sections[name] = sections.get(name, getattr(self, name)).changed(**values)
        return dataclasses.replace(self, **numbers, **sections)

    def _place(self, path: str, sections: Mapping[str, Any]) -> tuple[str, str]:
        """(field of the config, field of that section) of a setting's name; the config's own numbers: ("", name)."""
        first, dot, own = path.partition(".")
        if not dot and first in field_names(RunSettings):
            return "", first
        for name, known in _CHOSEN.items():
            chosen = sections.get(name, getattr(self, name))
            if first != name and first in known and first != chosen.section:
                raise InputError(
                    f"{path} is a setting of {name} {first}, and {name} is {name_of(chosen)}: add {name}={first}"
                )
            if first in (name, chosen.section):
                require_known(own, field_names(type(chosen)), f"setting of {name} {name_of(chosen)}")
                return name, own
        if first in _SECTIONS and dot:
            require_known(own, field_names(_SECTIONS[first]), f"setting of {first}")
            return first, own
        require_known(path, setting_names(self), "setting")
        raise AssertionError(path)

    def flat(self) -> dict[str, Any]:
        """Every setting by its name: {"iterations": 1000, ..., "slow_rl": "ppo", "ppo.clip_range": 0.1, ...}."""
        values: dict[str, Any] = {name: getattr(self, name) for name in field_names(RunSettings)}
        for name in _SECTIONS:
            section = getattr(self, name)
            if name in _CHOSEN:
                values[name] = name_of(section)
            shown = [own for own in field_names(type(section)) if own != "target"]
            values |= {f"{section.section}.{own}": getattr(section, own) for own in shown}
        return values

    def get(self, name: str) -> Any:
        """The value of a setting, by a name that `replace` takes."""
        section, own = self._place(name, {}) if name not in _SECTIONS else (name, "")
        if name in _CHOSEN:
            return name_of(getattr(self, name))
        return getattr(getattr(self, section) if section else self, own)

    def swept(self) -> list[str]:
        """Names of the settings in which trainings in one program may differ."""
        sections = [getattr(self, name) for name in _SECTIONS]
        return [f"{section.section}.{own}" for section in sections for own in swept_fields(type(section))]

    def to_json(self) -> dict[str, Any]:
        """`flat` as JSON values: an infinity, which JSON lacks, becomes the text "inf".

        Raises:
          InputError: if another process could not find what the settings name.
        """
        for name in _CHOSEN:
            require_findable(name_of(getattr(self, name)), name)
        return {name: "inf" if value == math.inf else value for name, value in self.flat().items()}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "TrainConfig":
        """The inverse of `to_json`; settings that are missing take their defaults."""
        return cls().replace({name: math.inf if value == "inf" else value for name, value in settings.items()})


_SECTIONS: dict[str, type] = {
    "trial": TrialSettings,
    "batch": BatchSettings,
    "objective": Objective,
    "slow_rl": SlowRLSettings,
    "network": NetworkSettings,
    "optimiser": OptimiserSettings,
    "baseline": BaselineSettings,
}


def _chosen(name: str, given: Any, before: Section) -> Section:
    """The settings of what is chosen, with the values that it shares with what was chosen before."""
    target: dict[str, Any] = {}
    plain = given is None or isinstance(given, bool | int | float | list | tuple | dict)
    require(not plain, name, given, "a name, settings, or an object of one's own")
    if isinstance(given, type) and issubclass(given, Section):
        kind: Any = given
    elif ":" in (value := given if isinstance(given, str) else name_object(given, name)):
        loaded = load_object(value, name)
        if isinstance(loaded, Section):
            return loaded
        is_settings = isinstance(loaded, type) and issubclass(loaded, Section)
        kind, target = (loaded, {}) if is_settings else (_OWN[name], {"target": value})
    else:
        require_known(value, _CHOSEN[name], name)
        kind, target = _CHOSEN[name][value], {}
    if kind not in (*_CHOSEN[name].values(), OwnNetwork) and type(before) is not kind:
        return kind(**target)  # a field of the same name may mean another thing there
    return kind(**shared_values(before, kind) | target)


def all_sections() -> dict[str, type[Section]]:
    """Every section's class, by what its settings' names begin with; of what is chosen, each choice.

    Families of networks share the beginning "network": "network (recurrent)", "network (planner)", ...
    """
    sections: dict[str, type[Section]] = {"training": RunSettings}
    for name, kind in _SECTIONS.items():
        for choice, chosen in _CHOSEN.get(name, {"": kind}).items():
            sections[f"{name} ({choice})" if chosen.section == name and choice else chosen.section] = chosen
    return sections


def setting_names(config: TrainConfig | None = None) -> list[str]:
    """Names of all settings of a config; without one, those of every algorithm and network too."""
    names = list((config or TrainConfig()).flat())
    if config is None:
        others = [kind for known in _CHOSEN.values() for kind in known.values()]
        names += [f"{kind.section}.{own}" for kind in others for own in field_names(kind)]
    return list(dict.fromkeys(names))


def parse_overrides(assignments: list[str], config: TrainConfig) -> dict[str, Any]:
    """Turns ["objective.gae_lambda=0.9", ...] into {"objective.gae_lambda": 0.9, ...}, typed as a config's fields.

    Args:
      assignments: as given with --set.
      config: which is to be changed; whether a setting is used depends on it, and on what is chosen here.

    Raises:
      InputError: naming the setting, the value and what is allowed.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        require(bool(equals), "--set", assignment, "of the form setting=value")
        texts[name.replace("-", "_")] = text
    overrides: dict[str, Any] = {name: texts.pop(name) for name in _CHOSEN if name in texts}
    config = config.replace(overrides)
    for path, text in texts.items():
        name, own = config._place(path, {})
        kind = RunSettings if not name else type(getattr(config, name))
        found = next(field for field in dataclasses.fields(kind) if field.name == own)
        overrides[path] = parsed_value(path, found, text)
    return overrides
