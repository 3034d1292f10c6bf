"""Section 3.1, supervised: the same network, fitted to a reference agent's actions, beside its teacher."""

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments.messages import in_one_line
from rl2jax import xla
from rl2jax.envs.names import parse_task, slug
from rl2jax.results.compare import run_contender, select_agents
from rl2jax.results.evaluations import compare_with_progress
from rl2jax.results.rows import format_score, write_comparison
from rl2jax.runs.stages import train_cell
from rl2jax.training.config import parse_overrides
from rl2jax.training.presets import preset_for

NUM_TASKS = 100_000
EVALUATION_SEED = 1
# The laptop preset's auxiliary loss sees the task; a student of actions alone does not.
PURELY_SUPERVISED = {"objective.task_inference_coefficient": 0.0, "objective.entropy_coefficient": 0.0}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Trains, plays student and teacher on the same tasks, writes their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="bandit:k=5,n=100")
    parser.add_argument("--teacher", default="gittins", help="a reference agent of the task")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="other settings of the cpu preset")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/imitation/TASK-seedN)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    a = parser.parse_args()
    console = Console(highlight=False)
    task = parse_task(a.task)
    folder = a.out or Path(f"runs/imitation/{slug(task.name)}-seed{a.seed}")
    settings = {"slow_rl": "imitation", "imitation.teacher": a.teacher, "iterations": a.iterations} | PURELY_SUPERVISED
    with in_one_line():
        settings |= parse_overrides(a.set, preset_for(task, "cpu").replace(settings))
        run = train_cell(folder, a.task, "cpu", training_seed=a.seed, console=console, **settings)
    student = run_contender(run, task)._replace(name="imitation")
    result = compare_with_progress(
        task, select_agents(task, [a.teacher]), [student], NUM_TASKS, EVALUATION_SEED, "large", console
    )
    changes = " ".join(f"--set {name}={value}" for name, value in settings.items())
    command = f"rl2jax train {task.name} --preset cpu {changes} --seed {a.seed} --out DIR && "
    teacher, taught = (next(row for row in result.rows if row.agent == name) for name in (a.teacher, "imitation"))
    taught = replace(taught, preset="cpu", command=f"{command}{taught.command} --agents {a.teacher} --run DIR")
    rows = [taught if row.agent == taught.agent else row for row in result.rows]
    write_comparison(a.results / f"imitation-{slug(task.name)}.json", rows, result.tests)
    for row in (teacher, taught):
        console.print(f"{row.agent:<12}{format_score(row.mean, row.standard_error)}")
    console.print(f"the student reaches {100 * taught.mean / teacher.mean:.2f}% of its teacher")


if __name__ == "__main__":
    xla.prepare()
    main()
