"""What Fisher products on a part of the trials do to the natural step: direction, KL and gain, on the same batch."""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rl2jax import xla
from rl2jax.envs.names import parse_task
from rl2jax.training.learner import Learner, train_chunk
from rl2jax.training.presets import preset_for
from rl2jax.training.update import make_update
from rl2jax.trials.collect import make_collect
from rl2jax.types import PyTree

FRACTIONS = (1.0, 0.5, 0.2, 0.1, 0.05)


def cosine(a: PyTree, b: PyTree) -> float:
    """Of the angle between two steps."""
    return float(optax.tree.vdot(a, b) / (optax.tree.norm(a) * optax.tree.norm(b)))


def steps_by_fraction(task_name: str, iterations: int, batches: int, **changes) -> str:
    """A Markdown table: one natural step from the same parameters, by fraction; means over batches.

    Args:
      task_name: as `parse_task` reads it.
      iterations: of natural-gradient training before.
      batches: on which steps are computed.
      **changes: to the paper's preset.
    """
    task = parse_task(task_name)
    config = preset_for(task, "paper").replace({"iterations": iterations, **changes})
    learner = Learner(task.env, config)
    state, _ = train_chunk(learner, learner.init(jax.random.key(0)), iterations)
    collect = jax.jit(make_collect(learner.trial, learner.agent_of, learner.num_trials))
    keys = jax.random.split(jax.random.key(1), batches)
    trajectories = [collect(key, state.params) for key in keys]
    full: list[PyTree] = []
    lines = [
        "| fraction | cosine with the whole | mean KL of the step | gain | backtracks |",
        "|---:|---:|---:|---:|---:|",
    ]
    for fraction in FRACTIONS:
        update = jax.jit(
            make_update(learner.networks, config.replace({"trpo.fisher_fraction": fraction}), learner.num_trials)
        )
        measured = []
        for number, (key, trajectory) in enumerate(zip(keys, trajectories, strict=True)):
            new, metrics = update(state, trajectory, key)
            step = jax.tree.map(jnp.subtract, new.params["policy"], state.params["policy"])
            if fraction == 1.0:
                full.append(step)
            measured.append((cosine(step, full[number]), metrics.kl, metrics.surrogate_gain, metrics.line_search_steps))
        angle, kl, gain, backtracks = np.mean(measured, axis=0)
        lines.append(f"| {fraction:g} | {angle:.3f} | {kl:.4f} | {gain:.4f} | {backtracks:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.fisher_fraction", description=__doc__)
    parser.add_argument("--task", default="bandit:k=5,n=10")
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=20_000)
    parser.add_argument("--gru-units", type=int, default=128)
    a = parser.parse_args()
    print(
        steps_by_fraction(a.task, a.iterations, a.batches, **{"batch.size": a.batch_size, "network.units": a.gru_units})
    )


if __name__ == "__main__":
    xla.prepare()
    main()
