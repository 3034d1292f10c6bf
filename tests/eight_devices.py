"""What tests/ground/test_devices.py lets a process with eight devices do, in one go; writes what it saw to a folder.

    python tests/eight_devices.py FOLDER

FOLDER/one is a run that one device has begun.
"""

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import jax
import numpy as np
from helpers import SMALL_ENV, SMALL_PPO, SMALL_TRPO, continue_to, host_leaves, train_arguments

from rl2jax.cli.main import main
from rl2jax.devices import make_mesh
from rl2jax.networks import recurrent as networks
from rl2jax.runs.run import open_run
from rl2jax.training.learner import Learner, train_chunk
from rl2jax.training.seeds import SeedLearner, train_seeds
from rl2jax.training.sweeps import train_sweep

COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(")


def command(arguments):
    """[exit code, standard error] of the command line."""
    error = io.StringIO()
    code = 0
    with contextlib.redirect_stderr(error):
        try:
            main([str(a) for a in arguments])
        except SystemExit as ended:
            code = ended.code or 0
    return [code, " ".join(error.getvalue().split())]


def loop_bodies(program, trips):
    """Text of the body of every loop of an HLO program that runs `trips` times."""
    computations = dict(re.findall(r"^%?([\w.\-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S))
    loops = (line for line in program.splitlines() if re.search(r" while\(", line))
    bodies = [
        re.search(r"body=%?([\w.\-]+)", line)[1] for line in loops if f'known_trip_count":{{"n":"{trips}"' in line
    ]
    return [computations[name] for name in bodies]


def time_loops(learner, compiled):
    """Bodies of the loops over a trial's steps, without those at its start that are apart."""
    steps, program = learner.trial.num_steps, compiled.as_text()
    return [body for trips in (steps, steps - 1, steps - 2) for body in loop_bodies(program, trips)]


def rounded_in_lanes(folder):
    """Two iterations of TRPO with rounded products on all devices, on each its trials one after another."""
    usual, networks._UNITS_OF_CORE = networks._UNITS_OF_CORE, 1
    learner = Learner(
        SMALL_ENV, SMALL_TRPO.replace({"network.matmul_precision": "bfloat16"}), mesh=make_mesh(jax.devices())
    )
    state, _ = train_chunk(learner, learner.init(jax.random.key(0)), 2)
    np.savez(folder / "rounded.npz", *host_leaves(state.params))
    networks._UNITS_OF_CORE = usual


def natural_gradient(folder):
    """Five iterations of TRPO with the trials of a batch shared by all devices, and how they are shared."""
    learner = Learner(SMALL_ENV, SMALL_TRPO, mesh=make_mesh(jax.devices()))
    state = learner.init(jax.random.key(0))
    compiled = train_chunk.lower(learner, state, 1).compile()
    for _ in range(5):
        state, _ = compiled(state)
    np.savez(folder / "trpo.npz", *host_leaves(state.params))
    bodies = time_loops(learner, compiled)
    return {
        "flops": compiled.cost_analysis()["flops"],
        "time_loops": len(bodies),
        "time_loops_that_communicate": sum(bool(COLLECTIVE.search(body)) for body in bodies),
        "communicates": bool(COLLECTIVE.search(compiled.as_text())),
    }


def first_order(folder):
    """Three iterations of PPO on two devices, and which of its loops communicate."""
    learner = Learner(SMALL_ENV, SMALL_PPO, mesh=make_mesh(jax.devices()[:2]))
    state = learner.init(jax.random.key(0))
    compiled = train_chunk.lower(learner, state, 1).compile()
    for _ in range(3):
        state, _ = compiled(state)
    np.savez(folder / "ppo.npz", *host_leaves(state.params))
    counts = (SMALL_PPO.slow_rl.epochs, SMALL_PPO.baseline.epochs, learner.num_trials // 16)
    bodies = [body for count in counts for body in loop_bodies(compiled.as_text(), count)]
    bodies += time_loops(learner, compiled)
    return {
        "loops": len(bodies),
        "loops_that_communicate": sum(bool(COLLECTIVE.search(body)) for body in bodies),
        "communicates": bool(COLLECTIVE.search(compiled.as_text())),
    }


def refusals():
    """Messages of learners that do not fit their devices."""
    learner, keys, messages = Learner(SMALL_ENV, SMALL_TRPO), jax.random.split(jax.random.key(0), 3), []
    for wrong in (
        lambda: Learner(SMALL_ENV, SMALL_TRPO, mesh=make_mesh(jax.devices()[:5])),
        lambda: Learner(SMALL_ENV, SMALL_TRPO, mesh=make_mesh(jax.devices(), "seeds")),
        lambda: SeedLearner(learner, 3, make_mesh(jax.devices(), "seeds")),
        lambda: SeedLearner(Learner(SMALL_ENV, SMALL_TRPO, mesh=make_mesh(jax.devices())), 8),
        lambda: train_sweep(
            SMALL_ENV, SMALL_TRPO, keys, {"objective.discount": np.full(3, 0.9)}, mesh=make_mesh(jax.devices(), "seeds")
        ),
    ):
        try:
            wrong()
        except ValueError as error:
            messages.append(str(error))
    return messages


def many_seeds(folder):
    """Four seeds, two on each of two devices: from the command line, stopped and resumed; and from Python."""
    options = ["--num-seeds", 4, "--devices", 2, "--out", folder / "seeds"]
    seen = {"seeds": command([*train_arguments(3), *options])}
    runs = sorted((folder / "seeds").iterdir())
    for run in runs:
        continue_to(run, 5)
    seen["seeds resumed"] = command([*train_arguments(None), "--resume", *options])
    learner, shapes = open_run(runs[0]).learner, []
    keys = jax.vmap(jax.random.key)(np.arange(4))
    mesh = make_mesh(jax.devices()[:2], "seeds")
    states, metrics = train_seeds(
        learner.env, learner.config, keys, mesh=mesh, callback=lambda report: shapes.append(report.metrics.kl.shape)
    )
    np.savez(folder / "seeds.npz", *host_leaves(states.params))
    swept, _ = train_sweep(
        learner.env, learner.config, keys[:2], {"objective.discount": np.array([0.5, 0.9])}, mesh=mesh
    )
    np.savez(folder / "sweep.npz", *host_leaves(swept.params))
    return seen | {"shapes": [shapes, metrics.kl.shape]}


def run(folder):
    """Everything; the result is what the tests look at."""
    seen = {"trpo": natural_gradient(folder), "ppo": first_order(folder), "refusals": refusals()}
    rounded_in_lanes(folder)
    seen["eight"] = command([*train_arguments(3), "--out", folder / "eight"])
    seen["one"] = command([*train_arguments(None), "--resume", "--out", folder / "one"])
    seen |= many_seeds(folder)
    for name, options in {"5": ["--devices", 5], "9": ["--devices", 9], "0": ["--devices", 0]}.items():
        seen[name] = command([*train_arguments(3), *options, "--out", folder / "refused"])
    seen["3 seeds on 2"] = command([*train_arguments(3), "--num-seeds", 3, "--devices", 2, "--out", folder / "refused"])
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
