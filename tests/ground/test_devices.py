"""Many devices, many processes, many seeds: always the numbers of one device, one process, one seed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SMALL_ENV, SMALL_PPO, SMALL_TRPO, continue_to, host_leaves, train_arguments

from rl2jax import envs, train
from rl2jax.cli.main import main
from rl2jax.devices import choose_mesh, describe
from rl2jax.envs.bandit import BANDIT
from rl2jax.envs.names import Task
from rl2jax.runs import checkpoint
from rl2jax.runs import many as seed_runs
from rl2jax.runs.checkpoint import iterations_on_disk
from rl2jax.runs.processes import ProcessError, together
from rl2jax.runs.run import load_state, open_run
from rl2jax.runs.session import read_metrics, train_run
from rl2jax.training.learner import Learner, train_chunk
from rl2jax.training.seeds import SeedLearner

HERE = Path(__file__).parents[1]
# Nothing that starts JAX's backend may come before processes join.
SLOWED = "import time, rl2jax.runs.processes as p; original = p.any_process\n"
SLOWED += "p.any_process = lambda flag: (time.sleep(0.1), original(flag))[1]\n"


def command(*arguments):
    """Runs the command line in this process; returns the exit code."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code or 0


def assert_close(params, expected):
    for a, b in zip(host_leaves(params), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def params_of(folder):
    return load_state(open_run(folder)).params


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Parameters after 5 iterations on one device: PPO's by seed, TRPO's; and the operations of TRPO's iteration."""
    folder = tmp_path_factory.mktemp("one")
    for seed in (0, 1):
        assert command(*train_arguments(5), "--seed", seed, "--out", folder / str(seed)) == 0
    learner = Learner(SMALL_ENV, SMALL_TRPO)
    state = learner.init(jax.random.key(0))
    compiled = train_chunk.lower(learner, state, 1).compile()
    for _ in range(5):
        state, _ = compiled(state)
    natural = {"trpo": host_leaves(state.params), "flops": compiled.cost_analysis()["flops"]}
    return natural | {seed: host_leaves(params_of(folder / str(seed))) for seed in (0, 1)}


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """(folder, what a process with eight devices saw and did in it); see eight_devices.py."""
    folder = tmp_path_factory.mktemp("eight")
    assert command(*train_arguments(3), "--out", folder / "one") == 0
    continue_to(folder / "one", 5)
    flags = {"XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"}
    arguments = [sys.executable, str(HERE / "eight_devices.py"), str(folder)]
    done = subprocess.run(arguments, env={**os.environ, **flags}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "seen.json").read_text())


def test_a_processor_is_split_into_as_many_devices_as_are_asked_for(tmp_path, expected):
    """Without XLA's flag, and never into more than it has cores."""
    flags = " ".join(flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag)
    cores, environment = os.cpu_count(), {**os.environ, "XLA_FLAGS": flags}

    def run(count, folder):
        arguments = [sys.executable, "-c", "from rl2jax.cli.main import main; main()", *train_arguments(5)]
        arguments += ["--devices", count, "--out", folder]
        return subprocess.run([str(a) for a in arguments], env=environment, capture_output=True, text=True)

    too_many = run(cores + 1, tmp_path / "refused")
    assert too_many.returncode == 2
    assert f"--devices must be from 1 to {cores} (the cpu devices of this process), got {cores + 1}" in " ".join(
        too_many.stderr.split()
    )
    if cores > 1:
        done = run(2, tmp_path / "two")
        assert done.returncode == 0, done.stderr
        assert "2 of 2 devices" in done.stderr
        assert_close(params_of(tmp_path / "two"), expected[0])


def test_eight_devices_learn_what_one_does(eight, expected):
    folder, _ = eight
    with np.load(folder / "trpo.npz") as saved:
        assert_close(list(saved.values()), expected["trpo"])


def test_rounded_products_are_shared_as_others_are(eight):
    """Sums in another order may be rounded otherwise, so that parameters agree less closely than unrounded ones."""
    folder, _ = eight
    learner = Learner(SMALL_ENV, SMALL_TRPO.replace({"network.matmul_precision": "bfloat16"}))
    state, _ = train_chunk(learner, learner.init(jax.random.key(0)), 2)
    with np.load(folder / "rounded.npz") as saved:
        for a, b in zip(saved.values(), host_leaves(state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_the_work_is_shared_and_nothing_is_sent_while_time_runs(eight, expected):
    """About an eighth of the operations on each device, and no communication in any loop over a trial's steps."""
    _, seen = eight
    assert seen["trpo"]["flops"] < 0.25 * expected["flops"]
    assert seen["trpo"]["communicates"]
    assert seen["trpo"]["time_loops"] >= 5  # rollout, values, gradient, Fisher products, baseline
    assert seen["trpo"]["time_loops_that_communicate"] == 0


def test_two_devices_learn_a_network_each(eight):
    """In first-order epochs: what one device learns, and nothing is sent until both are done."""
    folder, seen = eight
    learner = Learner(SMALL_ENV, SMALL_PPO)
    state, _ = train_chunk(learner, learner.init(jax.random.key(0)), 3)
    with np.load(folder / "ppo.npz") as saved:
        assert_close(list(saved.values()), host_leaves(state.params))
    assert seen["ppo"]["communicates"]
    assert seen["ppo"]["loops"] >= 8  # epochs, minibatches, and time to and fro, of either network
    assert seen["ppo"]["loops_that_communicate"] == 0


def test_runs_move_between_numbers_of_devices(eight, expected):
    """Begun on eight and continued on one, and the other way round."""
    folder, seen = eight
    assert seen["eight"][0] == 0, seen["eight"]
    assert "8 of 8 devices, 6 trials on each" in seen["eight"][1]
    continue_to(folder / "eight", 5)
    assert command(*train_arguments(None), "--resume", "--out", folder / "eight") == 0
    assert_close(params_of(folder / "eight"), expected[0])
    assert seen["one"][0] == 0, seen["one"]
    assert_close(params_of(folder / "one"), expected[0])


def test_seeds_together_are_seeds_alone(eight, expected):
    """Each leaves an ordinary run folder with the single run's numbers, also when stopped and resumed."""
    folder, seen = eight
    for session in ("seeds", "seeds resumed"):
        assert seen[session][0] == 0, seen
        assert "2 of 8 devices, 2 seeds on each" in seen[session][1]
    for seed in (0, 1):
        run = open_run(folder / "seeds" / f"seed-{seed}")
        assert run.seed == seed
        assert_close(load_state(run).params, expected[seed])
        assert [row["iteration"] for row in read_metrics(run.folder)] == [1, 2, 3, 4, 5]
    assert train_run(open_run(folder / "seeds" / "seed-3"), resume=True).finished


def test_train_seeds_has_a_leading_axis(eight, expected):
    folder, seen = eight
    assert seen["shapes"] == [[[4, 1]] * 5, [4, 5]]
    with np.load(folder / "seeds.npz") as saved:
        for seed in (0, 1):
            assert_close([leaves[seed] for leaves in saved.values()], expected[seed])


def test_members_of_a_sweep_are_trainings_alone(eight):
    """Two settings, each on a device of its own."""
    folder, _ = eight
    run = open_run(folder / "one")
    with np.load(folder / "sweep.npz") as saved:
        for member, discount in enumerate((0.5, 0.9)):
            alone, _ = train(
                run.learner.env, run.config.replace({"objective.discount": discount}), jax.random.key(member)
            )
            assert_close([leaves[member] for leaves in saved.values()], host_leaves(alone.params))


def test_what_does_not_fit_the_devices_is_named(eight):
    folder, seen = eight
    assert not (folder / "refused").exists()
    for name, parts in {
        "5": ["batch.size", "multiple of 5 trials", "180 or 200", "got 192"],
        "9": ["--devices must be from 1 to 8", "got 9"],
        "0": ["--devices must be from 1 to 8", "got 0"],
        "3 seeds on 2": ["num_seeds", "multiple of the number of devices (2)", "3"],
    }.items():
        code, error = seen[name]
        assert code == 2
        assert error.count("rl2jax: error:") == 1
        for part in parts:
            assert part in error
    share, axes, seeds, both, members = seen["refusals"]
    assert "batch.size must hold a multiple of 5 trials (7 steps each) on 5 devices, such as 315 or 350" in share
    assert axes.startswith("mesh axes must be ('trials',)")
    assert seeds == "num_seeds must be a multiple of the number of devices (8), got 3"
    assert both.startswith("learner.mesh must be None")
    assert members == "number of keys must be a multiple of the number of devices (8), got 3"


def test_one_device_needs_no_mesh():
    assert choose_mesh(48, "trials") is None
    assert describe(None, 48, "trials") == ""


def open_config():
    """The config that `train_arguments` says."""
    from rl2jax.training.config import parse_overrides
    from rl2jax.training.presets import preset

    words = train_arguments(5)
    config = preset("quick", "bandit", 4).replace(iterations=5)
    return config.replace(parse_overrides([words[i + 1] for i, word in enumerate(words) if word == "--set"], config))


# --- Several processes.


def test_two_processes_learn_what_one_does_and_stop_together(tmp_path):
    """Over loopback; a signal to the second stops both after the same iteration, the first one writes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "run"
    program = [sys.executable, "-c", SLOWED + "from rl2jax.cli.main import main; main()"]
    program += [*map(str, train_arguments(100000)), "--out", str(folder), "--num-processes", "2"]
    program += ["--coordinator", f"127.0.0.1:{port}"]
    processes = [
        subprocess.Popen([*program, "--process-id", str(i)], stderr=subprocess.PIPE, text=True) for i in range(2)
    ]
    try:
        deadline = time.monotonic() + 240
        while len(read_metrics(folder)) < 3:
            assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert "2 of 2 devices, 24 trials on each" in errors[0]
    assert "stopped and saved" in errors[0]
    assert "trials" not in errors[1]  # the second shows nothing
    (last,) = iterations_on_disk(folder / "checkpoints")
    assert read_metrics(folder)[-1]["iteration"] == last
    state, _ = train(
        envs.BernoulliBandit(num_arms=2),
        open_config().replace(iterations=100000),
        jax.random.key(0),
        callback=lambda report: report.iteration == last,
    )
    assert_close(params_of(folder), host_leaves(state.params))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--coordinator", "localhost:1234"], ["--num-processes is missing", "go together"]),
        (["--num-processes", 2], ["--coordinator is missing"]),
        (["--process-id", 0, "--num-processes", 2], ["--coordinator is missing"]),
        (["--coordinator", "localhost", "--num-processes", 2, "--process-id", 0], ["HOST:PORT", "'localhost'"]),
        (["--coordinator", "a:99999", "--num-processes", 2, "--process-id", 0], ["HOST:PORT", "'a:99999'"]),
        (["--coordinator", "a:9", "--num-processes", 0, "--process-id", 0], ["--num-processes", ">= 1", "0"]),
        (["--coordinator", "a:9", "--num-processes", 2, "--process-id", 2], ["--process-id", "from 0 to 1", "2"]),
        (
            ["--coordinator", "no-such-host.invalid:9", "--num-processes", 2, "--process-id", 1],
            ["cannot reach process 0 at no-such-host.invalid:9"],
        ),
        (["--distributed", "--process-id", 2], ["--process-id and --distributed exclude each other"]),
        (["--num-seeds", 0], ["--num-seeds", ">= 1", "0"]),
        (["--num-seeds", 2, "--seed", 2**32 - 1], ["--seed", str(2**32)]),
        (["--num-seeds", 2, "--distributed"], ["--num-seeds", "one process", "--distributed"]),
        (["--num-seeds", 2, "--process-id", 1], ["--num-seeds", "one process"]),
        (["--devices", 2], ["--devices must be from 1 to 1", "2"]),
    ],
)
def test_options_that_do_not_go_together_are_one_line(capsys, tmp_path, options, parts):
    assert command(*train_arguments(3), *options, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.count("rl2jax: error:") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "run").exists()


def test_seeds_that_are_cut_off_between_their_saves_can_always_go_on(tmp_path):
    """One seed saved iteration 3 and the others did not, twice: what all have is still there the second time."""
    config = SMALL_TRPO.replace(iterations=9)
    task = Task("bandit:k=3,n=7", BANDIT, SMALL_ENV, 7)
    runs = seed_runs.create_seed_runs(tmp_path / "seeds", task, config, 0, 2, None)
    learner = SeedLearner(runs[0].learner, 2, None)
    state = runs[0].learner.init(jax.random.key(0))

    def save(run, iteration):
        checkpoint.save(run.checkpoints, iteration, state._replace(iteration=jnp.int32(iteration)))

    for run in runs:
        save(run, 1)
        save(run, 2)
    for cut_off_at in (3, 4):
        save(runs[0], cut_off_at)
        states = seed_runs._start(runs, learner, resume=True)
        assert states.iteration.tolist() == [2, 2]
        assert iterations_on_disk(runs[0].checkpoints) == [2]


def test_folders_of_seeds_are_told_from_runs(capsys, tmp_path):
    """A folder of seeds is no run, an existing seed is not overwritten, and seeds that parted go on alone."""
    out = tmp_path / "seeds"
    for seed in (3, 4):
        arguments = [*train_arguments(1), "--seed", seed]
        assert command(*arguments, "--out", out / f"seed-{seed}") == 0
    capsys.readouterr()
    assert command("evaluate", out, "--num-tasks", 10) == 2
    assert "several seeds" in capsys.readouterr().err
    assert command(*train_arguments(1), "--seed", 2, "--num-seeds", 3, "--out", out) == 2
    assert "seed-3 exists already" in capsys.readouterr().err
    assert not (out / "seed-2").exists()
    continue_to(out / "seed-4", 2)
    assert command(*train_arguments(None), "--num-seeds", 2, "--resume", "--out", out) == 2
    assert "different settings" in capsys.readouterr().err
    continue_to(out / "seed-3", 2)
    (out / "seed-3" / "checkpoints" / "1").rename(out / "seed-3" / "checkpoints" / "7")
    assert command(*train_arguments(None), "--num-seeds", 2, "--resume", "--out", out) == 2
    assert "no saved iteration in common (seed-3: 7, seed-4: 1)" in capsys.readouterr().err


def test_a_failure_alone_is_just_that_failure():
    with pytest.raises(KeyError), together("trying"):
        raise KeyError("mine")
    assert issubclass(ProcessError, RuntimeError)
