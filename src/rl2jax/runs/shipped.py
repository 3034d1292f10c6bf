"""Trained agents as single files that come with the package and load in one line, offline.

FOLDER/RECIPE/NAME.safetensors   the policy's arrays, and as the file's metadata one JSON text that describes them
"""

import hashlib
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.agents import Agent
from rl2jax.envs.base import TaskDistribution
from rl2jax.envs.names import Task, parse_task, read_name, slug
from rl2jax.files import read_regular, write_atomically
from rl2jax.kinds import KINDS
from rl2jax.networks.base import Networks
from rl2jax.runs.run import Run, Start, ancestry, described, load_state, parameters_digest
from rl2jax.settings import InputError, UserError, name_of, require
from rl2jax.training import recipes
from rl2jax.training.config import TrainConfig
from rl2jax.training.families import make_networks, make_trial
from rl2jax.training.presets import PRESETS, preset_for
from rl2jax.training.update import num_trials_in_batch, steps_in_lane
from rl2jax.types import PyTree

FOLDER = Path(__file__).parent / "trained"
RECIPES = (*recipes.RECIPES, "paper")
_FORMAT, _READABLE = 1, (1,)
_SUFFIX, _METADATA = ".safetensors", "rl2jax"
_NO_DIGEST = "0" * 64  # stands where the file's digest will, while that is computed
_ACTS = ("sample", "mode")
_EVALUATION = ("num_tasks", "seed", "mean", "standard_error", "standard_deviation", "command", "commit")
_OPPONENTS = ("best_reference", "limit")
_MEND = "install rl2jax again, or write the file again with `rl2jax ship`"


class ShippedAgentError(UserError, RuntimeError):
    """A file that holds no agent this version can read; the message says what to do."""


class UnfitError(InputError):
    """An agent whose parameters do not fit a task distribution."""


class ShippedAgent(NamedTuple):
    """What is known of a shipped agent.

    Attributes:
      name: of its task: "bandit-k5-n10".
      recipe: how it was trained; one of `RECIPES`.
      task: name, as `tasks.parse_task` reads it.
      config: settings of its last training stage.
      action_selection: "sample" or "mode": how it acts, and was evaluated.
      stages: the trainings that led to it, the oldest first: task, algorithm, preset (or a recipe's stage,
        "best/1-imitation"; None: settings of its own), iterations, environment_steps, seed, config, commit, jax,
        parameters_sha256.
      evaluation: of its row: num_tasks, seed, mean, standard_error, standard_deviation, command, commit; and where
        known the best_reference {"agent", "mean"} and the limit {"method", "mean"} of its task.
      parameters_sha256: `runs.parameters_digest` of the policy.
      num_bytes: size of its file.
    """

    name: str
    recipe: str
    task: str
    config: TrainConfig
    action_selection: str
    stages: list[dict[str, Any]]
    evaluation: dict[str, Any]
    parameters_sha256: str
    num_bytes: int

    @property
    def environment_steps(self) -> int:
        """Steps that all its trainings took."""
        return sum(stage["environment_steps"] for stage in self.stages)


def agent_name(task: Task) -> str:
    """The name of a task's agents: "bandit-k5-n10", "mdp-n10" (MDPs of other sizes than the paper's spell them out).

    Further mazes to train on ("more=") are no part of it: agents play the same test mazes.
    """
    kept = {name: value for name, value in task.kind.unusual(task.settings).items() if name not in task.kind.aside}
    return slug(task.kind.spelled(kept))


def list_agents(folder: Path | str | None = None) -> list[ShippedAgent]:
    """All agents of a folder, by default the package's; ordered by name, each in the order of `RECIPES`.

    Raises:
      ShippedAgentError: if a file is damaged.
    """
    return [describe(name, recipe, folder) for name, recipe in _listed(folder)]


def describe(name: str, recipe: str = "best", folder: Path | str | None = None) -> ShippedAgent:
    """What is known of an agent; arguments and errors as of `load_agent`."""
    return _read(_find(name, recipe, folder), name, recipe)[0]


def load_agent(
    name: str, recipe: str = "best", folder: Path | str | None = None, env: TaskDistribution | None = None
) -> Agent:
    """A trained agent, ready to play: `rl2jax.load_agent("bandit-k5-n10")`.

    It was trained and must be played with termination flag 0 at a trial's first step, as `Trial` does by default.

    Args:
      name: as `rl2jax agents` lists them.
      recipe: how it was trained; one of `RECIPES`.
      folder: where `ship` wrote it; default the package's own.
      env: what it will play, where its spaces are others than those of training. Parameters of networks per_arm,
        per_pair and planner fit any number of arms, or of states and actions; those of vision any maze.

    Raises:
      UnfitError: if its parameters have other shapes than `env` needs; a ValueError.
      ValueError: for a name or recipe that there is not, listing those that there are.
      ShippedAgentError: if its file is damaged or of another version.
    """
    if env is not None:
        require(isinstance(env, TaskDistribution), "env", env, "a rl2jax.envs.TaskDistribution")
    shipped, networks, params = _load(name, recipe, folder)
    if env is not None:
        networks = networks_elsewhere(f"{name} (recipe {recipe})", networks, shipped.config, params, env)
    return networks.agent(params, deterministic=shipped.action_selection == "mode")


def networks_elsewhere(
    name: str, networks: Networks, config: TrainConfig, params: PyTree, env: TaskDistribution
) -> Networks:
    """An agent's networks for another task distribution than it was trained on.

    Only shapes are compared: whether an observation or action still means what it did is for the caller to know.

    Args:
      name: of the agent, for messages.
      networks: as it was trained.
      config: settings of its training, whose number of episodes stays the scale of the time left.
      params: the policy's.
      env: what it will play.

    Raises:
      UnfitError: if its networks for `env` cannot be made, or have parameters of other shapes.
    """
    try:
        others = make_networks(env, config)
    except ValueError as error:
        raise UnfitError(f"{name} does not fit {env!r}: {error}") from error
    found, wanted = (_flatten(tree) for tree in (params, _template(others)))
    unlike = [part for part in sorted({*found, *wanted}) if _shape(found, part) != _shape(wanted, part)]
    if not unlike:
        return others
    arrays = f"{unlike[0]} is {_shape(found, unlike[0])}, there it would be {_shape(wanted, unlike[0])}"
    raise UnfitError(f"{name} does not fit {env!r}: {_inputs_and_outputs(networks, others)}{arrays}")


def _inputs_and_outputs(networks: Networks, others: Networks) -> str:
    """What is to be said of a network with an input and an output for each action, where there are others; or ""."""
    here, there = networks.action, others.action
    if not (here.one_hot and there.one_hot) or here.size == there.size:
        return ""
    return f"its network has one input and one output for each of {here.size} actions, not of {there.size}: "


def start_of_agent(name: str, recipe: str = "best", folder: Path | str | None = None) -> Start:
    """Its parameters, for a training that starts from them; arguments and errors as of `load_agent`."""
    shipped, _, params = _load(name, recipe, folder)
    kept = ("task", "seed", "commit", "jax", "config", "parameters_sha256")
    trainings = [{name: s[name] for name in kept} | {"iteration": s["iterations"]} for s in shipped.stages]
    return Start(f"{recipe}/{name}", params, None, None, trainings)


def _load(name: str, recipe: str, folder: Path | str | None) -> tuple[ShippedAgent, Networks, PyTree]:
    """(what is known of an agent, its networks, its policy's parameters); as `load_agent`."""
    path = _find(name, recipe, folder)
    shipped, arrays = _read(path, name, recipe)
    networks = make_networks(parse_task(shipped.task).env, shipped.config)
    template = _template(networks)
    _check_shapes(path, arrays, _flatten(template))
    params = jax.tree_util.tree_map_with_path(lambda at, _: jnp.asarray(arrays[_flat_name(at)]), template)
    if parameters_digest(params) != shipped.parameters_sha256:
        raise ShippedAgentError(f"{path} holds other parameters than those that it says were evaluated; {_MEND}")
    return shipped, networks, params


def _template(networks: Networks) -> PyTree:
    """Shapes and types of the policy's parameters."""
    return jax.eval_shape(lambda: networks.policy_network.init(jax.random.key(0)))


def require_shippable(run: Run, recipe: str, folder: Path | str | None = None) -> None:
    """Refuses what `ship` cannot write, before the evaluation that it needs.

    Raises:
      ValueError: for an unknown recipe, a task distribution that is not of the package, a config whose agents need a
        first termination flag that users of `load_agent` would not show them, or a folder that cannot be written.
    """
    require(recipe in RECIPES, "recipe", recipe, f"one of {', '.join(RECIPES)}")
    of_ours = run.task.kind.name in KINDS
    require(of_ours, f"{run.folder}: task", run.task.name, f"one of {', '.join(KINDS)} to be shipped")
    flag = run.config.trial.first_step_flag
    require(flag == 0, f"{run.folder}: first_step_flag", flag, "0 to be shipped")
    wanted = (_folder(folder) / recipe).absolute()
    existing = next(path for path in (wanted, *wanted.parents) if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    require(writable, "folder of shipped agents", str(_folder(folder)), "one that can be written")


def ship(run: Run, recipe: str, row: dict[str, Any], folder: Path | str | None = None) -> Path:
    """Writes the policy of a run's newest checkpoint, with where it comes from, in place of the file there was.

    Args:
      run: as `require_shippable` allows.
      recipe: one of `RECIPES`.
      row: of the policy's evaluation, as by `experiment.evaluate_run`, with the `command` that repeats it; may have
        `best_reference` and `limit`, as by `tables.opponents`.
      folder: default the package's own.

    Returns:
      the file.

    Raises:
      ValueError: for what cannot be shipped, or a row of another policy.
      runs.RunError, checkpoint.CheckpointError: if the run cannot be loaded.
    """
    require_shippable(run, recipe, folder)
    stages = [_stage(run.task, recipe, description) for description in (*ancestry(run), described(run))]
    _check_row(run, row, stages[-1]["iterations"])
    params = load_state(run, stages[-1]["iterations"]).params["policy"]
    description = {
        "format": _FORMAT,
        "file_sha256": _NO_DIGEST,
        "recipe": recipe,
        "task": run.task.name,
        "config": run.config.to_json(),
        "action_selection": row["action_selection"],
        "stages": stages,
        "evaluation": {name: row[name] for name in (*_EVALUATION, *_OPPONENTS) if name in row},
        "parameters_sha256": stages[-1]["parameters_sha256"],
    }
    path = _folder(folder) / recipe / (agent_name(run.task) + _SUFFIX)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _pack(_flatten(params), description))
    return path


def _check_row(run: Run, row: dict[str, Any], iteration: int) -> None:
    wanted = ("task", "iteration", "action_selection", *_EVALUATION)
    missing = [name for name in wanted if name not in row]
    require(not missing, "row", f"one without {', '.join(missing)}", f"with fields {', '.join(wanted)}")
    require(row["task"] == run.task.name, "row: task", row["task"], f"{run.task.name}, the run's")
    require(row["iteration"] == iteration, "row: iteration", row["iteration"], f"{iteration}, where the run stands")
    require(row["action_selection"] in _ACTS, "row: action_selection", row["action_selection"], " or ".join(_ACTS))
    for name in ("mean", "standard_error"):
        known = row[name] is not None and math.isfinite(row[name])
        require(known, f"row: {name}", row[name], "a finite number, over at least 2 tasks")


def _stage(shipped_for: Task, recipe: str, description: dict[str, Any]) -> dict[str, Any]:
    """One training, from what `runs.described` says of its run."""
    task, config = parse_task(description["task"]), TrainConfig.from_json(description["config"])
    trial = make_trial(task.env, config)
    steps_in_batch = num_trials_in_batch(trial, config) * steps_in_lane(trial, config)
    known = {name: (task.name, preset_for(task, name)) for name in PRESETS}
    if recipe in shipped_for.kind.recipes:
        known |= {f"{recipe}/{s.name}": (s.task.name, s.config) for s in recipes.stages(recipe, shipped_for)}
    return {
        "task": task.name,
        "algorithm": name_of(config.slow_rl),
        "preset": next((name for name, trained in known.items() if trained == (task.name, config)), None),
        "iterations": description["iteration"],
        "environment_steps": description["iteration"] * steps_in_batch,
        **{name: description[name] for name in ("seed", "config", "commit", "jax", "parameters_sha256")},
    }


def _folder(given: Path | str | None) -> Path:
    return FOLDER if given is None else Path(given)


def _listed(folder: Path | str | None) -> list[tuple[str, str]]:
    """(name, recipe) of every file, by name and each in the order of `RECIPES`."""
    found = [(name, recipe) for recipe in RECIPES for name in _names(recipe, folder)]
    return sorted(found, key=lambda agent: _natural(agent[0]))


def _names(recipe: str, folder: Path | str | None) -> list[str]:
    return sorted((path.stem for path in (_folder(folder) / recipe).glob(f"*{_SUFFIX}")), key=_natural)


def _natural(name: str) -> list[Any]:
    """A sort key that has n10 before n100 and k5 before k10."""
    return [int(part) if number % 2 else part for number, part in enumerate(re.split(r"(\d+)", name))]


def _find(name: str, recipe: str, folder: Path | str | None) -> Path:
    require(recipe in RECIPES, "recipe", recipe, f"one of {', '.join(RECIPES)}")
    names = _names(recipe, folder)
    if not names:
        raise InputError(f"no agent of recipe {recipe!r} is in {_folder(folder)}; `rl2jax agents` lists all there are")
    require(name in names, f"name, with recipe {recipe!r},", name, f"one of {', '.join(names)}")
    return _folder(folder) / recipe / (name + _SUFFIX)


def _flat_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of parameters, by names that other programs can read: "params.gru_bias"."""
    return {_flat_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _pack(arrays: dict[str, Any], description: dict[str, Any]) -> bytes:
    """The bytes of a file; `description` begins with the format and `_NO_DIGEST`, which its own digest replaces."""
    from safetensors.numpy import save

    metadata = {_METADATA: json.dumps(description, allow_nan=False)}
    content = save({name: np.array(array, order="C") for name, array in arrays.items()}, metadata)
    return content.replace(_NO_DIGEST.encode(), _digest(content, _NO_DIGEST).encode(), 1)


def _digest(content: bytes, written: str) -> str:
    """SHA-256 of a whole file, with `_NO_DIGEST` where its digest is `written`."""
    return hashlib.sha256(content.replace(written.encode(), _NO_DIGEST.encode(), 1)).hexdigest()


def _read(path: Path, name: str, recipe: str) -> tuple[ShippedAgent, dict[str, np.ndarray]]:
    """What a file says of its agent, and its arrays.

    Raises:
      ShippedAgentError: if anything is wrong with it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    description, content = _verified(path)
    try:
        task, acts = description["task"], description["action_selection"]
        # Parsing any other name imports a module: what a file says must not choose the code that runs.
        require(read_name(task)[0].name in KINDS, "task", task, f"one of {', '.join(KINDS)}")
        require(acts in _ACTS, "action_selection", acts, " or ".join(_ACTS))
        place = f"{description['recipe']}/{agent_name(parse_task(task))}"
        _require_imported(description["config"])
        config = TrainConfig.from_json(description["config"])
        stages, evaluation = description["stages"], description["evaluation"]
        digest = description["parameters_sha256"]
        shipped = ShippedAgent(name, recipe, task, config, acts, stages, evaluation, digest, len(content))
        arrays = load(content)
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ShippedAgentError(f"{path} needs another version of rl2jax than this: {error}; {_MEND}") from error
    if place != f"{recipe}/{name}":
        raise ShippedAgentError(f"{path} holds the agent {place}: move it to {place}{_SUFFIX}")
    return shipped, arrays


def _require_imported(settings: dict[str, Any]) -> None:
    """Refuses a network or update of one's own whose module is not imported: a file must not choose what runs."""
    for name in ("network", "slow_rl"):
        module, colon, _ = str(settings.get(name, "")).partition(":")
        require(not colon or module in sys.modules, name, settings.get(name), f"of a module that is imported: {module}")


def _verified(path: Path) -> tuple[dict[str, Any], bytes]:
    """A file's description and its bytes, each of which has been checked.

    Raises:
      ShippedAgentError: if it is no such file, damaged, or of a format that this version does not read.
    """
    try:
        content = read_regular(path)
        header_bytes = int.from_bytes(content[:8], "little")  # safetensors: this length, a JSON header, the arrays
        description = json.loads(json.loads(content[8 : 8 + header_bytes])["__metadata__"][_METADATA])
        version = description["format"]
        written = str(description.get("file_sha256"))
        unchanged = _digest(content, written) == written
    except OSError as error:
        raise ShippedAgentError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShippedAgentError(f"{path} is damaged or no agent of rl2jax: it has no description; {_MEND}") from error
    if version not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise ShippedAgentError(
            f"{path} has format {version!r}, this version of rl2jax reads {readable}: install the one that wrote it"
        )
    if not unchanged:
        raise ShippedAgentError(f"{path} is damaged: it was truncated or changed since it was written; {_MEND}")
    return description, content


def _check_shapes(path: Path, arrays: dict[str, np.ndarray], template: dict[str, Any]) -> None:
    for name in sorted({*arrays, *template}):
        found, wanted = _shape(arrays, name), _shape(template, name)
        if found != wanted:
            raise ShippedAgentError(f"{path}: {name} is {found} there, but its settings make it {wanted}; {_MEND}")


def _shape(arrays: dict[str, Any], name: str) -> str:
    """Type and shape of an array, "float32[3, 4]", or "absent"."""
    return f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else "absent"
