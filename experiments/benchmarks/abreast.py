"""How many trials are best unrolled side by side, the others after them in lanes (`rl2jax.networks.unroll`)."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from experiments.benchmarks.parts import FISHER_PRODUCTS, against_floor, fisher_products, policy_batch, policy_gradient
from experiments.benchmarks.timing import interleave
from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.envs.names import parse_task
from rl2jax.networks.base import PolicyAndBaseline
from rl2jax.settings import require
from rl2jax.slow_rl.baseline import values_over_trials
from rl2jax.training.cost import fisher_cost, measure_peak, phase_costs
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset
from rl2jax.trials.collect import make_collect

PARTS = ("values", "gradient", f"{FISHER_PRODUCTS} Fisher products")


@dataclass(frozen=True)
class Asked(PolicyAndBaseline):
    """The same networks, unrolled over a number of trials that is given."""

    side_by_side: int = 0

    @property
    def abreast(self) -> int:
        """What is asked."""
        return self.side_by_side


def measure(task_name: str, batch_size: int, units: int, widths: list[int], rounds: int) -> list[dict[str, Any]]:
    """Rows of every width's parts, measured in turns: abreast, part, and what `against_floor` says."""
    task = parse_task(task_name)
    config = preset("paper", task.kind, task.num_episodes).replace({"batch.size": batch_size, "network.units": units})
    learner = Learner(task.env, config)
    state = learner.init(jax.random.key(0))
    policy, baseline = state.params["policy"], state.params["baseline"]
    collect = make_collect(learner.trial, learner.agent_of, learner.num_trials)
    trajectory = jax.jit(collect)(jax.random.key(1), state.params)
    batch = policy_batch(trajectory)
    costs = phase_costs(learner)
    costs_of = dict(
        zip(PARTS, (costs["values"], costs["gradient"], fisher_cost(learner, FISHER_PRODUCTS)), strict=True)
    )
    programs: dict[tuple[int, str], Any] = {}
    for width in widths:
        networks = Asked(**vars(learner.networks), side_by_side=width)
        calls: tuple[tuple[Callable, tuple], ...] = (
            (values_over_trials(networks), (baseline, trajectory.trial_obs, trajectory.task_features)),
            (policy_gradient(networks, config), (policy, batch)),
            (fisher_products(networks, config), (policy, batch, policy)),
        )
        for part, (function, arguments) in zip(PARTS, calls, strict=True):
            compiled = jax.jit(function).lower(*arguments).compile()
            programs[width, part] = partial(_finish, compiled, *arguments)
    samples: dict[tuple[int, str], list] = {key: [] for key in programs}
    for _ in range(rounds):
        for key, program in programs.items():
            samples[key] += interleave(program, measure_peak)
    steps = learner.num_trials * learner.trial.num_steps
    return [
        {"abreast": width, "part": part, **against_floor(samples[width, part], costs_of[part], steps)}
        for width, part in programs
    ]


def _finish(compiled: Any, *arguments: Any) -> Any:
    return jax.block_until_ready(compiled(*arguments))


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each width: seconds of its parts, and their floor / time."""
    lines = ["| side by side | " + " | ".join(PARTS) + " |", "|---:|" + "---:|" * len(PARTS)]
    for width in dict.fromkeys(row["abreast"] for row in rows):
        of_width = [row for row in rows if row["abreast"] == width]
        cells = [f"{row['seconds']:.3g} s, {row['of_floor']:.2f}" for row in of_width]
        lines.append(f"| {width or 'all'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.abreast", description=__doc__)
    parser.add_argument("--task", default="bandit:k=5,n=10")
    parser.add_argument("--batch-size", type=int, default=50_000)
    parser.add_argument("--gru-units", type=int, default=256)
    parser.add_argument("--widths", type=int, nargs="+", default=[0, 128, 256, 512, 1024], help="0: all trials")
    parser.add_argument("--rounds", type=int, default=2, help="turns")
    a = parser.parse_args()
    with in_one_line():
        require(a.rounds >= 1, "--rounds", a.rounds, ">= 1")
        for width in a.widths:
            require(width >= 0, "--widths", width, ">= 0")
        print(to_markdown(measure(a.task, a.batch_size, a.gru_units, a.widths, a.rounds)))


if __name__ == "__main__":
    xla.prepare()
    main()
