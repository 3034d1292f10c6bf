"""Holds the code to the picture in docs and spec: layers, and who may import which library."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rl2jax

ROOT = Path(rl2jax.__file__).parent

# From the top of the house down; a module imports from strictly earlier layers only. Names are relative to
# rl2jax, a package's name stands for its __init__.py, and the first pattern that matches places a module.
LAYERS = [
    ["types", "files", "markdown", "imports", "compiler"],
    ["devices", "processes"],
    ["envs.base"],
    ["config"],
    ["envs.adapter"],
    ["envs.*"],  # one distribution, one file: a new one touches nothing else
    ["envs"],
    ["trial"],
    ["agents.base", "agents.gamma", "agents.indices", "agents.planning"],
    ["agents.random", "agents.posteriors"],
    ["vision.engine", "vision.mazes"],
    ["vision.wad", "vision.kinematics", "vision.workers"],
    ["vision.raycast"],
    ["vision.navigation"],
    ["vision"],
    ["vision.planners", "vision.games"],
    ["vision.collection"],
    ["vision.vizdoom"],
    ["vision.twin_check"],
    ["agents.*"],
    ["agents"],
    ["limits.*"],
    ["limits"],
    ["products"],
    ["recurrent"],
    ["networks"],
    ["shared_network"],
    ["exchangeable_network"],
    ["per_arm_network", "per_pair_network", "planning_network"],
    ["vision_network"],
    ["families"],
    ["rollout", "unroll"],
    ["analyses.logistic"],
    ["analyses.*"],
    ["analyses"],
    ["vision.episodes"],
    ["advantages", "moments", "sgd"],
    ["trpo", "ppo", "a2c", "imitation"],
    ["policy_step"],
    ["learner"],
    ["train"],
    ["seeds", "vision.engine_learner"],
    ["sweeps"],
    ["checkpoint", "evaluate", "behaviour", "tasks", "stats", "published"],
    ["tuning", "cost"],
    ["recipes", "runs"],
    ["sessions"],
    ["report", "shipped"],
    ["compare", "tables"],
    ["limit_rows", "figures", "deviations"],
    ["experiment", "page", "vision.pictures"],
    ["reproduce", "seed_runs", "vision.table3", "recordings"],
    ["vision.reproduce", "report_page"],
    ["cli_options"],
    ["host", "cli_results", "cli_scores"],
    ["cli"],
    ["rl2jax"],
]

# Modules that may import these of ours and nothing else, whatever lies above them.
ONLY = {
    "types": set(),
    "devices": {"types"},
    "processes": set(),
    "config": {"envs.base"},
    "advantages": set(),
    "moments": set(),
    "sgd": {"types"},
    "trpo": {"types"},
    "ppo": {"types", "sgd"},
    "a2c": {"types", "sgd"},
    "imitation": {"types", "agents.base"},
    "stats": set(),
    "published": set(),
    "tables": {"published", "report"},  # rows on disk only
    "deviations": {"published", "tables"},
    "figures": {"published", "tables"},
    "page": {"published", "tables", "figures"},
    "vision.table3": {"published", "tables", "page"},
    "report_page": {"published", "tables", "deviations", "page", "vision.table3", "report", "markdown"},
    "markdown": set(),
    "files": set(),
    "host": {"files"},
}

# Libraries that stay in some rooms.
CONFINED = {
    "flax": [
        "recurrent",
        "vision_network",
        "exchangeable_network",
        "per_*_network",
        "planning_network",
        "envs.*",
        "vision.navigation",
    ],
    "distrax": ["networks"],
    "tensorflow_probability": [],
    "gymnax": ["envs.*"],
    "orbax": ["checkpoint"],
    "safetensors": ["shipped"],
    "typer": ["cli", "cli_results", "cli_scores"],
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "rl2jax"


SOURCES = {module_name(path): path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def imported_names(source: str) -> set[str]:
    """Dotted names of everything a source imports, at any depth of the code."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(source: str) -> set[str]:
    """Which modules of ours a source imports."""
    found = set()
    for name in imported_names(source):
        if name.split(".")[0] != "rl2jax":
            continue
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in SOURCES:
            parts.pop()  # the last part is an object in a module
        found.add(".".join(parts) or "rl2jax")
    return found


def layer_of(module: str) -> int:
    """Index of a module's layer: an exact name wins over a pattern."""
    for exact in (True, False):
        for index, patterns in enumerate(LAYERS):
            if any(module == p if exact else fnmatch(module, p) for p in patterns):
                return index
    raise LookupError(f"{module} is in no layer: place it in tests/test_architecture.py and in docs")


def downward_imports(module: str, source: str) -> set[str]:
    """What a module imports and may not."""
    allowed = {other for other in SOURCES if layer_of(other) < layer_of(module)}
    return own_imports(source) - ONLY.get(module, allowed)


def confined_imports(module: str, source: str) -> set[str]:
    """Libraries that a module imports though they are confined elsewhere."""
    libraries = {name.split(".")[0] for name in imported_names(source)}
    return {
        library
        for library in libraries & set(CONFINED)
        if not any(fnmatch(module, pattern) for pattern in CONFINED[library])
    }


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_upward_only(module):
    assert downward_imports(module, SOURCES[module]) == set()


@pytest.mark.parametrize("module", SOURCES)
def test_libraries_stay_in_their_rooms(module):
    assert confined_imports(module, SOURCES[module]) == set()


def test_every_layer_exists():
    """A module that was renamed or removed leaves no dead entry behind."""
    named = [pattern for layer in LAYERS for pattern in layer if "*" not in pattern]
    assert set(named) <= set(SOURCES)


def test_a_new_module_must_be_placed():
    with pytest.raises(LookupError, match="brand_new is in no layer"):
        layer_of("brand_new")


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("trial", "from rl2jax.rollout import rollout", "rollout"),
        ("trial", "def f():\n    import rl2jax.rollout", "rollout"),
        ("trpo", "from rl2jax.networks import Categorical", "networks"),
        ("ppo", "from rl2jax import envs", "envs"),
        ("sgd", "from rl2jax.trial import Trial", "trial"),
        ("advantages", "from rl2jax.types import PyTree", "types"),
        ("config", "from rl2jax.envs import BernoulliBandit", "envs"),
        ("envs.bandit", "from rl2jax.envs.tabular_mdp import TabularMDP", "envs.tabular_mdp"),
        ("evaluate", "from rl2jax import TrainConfig", "rl2jax"),
    ],
)
def test_a_downward_import_is_found(module, source, offence):
    """The check above can fail: each of these lines would be caught."""
    assert downward_imports(module, source) == {offence}


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("learner", "import flax.linen as nn", "flax"),
        ("evaluate", "def f():\n    from distrax import Categorical", "distrax"),
        ("trial", "from gymnax.environments import spaces", "gymnax"),
    ],
)
def test_a_library_out_of_its_room_is_found(module, source, offence):
    assert confined_imports(module, source) == {offence}
