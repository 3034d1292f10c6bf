"""What several test modules share."""

import hashlib

import jax
import numpy as np

from rl2jax.envs import BernoulliBandit
from rl2jax.files import sealed, unsealed
from rl2jax.networks.cells import RecurrentLayer
from rl2jax.networks.recurrent import MemoryNetworks
from rl2jax.training.config import TrainConfig


def random_params(networks, seed, scale=0.6):
    """Parameters of `networks.init`'s structure, off its initial point and without compiling it."""
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, scale, x.shape).astype(np.float32), shapes)


# A tiny training that several processes of tests/ground/test_devices.py run: 48 trials of 7 and of 4 steps; with 9
# trials in a minibatch of PPO, which eight devices cannot share evenly.
SMALL_ENV = BernoulliBandit(num_arms=3)
SMALL_TRPO = TrainConfig().replace(
    {
        "slow_rl": "trpo",
        "trial.num_episodes": 7,
        "batch.size": 7 * 48,
        "iterations": 5,
        "slow_rl.max_kl": 0.05,
        "trpo.fisher_fraction": 0.3,
        "trpo.cg_damping": 0.1,
        "network.units": 8,
        "baseline.epochs": 2,
        "baseline.minibatch_trials": 16,
    }
)
SMALL_PPO = SMALL_TRPO.replace(
    {"slow_rl": "ppo", "slow_rl.epochs": 4, "slow_rl.minibatch_trials": 16, "slow_rl.learning_rate": 1e-3}
)


def train_arguments(iterations):
    """Of `rl2jax train`, PPO with the same seed; without iterations those of a run that is resumed."""
    task = ["train", "bandit:k=2,n=4"]
    if iterations is None:
        return task
    settings = ["network.units=4", "batch.size=192", "slow_rl.minibatch_trials=10"]
    settings += ["optimiser.schedule=constant", "objective.entropy_schedule=constant"]
    options = [word for setting in settings for word in ("--set", setting)]
    return [*task, "--preset", "quick", *options, "--iterations", iterations]


def change_config(folder, **changes):
    """Writes a run's settings anew, with digests that fit, there and in its checkpoints."""
    path = folder / "run.json"
    description = unsealed(path.read_bytes())
    description["config"] |= changes
    path.write_text(_sealed_again(description))
    for manifest in folder.glob("checkpoints/*/manifest.json"):
        saved = unsealed(manifest.read_bytes())
        saved["beside"]["run.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_text(_sealed_again(saved))


def _sealed_again(description):
    return sealed({name: value for name, value in description.items() if name != "file_sha256"})


def continue_to(folder, iterations):
    """Lets a finished run go on."""
    change_config(folder, iterations=iterations)


def host_leaves(tree):
    """Numpy arrays of a PyTree."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def recurrent_networks(observation, action, distribution, units=256, activation="relu", weight_norm=True, **settings):
    """A policy and a baseline with a recurrent layer each; `settings` of `Recurrent`, or of `MemoryNetworks`."""
    of_memory = {
        name: settings.pop(name) for name in ("cell", "learned_initial_state", "episodic_units") if name in settings
    }
    common = {"units": units, "activation": activation, "weight_norm": weight_norm}
    of_both = {name: settings[name] for name in ("memory_horizon", "matmul_precision") if name in settings}
    flag = -2 if settings.get("trial_steps") else -1
    memory = RecurrentLayer(**common, **of_both, **of_memory, flag=flag)
    return MemoryNetworks(observation, action, distribution, memory=memory, **common, **settings)


def shared_networks(*spaces, **settings):
    """The same with one network for both."""
    return recurrent_networks(*spaces, shared_trunk=True, **settings)


def frame_networks(*spaces, **settings):
    """The same for frames."""
    return shared_networks(*spaces, **settings)
