"""Steps a second of the maze task: ViZDoom's games on the host against the twin on the device.

    python -m experiments.benchmarks.mazes

The random agent plays trials of two episodes of at most 250 steps in 5 x 5 mazes; resets of episodes and trials, and
frames, are included. Only steps before the end of a trial count.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.messages import in_one_line
from rl2jax.agents.random import random_agent
from rl2jax.rollout import rollout
from rl2jax.trial import Trial
from rl2jax.vision import MazeNavigation
from rl2jax.vision.vizdoom import VizdoomMazes

ENV = MazeNavigation(size=5, episode_length=250, num_mazes=1000)
TRIAL = Trial(ENV, num_episodes=2)
NUM_TRIALS, ROUNDS = 120, 5  # about 54000 steps a round


def rates(play: Callable[[int], float]) -> list[float]:
    """Steps a second of each round; `play` maps a seed to the number of steps it played, and is warm already."""
    found = []
    for seed in range(ROUNDS):
        start = time.monotonic()
        found.append(play(seed) / (time.monotonic() - start))
    return found


def main() -> None:
    """Measures both, and prints median and range."""
    agent = random_agent(ENV.action_space(None))

    @jax.jit
    def on_the_device(key):
        def one(key_trial):
            key_task, key_rollout = jax.random.split(key_trial)
            trajectory = rollout(key_rollout, agent, TRIAL, ENV.sample_params(key_task))
            return trajectory.mask.sum(), jnp.sum(trajectory.trial_obs.obs, dtype=jnp.int32)  # so that frames are made

        return jax.vmap(one)(jax.random.split(key, NUM_TRIALS))

    jax.block_until_ready(on_the_device(jax.random.key(ROUNDS)))
    measured = {"twin": rates(lambda seed: float(on_the_device(jax.random.key(seed))[0].sum()))}
    with in_one_line(), VizdoomMazes(ENV) as games:
        games.collect(agent, TRIAL, jax.random.key(ROUNDS), np.arange(games.num_games), num_steps=20)

        def on_the_host(seed: int) -> float:
            mazes = np.arange(seed * NUM_TRIALS, (seed + 1) * NUM_TRIALS)
            return float(games.collect(agent, TRIAL, jax.random.key(seed), mazes).mask.sum())

        measured["ViZDoom"] = rates(on_the_host)
    for name, found in measured.items():
        low, middle, high = np.quantile(found, [0, 0.5, 1])
        seconds = 50_000 / middle
        print(f"{name}: {middle:.0f} ({low:.0f} to {high:.0f}) steps a second, {seconds:.2f} s for 50000")


if __name__ == "__main__":
    main()
