"""What a table's trainings would take on devices that are not here, by the cost model (docs/performance.md).

And what the model says of an iteration that was measured.
"""

import argparse

from experiments.benchmarks.parts import ITERATIONS, Row
from rl2jax.envs.names import parse_task
from rl2jax.results.published import TABLES
from rl2jax.training.cost import Peak, iteration_seconds, phase_costs, sequential_steps, total
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for


def prediction(number: int, preset: str, peak: Peak, devices: int, step_seconds: float) -> str:
    """A Markdown table: operations, loop steps, seconds per iteration and minutes per training of each cell."""
    lines = ["| task | TFLOP | steps in turn | s per iteration | iterations | min |", "|---|---:|---:|---:|---:|---:|"]
    minutes = []
    for name in TABLES[number].scores:
        task = parse_task(name)
        learner = Learner(task.env, preset_for(task, preset))
        seconds = iteration_seconds(learner, peak, devices, step_seconds)
        iterations = learner.config.iterations
        minutes.append(seconds * iterations / 60)
        tera = total(list(phase_costs(learner).values())).operations / 1e12
        steps = sequential_steps(learner)
        lines.append(f"| {name} | {tera:.1f} | {steps} | {seconds:.2f} | {iterations} | {minutes[-1]:.1f} |")
    lines.append(f"| all, one after another | | | | | {sum(minutes):.0f} |")
    lines.append(f"| all, each on {devices} of {len(minutes) * devices} devices | | | | | {max(minutes):.1f} |")
    return "\n".join(lines)


def predicted_seconds(row: Row) -> float:
    """Seconds of a measured iteration by the cost model, at the peak that was measured beside it.

    Args:
      row: of a part in `ITERATIONS`, of the paper's preset but for batch and units, its products not rounded.
    """
    task = parse_task(row["task"])
    sizes = {"batch.size": row["batch_size"], "network.units": row["gru_units"]}
    config = preset_for(task, "paper").replace({**sizes, **ITERATIONS[row["part"]]})
    peak = Peak(row["peak_operations_per_second"], row["peak_bytes_per_second"])
    return iteration_seconds(Learner(task.env, config), peak)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.predict", description=__doc__)
    parser.add_argument("--table", type=int, default=1, choices=list(TABLES))
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--teraflops", type=float, required=True, help="of a matrix product on one device")
    parser.add_argument("--terabytes", type=float, required=True, help="memory bandwidth of one device, TB/s")
    parser.add_argument("--devices", type=int, default=1, help="that share each training's trials")
    parser.add_argument("--step-microseconds", type=float, default=0.0, help="least time of a step of a loop")
    a = parser.parse_args()
    peak = Peak(a.teraflops * 1e12, a.terabytes * 1e12)
    print(prediction(a.table, a.preset, peak, a.devices, a.step_microseconds * 1e-6))


if __name__ == "__main__":
    main()
