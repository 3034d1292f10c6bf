"""A whole iteration of ours, timed whenever it is its turn (`in_turns`); a process of its own."""

from functools import partial
from typing import Any

import jax

from experiments.benchmarks.parts import paper_learner
from experiments.benchmarks.timing import answer_parent, take_turns
from rl2jax import xla
from rl2jax.training.cost import measure_peak


def main(settings: dict[str, Any]) -> None:
    """Compiles the iteration, then takes turns.

    Args:
      settings: "task", "changes" to the paper's config, "devices" that share the trials.
    """
    xla.prepare()
    learner = paper_learner(settings["task"], settings["changes"], settings["devices"])
    state = learner.init(jax.random.key(0))
    step = jax.jit(learner.train_step).lower(state).compile()
    probe = partial(measure_peak, learner.mesh, learner.config.network.matmul_precision)
    take_turns(lambda: jax.block_until_ready(step(state)), probe, {"jax": jax.__version__})


if __name__ == "__main__":
    answer_parent(main)
