"""Healthy and sick trainings for docs/troubleshooting.md: short runs, their rows, and a picture of each pair.

python docs/curves/make_curves.py          draws the pictures again from the rows
python docs/curves/make_curves.py --train  trains first, six runs of half a minute on one core; or those named
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import matplotlib.figure

import rl2jax
from rl2jax.files import write_atomically
from rl2jax.results.pages.figures import LIGHT

FOLDER = Path(__file__).parent
SEED = 0
HEALTHY: dict[str, Any] = {"iterations": 60, "batch.size": 5_000, "network.units": 32, "iterations_per_chunk": 20}
# Name -> (what the label says, changes of the healthy run). No sickness is subtle: all are to be seen at a glance.
SICK: dict[str, tuple[str, dict[str, Any]]] = {
    "steps-too-large": (
        "ppo.learning_rate=0.1, clip_range=100",
        {"ppo.learning_rate": 0.1, "ppo.clip_range": 100.0},
    ),
    "steps-too-small": ("ppo.learning_rate=1e-5", {"ppo.learning_rate": 1e-5}),
    "collapse": (
        "ppo.learning_rate=0.1, entropy_coefficient=0",
        {"ppo.learning_rate": 0.1, "objective.entropy_coefficient": 0.0},
    ),
    "too-random": (
        "objective.entropy_coefficient=3",
        {"objective.entropy_coefficient": 3.0, "objective.entropy_schedule": "constant"},
    ),
    "blind-baseline": ("baseline.learning_rate=1e-6", {"baseline.learning_rate": 1e-6}),
}
PANELS = {
    "mean_return": "mean return",
    "kl": "KL, nats per step",
    "entropy": "entropy, nats",
    "explained_variance": "explained variance",
}
DIGITS = 4
LEAST_KL = 1e-8  # below, rounding


def curves(changes: dict[str, Any]) -> dict[str, list[float]]:
    """Metrics of a short training on bandits of five arms and ten pulls."""
    env = rl2jax.envs.BernoulliBandit(num_arms=5)
    config = rl2jax.preset("quick", num_episodes=10).replace({**HEALTHY, **changes})
    _, metrics = rl2jax.train(env, config, jax.random.key(SEED))
    return {name: [float(f"{x:.{DIGITS}g}") for x in getattr(metrics, name)] for name in PANELS}


def train(names: list[str]) -> None:
    """Writes the rows of these runs."""
    for name in names:
        changes = SICK[name][1] if name in SICK else {}
        row = {"task": "bandit:k=5,n=10", "preset": "quick", "seed": SEED, "changes": {**HEALTHY, **changes}}
        write_atomically(FOLDER / f"{name}.json", json.dumps({**row, **curves(changes)}, indent=1) + "\n")


def read(name: str) -> dict[str, Any]:
    """A run's row."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def draw(name: str) -> matplotlib.figure.Figure:
    """Four panels, each with the healthy curve and a sick one."""
    rows = [read("healthy"), read(name)]
    figure = matplotlib.figure.Figure(figsize=(10, 2.6), layout="constrained")
    for axis, (metric, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for row, colour, text in zip(rows, LIGHT.lines[1::-1], ("healthy", SICK[name][0]), strict=True):
            values = [max(value, LEAST_KL) for value in row[metric]] if metric == "kl" else row[metric]
            axis.plot(range(1, len(values) + 1), values, color=colour, label=text)
        axis.set_title(label, fontsize=10)
        axis.set_xlabel("iteration", fontsize=9)
        axis.grid(color=LIGHT.grid)
        if metric == "kl":
            axis.set_yscale("log")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def main() -> None:
    """Trains if told to, then draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    runs = ["healthy", *SICK]
    parser.add_argument("--train", nargs="*", choices=runs, metavar="NAME", help="train first; default all runs")
    wanted = parser.parse_args().train
    if wanted is not None:
        train(wanted or runs)
    for name in SICK:
        draw(name).savefig(FOLDER / f"{name}.png", dpi=100)


if __name__ == "__main__":
    main()
