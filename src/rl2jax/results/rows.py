"""Rows of results: what an evaluation becomes on disk. Reads and writes rows only."""

import json
import math
from pathlib import Path
from typing import Any

from rl2jax.files import git_commit, write_atomically
from rl2jax.results.stats import PairTest
from rl2jax.trials.evaluate import Evaluation


def _number(x: float) -> float | None:
    """JSON has no nan: one task has no standard error."""
    return x if math.isfinite(x) else None


def evaluation_row(evaluation: Evaluation, **context: Any) -> dict[str, Any]:
    """One row: the context as given (task, agent, hyperparameters, seed, ...), the scores, the commit."""
    return {
        **context,
        "num_tasks": len(evaluation.total_reward),
        "mean": evaluation.mean,
        "standard_error": _number(evaluation.standard_error),
        "standard_deviation": _number(evaluation.standard_deviation),
        "reward_curve": [round(float(x), 6) for x in evaluation.reward_curve],
        "commit": git_commit(),
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes a list of rows as JSON, one row a line."""
    write_atomically(path, "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads such a list back.

    Raises:
      ValueError: if the file is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise ValueError(f"{path} is not JSON ({error}); move it away") from None


def format_score(row: dict[str, Any]) -> str:
    """The mean, "+-" and the standard error, with as many digits as the error allows."""
    if row["standard_error"] is None:
        return f"{row['mean']:.3f} (one task: no standard error)"
    digits = max(0, 1 - math.floor(math.log10(row["standard_error"]))) if row["standard_error"] > 0 else 3
    return f"{row['mean']:.{digits}f} +- {row['standard_error']:.{digits}f} (standard error)"


def write_comparison(path: Path, rows: list[dict[str, Any]], tests: list[PairTest]) -> None:
    """Rows in `path`, the tests between them beside it in NAME.tests.json."""
    write_rows(path, rows)
    described = [test._asdict() | {"standard_error": _number(test.standard_error)} for test in tests]
    write_rows(path.with_suffix(".tests.json"), described)


def read_tests(path: Path) -> list[PairTest]:
    """The tests that `write_comparison` wrote beside the rows in `path`."""
    return [PairTest(**test) for test in read_rows(path.with_suffix(".tests.json"))]
