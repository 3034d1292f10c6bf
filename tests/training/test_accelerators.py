"""Programs for devices that are not here: iterations are lowered for CUDA and for TPUs, as those would compile them.

Nothing is run. What only a processor can do would show, and so would what is decided by the backend and does not fit.
"""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.stages import Lowered

from rl2jax.devices import SEEDS, TRIALS, make_mesh
from rl2jax.envs.names import parse_task
from rl2jax.training.learner import Learner
from rl2jax.training.presets import preset_for
from rl2jax.training.recipes import stages
from rl2jax.training.seeds import SeedLearner
from rl2jax.training.teacher import teacher_of

PLATFORMS = ("cuda", "tpu")


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """The backend's name is what choices are made by."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def lower(function, *arguments) -> Lowered:
    """For both platforms at once."""
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=PLATFORMS)


def lower_iteration(learner, key=None) -> str:
    """The program of an iteration of `learner`, as text; `key` is what it starts from."""
    chunk = partial(learner.train_chunk, length=1)
    return lower(chunk, jax.eval_shape(learner.init, jax.random.key(0) if key is None else key)).as_text()


def test_what_only_a_processor_can_do_is_refused():
    """So that the tests below can fail."""
    with pytest.raises(NotImplementedError, match="cuda"):
        lower(jax.lax.linalg.schur, jnp.eye(3))


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("bandit:k=5,n=10", "paper"),
        ("bandit:k=5,n=10", "paper-first-order"),
        ("bandit:k=5,n=10", "wang"),
        ("mdp:n=25", "paper"),
        ("maze:size=5", "cpu"),
        ("cartpole", "cpu"),
    ],
)
def test_an_iteration_of_a_preset(name, preset):
    task = parse_task(name)
    learner = Learner(task.env, preset_for(task, preset))
    assert "custom_call" not in lower_iteration(learner)


@pytest.mark.parametrize("name", ["bandit:k=10,n=100", "mdp:n=25"])
@pytest.mark.parametrize("recipe", ["best-scratch", "best"])
def test_an_iteration_of_each_stage_of_a_recipe(name, recipe):
    """Among them a memory for each arm, a memory for each pair, and a planner."""
    for stage in stages(recipe, parse_task(name)):
        learner = Learner(stage.task.env, stage.config, teacher_of(stage.task, stage.config))
        assert "custom_call" not in lower_iteration(learner)


def test_all_trials_are_abreast():
    """Lanes are a processor's way to keep the states in its cache."""
    task = parse_task("bandit:k=5,n=10")
    assert Learner(task.env, preset_for(task, "paper")).networks.abreast == 0


def test_seeds_and_trials_shared_by_devices():
    """Seeds send nothing; trials send sums."""
    task = parse_task("bandit:k=5,n=10")
    config = preset_for(task, "paper")
    seeds = SeedLearner(Learner(task.env, config), 2, make_mesh(jax.devices()[:1], SEEDS))
    assert "all_reduce" not in lower_iteration(seeds, jax.random.split(jax.random.key(0)))
    assert "all_reduce" in lower_iteration(Learner(task.env, config, mesh=make_mesh(jax.devices()[:1], TRIALS)))
