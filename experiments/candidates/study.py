"""One row: times a candidate, trains it for as long as the base, plays it; each as far as it is not done yet."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments.candidates.catalogue import PRESET, TEACHING, Candidate, Part, base_config, differences, parts_of
from experiments.candidates.equal_time import iterations_for, median, takes_as_long, time_ratios
from experiments.candidates.reports import NUM_BLOCKS, Row, block_means, require_alike, row_files
from rl2jax.envs.names import Task, slug
from rl2jax.files import git_commit
from rl2jax.results.compare import run_contender
from rl2jax.results.rows import evaluation_row, read_rows, write_rows
from rl2jax.runs.progress import progress_bar
from rl2jax.runs.run import Run
from rl2jax.runs.session import read_metrics
from rl2jax.runs.stages import train_stage
from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner
from rl2jax.training.loop import NonFiniteError
from rl2jax.training.recipes import Stage
from rl2jax.training.teacher import teacher_of
from rl2jax.trials.evaluate import evaluate, evaluation_key


class Planned(NamedTuple):
    """A training whose iterations are derived, and what its row says of it."""

    stage: Stage
    row: Row


class Study(NamedTuple):
    """Candidates on one task.

    Attributes:
      task: that is learned.
      overrides: fields of the base that differ from its preset.
      base_iterations: of the base; every candidate trains for as long.
      num_tasks: fresh tasks of an evaluation, the same for all; a multiple of `NUM_BLOCKS`.
      seed: of those tasks.
      runs: folder of the runs.
      results: folder of the rows.
    """

    task: Task
    overrides: Mapping[str, Any]
    base_iterations: int
    num_tasks: int
    seed: int
    runs: Path
    results: Path

    @property
    def base(self) -> TrainConfig:
        """Settings of the base."""
        return base_config(self.task, self.overrides).replace(iterations=self.base_iterations)

    @property
    def folder(self) -> Path:
        """Where the rows of this task live."""
        return self.results / slug(self.task.name)

    def row_file(self, candidate: Candidate, training_seed: int) -> Path:
        """Where a row lives."""
        return self.folder / f"{candidate.name}-seed{training_seed}.json"

    def common(self) -> Row:
        """The fields that all rows of the study share; the base with the iterations that are everybody's time."""
        base = {"preset": PRESET, "base": self.base.to_json()}
        return {"task": self.task.name, **base, "num_tasks": self.num_tasks, "seed": self.seed}

    def check(self) -> None:
        """Refuses what could only fail, or spoil the table, later.

        Raises:
          ValueError: naming the field; also where the results hold rows of another study.
        """
        require(self.task.kind.name in TEACHING, "--tasks", self.task.name, f"of kind {' or '.join(TEACHING)}")
        for field, instead in (("trial.num_episodes", "n= in the task"), ("iterations", "--iterations")):
            require(field not in self.overrides, "--set", field, f"another field: this one is {instead}")
        allowed = f"a multiple of {NUM_BLOCKS}, and > 0"
        require(self.num_tasks > 0 and self.num_tasks % NUM_BLOCKS == 0, "--num-tasks", self.num_tasks, allowed)
        require_alike((row for path in row_files(self.folder) for row in read_rows(path)), self.common(), self.folder)


def plan(study: Study, candidate: Candidate, console: Console) -> list[Planned]:
    """The trainings of a candidate with their iterations; times what was not timed before."""
    path = study.folder / f"{candidate.name}-time.json"
    known = {row["name"]: row for row in read_rows(path)} if path.exists() else {}
    parts = parts_of(candidate, study.task, study.overrides)
    rows = [_timed(study, part, known.get(part.stage.name), console) for part in parts]
    measured = [row for row in rows if row["ratios"]]
    if measured:
        study.folder.mkdir(parents=True, exist_ok=True)
        write_rows(path, measured)
    return [_planned(study, part, row["ratio"]) for part, row in zip(parts, rows, strict=True)]


def _timed(study: Study, part: Part, known: Row | None, console: Console) -> Row:
    """How much longer an iteration takes than the base's: known, or the same by construction, or measured."""
    config, task = part.stage.config, part.stage.task
    identity = {"task": task.name, "name": part.stage.name, "changes": differences(config, study.base)}
    if known is not None and {k: known[k] for k in identity} == identity:
        return known
    if task == study.task and takes_as_long(config, study.base):
        return {**identity, "ratio": 1.0, "ratios": []}
    console.print(f"timing an iteration against the base's ({part.stage.name} training) ...")
    learner, base = Learner(task.env, config, teacher_of(task, config)), Learner(study.task.env, study.base)
    ratios = time_ratios(learner, base)
    cores = len(os.sched_getaffinity(0))
    return {**identity, "ratio": median(ratios), "ratios": ratios, "cores": cores, "commit": git_commit()}


def _planned(study: Study, part: Part, ratio: float) -> Planned:
    iterations = iterations_for(part.share * study.base_iterations, ratio)
    stage = part.stage._replace(config=part.stage.config.replace(iterations=iterations))
    learner = Learner(stage.task.env, stage.config, teacher_of(stage.task, stage.config))
    row = {
        "name": stage.name,
        "task": stage.task.name,
        "share": part.share,
        "changes": differences(stage.config, study.base),
        "ratio": ratio,
        "iterations": iterations,
        "steps": iterations * learner.steps_per_iteration,
    }
    return Planned(stage, row)


def find_row(study: Study, candidate: Candidate, training_seed: int, planned: list[Planned]) -> Row | None:
    """The row of a candidate, if it was made of the same trainings."""
    path = study.row_file(candidate, training_seed)
    if not path.exists():
        return None
    (row,) = read_rows(path)
    return row if row["parts"] == [p.row for p in planned] else None


def make_row(study: Study, candidate: Candidate, training_seed: int, planned: list[Planned], console: Console) -> Row:
    """Trains, plays the tasks and writes the row; an update that is not finite is an outcome too.

    Raises:
      experiment.Interrupted: if a signal stopped it; what was done is saved.
      ValueError: if a run's folder holds a run of other settings.
    """
    described = {"candidate": candidate.name, "summary": candidate.summary, "parts": [p.row for p in planned]}
    row = {**study.common(), **described, "training_seed": training_seed}
    folder = study.runs / slug(study.task.name) / f"{candidate.name}-seed{training_seed}"
    try:
        runs = _train(folder, planned, training_seed, console)
    except NonFiniteError as error:
        row |= {"failure": f"not finite in iteration {int(error.state.iteration) + 1}", "commit": git_commit()}
    else:
        seconds = sum(step["seconds"] for run in runs for step in read_metrics(run.folder))
        row |= {"seconds": round(seconds, 1), **_play(study, runs[-1], console)}
    study.folder.mkdir(parents=True, exist_ok=True)
    write_rows(study.row_file(candidate, training_seed), [row])
    return row


def _train(folder: Path, planned: list[Planned], training_seed: int, console: Console) -> list[Run]:
    runs: list[Run] = []
    for stage, _ in planned:
        where, start = folder / stage.name, runs[-1] if runs else None
        trained = train_stage(
            where, stage, source="the candidate", training_seed=training_seed, console=console, start=start
        )
        runs.append(trained)
    return runs


def _play(study: Study, run: Run, console: Console) -> Row:
    """Fields of a row: the newest checkpoint on the study's tasks."""
    contender = run_contender(run, study.task)
    with progress_bar(console) as progress:
        bar = progress.add_task("evaluating", total=study.num_tasks, note="")
        evaluation = evaluate(
            contender.agent,
            run.learner.trial,
            study.num_tasks,
            evaluation_key(study.seed),
            progress=lambda done: progress.update(bar, completed=done),
        )
    return evaluation_row(evaluation, **contender.context, block_means=block_means(evaluation.total_reward))
