"""The benchmarks' own arithmetic on fabricated rows, and that the loops beside ours compute the same."""

import argparse
import itertools
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import recurrent_networks

from experiments.benchmarks import abreast, in_turns, loading, timing
from experiments.benchmarks.__main__ import (
    RESULTS,
    Case,
    committed_rows,
    file_name,
    still_worse,
    torch_rows,
    torch_settings,
)
from experiments.benchmarks.input_projection import PROJECTIONS, compared
from experiments.benchmarks.parts import FIRST_ORDER, ITERATIONS, NATURAL, against_floor, planned_bytes
from experiments.benchmarks.predict import predicted_seconds
from experiments.benchmarks.python_loop import POLICIES, Bandit, NumPyPolicy, play
from experiments.benchmarks.reports import against_bars, rate, regressions, roofline, to_markdown
from experiments.benchmarks.timing import MOST_SAMPLES, Contestant, Sample, interleave
from experiments.documents import put_table
from rl2jax.envs import BernoulliBandit
from rl2jax.networks.base import Categorical, Encoding
from rl2jax.networks.cells import CellWeights, gru_step
from rl2jax.results.rows import read_objects
from rl2jax.runs.shipped import list_agents
from rl2jax.training.cost import Cost
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset
from rl2jax.types import TrialObservation

MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "device": "cpu",
    "jax": "0.10",
    "commit": "abc",
    "date": "2026-01-01",
    "load": 0.0,
}
SAME = {"platform": "cpu", "task": "bandit:k=5,n=10", "batch_size": 1000, "gru_units": 8, "machine": MACHINE}
PART = {
    **SAME,
    "part": "iteration",
    "seconds": 2.0,
    "steps_per_second": 500.0,
    "operations": 1e9,
    "bytes": 1e6,
    "peak_operations_per_second": 1e9,
    "peak_bytes_per_second": 1e9,
    "floor_seconds": 1.0,
    "of_floor": 0.5,
    "of_floor_range": [0.4, 0.6],
    "compile_seconds": 20.0,
    "cached_compile_seconds": 2.0,
    "memory_bytes": 1_000_000,
    "max_rss_bytes": 2_000_000_000,
}
OTHER = {**SAME, "part": "in Python", "steps_per_second": 100.0, "speedup": 5.0}
ROWS = [PART, OTHER]


def test_samples_alternate_with_the_probe(monkeypatch):
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-3)
    events = []

    def probe():
        events.append("probe")
        return 1.0 * len(events), 10.0

    samples = interleave(lambda: events.append("call"), probe)
    assert len(samples) == MOST_SAMPLES
    assert "".join("p" if event == "probe" else "c" for event in events).startswith("pcpc")
    assert all(sample.bytes_per_second == 10.0 for sample in samples)


def test_a_long_call_is_sampled_as_often_as_is_asked(monkeypatch):
    monkeypatch.setattr(timing, "LONG_SECONDS", 0.0)
    events = []
    call, probe = partial(events.append, "call"), lambda: (events.append("probe"), (1.0, 1.0))[1]
    assert len(interleave(call, probe)) == 1
    assert len(interleave(call, probe, long_samples=3)) == 3
    assert events == ["probe", "call", "probe", "probe", *["call", "probe"] * 3]


def test_each_sample_is_held_against_its_own_machine():
    """Twice the time on a machine half as fast is no slower."""
    samples = [Sample(1.0, 100.0, 1e9), Sample(2.0, 50.0, 1e9), Sample(4.0, 25.0, 1e9)]
    row = against_floor(samples, Cost(50.0, 8.0), steps=10)
    assert row["of_floor"] == pytest.approx(0.5)
    assert row["of_floor_range"] == pytest.approx([0.5, 0.5])
    assert (row["seconds"], row["steps_per_second"], row["floor_seconds"]) == (2.0, 5.0, 1.0)


class Scripted:
    """A contestant whose turns take the given seconds, on a machine of 100 FLOP/s."""

    def __init__(self, *seconds):
        self.turns, self.is_open = iter(seconds), True

    def sample(self):
        return Sample(next(self.turns), 100.0, 1e9)

    def close(self):
        self.is_open = False


def entries_of(*turns):
    """Ours on one device and on two, PyTorch with one thread and with two."""
    fields = [{"part": FIRST_ORDER}, {"part": FIRST_ORDER, "devices": 2}]
    fields += [{"part": f"first-order iteration in PyTorch, {n}", "torch": "2"} for n in ("1 thread", "2 threads")]
    return [in_turns.Entry(f, Scripted(*seconds), []) for f, seconds in zip(fields, turns, strict=True)]


def test_rounds_are_compared_each_with_itself():
    """Twice the seconds of everybody in a slow round change no ratio; who lost the first round plays no other."""
    entries = entries_of([2.0, 4.0, 3.0], [1.0, 2.0, 1.0], [9.0], [4.0, 8.0, 6.0])
    in_turns.play(entries, rounds=3)
    assert [len(entry.samples) for entry in entries] == [3, 3, 1, 3]
    rows = in_turns.rows_of(entries, Cost(50.0, 8.0), steps=12)
    assert [(row["part"][-9:], row.get("devices")) for row in rows] == [
        ("iteration", None),
        ("iteration", 2),
        ("2 threads", None),
        ("2 threads", 2),
    ]
    one, two = rows[2:]
    assert (one["speedup"], one["speedup_range"], one["rounds"]) == (2.0, [2.0, 2.0], 3)
    assert (two["speedup"], two["speedup_range"]) == (6.0, [4.0, 6.0])
    assert one["steps_per_second"] * one["speedup"] == rows[0]["steps_per_second"]


def test_of_two_that_are_as_fast_the_faster_median_counts():
    entries = entries_of([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [4.0, 3.0, 3.0], [3.9, 3.9, 3.9])
    in_turns.play(entries, rounds=3)
    rows = in_turns.rows_of(entries, Cost(50.0, 8.0), steps=12)
    assert rows[2]["part"] == "first-order iteration in PyTorch, 1 thread"
    assert (rows[2]["speedup"], rows[2]["speedup_range"]) == (1.5, [1.5, 2.0])


def test_a_ratio_taken_in_turns_answers_a_bar_before_others():
    part = "first-order iteration in PyTorch, 2 threads"
    apart = {**SAME, "part": part, "steps_per_second": 400.0, "speedup": 3.0}
    turns = {**apart, "speedup": 2.0, "speedup_range": [1.9, 2.2], "rounds": 5}
    shared = {**turns, "devices": 2, "speedup": 2.6, "speedup_range": [2.4, 2.7]}
    line = lines_of(against_bars([apart, turns, shared]), "2.5 times PyTorch's first-order")[0]
    assert "| 2 times (1.9 to 2.2 in 5 turns), 1,000 steps |" in line
    assert "| yes; 2.6 times (2.4 to 2.7 in 5 turns) on 2 devices |" in line
    assert "| 400 | 800 | 2 (1.9 to 2.2 in 5 turns) |" in to_markdown([turns])


def test_a_program_waits_for_its_turn():
    """In a process of its own, which may end before it is ready."""
    changes = {"batch.size": 30, "network.units": 4, "trpo.cg_iters": 1, "baseline.epochs": 1}
    contestant = Contestant("iteration", {"task": "bandit:k=2,n=3", "changes": changes, "devices": 1})
    assert contestant.context == {"jax": jax.__version__}
    samples = [contestant.sample() for _ in range(2)]
    assert all(0.0 < sample.seconds < 60.0 and sample.operations_per_second > 1e8 for sample in samples)
    contestant.close()
    contestant.close()
    assert not contestant.is_open
    with pytest.raises(subprocess.CalledProcessError):
        Contestant("iteration", {})


@pytest.mark.parametrize(("option", "value"), [("--rounds", "0"), ("--devices", "0")])
def test_what_cannot_be_played_in_turns_is_named(option, value, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["in_turns", option, value])
    with pytest.raises(SystemExit, match=rf"{option} must be .*got .*{value}"):
        in_turns.main()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"of_floor": 0.38}, 0),
        ({"of_floor": 0.37}, 1),
        ({"of_floor": 0.9}, 0),
        ({"seconds": 200.0}, 0),  # times are the machine's
        ({"memory_bytes": 1_300_000}, 0),
        ({"memory_bytes": 1_400_000, "of_floor": 0.1}, 2),
    ],
)
def test_a_worse_ratio_is_found(changes, found):
    assert len(regressions([{**PART, **changes}, OTHER], ROWS, tolerance=0.25)) == found


def test_a_lost_lead_is_found():
    (found,) = regressions([{**OTHER, "speedup": 3.0}], ROWS)
    assert str(found) == "bandit:k=5,n=10 in Python: speedup 3, was 5"


@pytest.mark.parametrize(
    ("second", "lines"),
    [
        ([PART, OTHER], []),  # a slow minute
        ([{**PART, "of_floor": 0.2}, OTHER], ["bandit:k=5,n=10 iteration: of_floor 0.2, was 0.5"]),
        ([PART, {**OTHER, "speedup": 3.0}], []),  # what is worse now was not before
    ],
)
def test_what_is_worse_is_measured_again(monkeypatch, second, lines):
    """Ours alone, unless another loop has come closer; and only the task concerned."""
    calls = []

    def rows_of(case, settings, with_torch):
        calls.append((case.task, settings.ours))
        return second

    monkeypatch.setattr("experiments.benchmarks.__main__.rows_of", rows_of)
    cases = [Case("bandit:k=5,n=10", 1000, True), Case("bandit:k=50,n=500", 1000, True)]
    a = argparse.Namespace(ours=False, tolerance=0.25)
    assert still_worse(ROWS, ROWS, cases, a, True) == []
    assert calls == []
    found = still_worse([{**PART, "of_floor": 0.3}, OTHER], ROWS, cases, a, True)
    assert list(map(str, found)) == lines
    assert calls == [("bandit:k=5,n=10", True)]
    still_worse([PART, {**OTHER, "speedup": 3.0}], ROWS, cases, a, True)
    assert calls[1:] == [("bandit:k=5,n=10", False)]


def test_nothing_to_compare_with_is_an_error():
    with pytest.raises(ValueError, match="no earlier row measures the same"):
        regressions([{**PART, "batch_size": 10}], ROWS)
    assert committed_rows("nonesuch.json") == []


def test_the_table_has_every_row_once():
    table = to_markdown(ROWS)
    assert "| bandit:k=5,n=10, 1,000 steps | iteration | 2 s | 500 | 1 s | 0.50 (0.40 to 0.60) |" in table
    assert "| bandit:k=5,n=10, 1,000 steps | iteration | 20.0 s | 2.0 s | 0.00 GB | 2.00 GB |" in table
    assert "| bandit:k=5,n=10, 1,000 steps | in Python |  | 100 | 500 | 5 |" in table
    assert "a processor, 2 cores" in table
    assert to_markdown([PART]).count("|---") < table.count("|---")  # no other loop, no table of them


def test_predictions_are_of_the_row_s_own_peak_and_program():
    twice = {**PART, "peak_operations_per_second": 2e9, "peak_bytes_per_second": 2e9}
    assert predicted_seconds(PART) == pytest.approx(2 * predicted_seconds(twice))
    assert predicted_seconds({**PART, "part": FIRST_ORDER}) < predicted_seconds(PART)
    assert predicted_seconds({**PART, "part": NATURAL}) == pytest.approx(predicted_seconds(PART))
    predicted = predicted_seconds(PART)
    line = f"| bandit:k=5,n=10, 1,000 steps | iteration | {predicted:.3g} s | 2 s | {predicted / 2:.2f} |"
    assert line in to_markdown(ROWS)


def lines_of(bars, beginning):
    return [line for line in bars.splitlines() if line.startswith(f"| {beginning}")]


def test_a_bar_is_met_at_its_own_batch_or_not_known_to_be():
    asked = "floor / time of an iteration >= 0.6"
    assert "| 0.50, 1,000 steps | **no**; at 250,000 steps not measured |" in lines_of(against_bars(ROWS), asked)[0]
    larger = {**PART, "batch_size": 250_000, "of_floor": 0.61}
    assert "| 0.61, 250,000 steps | yes |" in lines_of(against_bars([larger, PART]), asked)[0]
    assert "| – | – | – |" in lines_of(against_bars([OTHER]), asked)[0]


def test_another_loop_counts_with_its_best_setting_and_against_equal_work():
    equal = {**PART, "part": NATURAL, "steps_per_second": 600.0}
    part = "natural-gradient iteration in PyTorch"
    slow = {**SAME, "part": f"{part}, 1 thread", "steps_per_second": 200.0, "speedup": 3.0}
    fast = {**SAME, "part": f"{part}, 2 threads", "steps_per_second": 400.0, "speedup": 1.5}
    line = lines_of(against_bars([PART, equal, slow, fast]), "2.5 times PyTorch's natural")[0]
    assert line.endswith("| 1.5 times, 1,000 steps | **no** | 0.83 (has 0.50) |")
    shared = {**fast, "devices": 2, "speedup": 2.6}
    line = lines_of(against_bars([PART, equal, slow, fast, shared]), "2.5 times PyTorch's natural")[0]
    assert line.endswith("| 1.5 times, 1,000 steps | yes; 2.6 times on 2 devices | 0.83 (has 0.50) |")
    usual = {**fast, "speedup": PART["steps_per_second"] / 400.0}
    assert "**no**; of other gates" in lines_of(against_bars([PART, usual]), "2.5 times PyTorch's natural")[0]


def test_what_is_committed_is_made_of_the_committed_rows():
    for path in RESULTS.glob("cpu*.json"):
        assert path.with_suffix(".md").read_text() == to_markdown(read_objects(path))


def test_a_program_is_planned_without_being_run():
    config = preset("paper").replace({"batch.size": 100, "network.units": 4, "trpo.cg_iters": 1})
    row = planned_bytes(Learner(BernoulliBandit(2), config), "iteration")
    assert 0 < row["argument_bytes"] < row["memory_bytes"] < 1e8
    assert "seconds" not in row
    planned = {**SAME, "memory_bytes": 3 * 2**30, "argument_bytes": 2**20, "part": "iteration"}
    assert "| iteration | 3.00 GiB | 0.001 GiB |" in to_markdown([planned])


def test_rows_of_other_sizes_replace_none():
    def named(batch_size=None, gru_units=256, compile_only=False, devices=1, matmul_precision="default"):
        sizes = {"batch_size": batch_size, "gru_units": gru_units, "devices": devices}
        others = {"compile_only": compile_only, "matmul_precision": matmul_precision}
        return file_name("cpu", argparse.Namespace(**sizes, **others))

    assert named() == "cpu"
    assert named(250_000, compile_only=True) == "cpu-250000-planned"
    assert named(gru_units=64) == "cpu-64-units"
    assert named(250_000, devices=2) == "cpu-250000-2-devices"
    assert named(matmul_precision="bfloat16") == "cpu-bfloat16"


def test_rows_of_several_devices_are_told_from_those_of_one():
    two = {**PART, "devices": 2, "of_floor": 0.1}
    with pytest.raises(ValueError, match="no earlier row measures the same"):
        regressions([two], ROWS)
    assert "| bandit:k=5,n=10, 1,000 steps, 2 devices | iteration |" in to_markdown([two])
    faster = {**two, "steps_per_second": 900.0, "of_floor": 0.7}
    asked = "floor / time of an iteration >= 0.6"
    assert "| 0.70, 1,000 steps, 2 devices | yes" in lines_of(against_bars([faster]), asked)[0]
    of_both = lines_of(against_bars([PART, faster]), asked)[0]
    assert "| 0.50, 1,000 steps | yes; 0.70 on 2 devices" in of_both
    of_both = lines_of(against_bars([PART, {**faster, "of_floor": 0.55}]), asked)[0]
    assert "| 0.50, 1,000 steps | **no**; 0.55 on 2 devices" in of_both


def test_rounded_rows_are_told_from_those_of_whole_products():
    rounded = {**PART, "matmul_precision": "bfloat16", "steps_per_second": 900.0, "of_floor": 0.7}
    with pytest.raises(ValueError, match="no earlier row measures the same"):
        regressions([rounded], ROWS)
    assert "| bandit:k=5,n=10, 1,000 steps, bfloat16 | iteration |" in to_markdown([rounded])
    assert "predicted" in to_markdown([PART])
    assert "predicted" not in to_markdown([rounded])
    asked = "floor / time of an iteration >= 0.6"
    assert "| 0.50, 1,000 steps | **no**" in lines_of(against_bars([rounded, PART]), asked)[0]


def test_a_long_iteration_chooses_its_threads_on_shorter_trials(monkeypatch):
    asked = []

    def run_child(module, settings):
        asked.append((settings["num_steps"], settings["threads"], settings["once"]))
        samples = [Sample(1.0, 1e9, 1e9)]
        return {"seconds": 3.0 - settings["threads"]} if settings["once"] else {"samples": samples, "torch": "2"}

    monkeypatch.setattr("experiments.benchmarks.__main__.run_child", run_child)
    ours = {"part": NATURAL, "steps_per_second": 3000.0}
    (row,) = torch_rows(Case("bandit:k=2,n=500", 0, True), {"batch.size": 1000, "network.units": 4}, ours)
    assert asked == [(50, 1, True), (50, 2, True), (500, 2, False)]
    assert (row["threads"], row["speedup"]) == (2, 3.0)
    assert row["seconds_of_shorter_trials"] == {"1": 2.0, "2": 1.0}
    rows = torch_rows(Case("bandit:k=2,n=10", 0, True), {"batch.size": 1000, "network.units": 4}, ours)
    assert [row["threads"] for row in rows] == [1, 2]


def test_rates_have_two_digits():
    assert [rate(x) for x in (12.3, 4_560.0, 78_900.0, 1_234_567.0)] == ["12", "4.6 k", "79 k", "1.2 M"]


def test_the_document_s_table_is_replaced():
    text = "a\n<!-- benchmark cpu -->\nold\n<!-- end of benchmark cpu -->\nb\n"
    new = put_table(text, "benchmark cpu", "new \\1\n")
    assert new == "a\n<!-- benchmark cpu -->\nnew \\1\n<!-- end of benchmark cpu -->\nb\n"
    assert put_table(new, "benchmark gpu", "other\n") == new


@pytest.mark.parametrize(("speedup", "shown"), [(1.55, "1.6"), (18.3, "18"), (95.96, "96"), (110.6, "111")])
def test_large_ratios_are_written_out(speedup, shown):
    assert f"| {shown} |" in to_markdown([PART, {**OTHER, "speedup": speedup}])


def test_points_lie_under_the_roof():
    (axes,) = roofline(ROWS).axes
    xs, ys = np.concatenate([points.get_offsets() for points in axes.collections if len(points.get_offsets())]).T
    assert xs[0] == pytest.approx(1000.0)
    assert ys[0] == pytest.approx(0.5)


@pytest.mark.parametrize("network", list(POLICIES))
def test_python_plays_whole_trials(network):
    if network == "PyTorch":
        pytest.importorskip("torch")
    env, policy = Bandit(3, 7), POLICIES[network](3, 4)
    assert play(env, policy) == 7
    assert 0.0 < env.probs.min() <= env.probs.max() < 1.0


def test_the_loop_in_numpy_has_the_package_s_gru():
    policy = NumPyPolicy(3, 4)
    policy.random = Gumbels()
    weights = CellWeights(policy.input, policy.hidden, jnp.zeros(12))
    xs = [[0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0.5, 1]]  # what is seen first; then arm 2 has paid a half
    state, played = None, None
    expected = jnp.zeros(4)
    for x, previous in zip(xs, (None, (2, 0.5)), strict=True):
        state, played = policy.act(state, previous)
        expected = gru_step(weights, jnp.tanh, expected, jnp.asarray(x))
        np.testing.assert_allclose(state, expected, atol=1e-6)
    assert played == int(np.argmax(state @ policy.head))


class Gumbels:
    """Draws zeros."""

    def gumbel(self, size):
        return np.zeros(size)


class TestTorch:
    """The loop in PyTorch beside ours."""

    UNITS, ARMS, STEPS, TRIALS = 8, 3, 5, 4

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def test_its_gru_is_ours(self, torch):
        from experiments.benchmarks.torch_loop import Network

        networks = recurrent_networks(
            Encoding(1, False), Encoding(self.ARMS, True), Categorical(self.ARMS), self.UNITS, "tanh", False
        )
        params = networks.init(jax.random.key(0))["policy"]
        weights = jax.tree.map(np.asarray, networks.policy_network.apply(params))
        rng = np.random.default_rng(0)
        shape = (self.STEPS, self.TRIALS)
        action, reward = rng.integers(self.ARMS, size=shape), rng.random(shape).astype(np.float32)
        trial_obs = TrialObservation(np.zeros((*shape, 1), np.float32), action, reward, np.ones(shape, np.float32))
        ours = jax.vmap(networks.dist_params, (None, 1), 1)(params, jax.tree.map(jnp.asarray, trial_obs))

        # Its update gate keeps where ours lets in: the other sign.
        sign = np.repeat(np.array([1, -1, 1], np.float32), self.UNITS)
        theirs = Network(self.ARMS + 3, self.UNITS, self.ARMS)
        state = {
            "gru.weight_ih_l0": (weights.cell.input * sign).T,
            "gru.weight_hh_l0": (weights.cell.hidden * sign).T,
            "gru.bias_ih_l0": weights.cell.bias * sign,
            "gru.bias_hh_l0": np.zeros(3 * self.UNITS, np.float32),
            "head.weight": weights.head.T,
            "head.bias": weights.head_bias,
        }
        theirs.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in state.items()})
        inputs = np.concatenate([trial_obs.obs, np.eye(self.ARMS)[action], reward[..., None], np.ones((*shape, 1))], -1)
        with torch.no_grad():
            outputs, _ = theirs(torch.tensor(inputs, dtype=torch.float32))
        np.testing.assert_allclose(outputs.numpy(), ours, atol=1e-5)

    def test_it_rounds_where_ours_does(self, torch):
        """The rounded GRU is near the other, and not it; what leaves the network is float32 again."""
        from experiments.benchmarks.torch_loop import Network

        config = preset("paper").replace(
            {**ITERATIONS[NATURAL], "batch.size": 2000, "network.matmul_precision": "bfloat16"}
        )
        assert torch_settings(Learner(BernoulliBandit(3), config), threads=1)["rounded"]
        torch.manual_seed(0)
        rounded, inputs = Network(self.ARMS + 3, 64, self.ARMS, rounded=True), torch.randn(5, 7, self.ARMS + 3)
        whole = Network(self.ARMS + 3, 64, self.ARMS)
        whole.load_state_dict(rounded.state_dict())
        with torch.no_grad():
            outputs, exact = rounded(inputs)[0], whole(inputs)[0]
        assert outputs.dtype == torch.float32
        difference = (outputs - exact).abs().max()
        assert 1e-5 < difference < 2e-2

    def test_its_discounted_sums_are_ours(self, torch):
        from experiments.benchmarks.torch_loop import discounted
        from rl2jax.slow_rl.advantages import discounted_returns

        x = np.random.default_rng(0).random((self.STEPS, self.TRIALS)).astype(np.float32)
        ours = jax.vmap(discounted_returns, (1, None), 1)(x, 0.9)
        np.testing.assert_allclose(discounted(torch.tensor(x), 0.9), ours, rtol=1e-5)

    def test_it_learns(self, torch):
        from experiments.benchmarks.torch_loop import Loop, Settings

        config = preset("paper").replace(
            {
                **ITERATIONS[FIRST_ORDER],
                "batch.size": 2000,
                "network.units": 16,
                "slow_rl.minibatch_trials": 50,
                "slow_rl.learning_rate": 2e-2,
            }
        )
        torch.manual_seed(0)
        torch.set_num_threads(1)
        loop = Loop(Settings(**torch_settings(Learner(BernoulliBandit(2), config), threads=1)))
        rewards = [loop.iteration() for _ in range(10)]
        assert np.mean(rewards[-4:]) > 5.2  # blind: 5.0, with a standard error of 0.1

    def test_its_natural_step_is_the_largest_in_the_trust_region(self, torch):
        from experiments.benchmarks.torch_loop import Batch, Network, Settings, log_prob_of, natural_step

        config = preset("paper").replace({**ITERATIONS[NATURAL], "batch.size": 2000, "network.units": 8})
        settings = Settings(**torch_settings(Learner(BernoulliBandit(3), config), threads=1))
        assert settings.natural
        torch.manual_seed(0)
        policy, inputs, action = Network(6, 8, 3), torch.randn(10, 50, 6), torch.randint(3, (10, 50))
        with torch.no_grad():
            old = policy(inputs)[0]
        advantage = (action == 0).float() - 0.5
        natural_step(policy, Batch(inputs, action, log_prob_of(old, action), advantage), advantage, settings)
        with torch.no_grad():
            new = policy(inputs)[0]
        kl = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=x) for x in (old, new))).mean()
        assert 0.5 * config.slow_rl.max_kl < kl <= config.slow_rl.max_kl
        assert (torch.exp(log_prob_of(new, action) - log_prob_of(old, action)) * advantage).mean() > advantage.mean()


def test_peak_memory_is_the_process_own():
    """A child is not charged with what its parent held."""
    held = np.ones(40_000_000)  # 320 MB
    command = "from experiments.benchmarks.timing import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, check=True)
    assert timing.peak_memory() > held.nbytes
    assert 1e6 < int(child.stdout) < 2e8


def test_an_agent_is_loaded_and_played_in_a_process_of_its_own(tmp_path, monkeypatch, capsys):
    """What its process said, and how long it took, is in row and table."""
    only = [agent for agent in list_agents() if (agent.name, agent.recipe) == ("bandit-k5-n10", "best")]
    monkeypatch.setattr(loading, "list_agents", lambda: only)
    monkeypatch.setattr(sys, "argv", ["loading", "--num-trials", "20", "--results", str(tmp_path)])
    loading.main()
    (row,) = read_objects(tmp_path / "cpu-loading.json")
    assert (row["name"], row["recipe"], row["num_trials"]) == ("bandit-k5-n10", "best", 20)
    assert 0.0 < row["mean"] <= 10.0
    assert 0.5 < row["seconds"] < 300.0
    assert 1e8 < row["max_rss_bytes"] < 2e9
    assert f"| bandit-k5-n10 | best | 20 | {row['seconds']:.1f} s |" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.png")] == []


@pytest.mark.parametrize(("option", "value"), [("--recipes", "wurst"), ("--num-trials", "0")])
def test_what_cannot_be_loaded_is_named(option, value, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["loading", option, value])
    with pytest.raises(SystemExit, match=rf"{option} must be .*got '?{value}'?"):
        loading.main()


def test_widths_are_compared(monkeypatch):
    """Each has a line, with the part of the work that no layout changes."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-3)
    monkeypatch.setattr(abreast, "measure_peak", lambda: (1e11, 1e10))
    rows = abreast.measure("bandit:k=3,n=4", batch_size=80, units=8, widths=[0, 6], rounds=1)
    assert [(row["abreast"], row["part"]) for row in rows] == list(itertools.product([0, 6], abreast.PARTS))
    assert [row["operations"] for row in rows[:3]] == [row["operations"] for row in rows[3:]]
    lines = abreast.to_markdown(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["all", "6"]


def test_ways_to_project_the_input_have_the_same_gradient():
    """`compared` holds them against each other before it times them."""
    table = compared(num_arms=3, num_trials=4, num_steps=2, units=8, rounds=1)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(PROJECTIONS)


def test_a_projection_that_differs_is_not_timed(monkeypatch):
    wrong = dict(PROJECTIONS) | {"row": lambda matrix, action, rest: PROJECTIONS["row"](matrix, (action + 1) % 3, rest)}
    monkeypatch.setattr("experiments.benchmarks.input_projection.PROJECTIONS", wrong)
    with pytest.raises(AssertionError, match="Not equal"):
        compared(num_arms=3, num_trials=4, num_steps=2, units=8, rounds=1)
