"""Agents side by side: the same tasks for all, rows, and tests of which one is better."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from rl2jax.agents import Agent, ReferenceAgent, reference_agents
from rl2jax.engines.base import DEVICE
from rl2jax.engines.evaluation import evaluator
from rl2jax.envs.names import Task
from rl2jax.kinds import kind_of, load
from rl2jax.limits import limit_of
from rl2jax.results.rows import evaluation_row
from rl2jax.results.stats import PairTest, not_below_best, pairwise_tests, significantly_better
from rl2jax.runs.run import Run, load_state, trained_agent
from rl2jax.runs.session import read_metrics
from rl2jax.runs.shipped import agent_name, describe, load_agent, networks_elsewhere
from rl2jax.settings import require
from rl2jax.trials.evaluate import Evaluation, evaluation_key, nothing
from rl2jax.trials.trial import Trial
from rl2jax.trials.tuning import Tuned, affordable_tasks, draws_per_step
from rl2jax.types import PyTree, Trajectory

# A comparison lets an agent draw so many random numbers at each step of a trial, over all tasks: with 50 arms that is
# 20000 tasks for Thompson sampling. But every agent plays as many tasks as the paper's did.
_MOST_DRAWS_PER_STEP = 1_000_000
_FEWEST_TASKS = 1000
_CURVE_POINTS = 200


class Contender(NamedTuple):
    """One agent of a comparison.

    Attributes:
      name: its name in rows and tests.
      agent: how it acts.
      context: fields of its row: hyperparameters and where they come from.
      draws_per_step: about how many random numbers it draws at a step; 0 for few.
      first_step_flag: the termination flag it is shown at a trial's first step.
    """

    name: str
    agent: Agent
    context: dict[str, Any]
    draws_per_step: int = 0
    first_step_flag: float = 0.0


class Comparison(NamedTuple):
    """What came of it: rows as on disk, and the tests between them."""

    rows: list[dict[str, Any]]
    tests: list[PairTest]


def known_agents(task: Task) -> dict[str, ReferenceAgent]:
    """Every agent that needs no training for a task, by name; the optimal one where it can be computed."""
    agents = {
        name: spec
        for name, spec in reference_agents(task.env).items()
        if spec.most_episodes is None or task.num_episodes <= spec.most_episodes
    }
    limit = limit_of(task.env)
    optimal = None if limit is None else limit.optimal(task.env, task.num_episodes)
    return agents if optimal is None else {**agents, "bayes_optimal": optimal}


def select_agents(task: Task, names: list[str] | None) -> dict[str, ReferenceAgent]:
    """`known_agents`, or those named.

    Raises:
      ValueError: naming an agent that there is not.
    """
    known = known_agents(task)
    for name in names or []:
        require(name in known, "--agents", name, f"one of {', '.join(known)}")
    return known if names is None else {name: known[name] for name in names}


def reference_contender(task: Task, name: str, spec: ReferenceAgent, tuned: Tuned) -> Contender:
    """A reference agent with its tuned hyperparameters."""
    settings = {**spec.fixed, **tuned.hyperparameters}
    agent = spec.make(task.env, task.num_episodes, **settings)
    tuning = {"num_tasks": tuned.num_tasks, "seed": tuned.seed, "scores": tuned.scores, "commit": tuned.commit}
    context = {"hyperparameters": settings, **({"tuning": tuning} if tuned.scores else {})}
    if "convention" in settings:
        context["convention"] = settings["convention"]
    return Contender(name, agent, context, draws_per_step(spec, task.env, settings))


def learning_curve(run: Run) -> dict[str, list[float]]:
    """Mean return over training, thinned: at most 200 points, each a mean over its stretch of iterations."""
    rows = read_metrics(run.folder)
    stretches = np.array_split(np.arange(len(rows)), max(1, min(_CURVE_POINTS, len(rows))))
    stretches = [s for s in stretches if len(s)]  # a run without metrics has an empty curve
    return {
        "iteration": [rows[int(s[-1])]["iteration"] for s in stretches],
        "mean_return": [round(float(np.mean([rows[int(i)]["mean_return"] for i in s])), 4) for s in stretches],
    }


def run_contender(
    run: Run, task: Task, name: str = "rl2", deterministic: bool = False, *, elsewhere: bool = False
) -> Contender:
    """A trained run's newest checkpoint.

    Args:
      run: which.
      task: what it plays.
      name: of the contender.
      deterministic: it takes the most likely action.
      elsewhere: it may play another task distribution than it was trained on, if its parameters fit.

    Raises:
      shipped.UnfitError: if they do not.
      ValueError: if it was trained on another task distribution, and not `elsewhere`.
      checkpoint.CheckpointError, runs.RunError: if it cannot be loaded.
    """
    at_home = run.task.env == task.env
    require(at_home or elsewhere, f"--run {run.folder}: task", run.task.name, f"of the kind of {task.name}")
    agent, context = trained_agent(run, deterministic)
    if not at_home:
        params = load_state(run).params["policy"]
        networks = networks_elsewhere(str(run.folder), run.learner.networks, run.config, params, task.env)
        agent = networks.agent(params, deterministic)
    if run.task.name == task.name:  # another number of episodes has another scale
        context["learning_curve"] = learning_curve(run)
    return Contender(name, agent, context, first_step_flag=run.config.trial.first_step_flag)


def run_contenders(runs: list[Run], task: Task) -> list[Contender]:
    """Trained runs; "rl2" is the first, later ones carry their folder's name too, or path where names repeat."""
    names = [run.folder.name for run in runs]
    paths = [run.folder.name if names.count(run.folder.name) == 1 else str(run.folder) for run in runs]
    return [run_contender(run, task, "rl2" if i == 0 else f"rl2-{paths[i]}") for i, run in enumerate(runs)]


def shipped_contender(recipe: str, task: Task, trained_on: Task | None = None) -> Contender:
    """The package's own trained agent of a task: "rl2_best", "rl2_best_scratch" or "rl2_paper".

    Args:
      recipe: how it was trained.
      task: what it plays.
      trained_on: what it was trained on, where that is another task; its parameters must fit `task`.

    Raises:
      shipped.UnfitError: if they do not.
      ValueError: if there is none.
      shipped.ShippedAgentError: if its file is damaged.
    """
    name = agent_name(trained_on or task)
    shipped = describe(name, recipe)
    brief = ("task", "algorithm", "preset", "iterations", "environment_steps", "seed", "commit")
    context = {
        "hyperparameters": shipped.config.to_json(),
        "recipe": recipe,
        "trained_on": shipped.task,
        "training": [{field: stage[field] for field in brief} for stage in shipped.stages],
        "training_seed": shipped.stages[-1]["seed"],
        "iteration": shipped.stages[-1]["iterations"],
        "parameters_sha256": shipped.parameters_sha256,
        "action_selection": shipped.action_selection,
    }
    agent = load_agent(name, recipe, env=None if trained_on is None else task.env)
    flag = shipped.config.trial.first_step_flag
    return Contender(f"rl2_{recipe.replace('-', '_')}", agent, context, first_step_flag=flag)


def command_line(
    task: Task, num_tasks: int, seed: int, agents: list[str], shipped: list[str], protocol: str = "large"
) -> str:
    """The `rl2jax compare` that plays these agents, and the package's trained agents of these recipes."""
    command = f"rl2jax compare {task.name} --num-tasks {num_tasks} --seed {seed}"
    command += "" if protocol == "large" else f" --protocol {protocol}"
    if agents != list(known_agents(task)):
        command += f" --agents {','.join(agents)}" if agents else ' --agents ""'
    return command + (f" --shipped {','.join(shipped)}" if shipped else "")


def _statistics(task: Task) -> Callable[[Trajectory, PyTree], PyTree]:
    """What rows of this kind of task say of a trial beside its reward, by their fields."""
    trial = Trial(task.env, task.num_episodes)
    found = {field: load(reference)(trial) for field, reference in kind_of(task.env).statistics.items()}
    if not found:
        return nothing
    return lambda trajectory, params: {field: of(trajectory, params) for field, of in found.items()}


def compare(
    task: Task,
    contenders: list[Contender],
    num_tasks: int,
    seed: int,
    *,
    protocol: str = "large",
    engine: str = DEVICE,
    on_progress: Callable[[str, int, int], object] | None = None,
) -> Comparison:
    """Plays all contenders on the same tasks.

    Args:
      task: the task distribution and the number of episodes.
      contenders: who plays.
      num_tasks: tasks, the first ones of the seed's stream; agents that draw very many random numbers play
        fewer, and are compared with the others on those.
      seed: of the tasks.
      protocol: "large" tests in pairs; "paper" does as the paper did, with unpaired tests.
      engine: who plays the trials, as `engines.base.find_engine` names them.
      on_progress: called with (name, tasks done, tasks to do) after each device batch; from several threads.

    Returns:
      rows in the order of the contenders, and tests of all pairs.

    Raises:
      ValueError: for less than one task, or names that repeat; if the engine refuses.
    """
    require(num_tasks >= 1, "num_tasks", num_tasks, ">= 1")
    names = [contender.name for contender in contenders]
    require(len(set(names)) == len(names), "names of agents", names, "all different")
    key = evaluation_key(seed)

    statistic = _statistics(task)
    stopped = threading.Event()

    def play(contender: Contender) -> Evaluation:
        trial = Trial(task.env, task.num_episodes, contender.first_step_flag)
        affordable = affordable_tasks(num_tasks, contender.draws_per_step, _MOST_DRAWS_PER_STEP)
        count = max(affordable, min(num_tasks, _FEWEST_TASKS))

        def progress(done: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt  # in a thread of the pool: ends this agent's evaluation
            if on_progress is not None:
                on_progress(contender.name, done, count)

        return play_tasks(contender.agent, trial, count, key, statistic=statistic, progress=progress)

    # Small batches of cheap steps leave a CPU's cores idle: one agent a core, the longest first. Engines play one.
    workers = (os.cpu_count() or 1) if jax.default_backend() == "cpu" and engine == DEVICE else 1
    longest_first = sorted(contenders, key=lambda contender: -contender.draws_per_step)
    with evaluator(engine, task.env) as play_tasks, ThreadPoolExecutor(workers) as pool:
        try:
            evaluations = dict(zip((c.name for c in longest_first), pool.map(play, longest_first), strict=True))
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
    results = [evaluations[contender.name] for contender in contenders]

    totals = {c.name: evaluation.total_reward for c, evaluation in zip(contenders, results, strict=True)}
    paired = protocol == "large"
    tests = pairwise_tests(totals, paired=paired)
    better = significantly_better(tests)
    bold = not_below_best({name: evaluation.mean for name, evaluation in evaluations.items()}, better)
    untrained = [contender.name for contender in contenders if "trained_on" not in contender.context]
    shipped = [contender.context["recipe"] for contender in contenders if "recipe" in contender.context]
    command = command_line(task, num_tasks, seed, untrained, shipped, protocol)
    rows = []
    for contender, evaluation in zip(contenders, results, strict=True):
        context = {"task": task.name, "agent": contender.name, **contender.context, "seed": seed}
        row = evaluation_row(evaluation, **context)
        row |= {"protocol": protocol, "not_below_best": contender.name in bold}
        from_a_run = "trained_on" in contender.context and "recipe" not in contender.context
        row["command"] = command + (" --run DIR" if from_a_run else "")
        if engine != DEVICE:
            row |= {"engine": engine, "command": f"{row['command']} --engine {engine}"}
        row["significantly_better"] = better.get(contender.name, [])
        row |= {field: np.round(value, 5).tolist() for field, value in (evaluation.statistic or {}).items()}
        rows.append(row)
    return Comparison(rows, tests)
