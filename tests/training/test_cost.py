"""The cost model: its operations against XLA's count of a compiled program, and what it adds up to."""

import json
import math
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params

from rl2jax.devices import cores_per_device
from rl2jax.envs import BernoulliBandit, TabularMDP
from rl2jax.networks import recurrent as networks_module
from rl2jax.networks import settings as settings_module
from rl2jax.networks.unroll import unroll_trials
from rl2jax.slow_rl.natural_gradient import fisher_vector_product
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import (
    EFFICIENCY,
    Cost,
    Peak,
    _passes,
    copy_bandwidth,
    environment_cost,
    fisher_cost,
    floor_seconds,
    iteration_seconds,
    matmul_peak,
    phase_costs,
    sequential_steps,
    total,
    training_seconds,
)
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset
from rl2jax.trials.trial import Trial
from rl2jax.types import TrialObservation

ROOT = Path(__file__).parents[2]

# What XLA counts and the model leaves out: gates, biases and softmax, about 20 operations per unit and step
# beside the 6 * units of the products; of an LSTM about twice as many, so that it is given twice the units.
TOLERANCE = 0.08
UNITS, TRIALS = 64, 16
LEARNER = Learner(BernoulliBandit(5), preset("paper").replace({"network.units": UNITS, "batch.size": 10 * TRIALS}))
LSTM = Learner(
    LEARNER.env,
    LEARNER.config.replace(
        {"network.units": 2 * UNITS, "network.cell": "lstm", "network.shared_trunk": True, "network.time_input": True}
    ),
)


def flops_per_step(make, learner):
    """XLA's operations in one more step of the unrolled network: make(outputs_fn) -> function of the parameters.

    XLA counts the body of a scan once, so the network is unrolled here; the difference of two lengths leaves out
    what happens once, and the first step's gradient for a state that is a constant.
    """
    networks = learner.networks
    params = random_params(networks, 0, 0.3)["policy"]

    def count(steps):
        def outputs_fn(params, trial_obs):
            weights = networks.policy_network.apply(params)
            state = jax.tree.map(lambda x: jnp.zeros((TRIALS, *x.shape), x.dtype), networks.start(weights))
            outputs = []
            for step in range(steps):
                seen = jax.tree.map(lambda x: x[step], trial_obs)  # noqa: B023
                state, out = jax.vmap(networks.step, (None, 0, 0))(weights, state, seen)
                outputs.append(out)
            return jnp.stack(outputs)

        ones = jnp.ones((steps, TRIALS))
        trial_obs = TrialObservation(ones[..., None], ones.astype(jnp.int32), ones, ones)
        function = jax.jit(lambda params, trial_obs: make(partial(outputs_fn, trial_obs=trial_obs))(params))
        return function.lower(params, trial_obs).compile().cost_analysis()["flops"]

    return (count(3) - count(2)) / TRIALS


def forward(outputs_fn):
    return outputs_fn


def gradient(outputs_fn):
    return jax.grad(lambda params: jnp.mean(jnp.square(outputs_fn(params))))


def fisher(outputs_fn):
    def kl(old, new):
        distribution = LEARNER.networks.distribution
        return jnp.mean(distribution(old).kl_divergence(distribution(new)))

    return lambda params: fisher_vector_product(outputs_fn, kl, params)(params)


@pytest.mark.parametrize(
    ("program", "field", "learner"),
    [
        (forward, "forward", LEARNER),
        (gradient, "gradient", LEARNER),
        (fisher, "forward + product", LEARNER),
        (forward, "forward", LSTM),
        (gradient, "gradient", LSTM),
    ],
)
def test_operations_are_those_xla_counts(program, field, learner):
    passes = _passes(learner.networks.policy_network)
    expected = sum(getattr(passes, name) for name in field.split(" + "))
    assert flops_per_step(program, learner) == pytest.approx(expected, rel=TOLERANCE)


def test_phases_of_trpo_add_up_to_the_paper_s_iteration():
    costs = phase_costs(LEARNER)
    assert set(costs) == set(EFFICIENCY)
    # All trials start alike: one takes the first step for all, and gives the second what comes of its state.
    passes, steps = _passes(LEARNER.networks.policy_network), 9 * TRIALS
    shared = TRIALS * 2 * UNITS * 3 * UNITS
    assert costs["gradient"].operations == passes.gradient * steps - 3 * shared
    assert costs["fisher"].operations == (passes.forward + 10 * passes.product) * steps - (1 + 10 * 4) * shared
    assert costs["line search"].operations == passes.forward * steps - shared
    played = environment_cost(LEARNER.trial, TRIALS).operations
    assert costs["collect"].operations - played == passes.forward * steps - shared
    baseline = _passes(LEARNER.networks.baseline_network)
    assert costs["baseline"].operations == 5 * (baseline.gradient * steps - 3 * shared)
    # In units of a forward pass: collect, values and search 1 each, a gradient 3, a product 4; less where an
    # argument's gradient is not needed.
    assert total(list(costs.values())).operations == pytest.approx(62 * passes.forward * steps, rel=0.15)


@pytest.mark.parametrize("reason", ["lanes", "learned", "lanes of steps", "starts differ", "lanes, starts differ"])
def test_what_is_not_done_at_the_start_is_not_counted(reason, monkeypatch):
    changes = {"learned": {"network.learned_initial_state": True}, "lanes of steps": {"batch.lane_steps": 10}}
    if reason.startswith("lanes"):
        monkeypatch.setattr(networks_module, "_UNITS_OF_CORE", UNITS * TRIALS // 4 // cores_per_device())
    if reason.endswith("starts differ"):
        monkeypatch.setattr(settings_module, "starts_alike", lambda trial: False)
    learner = Learner(LEARNER.env, LEARNER.config.replace(changes.get(reason, {})))
    of_step, of_state = _passes(learner.networks.policy_network).gradient, 3 * 2 * UNITS * 3 * UNITS
    spared = {
        "lanes": of_step,
        "learned": of_step + of_state,
        "lanes of steps": 0,
        "starts differ": of_state,
        "lanes, starts differ": 0,
    }[reason]
    assert phase_costs(learner)["gradient"].operations == (of_step * 10 - spared) * TRIALS


@pytest.mark.parametrize(("program", "field"), [(forward, "forward"), (gradient, "gradient")])
def test_xla_counts_a_step_less_where_trials_start_alike(program, field):
    """In trials of two steps, whose loops run once or not at all: XLA counts a loop's body once."""
    networks = LEARNER.networks
    params = random_params(networks, 0, 0.3)["policy"]
    ones = jnp.ones((2, TRIALS))
    trial_obs = TrialObservation(ones[..., None], ones.astype(jnp.int32), ones, ones)

    def count(starts_alike):
        unroll = unroll_trials(networks.dist_params, None, 0, starts_alike)
        function = jax.jit(lambda params, trial_obs: program(lambda params: unroll(params, trial_obs))(params))
        return function.lower(params, trial_obs).compile().cost_analysis()["flops"]

    less = (count(False) - count(True)) / TRIALS
    assert less == pytest.approx(getattr(_passes(networks.policy_network), field), rel=TOLERANCE)


def test_phases_of_the_first_order_form():
    first_order = Learner(LEARNER.env, LEARNER.config.replace({"slow_rl": "ppo"}))
    unlimited = Learner(LEARNER.env, first_order.config.replace({"slow_rl.max_kl": math.inf}))
    costs = phase_costs(first_order)
    assert "fisher" not in costs
    assert costs["gradient"] == phase_costs(LEARNER)["gradient"].times(5)
    assert costs["line search"] == phase_costs(unlimited)["line search"].times(5)
    imitation = Learner(LEARNER.env, LEARNER.config.replace({"slow_rl": "imitation"}), teacher=object())
    assert "baseline" not in phase_costs(imitation)


def test_phases_of_a2c():
    """One gradient whatever `policy_epochs` says, and one pass for the diagnostics; values come with a shared trunk."""
    costs = phase_costs(Learner(LEARNER.env, LEARNER.config.replace({"slow_rl": "a2c"})))
    trpo = phase_costs(LEARNER)
    assert costs == {phase: cost for phase, cost in trpo.items() if phase != "fisher"}
    shared = phase_costs(Learner(LEARNER.env, LEARNER.config.replace({"slow_rl": "a2c", "network.shared_trunk": True})))
    assert shared["baseline"] == shared["values"]


def test_the_fisher_fraction_counts():
    half = Learner(LEARNER.env, LEARNER.config.replace({"trpo.fisher_fraction": 0.5}))
    assert fisher_cost(half, 3) == fisher_cost(LEARNER, 3).times(0.5)


def test_work_grows_with_the_batch():
    double = Learner(LEARNER.env, LEARNER.config.replace({"batch.size": 20 * TRIALS}))
    for phase, cost in phase_costs(double).items():
        assert cost == phase_costs(LEARNER)[phase].times(2)


def test_environment_draws_more_where_tasks_are_larger():
    bandit, mdp = Trial(BernoulliBandit(5), 10), Trial(TabularMDP(10, 5, 10), 1)
    assert bandit.num_steps == mdp.num_steps
    assert 10 * 100 < environment_cost(bandit).operations < environment_cost(mdp).operations
    assert environment_cost(bandit, 7) == environment_cost(bandit).times(7)
    # both actions int32; reward, the expected one, prev_reward, obs, mask, both flags float32: 9 numbers a step
    assert environment_cost(bandit).bytes == 4 * (9 * 10 + 5)  # and the task's features


def test_loop_steps_by_hand():
    """12 trials of 4 steps: forward loops, and two for every gradient of every minibatch."""
    config = TrainConfig().replace(
        {
            "trial.num_episodes": 4,
            "batch.size": 48,
            "trpo.cg_iters": 3,
            "baseline.epochs": 2,
            "baseline.minibatch_trials": 4,
        }
    )
    env = BernoulliBandit(2)
    assert sequential_steps(Learner(env, config)) == 4 * (2 + (2 + 1 + 2 * 3 + 1) + 2 * 2 * 3)
    first_order = config.replace({"slow_rl": "ppo", "ppo.epochs": 5, "ppo.minibatch_trials": 6})
    assert sequential_steps(Learner(env, first_order)) == 4 * (2 + (2 * 5 * 2 + 5) + 2 * 2 * 3)
    a2c = config.replace({"slow_rl": "a2c", "network.shared_trunk": True})
    assert sequential_steps(Learner(env, a2c)) == 4 * (2 + (2 + 1) + 1)  # values anew, after the update


def test_devices_share_the_work_and_not_the_loops():
    peak = Peak(1e9, 1e9)
    work = iteration_seconds(LEARNER, peak)
    steps = sequential_steps(LEARNER)
    assert iteration_seconds(LEARNER, peak, devices=4, step_seconds=1e-3) == pytest.approx(work / 4 + steps * 1e-3)


def test_the_floor_is_the_longer_of_two():
    assert floor_seconds(Cost(100.0, 10.0), Peak(10.0, 10.0)) == 10.0
    assert floor_seconds(Cost(10.0, 100.0), Peak(10.0, 10.0)) == 10.0
    slow, fast = Peak(1e9, 1e9), Peak(2e9, 2e9)
    assert iteration_seconds(LEARNER, slow) == pytest.approx(2 * iteration_seconds(LEARNER, fast))


def test_training_time_is_iterations_times_an_iteration():
    peak = Peak(1e11, 1e10)
    hour, longer = (training_seconds(f"bandit:k=5,n={n}", "paper", peak) for n in (10, 100))
    # The batch is the same, but first steps, a tenth and a hundredth of it, are taken once for all trials.
    assert hour / 0.9 == pytest.approx(longer / 0.99, rel=0.05)
    assert training_seconds("mdp:n=10", "paper", peak) > 9 * hour  # ten times the iterations


def test_peaks_are_measured():
    assert matmul_peak(64, 1) > 1e6
    assert matmul_peak(64, 1, precision="bfloat16") > 1e6
    assert copy_bandwidth(1, 1) > 1e6


def test_efficiencies_are_those_of_the_committed_benchmark():
    rows = json.loads((ROOT / "experiments" / "results" / "benchmarks" / "cpu.json").read_text())
    parts = {"collect": "rollout", "fisher": "2 Fisher products", "line search": "values"}
    for phase, efficiency in EFFICIENCY.items():
        shares = [row["of_floor"] for row in rows if row["part"] == parts.get(phase, phase)]
        assert len(shares) == 3
        assert efficiency == pytest.approx(np.median(shares), abs=0.005), phase
