"""Steps a second of the maze task: ViZDoom's games on the host beside the twin on the device, and training on the twin.

    python -m experiments.benchmarks.mazes

The random agent plays trials of two episodes of at most 250 steps in 5 x 5 mazes; resets of episodes and trials, and
frames, are included. Only steps before the end of a trial count, in training too. A round is the twin, the host, and
the twin again, between two looks at the machine, so that the ratio of the two is one of the same moments.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.__main__ import RESULTS, machine
from experiments.benchmarks.reports import Row
from experiments.benchmarks.timing import note
from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.agents.random import random_agent
from rl2jax.engines.collection import collect
from rl2jax.engines.vizdoom.mazes import VizdoomMazes
from rl2jax.envs.names import Task, parse_task
from rl2jax.files import write_atomically
from rl2jax.results.rows import read_rows, write_rows
from rl2jax.settings import require
from rl2jax.training.cost import matmul_peak
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.trials.collect import make_collect
from rl2jax.trials.rollout import rollout
from rl2jax.trials.trial import Trial

TASK = "maze:size=5"
NAME = "mazes"  # of the rows' file
NUM_WORKERS = 2
STEPS = 50_000  # whose time is asked for
LONG_SECONDS = 10.0  # as asked for, on two idle cores
RATIO = 10.0  # as asked for

Play = Callable[[int], float]  # a seed -> the number of steps played; returns when they are


def timed(play: Play, seed: int) -> tuple[float, float]:
    """(steps, wall seconds)."""
    start = time.perf_counter()
    return play(seed), time.perf_counter() - start


def paired_rates(
    on_the_host: Play, on_the_twin: Play, peak: Callable[[], float], rounds: int
) -> dict[str, list[float]]:
    """Both in turns, warm already.

    Args:
      on_the_host: plays seeds 0, 1, ...
      on_the_twin: plays two seeds in a round, one before the host does and one after.
      peak: FLOP/s of the machine, measured before each round and after the last.
      rounds: how many.

    Returns:
      "host" and "twin": steps a second of each round; "ratio": twin / host of each round; "peak" [rounds + 1].
    """
    found: dict[str, list[float]] = {"host": [], "twin": [], "ratio": [], "peak": [peak()]}
    for seed in range(rounds):
        before, (steps, seconds), after = (
            timed(on_the_twin, 2 * seed),
            timed(on_the_host, seed),
            timed(on_the_twin, 2 * seed + 1),
        )
        twin = (before[0] + after[0]) / (before[1] + after[1])
        found["host"].append(steps / seconds)
        found["twin"].append(twin)
        found["ratio"].append(twin * seconds / steps)
        found["peak"].append(peak())
        note(f"  round {seed + 1} of {rounds}: ViZDoom {steps / seconds:.0f}, the twin {twin:.0f} steps/s")
    return found


def summary(samples: list[float], peaks: list[float]) -> Row:
    """Fields of a row: samples of steps a second, and what the machine's matrix products did meanwhile."""
    middle = statistics.median(samples)
    return {
        "steps_per_second": middle,
        "steps_per_second_range": [min(samples), max(samples)],
        "samples": samples,
        "seconds": STEPS / middle,
        "steps": STEPS,
        "peak_operations_per_second": statistics.median(peaks),
        "peak_operations_per_second_range": [min(peaks), max(peaks)],
    }


def twin_play(trial: Trial, num_trials: int) -> Play:
    """Trials of the random agent on the device; compiled at the first call."""
    env = trial.env
    agent = random_agent(env.action_space(None))

    @jax.jit
    def play(key):
        def one(key_trial):
            key_task, key_rollout = jax.random.split(key_trial)
            trajectory = rollout(key_rollout, agent, trial, env.sample_params(key_task))
            return (
                trajectory.mask.sum(),
                trajectory.trial_obs.obs,
            )  # frames are made and kept, time first, as on the host

        return jax.vmap(one, out_axes=(0, 1))(jax.random.split(key, num_trials))

    return lambda seed: float(jax.block_until_ready(play(jax.random.key(seed)))[0].sum())


def host_play(games: VizdoomMazes, trial: Trial, num_trials: int) -> Play:
    """Trials of the random agent in ViZDoom, in other mazes for each seed as long as there are others."""
    agent = random_agent(trial.env.action_space(None))

    def play(seed: int) -> float:
        mazes = np.arange(seed * num_trials, (seed + 1) * num_trials) % len(games.mazes.target)
        tasks = jax.vmap(trial.env.params_of)(games.mazes.at(mazes))
        return float(collect(games, agent, trial, jax.random.split(jax.random.key(seed), num_trials), tasks).mask.sum())

    return play


def random_rows(task: Task, num_trials: int, games_per_worker: int, rounds: int) -> list[Row]:
    """Rows of the random agent in ViZDoom and in the twin, which has the ratio."""
    trial = Trial(task.env, task.num_episodes)
    on_the_twin = twin_play(trial, num_trials)
    with VizdoomMazes(task.env, NUM_WORKERS, games_per_worker) as games:
        on_the_host = host_play(games, trial, num_trials)
        on_the_host(rounds)  # to compile
        on_the_twin(2 * rounds)
        found = paired_rates(on_the_host, on_the_twin, matmul_peak, rounds)
    same = {"task": task.name, "trials": num_trials}
    ratios = found["ratio"]
    ratio = {"ratio": statistics.median(ratios), "ratio_range": [min(ratios), max(ratios)], "ratios": ratios}
    part = f"random play in ViZDoom, {NUM_WORKERS} workers of {games_per_worker} games"
    return [
        {**same, "part": part, **summary(found["host"], found["peak"])},
        {**same, "part": "random play on the twin", **summary(found["twin"], found["peak"]), **ratio},
    ]


def training_row(learner: Learner, preset: str, rounds: int) -> Row:
    """Whole training iterations on the twin, from the first on; of a preset of that name."""
    iterate = jax.jit(learner.train_step)
    collect = make_collect(
        learner.trial,
        learner.agent_of,
        learner.num_trials,
        lane_steps=learner.config.batch.lane_steps,
        trials_per_task=learner.config.batch.trials_per_task,
    )

    @jax.jit
    def played_in(state):  # the iteration's own batch
        _, key_collect, _ = jax.random.split(state.key, 3)
        return collect(key_collect, state.params).mask.sum()

    state, _ = jax.block_until_ready(iterate(learner.init(jax.random.key(0))))
    samples, peaks = [], [matmul_peak()]
    for number in range(rounds):
        played = float(played_in(state))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(iterate(state))
        samples.append(played / (time.perf_counter() - start))
        peaks.append(matmul_peak())
        note(f"  iteration {number + 1} of {rounds}: {samples[-1]:.0f} steps/s")
    return {
        "part": f"training on the twin, {preset} preset, batches of {learner.steps_per_iteration}",
        "preset": preset,
        "batch_size": learner.steps_per_iteration,
        **summary(samples, peaks),
    }


def to_markdown(rows: list[Row]) -> str:
    """The machine, and a line for each row."""
    m = rows[0]["machine"]
    low, high = (f(rate for row in rows for rate in row["peak_operations_per_second_range"]) / 1e9 for f in (min, max))
    lines = [
        f"{rows[0]['task']}. {m['processor']}, {m['cores']} cores, {m['device']}, JAX {m['jax']}, "
        f"commit {m['commit']}, {m['date']}; load before the run {m['load']:.1f}; while it ran, matrix products at "
        f"{low:.0f} to {high:.0f} GFLOP/s.",
        "",
        f"| who plays | samples | steps/s, median (range) | {STEPS} steps | twin / host (range) | GFLOP/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        least, most = row["steps_per_second_range"]
        ratio = ""
        if "ratio" in row:
            ratio = f"{row['ratio']:.1f} ({row['ratio_range'][0]:.1f} to {row['ratio_range'][1]:.1f})"
        lines.append(
            f"| {row['part']} | {len(row['samples'])} | {row['steps_per_second']:.0f} ({least:.0f} to {most:.0f}) "
            f"| {row['seconds']:.2f} s | {ratio} | {row['peak_operations_per_second'] / 1e9:.0f} |"
        )
    lines += [
        "",
        f"Asked for, on two idle cores: {STEPS} steps in ViZDoom in under {LONG_SECONDS:.0f} s, and a twin / host "
        f"of at least {RATIO:.0f}. The ratio is the median of the rounds' ratios; in a round the twin plays before and "
        "after ViZDoom. Steps after the end of a trial do not count.",
    ]
    return "\n".join(lines) + "\n"


def described(rows: list[Row], load: float) -> list[Row]:
    """Rows with what they were measured on; huge pages are the C library's business, and count."""
    device = jax.devices()[0]
    on = machine({"device": device.device_kind, "jax": jax.__version__}, load)
    on["malloc"] = os.environ.get("GLIBC_TUNABLES", "")
    return [{**row, "platform": device.platform, "machine": on} for row in rows]


def write(results: Path, rows: list[Row]) -> None:
    """Rows, and their table beside them."""
    results.mkdir(parents=True, exist_ok=True)
    write_rows(results / f"{NAME}.json", rows)
    write_atomically(results / f"{NAME}.md", to_markdown(read_rows(results / f"{NAME}.json")))


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.mazes", description=__doc__)
    options: dict[str, tuple[int, int, str]] = {
        "rounds": (5, 1, "of twin, ViZDoom and twin"),
        "trials": (120, 1, "in each; 120 are about 54000 steps"),
        "games": (16, 1, f"of each of the {NUM_WORKERS} workers"),
        "iterations": (3, 0, "of training that are timed; 0 leaves training out"),
    }
    for name, (default, _, what) in options.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    found = parser.parse_args(arguments)
    for name, (_, least, _) in options.items():
        require(getattr(found, name) >= least, f"--{name}", getattr(found, name), f"an integer >= {least}")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measures, writes rows and table, prints the table."""
    with in_one_line():
        a = parse_arguments(arguments)
        load = os.getloadavg()[0]
        xla.prepare()
        task = parse_task(TASK)
        rows: list[dict[str, Any]] = random_rows(task, a.trials, a.games, a.rounds)
        write(a.results, described(rows, load))  # in case training fails
        if a.iterations:
            learner = Learner(task.env, preset_for(task, "cpu"))
            rows.append({"task": task.name, **training_row(learner, "cpu", a.iterations)})
            write(a.results, described(rows, load))
        print((a.results / f"{NAME}.md").read_text(), end="")
        note(f"{a.results / NAME}.(json, md)")


if __name__ == "__main__":
    main()
