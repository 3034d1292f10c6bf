"""Numbers that are not finite: training stops there, says where, and what is on disk is good."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rl2jax.envs import BernoulliBandit, spaces
from rl2jax.envs.bandit import BANDIT
from rl2jax.envs.names import Task
from rl2jax.runs.checkpoint import iterations_on_disk
from rl2jax.runs.run import create_run, load_state
from rl2jax.runs.session import read_metrics, train_run
from rl2jax.training import update as learners
from rl2jax.training.config import TrainConfig
from rl2jax.training.loop import NonFiniteError

EPISODES, TRIALS = 4, 10
CONFIG = TrainConfig().replace(
    {
        "slow_rl": "ppo",
        "trial.num_episodes": EPISODES,
        "batch.size": EPISODES * TRIALS,
        "iterations": 9,
        "iterations_per_chunk": 3,
        "network.units": 4,
        "slow_rl.epochs": 2,
        "slow_rl.minibatch_trials": 5,
        "baseline.epochs": 1,
        "baseline.minibatch_trials": 5,
    }
)
CONFIGS = {
    "ppo": CONFIG,
    "trpo": CONFIG.replace({"slow_rl": "trpo"}),
    "a2c": CONFIG.replace(
        {"slow_rl": "a2c", "network.shared_trunk": True, "network.cell": "lstm", "optimiser.name": "rmsprop"}
    ),
}


@dataclass(frozen=True)
class Poisoned(BernoulliBandit):
    """Now and then a task whose rewards or observations are no numbers.

    Attributes:
      where: "reward" or "observation"; "" for nowhere.
      value: in place of the number.
    """

    num_arms: int = 2
    where: str = ""
    value: float = 0.0

    def poison(self, where, x, params):
        """`x`, or the value in one task of a hundred; with seed 0 the first of them is met in iteration 8."""
        bad = (params.probs[0] > 0.99) & (self.where == where)
        return jnp.where(bad, self.value, x)

    def step_env(self, key, state, action, params):
        obs, state, reward, done, info = super().step_env(key, state, action, params)
        return obs, state, self.poison("reward", reward, params), done, info

    def reset_env(self, key, params):  # a pull is an episode: all that agents see comes from here
        obs, state = super().reset_env(key, params)
        return self.poison("observation", obs, params), state

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,), jnp.float32)


def poisoned_run(folder, algorithm, where, value):
    return create_run(
        folder,
        Task("bandit:k=2,n=4", BANDIT, Poisoned(2, where=where, value=value), EPISODES),
        CONFIGS[algorithm],
        seed=0,
    )


def stops_well(run, named):
    """Trains until it stops; checks what it says and what it leaves. Returns the last good iteration."""
    with pytest.raises(NonFiniteError) as caught:
        train_run(run, resume=True, checkpoint_minutes=0)
    kept = int(caught.value.state.iteration)
    assert f"iteration {kept + 1} produced a non-finite " in str(caught.value)
    assert any(name in str(caught.value) for name in named), caught.value
    assert iterations_on_disk(run.checkpoints)[-1] == kept
    leaves = jax.tree.leaves(load_state(run)._replace(key=()))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    rows = read_metrics(run.folder)
    assert [row["iteration"] for row in rows] == list(range(1, kept + 1))
    assert all(np.isfinite(x) for row in rows for x in row.values())
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN nor Infinity, which JSON lacks
    return kept


# What the first non-finite metric may be called.
NAMES = {"reward": ["mean_return"], "observation": ["entropy", "kl", "surrogate_gain"]}


def check_poison(folder, algorithm, where, value):
    run = poisoned_run(folder / "run", algorithm, where, value)
    kept = stops_well(run, NAMES[where])
    assert kept == 7  # the first of a chunk of three
    assert stops_well(run, NAMES[where]) == kept  # again from the checkpoint, and no row twice
    cured = run._replace(task=run.task._replace(env=Poisoned(2)))
    assert train_run(cured, resume=True).finished
    assert [row["iteration"] for row in read_metrics(run.folder)] == list(range(1, CONFIG.iterations + 1))


def test_an_observation_that_is_no_number(tmp_path):
    """One of the cases below, without what comes after: each program takes seconds to compile."""
    assert stops_well(poisoned_run(tmp_path / "run", "a2c", "observation", float("nan")), NAMES["observation"]) == 7


@pytest.mark.faults
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["reward", "observation"])
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_a_task_that_gives_no_numbers(tmp_path, algorithm, where, value):
    check_poison(tmp_path, algorithm, where, float(value))


PARTS = ["baseline_loss", "grad_norm", "param_norm", "kl", "parameter"]


def breaks_at(steps, value):
    """An optimiser whose update is `value` from this many steps on."""

    def update(updates, count, params=None):
        del params
        bad = count + 1 >= steps
        return jax.tree.map(lambda u: jnp.where(bad, value, u), updates), count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


@pytest.mark.faults
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("algorithm", CONFIGS)
def test_an_update_that_is_no_number(tmp_path, monkeypatch, algorithm, value):
    """In the optimiser of the policy (of the baseline with TRPO, whose policy has none), from a step on."""
    config = CONFIGS[algorithm]
    make = learners._OPTIMISERS[config.optimiser.name]
    steps = 5 if algorithm == "a2c" else 10  # two minibatches make an epoch
    monkeypatch.setitem(
        learners._OPTIMISERS, config.optimiser.name, lambda rate: optax.chain(make(rate), breaks_at(steps, value))
    )
    jax.clear_caches()
    run = create_run(tmp_path / "run", Task("bandit:k=2,n=4", BANDIT, BernoulliBandit(2), EPISODES), config, seed=1)
    kept = stops_well(run, PARTS)
    assert 0 < kept < CONFIG.iterations - 1
    assert stops_well(run, PARTS) == kept
    jax.clear_caches()
