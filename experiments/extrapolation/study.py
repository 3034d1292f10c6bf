"""What is played: the settings, who meets in them, and rows that are made once."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments.extrapolation.shares import Row, best_reference, name_of
from rl2jax.envs import BernoulliBandit, TabularMDP, TaskDistribution
from rl2jax.envs.names import Task, parse_task, slug
from rl2jax.results.compare import (
    Comparison,
    Contender,
    compare,
    known_agents,
    reference_contender,
    run_contender,
    shipped_contender,
)
from rl2jax.results.rows import read_rows, write_rows
from rl2jax.runs.run import Run, open_run
from rl2jax.runs.shipped import UnfitError, list_agents
from rl2jax.settings import require
from rl2jax.trials.tuning import tuned_or_tune

BANDIT_EPISODES = (5, 10, 20, 50, 100, 200, 500, 1000)
PAPER_EPISODES = (10, 100, 500)  # for which reference agents are tuned
PAPER_ARMS = (5, 10, 50)
MDP_EPISODES = (10, 25, 50, 75, 100)
SEED = 1  # of the tasks; their stream is disjoint from training's
MOST_TASKS = 40_000
MOST_STEPS = 1_500_000  # of one agent in one setting, over all tasks
# The strongest ones. Finite-horizon Gittins takes the place of Gittins where its table can be made.
REFERENCES = {
    "bandit": ("gittins_finite_horizon", "gittins", "ucb1", "greedy"),
    "mdp": ("beb_true_prior", "ucrl2_true_prior", "greedy_true_prior"),
}
_OF_TRAINED = ("recipe", "trained_on", "training_seed", "iteration", "parameters_sha256", "action_selection")
_OF_REFERENCES = ("hyperparameters", "tuned_on")
_FIELDS = ("task", "agent", *_OF_TRAINED, *_OF_REFERENCES, "num_tasks", "seed", "mean", "standard_error", "commit")


def tested_tasks(env: TaskDistribution) -> list[Task]:
    """Where agents trained on `env` are tested.

    Bandits: trials of other lengths with uniform arms; trials of the paper's lengths with arms that are Beta(2, 2), or
    good with 20 percent, or of which only half are good. Tabular MDPs: trials of other lengths.

    Raises:
      ValueError: for any other task distribution.
    """
    if isinstance(env, BernoulliBandit):
        arms = f"bandit:k={env.num_arms}"
        priors = ("alpha=2,beta=2", "good=20", f"j={(env.num_arms + 1) // 2}")
        names = [f"{arms},n={n}" for n in BANDIT_EPISODES]
        names += [f"{arms},{prior},n={n}" for prior in priors for n in PAPER_EPISODES]
    elif isinstance(env, TabularMDP):
        sizes = f"s={env.num_states},a={env.num_actions},t={env.episode_length}"
        names = [f"mdp:{sizes},n={n}" for n in MDP_EPISODES]
    else:
        raise ValueError(f"agents must be trained on a BernoulliBandit or a TabularMDP, got {env.name}")
    return [parse_task(name) for name in names]


def other_arms(task: Task) -> list[Task]:
    """Where an agent trained on `task` is tested if its parameters fit: bandits of the paper's other numbers of arms.

    Trials are as long as in training. Only for bandits of uniform arms and of a length of the paper's; else none.
    """
    env = task.env
    if not isinstance(env, BernoulliBandit) or not env.is_uniform or task.num_episodes not in PAPER_EPISODES:
        return []
    return [parse_task(f"bandit:k={k},n={task.num_episodes}") for k in PAPER_ARMS if k != env.num_arms]


class TrainedAgent(NamedTuple):
    """A trained agent, which can be made for any task that its parameters fit.

    Attributes:
      task: what it was trained on.
      make: the contender that plays a task; shipped.UnfitError if it does not fit.
    """

    task: Task
    make: Callable[[Task], Contender]


def trained_agents(folders: list[Path], recipe: str = "best") -> list[TrainedAgent]:
    """The newest checkpoints of run folders, or if none is named the package's agents of a recipe.

    Raises:
      ValueError: if there is none, or two were trained on the same.
      runs.RunError, shipped.ShippedAgentError: if one cannot be read.
    """
    if folders:
        runs = [open_run(folder) for folder in folders]
        found = [TrainedAgent(run.task, partial(_of_run, run)) for run in runs]
    else:
        tasks = [parse_task(known.task) for known in list_agents() if known.recipe == recipe]
        found = [TrainedAgent(task, partial(_shipped, recipe, task)) for task in tasks if task.kind.name in REFERENCES]
    if not found:
        raise ValueError(f"no agent of recipe {recipe!r} comes with the package; name folders of runs with --runs")
    names = [agent.task.name for agent in found]
    require(len(set(names)) == len(names), "--runs: tasks trained on", names, "all different")
    return found


def _of_run(run: Run, task: Task) -> Contender:
    return _named_after_training(run_contender(run, task, elsewhere=True))


def _shipped(recipe: str, trained_on: Task, task: Task) -> Contender:
    return _named_after_training(shipped_contender(recipe, task, trained_on))


def _named_after_training(agent: Contender) -> Contender:
    """The same agent under the name of what it was trained on, with the fields that rows keep."""
    context = {field: agent.context[field] for field in _OF_TRAINED if field in agent.context}
    return agent._replace(name=context["trained_on"], context=context)


def all_settings(agents: list[TrainedAgent]) -> dict[Task, list[Contender]]:
    """Every setting, and who is tested there: as `tested_tasks` and, of those that fit, as `other_arms` say.

    Raises:
      ValueError: for an agent of another kind of task.
      runs.RunError, checkpoint.CheckpointError, shipped.ShippedAgentError: if one cannot be loaded.
    """
    found: dict[Task, list[Contender]] = {}
    for agent in agents:
        as_trained = agent.make(agent.task)  # plays any length and any prior
        for task in tested_tasks(agent.task.env):
            found.setdefault(task, []).append(as_trained)
        for task in other_arms(agent.task):
            try:
                contender = agent.make(task)
            except UnfitError:
                continue
            found.setdefault(task, []).append(contender)
    return found


def reference_names(task: Task) -> list[str]:
    """The reference agents of a setting."""
    known = known_agents(task)
    names = [name for name in REFERENCES[task.kind.name] if name in known]
    return [name for name in names if name != "gittins" or "gittins_finite_horizon" not in names]


def tuned_task(task: Task) -> Task:
    """The task to which a setting's reference agents were tuned.

    Bandits: uniform arms and the nearest length of the paper's, so that they are no more told of another prior than
    the trained agents are. Length matters little to the best of them: at k=5, n=500 Gittins of discounts 0.995 to 0.999
    scores within 0.1%. MDPs: the setting itself.
    """
    if not isinstance(task.env, BernoulliBandit):
        return task
    nearest = min(PAPER_EPISODES, key=lambda episodes: abs(math.log(episodes / task.num_episodes)))
    return parse_task(f"bandit:k={task.env.num_arms},n={nearest}")


def reference(task: Task, name: str) -> Contender:
    """A reference agent with the hyperparameters of `tuned_task`."""
    tuned_on = tuned_task(task)
    spec = known_agents(task)[name]
    contender = reference_contender(task, name, spec, tuned_or_tune(tuned_on, name, spec))
    context = {"hyperparameters": contender.context["hyperparameters"]}
    return contender._replace(context=context | ({"tuned_on": tuned_on.name} if len(spec.grid) > 1 else {}))


def tasks_to_play(task: Task, most_steps: int = MOST_STEPS) -> int:
    """Fresh tasks of a setting: fewer where a trial is longer, whose total is less a matter of chance."""
    return max(2, min(MOST_TASKS, most_steps // (task.num_episodes * task.env.episode_length)))


def complete(
    folder: Path,
    task: Task,
    trained: list[Contender],
    num_tasks: int,
    on_progress: Callable[[float], object] = lambda share: None,
) -> list[Row]:
    """All rows of a setting: from its file in `folder` where they still hold, else played and added to it.

    A trained agent's row holds while its parameters are the same, a reference agent's while the tasks are. New agents
    play beside the best reference agent, so that the error of the difference is of the same tasks.

    Args:
      folder: of the rows.
      task: the setting.
      trained: agents that fit it.
      num_tasks: fresh tasks, the first of the stream of `SEED`; never fewer than there are rows of.
      on_progress: called with the share of the setting that is done; from several threads.
    """
    path = folder / f"{slug(task.name)}.json"
    rows = read_rows(path) if path.exists() else []
    num_tasks = max([num_tasks, *(row["num_tasks"] for row in rows if row["seed"] == SEED)])
    names = reference_names(task)
    # Agents that draw very many random numbers may have played fewer.
    same_tasks = bool(rows) and (rows[0]["seed"], max(row["num_tasks"] for row in rows)) == (SEED, num_tasks)
    if same_tasks and set(names) <= set(map(name_of, rows)):
        names = [name_of(best_reference(rows))]
    else:
        rows = []  # others may be best now
    digests = {name_of(row): row.get("parameters_sha256") for row in rows}
    new = [agent for agent in trained if digests.get(agent.name) != agent.context["parameters_sha256"]]
    if rows and not new:
        return rows
    contenders = [*(reference(task, name) for name in names), *new]
    done: dict[str, int] = {}

    def progress(name: str, count: int, of: int) -> None:
        del of
        done[name] = count
        on_progress(sum(done.values()) / (num_tasks * len(contenders)))

    played = compare(task, contenders, num_tasks, SEED, on_progress=progress)
    rows = with_played(rows, played)
    write_rows(path, rows)
    return rows


def with_played(rows: list[Row], played: Comparison) -> list[Row]:
    """Earlier rows and those of a comparison, which replace earlier ones of the same agents.

    Those of trained agents name the best reference agent, and give the standard error of the difference to it.
    """
    best = best_reference(played.rows)["agent"]
    errors = {frozenset((test.better, test.worse)): test.standard_error for test in played.tests}
    new = []
    for row in played.rows:
        kept = {field: row[field] for field in _FIELDS if field in row}
        if "trained_on" in row:
            error = errors[frozenset((row["agent"], best))]
            kept |= {"agent": "rl2", "best_reference": best, "difference_standard_error": error}
        new.append(kept)
    replaced = set(map(name_of, new))
    return [row for row in rows if name_of(row) not in replaced] + new
