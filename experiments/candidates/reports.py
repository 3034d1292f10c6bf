"""What becomes of rows of candidates: scores, differences to the base, tables. Reads rows only."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from rl2jax.results.rows import read_objects
from rl2jax.results.stats import SIGNIFICANCE, holm
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig

Row = dict[str, Any]

# The tasks of an evaluation in so many blocks, whose means a row keeps: enough for standard errors over tasks and for
# pairing any two rows, and small enough to commit.
NUM_BLOCKS = 200
BASE = "base"


class Estimate(NamedTuple):
    """A mean over training seeds and tasks.

    Attributes:
      mean: of both.
      over_seeds: its standard error, from how training seeds differ; nan for a single one.
      over_tasks: its standard error, from how tasks differ.
      p: two-sided, that the mean is 0; nan for a single seed, or where it was not asked.
    """

    mean: float
    over_seeds: float
    over_tasks: float
    p: float = math.nan


def block_means(total_reward: np.ndarray) -> list[float]:
    """Means of `NUM_BLOCKS` equal blocks of tasks.

    Args:
      total_reward: [num_tasks]; num_tasks is a multiple of `NUM_BLOCKS`.
    """
    blocks = np.asarray(total_reward, np.float64).reshape(NUM_BLOCKS, -1).mean(axis=1)
    return [round(float(mean), 6) for mean in blocks]


def score(blocks: np.ndarray) -> Estimate:
    """The score of a candidate.

    Args:
      blocks: block means of each seed, [num_seeds, NUM_BLOCKS].
    """
    return Estimate(float(blocks.mean()), math.sqrt(_variance(blocks.mean(axis=1))), _error(blocks.mean(axis=0)))


def difference(blocks: np.ndarray, base: np.ndarray) -> Estimate:
    """How much a candidate scores above the base: paired over tasks, which are the same, not over seeds.

    Student's t with Satterthwaite's (1946) degrees of freedom: three variances are estimated, those of the means of
    both over their seeds and that of the paired difference over tasks.

    Args:
      blocks: block means of the candidate, [num_seeds, NUM_BLOCKS].
      base: the same of the base; the number of seeds may differ.
    """
    gain = blocks.mean(axis=0) - base.mean(axis=0)
    seeds = [_variance(x.mean(axis=1)) for x in (blocks, base)]
    variances = np.array([*seeds, _error(gain) ** 2])
    freedom = np.array([len(blocks) - 1, len(base) - 1, len(gain) - 1])
    mean, total = float(gain.mean()), float(variances.sum())
    p = math.nan
    if total > 0.0 and freedom.min() > 0:
        effective = total**2 / float((variances**2 / freedom).sum())
        p = float(2.0 * scipy.stats.t.sf(abs(mean) / math.sqrt(total), effective))
    return Estimate(mean, math.sqrt(sum(seeds)), math.sqrt(variances[2]), p)


def _variance(means: np.ndarray) -> float:
    """Of the mean of several means; nan for a single one."""
    return float(np.var(means, ddof=1)) / len(means) if len(means) > 1 else math.nan


def _error(means: np.ndarray) -> float:
    return math.sqrt(_variance(means))


def row_files(folder: Path) -> list[Path]:
    """The files of the rows of one task; those of times are others."""
    return sorted(folder.glob("*-seed*.json"))


def read_results(results: Path) -> list[Row]:
    """All rows of all tasks."""
    return [row for folder in sorted(results.glob("*/")) for path in row_files(folder) for row in read_objects(path)]


def to_markdown(rows: list[Row]) -> str:
    """What the candidates are, and a table for each task, the largest gain first.

    Raises:
      ValueError: if the rows of a task were not taken alike.
    """
    known = {row["candidate"]: row for row in rows}
    summaries = [f"- **{name}**: {row['summary']}" for name, row in known.items()]
    tasks = dict.fromkeys(row["task"] for row in rows)
    tables = [_table([row for row in rows if row["task"] == task]) for task in tasks]
    return "\n".join(["\n".join(summaries), *tables]) + "\n"


def require_alike(rows: Iterable[Row], like: Row, where: object) -> None:
    """Refuses rows that cannot be compared with one: of other tasks, or held against another base.

    Raises:
      ValueError: naming the first field that differs.
    """
    for row in rows:
        found, wanted = ({"num_tasks": r["num_tasks"], "seed": r["seed"], **_base(r)} for r in (row, like))
        for field, value in found.items():
            allowed = f"{wanted[field]!r} like that of the others (give other studies a folder of their own)"
            require(value == wanted[field], f"{field} of the rows in {where}", value, allowed)


def _base(row: Row) -> Row:
    return TrainConfig.from_json(row["base"]).to_json()  # fields that a config has since take their defaults


def _table(rows: list[Row]) -> str:
    task, budget = rows[0]["task"], rows[0]["base"]["iterations"]
    require_alike(rows, rows[0], task)
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["candidate"], []).append(row)
    blocks = {
        name: np.array([row["block_means"] for row in found])
        for name, found in by_name.items()
        if not any("failure" in row for row in found)
    }
    gains = {name: difference(x, blocks[BASE]) for name, x in blocks.items() if BASE in blocks and name != BASE}
    significant = _significant(gains)
    lines = [
        f"\n### {task}, in the time of {budget} iterations of the base\n",
        "| candidate | settings | time of an iteration | iterations | steps | seeds | score | to the base | p |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    others = sorted(set(by_name) - {BASE}, key=lambda name: -gains[name].mean if name in gains else math.inf)
    for name in [*({BASE} & set(by_name)), *others]:
        cells = [name, *_made_of(by_name[name][0]["parts"]), _seeds(by_name[name])]
        cells.append(_text(score(blocks[name]), "") if name in blocks else f"failed: {_failures(by_name[name])}")
        if name in gains:
            gain, mark = gains[name], "**" if name in significant else ""
            cells += [f"{mark}{_text(gain, '+')}{mark}", "" if math.isnan(gain.p) else f"{gain.p:.2g}"]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _significant(gains: dict[str, Estimate]) -> set[str]:
    """Those whose difference is, among so many."""
    tested = [name for name, gain in gains.items() if not math.isnan(gain.p)]
    adjusted = holm(np.array([gains[name].p for name in tested]))
    return {name for name, p in zip(tested, adjusted, strict=True) if p < SIGNIFICANCE}


def _made_of(parts: list[Row]) -> list[str]:
    """Settings, ratios of times, iterations and steps; of several trainings, one after the other."""
    settings = [_settings(part["changes"]) for part in parts]
    shares = [f"{part['share']:.0%} of the time {text}" for part, text in zip(parts, settings, strict=True)]
    return [
        "; then ".join([*shares[:-1], settings[-1]]),
        ", ".join(f"{part['ratio']:.2f}" for part in parts),
        " + ".join(str(part["iterations"]) for part in parts),
        f"{sum(part['steps'] for part in parts) / 1e6:.1f} M",
    ]


def _settings(changes: Row) -> str:
    texts = [f"`{k}={v:g}`" if isinstance(v, float) else f"`{k}={v}`" for k, v in changes.items()]
    return " ".join(texts) or "as the base"


def _seeds(rows: list[Row]) -> str:
    return ", ".join(str(row["training_seed"]) for row in rows)


def _failures(rows: list[Row]) -> str:
    return "; ".join(f"seed {row['training_seed']}, {row['failure']}" for row in rows if "failure" in row)


def _text(estimate: Estimate, sign: str) -> str:
    errors = [f"{x:.2f}" for x in (estimate.over_seeds, estimate.over_tasks) if not math.isnan(x)]
    return " ± ".join([f"{estimate.mean:{sign}.2f}", *errors])
