"""`python -m experiments.benchmarks.in_turns`: iterations of ours and PyTorch's, one of each after the other.

`make benchmark` times the two minutes apart, on a machine that may be another by then. Here every program waits in a
process of its own, warm, while another one's turn is timed; a round has one turn of each.
"""

import argparse
import importlib.util
import os
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.benchmarks.__main__ import (
    CASES,
    RESULTS,
    THREADS,
    UNITS,
    environment_of,
    machine,
    torch_settings,
    write_report,
)
from experiments.benchmarks.parts import FIRST_ORDER, ITERATIONS, NATURAL, against_floor, paper_learner
from experiments.benchmarks.timing import Contestant, Sample, note
from experiments.messages import in_one_line
from rl2jax.results.rows import write_objects
from rl2jax.settings import require
from rl2jax.training.cost import Cost, phase_costs, total

Row = dict[str, Any]

NAME = "cpu-in-turns"
# Of PyTorch's, a number of threads that took this much longer than another in the first round has lost.
LOST = 1.3


class Match(NamedTuple):
    """A task and an iteration of `ITERATIONS`. PyTorch's natural gradients of n=500 take minutes: not in turns."""

    task: str
    part: str


MATCHES = (
    Match("bandit:k=5,n=10", FIRST_ORDER),
    Match("bandit:k=5,n=10", NATURAL),
    Match("bandit:k=50,n=500", FIRST_ORDER),
)


class Entry(NamedTuple):
    """One program of a match: which it is (fields of its row), its process, its turns so far."""

    fields: Row
    contestant: Contestant
    samples: list[Sample]

    @property
    def seconds(self) -> float:
        """The median turn."""
        return statistics.median(sample.seconds for sample in self.samples)


def enter(match: Match, changes: dict[str, Any], devices: tuple[int, ...]) -> list[Entry]:
    """Ours with each number of devices, PyTorch's with each of `THREADS`; warm when this returns."""
    changes = {**changes, **ITERATIONS[match.part]}
    learner = paper_learner(match.task, changes)
    entries = []
    for number in devices:
        settings = {"task": match.task, "changes": changes, "devices": number}
        fields = {"part": match.part} | ({"devices": number} if number > 1 else {})
        entries.append(Entry(fields, Contestant("iteration", settings, environment_of(number)), []))
    kind = "natural-gradient" if learner.config.slow_rl.work().linearisations else "first-order"
    for threads in THREADS:
        part = f"{kind} iteration in PyTorch, {threads} thread{'s'[: threads - 1]}"
        settings = {**torch_settings(learner, threads), "once": False, "in_turns": True}
        contestant = Contestant("torch_loop", settings)
        fields = {"part": part, "threads": threads, "torch": contestant.context["torch"]}
        entries.append(Entry(fields, contestant, []))
    return entries


def play(entries: list[Entry], rounds: int) -> None:
    """Times `rounds` turns of each; of PyTorch's, those that have `LOST` in the first round leave."""
    for played in range(rounds):
        present = [entry for entry in entries if entry.contestant.is_open]
        for entry in present:
            entry.samples.append(entry.contestant.sample())
        note("  " + "; ".join(f"{_name(entry)} {entry.samples[-1].seconds:.2f} s" for entry in present))
        if played == 0:
            others = [entry for entry in entries if "torch" in entry.fields]
            best = min(entry.seconds for entry in others)
            for entry in others:
                if entry.seconds > LOST * best:
                    entry.contestant.close()


def _name(entry: Entry) -> str:
    return entry.fields["part"] + (f", {entry.fields['devices']} devices" if "devices" in entry.fields else "")


def rows_of(entries: list[Entry], cost: Cost, steps: int) -> list[Row]:
    """Ours, and PyTorch's best against each of ours.

    "speedup" is the ratio of the two medians; "speedup_range" the ratios of single rounds.

    Args:
      entries: that have played.
      cost: of an iteration.
      steps: environment steps of one.
    """
    ours = [entry for entry in entries if "torch" not in entry.fields]
    most = max(len(entry.samples) for entry in entries)
    theirs = min(
        (entry for entry in entries if "torch" in entry.fields and len(entry.samples) == most),
        key=lambda entry: entry.seconds,
    )
    rows = [{**entry.fields, **against_floor(entry.samples, cost, steps)} for entry in ours]
    for entry in ours:
        pairs = zip(theirs.samples, entry.samples, strict=True)
        ratios = [their.seconds / our.seconds for their, our in pairs]
        ratio = {"speedup": theirs.seconds / entry.seconds, "speedup_range": [min(ratios), max(ratios)]}
        shared = {name: entry.fields[name] for name in ("devices",) if name in entry.fields}
        counts = {"rounds": len(ratios)}
        rows.append({**theirs.fields, **shared, **against_floor(theirs.samples, cost, steps), **ratio, **counts})
    return rows


def compete(match: Match, changes: dict[str, Any], devices: tuple[int, ...], rounds: int) -> list[Row]:
    """Rows of one match."""
    learner = paper_learner(match.task, {**changes, **ITERATIONS[match.part]})
    note(f"{match.task}, {match.part}")
    entries = enter(match, changes, devices)
    try:
        play(entries, rounds)
    finally:
        for entry in entries:
            entry.contestant.close()
    cost = total(list(phase_costs(learner).values()))
    rows = rows_of(entries, cost, learner.num_trials * learner.trial.num_steps)
    context = {
        "task": match.task,
        "batch_size": learner.config.batch.size,
        "gru_units": learner.config.network.units,
    }
    return [{**context, "platform": "cpu", **row} for row in rows]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.in_turns", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, os.cpu_count() or 1], help="of ours")
    parser.add_argument("--batch-size", type=int, help="steps in a batch (default: those of `make benchmark`)")
    parser.add_argument("--gru-units", type=int, default=UNITS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    a = parser.parse_args()
    with in_one_line():
        require(a.rounds >= 1, "--rounds", a.rounds, ">= 1")
        require(all(number >= 1 for number in a.devices), "--devices", a.devices, "all >= 1")
        require(importlib.util.find_spec("torch") is not None, "PyTorch", "not found", "installed: rl2jax[benchmarks]")
    start, load = time.perf_counter(), os.getloadavg()[0]
    sizes = {case.task: a.batch_size or case.batch_size for case in CASES}
    described = machine({"device": jax.devices()[0].device_kind, "jax": jax.__version__}, load)
    a.results.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for match in MATCHES:
        changes = {"batch.size": sizes[match.task], "network.units": a.gru_units}
        rows += compete(match, changes, tuple(dict.fromkeys(a.devices)), a.rounds)
        write_objects(a.results / f"{NAME}.json", [row | {"machine": described} for row in rows])
    print(write_report(a.results, NAME))
    note(f"{a.results / NAME}.(json, md) after {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
