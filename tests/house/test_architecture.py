"""Holds the code to the picture in docs/design.md: rooms in one line, and who may import which library."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import rl2jax

ROOT = Path(rl2jax.__file__).parent

# From the ground up. A module imports from its own room and from rooms before it; the ground's modules are named.
ROOMS = [
    *("types", "settings", "kinds", "files", "devices", "xla"),
    *("envs", "agents", "limits", "trials", "engines", "networks", "slow_rl", "training", "runs"),
    *("results", "results.pages", "results.reproduction", "cli", "__main__"),
]
FACE = "rl2jax"  # the package itself: whoever looks at it has seen all rooms

# What keeps some modules apart from what they need not know.
ONLY = {
    "slow_rl.advantages": set(),
    "slow_rl.moments": set(),
    "slow_rl.sgd": {"types"},
    "slow_rl.surrogates": set(),
    "slow_rl.natural_gradient": {"types"},
    "slow_rl.line_search": {"types"},
    "results.stats": set(),
    "results.published": set(),
    "runs.processes": {"settings"},
}

# Libraries that stay in some modules.
CONFINED = {
    "flax": ["networks.*", "envs.*"],
    "distrax": ["networks.*"],
    "tensorflow_probability": [],
    "gymnax": ["envs.*"],
    "orbax": ["runs.checkpoint"],
    "safetensors": ["runs.shipped"],
    "typer": ["cli.*"],
    "vizdoom": ["engines.vizdoom.*"],
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or FACE


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
        found.add(".".join(parts) or FACE)
    return found


def room_of(module: str) -> str:
    """The innermost room that a module is in."""
    rooms = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    if not rooms:
        raise LookupError(f"{module} is in no room: place it in tests/house/test_architecture.py and docs/design.md")
    return max(rooms, key=len)


def forbidden_imports(module: str, source: str) -> set[str]:
    """What a module imports and may not."""
    imported = own_imports(source)
    if module == FACE:
        return set()
    if module in ONLY:
        return imported - ONLY[module]
    floor = ROOMS.index(room_of(module))
    return {other for other in imported if other == FACE or ROOMS.index(room_of(other)) > floor}


def confined_imports(module: str, source: str) -> set[str]:
    """Libraries that a module imports though they are confined elsewhere."""
    libraries = {name.split(".")[0] for name in imported_names(source)}
    return {
        library
        for library in libraries & set(CONFINED)
        if not any(fnmatch(module, pattern) for pattern in CONFINED[library])
    }


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_down_only(module):
    assert forbidden_imports(module, SOURCES[module]) == set()


@pytest.mark.parametrize("module", SOURCES)
def test_libraries_stay_in_their_rooms(module):
    assert confined_imports(module, SOURCES[module]) == set()


def test_no_circle():
    """Inside a room too: modules can be taken away one by one, each imported by nobody that is left."""
    left = {module: own_imports(source) - {module} for module, source in SOURCES.items() if module != FACE}
    while left:
        free = [module for module, imported in left.items() if not imported & set(left)]
        assert free, f"in a circle: {sorted(left)}"
        for module in free:
            del left[module]


def test_the_root_is_the_ground_and_the_face():
    assert len(list(ROOT.glob("*.py"))) <= 8


def test_every_room_exists():
    assert set(ROOMS) | set(ONLY) <= set(SOURCES)


def test_a_new_room_must_be_placed():
    with pytest.raises(LookupError, match="brand_new is in no room"):
        room_of("brand_new")


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("trials.trial", "from rl2jax.networks.base import Networks", "networks.base"),
        ("trials.trial", "def f():\n    import rl2jax.training.loop", "training.loop"),
        ("slow_rl.natural_gradient", "from rl2jax.networks.base import Categorical", "networks.base"),
        ("slow_rl.sgd", "from rl2jax import envs", "envs"),
        ("slow_rl.advantages", "from rl2jax.types import PyTree", "types"),
        ("envs.bandit", "from rl2jax.agents.base import Agent", "agents.base"),
        ("trials.evaluate", "from rl2jax import TrainConfig", "rl2jax"),
        ("results.rows", "from rl2jax.results.pages.tables import table", "results.pages.tables"),
    ],
)
def test_an_upward_import_is_found(module, source, offence):
    """The check above can fail: each of these lines would be caught."""
    assert forbidden_imports(module, source) == {offence}


@pytest.mark.parametrize(
    ("module", "source", "offence"),
    [
        ("training.update", "import flax.linen as nn", "flax"),
        ("trials.evaluate", "def f():\n    from distrax import Categorical", "distrax"),
        ("trials.trial", "from gymnax.environments import spaces", "gymnax"),
    ],
)
def test_a_library_out_of_its_room_is_found(module, source, offence):
    assert confined_imports(module, source) == {offence}
