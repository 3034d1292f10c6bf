"""Rows of results as typed records: their fields, their form on disk, and which of several counts."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from rl2jax.files import git_commit, write_atomically
from rl2jax.kinds import all_kinds
from rl2jax.results.stats import PairTest
from rl2jax.settings import InputError, require
from rl2jax.trials.evaluate import Evaluation

LIMIT = "limit"
"""The "agent" of a limit's row."""
PAPERS_PRESETS = ("paper", "paper-first-order")
_WORDS = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Who played what, and how a trained agent came to be.

    A field that is left at its default is not on disk.

    Attributes:
      task: canonical name of what was played.
      agent: name of who played it, or `LIMIT`.
      num_tasks: tasks that were played, one trial each; >= 1.
      seed: of those tasks.
      hyperparameters: of a reference agent, or the config of a training.
      preset: of the training.
      recipe: of the training, in place of a preset.
      trained_on: task of the training; None for an agent that needs none.
      training_seed: of the training.
      iteration: iterations done.
      parameters_sha256: of the policy's parameters.
      action_selection: "sample" or "mode".
      training: stages of a shipped agent's training.
      started_from: trainings that came before.
      learning_curve: "iteration" and "mean_return" of the training, [num_points] each.
      command: repeats the row.
      commit: of the code that made it; None outside git.
    """

    task: str
    agent: str
    num_tasks: int
    seed: int
    hyperparameters: dict[str, Any] | None = None
    preset: str | None = None
    recipe: str | None = None
    trained_on: str | None = None
    training_seed: int | None = None
    iteration: int | None = None
    parameters_sha256: str | None = None
    action_selection: str | None = None
    training: list[dict[str, Any]] | None = None
    started_from: list[dict[str, Any]] | None = None
    learning_curve: dict[str, list[float]] | None = None
    command: str | None = None
    commit: str | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            require(_fits(field.type, value), field.name, value, _described(field.type))
        require(self.num_tasks >= 1, "num_tasks", self.num_tasks, "a whole number >= 1")

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Row":
        """The record of a JSON object, of the kind that its fields tell.

        Raises:
          ValueError: naming the field that is unknown, missing or of another type.
        """
        kind = _kind_of(found)
        known = fields(kind)
        if unknown := found.keys() - {field.name for field in known}:
            statistics = {name: found[name] for name in unknown & kind._statistics()}
            if unknown := unknown - statistics.keys():
                raise InputError(f"{min(unknown)} is no field of such a row")
            others = {name: value for name, value in found.items() if name not in statistics}
            found = {**others, "statistics": statistics}
        for field in known:
            if field.default is MISSING and field.name not in found:
                raise InputError(f"{field.name} is missing")
        return kind(**found)

    def to_json(self) -> dict[str, Any]:
        """The row as on disk: field -> value, without those at their defaults."""
        values = [(field, getattr(self, field.name)) for field in fields(self)]
        return {field.name: value for field, value in values if field.default is MISSING or value != field.default}

    @classmethod
    def _statistics(cls) -> set[str]:
        """Fields on disk that are no fields of the record."""
        return set()

    def matches(self, **values: Any) -> bool:
        """Whether fields have these values; a field that this kind of row lacks is None."""
        return all(getattr(self, name, None) == value for name, value in values.items())


@dataclass(frozen=True, kw_only=True)
class ScoredRow(Row):
    """A row with a score.

    Attributes:
      mean: total undiscounted reward of a trial, over the tasks.
      standard_error: of the mean; >= 0, None with one task and for an exact value.
    """

    mean: float
    standard_error: float | None

    def __post_init__(self):
        super().__post_init__()
        is_error = self.standard_error is None or self.standard_error >= 0
        require(is_error, "standard_error", self.standard_error, "a number >= 0, or null")


@dataclass(frozen=True, kw_only=True)
class EvaluationRow(ScoredRow):
    """An agent's score on fresh tasks.

    Attributes:
      standard_deviation: of the total reward, over tasks.
      reward_curve: mean reward at each step, [num_steps].
      engine: who played it on the host; None for the device.
      statistics: what `Kind.statistics` say of its trials, numbers or lists of them; on disk fields of their own.
      tuning: how a reference agent's hyperparameters were found.
      tuned_on: task on which they were, where it is another.
      convention: what a published description of the agent left open.
      protocol: of the comparison, "large" or "paper".
      not_below_best: whether no agent of the comparison is significantly better than the best and this one is not.
      significantly_better: agents of the comparison that are.
      best_reference: agent that the difference is to.
      difference_standard_error: standard error of the difference of the two means, in pairs.
    """

    standard_deviation: float | None = None
    reward_curve: list[float] | None = None
    engine: str | None = None
    statistics: dict[str, Any] | None = None
    tuning: dict[str, Any] | None = None
    tuned_on: str | None = None
    convention: str | None = None
    protocol: str | None = None
    not_below_best: bool | None = None
    significantly_better: list[str] | None = None
    best_reference: str | None = None
    difference_standard_error: float | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, value in (self.statistics or {}).items():
            require(_are_numbers(value), name, value, "finite numbers")

    @classmethod
    def _statistics(cls) -> set[str]:
        return {name for kind in all_kinds() for name in kind.statistics}

    def to_json(self) -> dict[str, Any]:
        """The same, with each statistic as a field."""
        found = super().to_json()
        return found | found.pop("statistics", {})


@dataclass(frozen=True, kw_only=True)
class LimitRow(ScoredRow):
    """What no agent can pass. `mean` is the exact value where there is one, else the upper bound.

    Attributes:
      exact: the Bayes-optimal value; None where it is not known.
      upper_bound, upper_bound_standard_error: what no agent's expected score exceeds.
      method: how they were found.
      best_policy, best_policy_mean, best_policy_standard_error: the best agent known, and its score on the tasks.
      jax: version that it was computed with.
    """

    exact: float | None
    upper_bound: float
    upper_bound_standard_error: float | None
    method: str
    best_policy: str
    best_policy_mean: float
    best_policy_standard_error: float | None
    jax: str | None = None


@dataclass(frozen=True, kw_only=True)
class MazeRow(ScoredRow):
    """An agent's episodes in mazes: Tables 3a to 3c. Lists are [num_episodes]; None where nothing was to be counted.

    Attributes:
      engine: "vizdoom" or "twin".
      success_length, success_percent, length, excess: as in `mazes.Scores`, with `..._error`.
      improved_percent, found_again_percent: the same.
    """

    engine: str
    success_length: list[float | None]
    success_length_error: list[float | None]
    success_percent: list[float | None]
    success_percent_error: list[float | None]
    improved_percent: float | None
    improved_percent_error: float | None
    found_again_percent: float | None
    found_again_percent_error: float | None
    length: list[float | None]
    length_error: list[float | None]
    excess: list[float | None]
    excess_error: list[float | None]


@dataclass(frozen=True, kw_only=True)
class MeasuredRow(Row):
    """What an experiment measured of an agent's trials.

    Attributes:
      experiment: its name.
      measured: what it is -> numbers; the experiment knows the shapes.
    """

    experiment: str
    measured: dict[str, Any]


R = TypeVar("R", bound=Row)
S = TypeVar("S", bound=ScoredRow)


def _kind_of(found: Mapping[str, Any]) -> type[Row]:
    """The kind of row that a JSON object is, by its fields."""
    if "measured" in found:
        return MeasuredRow
    if "success_length" in found:
        return MazeRow
    return LimitRow if found.get("agent") == LIMIT else EvaluationRow


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a field's type, as JSON has it; numbers must be finite."""
    inner = get_args(kind)
    if isinstance(kind, UnionType):
        return any(_fits(one, value) for one in inner)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(inner[0], x) for x in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and (inner[1] is Any or all(_fits(inner[1], x) for x in value.values()))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


def _are_numbers(value: Any) -> bool:
    """Whether it is a finite number, or a list of such, or of lists of them."""
    return all(map(_are_numbers, value)) if isinstance(value, list) else _fits(float, value)


def _described(kind: Any) -> str:
    """A field's type in words."""
    if isinstance(kind, UnionType):
        return f"{_described(get_args(kind)[0])}, or null"
    if get_origin(kind) is list:
        return "a list of " + {float: "numbers", str: "texts"}.get(get_args(kind)[0], "such values")
    return _WORDS[get_origin(kind) or kind]


# --- Which row counts.


def best_row(rows: Iterable[R]) -> R:
    """The row that counts, of several: the one rule for tables, figures, README and shipped agents.

    One of the paper's preset comes first, then more iterations, then more tasks, then ViZDoom before its twin, then the
    first training seed.
    """
    return max(
        rows,
        key=lambda row: (
            row.preset in PAPERS_PRESETS,
            row.iteration or 0,
            row.num_tasks,
            row.matches(engine="vizdoom"),
            -(row.training_seed or 0),
        ),
    )


def documented(rows: Iterable[R]) -> dict[tuple[str, str], R]:
    """(task, agent) -> its row, by `best_row`."""
    found: dict[tuple[str, str], list[R]] = {}
    for row in rows:
        found.setdefault((row.task, row.agent), []).append(row)
    return {place: best_row(several) for place, several in found.items()}


def best_reference(rows: Iterable[S]) -> S | None:
    """Of agents that need no training the row with the largest mean; rows of one task, None without any."""
    untrained = [row for row in documented(rows).values() if row.trained_on is None and row.agent != LIMIT]
    return max(untrained, key=lambda row: row.mean, default=None)


def opponents(rows: Iterable[ScoredRow], task: str) -> dict[str, Any]:
    """What a trained agent's score on a task is held against, of what there are rows.

    Returns:
      {"best_reference": {"agent", "mean"}, "limit": {"method", "mean"}}, for JSON.
    """
    of_task = [row for row in rows if row.task == task]
    best, limit = best_reference(of_task), documented(of_task).get((task, LIMIT))
    found = {} if best is None else {"best_reference": {"agent": best.agent, "mean": best.mean}}
    if isinstance(limit, LimitRow):
        found["limit"] = {"method": limit.method, "mean": limit.mean}
    return found


# --- On disk.


def scores(evaluation: Evaluation) -> dict[str, Any]:
    """Fields of an `EvaluationRow` that an evaluation knows: the scores, and the commit."""
    return {
        "num_tasks": len(evaluation.total_reward),
        "mean": evaluation.mean,
        "standard_error": _number(evaluation.standard_error),
        "standard_deviation": _number(evaluation.standard_deviation),
        "reward_curve": [round(float(x), 6) for x in evaluation.reward_curve],
        "commit": git_commit(),
    }


def _number(x: float) -> float | None:
    """JSON has no nan: one task has no standard error."""
    return x if math.isfinite(x) else None


def write_objects(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes a list of JSON objects, one a line."""
    write_atomically(path, "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in objects) + "\n]\n")


def read_objects(path: Path) -> list[dict[str, Any]]:
    """Reads such a list back.

    Raises:
      ValueError: if the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise InputError(f"{path} is not JSON ({error}); move it away") from None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows, one a line."""
    write_objects(path, [row.to_json() for row in rows])


def read_rows(path: Path) -> list[Any]:
    """The rows of a file. Objects without task and agent, such as tests between agents, are none.

    Raises:
      ValueError: naming the file, and the row and field that is damaged, missing or unknown.
    """
    found = read_objects(path)
    rows = []
    for number, each in enumerate(found if isinstance(found, list) else [], 1):
        if isinstance(each, dict) and {"task", "agent"} <= each.keys():
            try:
                rows.append(Row.from_json(each))
            except ValueError as error:
                raise InputError(f"{path}, row {number}: {error}") from None
    return rows


def holds(path: Path, **values: Any) -> bool:
    """Whether a file has a row with these values; not without the file."""
    return path.exists() and any(row.matches(**values) for row in read_rows(path))


def read_results(folder: Path) -> list[ScoredRow]:
    """All rows with a score of a folder's JSON files.

    Raises:
      ValueError: if there is no such folder, or as `read_rows`; names the option.
    """
    if not folder.is_dir():
        raise InputError(f"--results must be a folder with rows, got {str(folder)!r}")
    try:
        found = [row for path in sorted(folder.glob("*.json")) for row in read_rows(path)]
    except ValueError as error:
        raise InputError(f"--results: {error}") from None
    return [row for row in found if isinstance(row, ScoredRow)]


def write_comparison(path: Path, rows: Iterable[Row], tests: Iterable[PairTest]) -> None:
    """Rows in `path`, the tests between them beside it in NAME.tests.json."""
    write_rows(path, rows)
    described = [test._asdict() | {"standard_error": _number(test.standard_error)} for test in tests]
    write_objects(path.with_suffix(".tests.json"), described)


def read_tests(path: Path) -> list[PairTest]:
    """The tests that `write_comparison` wrote beside the rows in `path`."""
    return [PairTest(**test) for test in read_objects(path.with_suffix(".tests.json"))]


def format_score(mean: float, standard_error: float | None) -> str:
    """The mean, "+-" and the standard error, with as many digits as the error allows."""
    if standard_error is None:
        return f"{mean:.3f} (one task: no standard error)"
    digits = max(0, 1 - math.floor(math.log10(standard_error))) if standard_error > 0 else 3
    return f"{mean:.{digits}f} +- {standard_error:.{digits}f} (standard error)"
