"""The parts of an iteration, each timed against the floor of its operations and bytes; one task per process."""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import Sample, answer_parent, interleave, note, peak_memory
from rl2jax import xla
from rl2jax.agents.random import random_agent
from rl2jax.devices import TRIALS, choose_mesh
from rl2jax.envs.names import parse_task
from rl2jax.networks.base import Networks
from rl2jax.networks.unroll import unroll_trials
from rl2jax.slow_rl.advantages import standardise
from rl2jax.slow_rl.base import Batch
from rl2jax.slow_rl.baseline import BaselineBatch, baseline_optimiser, fit_baseline, values_over_trials
from rl2jax.slow_rl.moments import masked_mean
from rl2jax.slow_rl.natural_gradient import conjugate_gradient, fisher_vector_product
from rl2jax.slow_rl.trpo import ratio_surrogate
from rl2jax.training.config import TrainConfig
from rl2jax.training.cost import (
    Cost,
    Peak,
    environment_cost,
    fisher_cost,
    floor_seconds,
    measure_peak,
    phase_costs,
    total,
)
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.training.update import problem_of
from rl2jax.trials.collect import make_collect
from rl2jax.trials.rollout import rollout
from rl2jax.types import TRIALS_AXIS, PyTree, Trajectory

FISHER_PRODUCTS = 2  # in the timed part; an iteration has `cg_iters`
DEFAULT = TrainConfig().network.matmul_precision  # rows of another one say so
# The GRU that PyTorch has.
TORCH_GRU = {"network.activation": "tanh", "network.weight_norm": False}
FIRST_ORDER, NATURAL = "first-order iteration", "natural-gradient iteration, PyTorch's GRU"
# Whole iterations, by the names of their rows: changes to the paper's settings. Those after the first are for
# comparison with PyTorch; the first-order one is without KL checks.
ITERATIONS: dict[str, dict[str, Any]] = {
    "iteration": {},
    FIRST_ORDER: {**TORCH_GRU, "slow_rl": "ppo", "slow_rl.max_kl": math.inf},
    NATURAL: TORCH_GRU,
}

Row = dict[str, Any]


def against_floor(samples: list[Sample], cost: Cost, steps: int) -> Row:
    """Medians over samples, each held against the machine as it was just then.

    Args:
      samples: of a call.
      cost: of the call.
      steps: environment steps that the call handles.

    Returns:
      seconds, steps_per_second, floor_seconds and `of_floor`, floor / time: 1 is as fast as the device can.
    """
    floors = [floor_seconds(cost, Peak(*sample[1:])) for sample in samples]
    shares = [floor / sample.seconds for floor, sample in zip(floors, samples, strict=True)]
    seconds = statistics.median(sample.seconds for sample in samples)
    return {
        "seconds": seconds,
        "steps_per_second": steps / seconds,
        "operations": cost.operations,
        "bytes": cost.bytes,
        "peak_operations_per_second": statistics.median(sample.operations_per_second for sample in samples),
        "peak_bytes_per_second": statistics.median(sample.bytes_per_second for sample in samples),
        "floor_seconds": statistics.median(floors),
        "of_floor": statistics.median(shares),
        "of_floor_range": [min(shares), max(shares)],
        "samples": len(samples),
    }


def compile_timed(function: Callable, arguments: tuple) -> tuple[Any, float]:
    """(compiled program, seconds to trace, lower and compile it)."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def held_bytes(learner: Learner, compiled: Any) -> int:
    """What XLA plans to hold of temporaries and outputs, on all devices together."""
    memory = compiled.memory_analysis()  # of one device
    return (1 if learner.mesh is None else learner.mesh.size) * (
        memory.temp_size_in_bytes + memory.output_size_in_bytes
    )


def measure(
    learner: Learner, part: str, function: Callable, arguments: tuple, cost: Cost, long_samples: int = 1
) -> tuple[Row, Any]:
    """(row of one part, what the function returned)."""
    compiled, compile_seconds = compile_timed(function, arguments)
    output = None

    def call():
        nonlocal output
        output = None  # its memory serves the next call
        output = jax.block_until_ready(compiled(*arguments))

    samples = interleave(
        call, partial(measure_peak, learner.mesh, learner.config.network.matmul_precision), long_samples
    )
    row = {
        "part": part,
        **against_floor(samples, cost, learner.num_trials * learner.trial.num_steps),
        "compile_seconds": compile_seconds,
        "memory_bytes": held_bytes(learner, compiled),
    }
    seconds, share = row["seconds"], row["of_floor"]
    note(f"  {part:<24}{seconds:8.2f} s   {share:.2f} of the floor   compiled in {compile_seconds:.1f} s")
    return row, output


def random_play(learner: Learner) -> Callable[[jax.Array], Trajectory]:
    """The environment alone: key -> a batch of trials of a random agent."""
    agent = random_agent(learner.trial.env.action_space(None))

    def play(key):
        key_task, key_rollout = jax.random.split(key)
        return rollout(key_rollout, agent, learner.trial, learner.trial.env.sample_params(key_task))

    return lambda key: jax.vmap(play, out_axes=TRIALS_AXIS)(jax.random.split(key, learner.num_trials))


def policy_batch(trajectory: Trajectory) -> Batch:
    """What the surrogate needs; rewards stand in for advantages, which cost the same."""
    acted = trajectory.agent_info
    return Batch(
        trajectory.trial_obs,
        trajectory.action,
        acted.log_prob,
        acted.dist_params,
        standardise(trajectory.reward, trajectory.mask),
        trajectory.mask,
        trajectory.task_features[None],
    )


def policy_gradient(networks: Networks, config: TrainConfig) -> Callable[[PyTree, Batch], PyTree]:
    """(policy's params, batch) -> the surrogate's value and gradient on the whole batch."""

    def loss(params, batch):
        losses = problem_of(networks, config, batch.mask.shape[1]).losses(params, batch, ratio_surrogate)
        return losses.policy, losses.kl

    return jax.value_and_grad(loss, has_aux=True)


def fisher_products(networks: Networks, config: TrainConfig) -> Callable[[PyTree, Batch, PyTree], PyTree]:
    """(policy's params, batch, gradient) -> `FISHER_PRODUCTS` iterations of conjugate gradients."""

    def solve(params, batch, gradient):
        def dist_params_fn(params):
            return unroll_trials(networks.dist_params, None, networks.abreast, networks.starts_alike)(
                params, batch.trial_obs
            )

        def dist_kl(old, new):
            return masked_mean(networks.distribution(old).kl_divergence(networks.distribution(new)), batch.mask)

        product = fisher_vector_product(dist_params_fn, dist_kl, params, config.slow_rl.cg_damping)
        return conjugate_gradient(product, gradient, FISHER_PRODUCTS)

    return solve


def measure_iteration(learner: Learner, part: str, long_samples: int) -> Row:
    """A whole iteration, with what it takes to compile and to hold it.

    The persistent cache is empty when the process starts, so that the first compilation is a cold one; the
    second is traced and lowered anew and finds the program on disk, as a new process does.
    """
    state = learner.init(jax.random.key(0))
    cost = total(list(phase_costs(learner).values()))
    row, _ = measure(learner, part, learner.train_step, (state,), cost, long_samples)
    row["max_rss_bytes"] = peak_memory()
    jax.clear_caches()
    _, row["cached_compile_seconds"] = compile_timed(learner.train_step, (state,))
    return row


def measure_rollout(learner: Learner) -> tuple[Row, Trajectory]:
    """(row of the policy's rollout alone, what it played)."""
    key = jax.random.key(1)
    collect = make_collect(learner.trial, learner.agent_of, learner.num_trials, learner.mesh)
    return measure(learner, "rollout", collect, (key, learner.init(key).params), phase_costs(learner)["collect"])


def measure_parts(learner: Learner) -> list[Row]:
    """Rows of the parts of an iteration."""
    costs = phase_costs(learner)
    key = jax.random.key(1)
    state = learner.init(key)
    policy, baseline = state.params["policy"], state.params["baseline"]
    networks, config, num_trials = learner.networks, learner.config, learner.num_trials

    environment, _ = measure(
        learner, "environment", random_play(learner), (key,), environment_cost(learner.trial, num_trials)
    )
    rollouts, trajectory = measure_rollout(learner)
    seen = baseline, trajectory.trial_obs, trajectory.task_features
    values, _ = measure(learner, "values", values_over_trials(networks), seen, costs["values"])
    batch = policy_batch(trajectory)
    gradient, (_, gradients) = measure(
        learner, "gradient", policy_gradient(networks, config), (policy, batch), costs["gradient"]
    )
    fisher, _ = measure(
        learner,
        f"{FISHER_PRODUCTS} Fisher products",
        fisher_products(networks, config),
        (policy, batch, gradients),
        fisher_cost(learner, FISHER_PRODUCTS),
    )

    def fit(params, opt_state, targets):
        optimiser = baseline_optimiser(config.baseline, config.optimiser, config.iterations, num_trials)
        return fit_baseline(key, networks, config.baseline, optimiser, params, opt_state, targets)

    targets = BaselineBatch(
        trajectory.trial_obs, jnp.cumsum(trajectory.reward, axis=0), trajectory.mask, trajectory.task_features[None]
    )
    fitted, _ = measure(learner, "baseline", fit, (baseline, state.baseline_opt_state, targets), costs["baseline"])
    return [environment, rollouts, values, gradient, fisher, fitted]


def paper_learner(name: str, changes: dict[str, Any], devices: int = 1) -> Learner:
    """The learner of a task by the paper's settings, with changes, its trials shared by as many devices."""
    task = parse_task(name)
    config = preset_for(task, "paper").replace(changes)
    learner = Learner(task.env, config)
    mesh = choose_mesh(learner.num_trials, TRIALS, devices)
    return learner if mesh is None else Learner(task.env, config, mesh=mesh)


def planned_bytes(learner: Learner, part: str) -> Row:
    """What XLA plans for a whole iteration, compiled and never run: a row without times."""
    state = jax.eval_shape(learner.init, jax.random.key(0))
    compiled, _ = compile_timed(learner.train_step, (state,))
    row = {
        "part": part,
        "memory_bytes": held_bytes(learner, compiled),
        "argument_bytes": compiled.memory_analysis().argument_size_in_bytes,
    }
    note(f"  {part:<24}{row['memory_bytes'] / 2**30:8.2f} GiB planned")
    return row


def main(settings: dict[str, Any]) -> list[Row]:
    """Rows of one task.

    Args:
      settings: "task"; "changes" to the paper's config; "beside": whether the iterations that are compared with
        PyTorch are measured too; "compile_only": whether nothing is run, and rows have planned memory alone;
        "devices" that share the trials: of several, iteration and rollout are measured, not the other parts;
        "long_samples" of an iteration that takes long.
    """
    xla.prepare()
    learner = paper_learner(settings["task"], settings["changes"], settings["devices"])
    config, mesh = learner.config, learner.mesh
    name_of_task = parse_task(settings["task"]).name
    note(f"{name_of_task}, {learner.num_trials} trials of {learner.trial.num_steps} steps")
    names = list(ITERATIONS) if settings["beside"] else ["iteration"]
    learners = {name: Learner(learner.env, config.replace(ITERATIONS[name]), mesh=mesh) for name in names}
    if settings["compile_only"]:
        rows = [planned_bytes(learner, name) for name, learner in learners.items()]
    else:
        parts = measure_parts(learner) if mesh is None else [measure_rollout(learner)[0]]
        long_samples = settings["long_samples"]
        rows = [measure_iteration(learner, "iteration", long_samples), *parts]
        rows += [measure_iteration(learners[name], name, long_samples) for name in names[1:]]
    device = jax.devices()[0]
    context = {"task": name_of_task, "batch_size": config.batch.size, "gru_units": config.network.units}
    context |= {"devices": settings["devices"]} if mesh is not None else {}
    context |= (
        {"matmul_precision": config.network.matmul_precision} if config.network.matmul_precision != DEFAULT else {}
    )
    return [
        {**context, **row, "platform": device.platform, "device": device.device_kind, "jax": jax.__version__}
        for row in rows
    ]


if __name__ == "__main__":
    answer_parent(main)
