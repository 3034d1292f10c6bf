"""Table 1: the nine bandit cells, trained and evaluated one after the other, resumable at any point."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from rl2jax import host
from rl2jax.config import PRESETS
from rl2jax.experiment import Interrupted, estimated_seconds, matmul_peak, run_cell
from rl2jax.limits import bayes_optimal_value
from rl2jax.report import write_rows
from rl2jax.runs import write_atomically

# Duan et al. 2016, Table 1: (k, n) -> (RL^2, the best reference agent).
PUBLISHED = {
    (5, 10): (6.7, 6.7),
    (10, 10): (6.7, 6.7),
    (50, 10): (6.8, 6.6),
    (5, 100): (78.7, 78.3),
    (10, 100): (83.5, 82.8),
    (50, 100): (84.9, 85.2),
    (5, 500): (401.6, 406.7),
    (10, 500): (432.5, 438.9),
    (50, 500): (438.9, 463.7),
}
NUM_TASKS = 100_000
EVALUATION_SEED = 1
RESULTS = Path(__file__).parent / "results"


def duration(seconds: float) -> str:
    """Hours and minutes."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def limit(num_arms: int, num_pulls: int) -> str:
    """The exact Bayes-optimal value where it is cheap to compute."""
    return f"{bayes_optimal_value(num_arms, num_pulls):.3f}" if num_pulls <= 10 else ""


def table(cells: dict[tuple[int, int], dict[str, Any]]) -> list[list[str]]:
    """The table's body as text, one list a cell."""
    return [
        [
            f"n={n}, k={k}",
            f"{row['mean']:.3f}",
            f"{row['standard_error']:.3f}",
            str(PUBLISHED[k, n][0]),
            str(PUBLISHED[k, n][1]),
            limit(k, n),
            row["preset"],
            str(row["training_seed"]),
            f"{row['num_tasks']}",
        ]
        for (k, n), row in cells.items()
    ]


HEADER = [
    "setup",
    "RL² (ours)",
    "std. error",
    "RL² (paper)",
    "best reference (paper)",
    "Bayes-optimal",
    "preset",
    "training seed",
    "tasks",
]


def print_and_write(cells: dict[tuple[int, int], dict[str, Any]], path: Path, console: Console) -> None:
    """The table on the terminal and, as Markdown with its rows beside it, on disk."""
    shown = Table(title="Table 1 (total reward in a trial)")
    for name in HEADER:
        shown.add_column(name, justify="right")
    for line in table(cells):
        shown.add_row(*line)
    console.print(shown)
    commands = "\n".join(f"- n={n}, k={k}: `{row['command']}` at {row['commit']}" for (k, n), row in cells.items())
    lines = [HEADER, ["---:"] * len(HEADER), *table(cells)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    write_atomically(path.with_suffix(".md"), f"# Table 1\n\n{text}\n\nHow each row was made:\n\n{commands}\n")
    write_rows(path.with_suffix(".json"), list(cells.values()))
    console.print(f"written to {path.with_suffix('.md')} and {path.with_suffix('.json')}")


def main() -> None:
    """Runs what is not done yet and ends with the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=list(PRESETS), help="default: paper on an accelerator, cpu without")
    parser.add_argument("--seed", type=int, default=0, help="training seed of all cells")
    parser.add_argument("--out", type=Path, default=None, help="folder of the runs (default runs/table1/PRESET-seedN)")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    preset_name = arguments.preset or ("cpu" if device.platform == "cpu" else "paper")
    folder = arguments.out or Path(f"runs/table1/{preset_name}-seed{arguments.seed}")
    console = Console(highlight=False)

    names = {cell: f"bandit:k={cell[0]},n={cell[1]}" for cell in PUBLISHED}
    todo = {cell for cell in PUBLISHED if not (folder / f"k{cell[0]}-n{cell[1]}" / "row.json").exists()}
    peak = matmul_peak()
    console.print(
        f"Table 1 on {device.device_kind} (matrix products at {peak / 1e9:,.0f} GFLOP/s), preset {preset_name}, "
        f"runs in {folder}; stop with Ctrl-C and start again to continue"
    )
    total = 0.0
    for (k, n), name in names.items():
        seconds = estimated_seconds(name, preset_name, peak) if (k, n) in todo else 0.0
        total += seconds
        console.print(f"  {name:<20} {'about ' + duration(seconds) if (k, n) in todo else 'done'}")
    console.print(f"about {duration(total)} in all")

    cells: dict[tuple[int, int], dict[str, Any]] = {}
    for (k, n), name in names.items():
        start = time.perf_counter()
        console.print(f"\n{name}  (paper {PUBLISHED[k, n][0]})")
        try:
            cells[k, n] = run_cell(
                folder / f"k{k}-n{n}",
                name,
                preset_name,
                training_seed=arguments.seed,
                num_tasks=NUM_TASKS,
                seed=EVALUATION_SEED,
                console=console,
            )
        except Interrupted as stopped:
            sys.exit(str(stopped))
        row = cells[k, n]
        took = duration(time.perf_counter() - start)
        console.print(f"{name}: {row['mean']:.3f} +- {row['standard_error']:.3f} (paper {PUBLISHED[k, n][0]}), {took}")
    name = f"table1-{preset_name}" + (f"-seed{arguments.seed}" if arguments.seed else "")
    print_and_write(cells, RESULTS / name, console)


if __name__ == "__main__":
    host.prepare()
    main()
