"""Table 3: reference agents and trained ones in the test mazes, pictures, the page; resumable anywhere.

As in section 3.3 of the paper, agents are trained on small mazes alone; large ones, of four times the horizon, show
what they make of a world that they have never been in.
"""

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from rl2jax.agents.base import Agent
from rl2jax.agents.maze import MAZE_AGENTS
from rl2jax.envs.names import parse_task, slug
from rl2jax.files import write_atomically
from rl2jax.results.mazes import ENGINES, episodes_of, maze_row, play, play_twin, shortest_lengths, without_looking
from rl2jax.results.pages import maze_pictures as pictures
from rl2jax.results.pages.table3 import agent_title, build_page, pictured, to_markdown
from rl2jax.results.pages.tables import read_results, readable_tasks
from rl2jax.results.published import MAZES
from rl2jax.results.rows import read_rows, write_rows
from rl2jax.runs.progress import progress_bar
from rl2jax.runs.run import Run, ancestry, open_run, trained_agent
from rl2jax.runs.session import read_metrics
from rl2jax.runs.stages import train_cell, train_recipe
from rl2jax.settings import require
from rl2jax.trials.evaluate import evaluation_key
from rl2jax.trials.trial import Trial

TRAINING_EPISODES = 2
TRAINING_TASK = f"maze:size=5,t=250,n={TRAINING_EPISODES}"
_PICTURED_MAZES = 100


class Plan(NamedTuple):
    """What to reproduce, and where.

    Attributes:
      tasks: of `published.MAZES`.
      engine: one of `results.mazes.ENGINES`.
      num_mazes: test mazes, the first of the set.
      seed: of the agents' random numbers in evaluation.
      runs: folders of trained runs; empty: train with the preset.
      preset: of the training; None trains nothing.
      training_seed: of that training.
      out: folder of its runs.
      results: folder of the rows; table and page are put beside it.
      deterministic: trained agents take the likeliest action instead of sampling.
      recipe: to train by, in place of the preset.
      references: whether the reference agents play.
    """

    tasks: tuple[str, ...]
    engine: str
    num_mazes: int
    seed: int
    runs: tuple[Path, ...]
    preset: str | None
    training_seed: int
    out: Path
    results: Path
    deterministic: bool = False
    recipe: str | None = None
    references: bool = True


class Player(NamedTuple):
    """An agent with its name, and what its rows say of it; whether it looks at frames."""

    name: str
    agent: Agent
    context: dict[str, Any]
    looks: bool
    first_step_flag: float = 0.0


def reproduce(plan: Plan, console: Console) -> None:
    """Runs what is not done yet; table and page are there as soon as the reference agents have played.

    Raises:
      experiment.Interrupted: if a signal stopped a training; start again to continue.
      ValueError: for a run of another task.
    """
    plan.results.mkdir(parents=True, exist_ok=True)
    runs = [open_run(folder) for folder in plan.runs]
    for run in runs:
        fits = all(_fits(run, task) for task in plan.tasks)
        allowed = f"mazes whose walls, turns, frames and training set are those of {', '.join(plan.tasks)}"
        require(fits, f"--run {run.folder}: task", run.task.name, allowed)
    for task in plan.tasks:
        for name in MAZE_AGENTS if plan.references else ():
            _play(plan, task, _reference(task, name), console)
            write_report(plan)
    if not runs and (plan.preset or plan.recipe):
        runs = [_train(plan, console)]
    players = [_of_run(run, name, plan) for run, name in zip(runs, _names(plan, runs), strict=True)]
    for task in plan.tasks:
        played = [_play(plan, task, player, console) for player in players]
        if any(played) or not pictured(plan.results.parent, task)["film"].path.exists():
            draw(plan, task, players[0] if players else _reference(task, "explorer"))
        write_report(plan)
    draw_curves(plan, runs)
    write_report(plan)
    console.print(to_markdown(read_results(plan.results)), markup=False, soft_wrap=True)
    console.print(f"table, pictures and page: {plan.results.parent / 'table3'}.(md, html)", soft_wrap=True)


def _fits(run: Run, task: str) -> bool:
    """Whether a run's agent can play there: its mazes have such walls, and it turns and sees like this.

    And was not trained on test mazes: of more training mazes than the table's, later ones may be among them, unless
    they were made to leave out the test mazes of a set like the table's (`MazeNavigation.num_more`).
    """
    env, trained = parse_task(task).env, run.task.env
    if type(trained) is not type(env):
        return False
    known = trained.split != "train" or trained.num_mazes > env.num_mazes
    known |= trained.num_more > 0 and trained.num_mazes != env.num_mazes
    alike = ("thin", "turn", "observation", "maze_seed")
    return not known and all(getattr(trained, name) == getattr(env, name) for name in alike)


def _train(plan: Plan, console: Console) -> Run:
    folder = plan.out / slug(TRAINING_TASK)
    if plan.recipe is not None:
        return train_recipe(folder, TRAINING_TASK, plan.recipe, training_seed=plan.training_seed, console=console)
    assert plan.preset is not None
    return train_cell(folder, TRAINING_TASK, plan.preset, training_seed=plan.training_seed, console=console)


def _names(plan: Plan, runs: list[Run]) -> list[str]:
    """Agents of reinforcement learning alone are "rl2", those that began by imitating "rl2_best".

    Of several of a kind, later ones carry their folder's name too.
    """
    names: list[str] = []
    for run in runs:
        trainings = [*(stage["config"] for stage in ancestry(run)), run.config.to_json()]
        imitated = any(config.get("slow_rl") == "imitation" for config in trainings)
        kind = "rl2_best" if imitated else "rl2"
        if plan.recipe is not None and not plan.runs:
            kind = f"rl2_{plan.recipe.replace('-', '_')}"
        names.append(kind if kind not in names else f"{kind}-{run.folder.name}")
    return names


def _reference(task: str, name: str) -> Player:
    parsed = parse_task(task)
    return Player(name, MAZE_AGENTS[name].make(parsed.env, parsed.num_episodes), {"hyperparameters": {}}, looks=False)


def _of_run(run: Run, name: str, plan: Plan) -> Player:
    agent, context = trained_agent(run, plan.deterministic)
    if not plan.runs:
        context["preset"] = plan.recipe or plan.preset
    return Player(name, agent, context, looks=True, first_step_flag=run.config.trial.first_step_flag)


def _trial(task: str, player: Player, engine: str) -> Trial:
    """In the test mazes; frames are drawn for those who look, and by ViZDoom anyway."""
    parsed = parse_task(task)
    env = parsed.env.held_out()
    if engine == "twin" and not player.looks:
        env = without_looking(env)
    return Trial(env, parsed.num_episodes, player.first_step_flag)


def _play(plan: Plan, task: str, player: Player, console: Console) -> bool:
    """The row of one agent, unless it is on disk; whether it was played."""
    path = plan.results / f"{slug(task)}-{player.name}-{plan.engine}.json"
    identity = {"engine": plan.engine, "num_tasks": plan.num_mazes, "seed": plan.seed}
    identity |= {k: player.context[k] for k in ("parameters_sha256", "action_selection") if k in player.context}
    if path.exists() and any(identity.items() <= row.items() for row in read_rows(path)):
        return False
    trial, mazes = _trial(task, player, plan.engine), np.arange(plan.num_mazes)
    with progress_bar(console) as progress:
        bar = progress.add_task(f"{agent_title(player.name)}, {task}, {plan.engine}", total=plan.num_mazes, note="")
        trajectory = play(
            player.agent,
            trial,
            mazes,
            evaluation_key(plan.seed),
            ENGINES[plan.engine],
            progress=lambda share: progress.update(bar, completed=round(share * plan.num_mazes)),
        )
    row = maze_row(
        trajectory,
        trial.num_episodes,
        _shortest(task, plan.num_mazes),
        task=task,
        agent=player.name,
        engine=plan.engine,
        seed=plan.seed,
        command=f"python -m experiments.reproduce_table3 --engine {plan.engine} --num-mazes {plan.num_mazes}"
        + (" --run DIR" if player.looks else ""),
        **player.context,
    )
    write_rows(path, [row])
    return True


@lru_cache
def _shortest(task: str, num_mazes: int) -> np.ndarray:
    """Steps of the shortest way in each test maze; they are the same in both engines."""
    return shortest_lengths(parse_task(task).env.held_out(), np.arange(num_mazes))


def draw(plan: Plan, task: str, player: Player) -> None:
    """Figures 4 and 6 and a trial that moves, of one agent."""
    paths = {kind: picture.path for kind, picture in pictured(plan.results.parent, task).items()}
    trial = dataclasses.replace(_trial(task, player, "twin"), num_episodes=TRAINING_EPISODES)
    indices = np.arange(min(plan.num_mazes, _PICTURED_MAZES))
    mazes = parse_task(task).env.held_out().mazes.at(indices)
    trajectory = play_twin(player.agent, trial, indices, evaluation_key(plan.seed))
    episodes = episodes_of(trajectory, TRAINING_EPISODES)
    cases = pictures.typical_cases(episodes)
    first = cases[0].trial if cases else 0
    seen = pictures.first_sight(mazes.at(first), trajectory, first)
    places = [("at the start", mazes.at(first), None), ("on the way", mazes.at(first), seen)]
    pictures.views_and_maps(places).savefig(paths["views"], dpi=120)
    if cases:
        pictures.behaviour(mazes, trajectory, episodes, cases).savefig(paths["behaviour"], dpi=120)
    pictures.write_gif(paths["film"], mazes.at(first), trajectory, episodes, first)


def draw_curves(plan: Plan, runs: list[Run]) -> None:
    """Figure 5, of the runs that have rows of training; of one in stages, the last stage."""
    curves: dict[str, list[Any]] = {}
    for run in runs:
        if rows := read_metrics(run.folder):
            earlier = len(ancestry(run))
            label = readable_tasks(run.task.name) + (f", after {earlier} earlier stages" if earlier else "")
            curves.setdefault(label, []).append(rows)
    if curves:
        figure = pictures.training_curves(curves)
        figure.savefig(pictured(plan.results.parent, TRAINING_TASK)["curves"].path, dpi=120)


def write_report(plan: Plan) -> None:
    """Markdown and the page beside the folder of rows, from rows and pictures on disk alone."""
    rows = read_results(plan.results)
    drawn = [picture for task in MAZES for picture in pictured(plan.results.parent, task).values()]
    path = plan.results.parent / "table3"
    write_atomically(path.with_suffix(".md"), to_markdown(rows))
    write_atomically(path.with_suffix(".html"), build_page(rows, drawn))
