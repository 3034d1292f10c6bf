"""A task distribution of your own: guess a hidden number, told only "higher" or "lower", and guess it again.

    python examples/guess_the_number.py

The task is a number from 0 to 14. An episode is a game: every wrong guess costs 0.1 and is answered with "higher" or
"lower", the right one pays 1 and ends the game. A trial is two games about the same number, so that the best there is
searches by halves in the first, 49/15 = 3.27 guesses on average, and needs one guess in the second. The network is told
neither the rules nor that numbers have an order: it sees its guess, its reward and the answer, and has to find out.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from flax import struct

import rl2jax
from rl2jax.agents import Agent, random_agent
from rl2jax.envs import EnvParams, EnvState, TaskDistribution, spaces
from rl2jax.training.learner import Learner
from rl2jax.trials.evaluate import evaluate, evaluation_key, play_tasks
from rl2jax.trials.trial import Trial

START, HIGHER, LOWER = 0, 1, 2  # observations
GAMES = 2


@struct.dataclass
class Params(EnvParams):
    """The task: `number`, int32 []."""

    number: jax.Array = struct.field(kw_only=True)
    max_steps_in_episode: int = struct.field(kw_only=True)


@struct.dataclass
class State(EnvState):
    """What happened in this game: guesses so far, and the last one; int32 []."""

    time: jax.Array
    guess: jax.Array


@dataclass(frozen=True)
class GuessTheNumber(TaskDistribution[State, Params]):
    """A number below `num_numbers`, drawn once per trial; games of at most `episode_length` guesses."""

    num_numbers: int = 15
    episode_length: int = 8

    def sample_params(self, key):
        """Draws the number."""
        number = jax.random.randint(key, (), 0, self.num_numbers)
        return Params(number=number, max_steps_in_episode=self.episode_length)

    def reset_env(self, key, params):
        """A new game about the same number."""
        return jnp.int32(START), State(time=jnp.int32(0), guess=jnp.int32(-1))

    def step_env(self, key, state, action, params):
        """One guess, and the answer."""
        state = State(time=state.time + 1, guess=action)
        right = self.is_terminated(state, params)
        answer = jnp.where(params.number > action, HIGHER, LOWER)
        return answer, state, jnp.where(right, 1.0, -0.1), right, {}

    def is_terminated(self, state, params):
        """A right guess ends the game."""
        return state.guess == params.number

    def action_space(self, params=None):
        """A guess."""
        return spaces.Discrete(self.num_numbers)

    def observation_space(self, params=None):
        """`START`, `HIGHER` or `LOWER`."""
        return spaces.Discrete(3)


class Range(NamedTuple):
    """Numbers that are still possible: `low` to `high`, both included; int32 []."""

    low: jax.Array
    high: jax.Array


def halving_agent(num_numbers):
    """The reference: guesses the middle of what is possible, and remembers. Nobody does better."""

    def init(key):
        return Range(jnp.int32(0), jnp.int32(num_numbers - 1))

    def step(key, known, seen):
        guess = seen.prev_action
        low = jnp.where(seen.obs == HIGHER, jnp.maximum(known.low, guess + 1), known.low)
        high = jnp.where(seen.obs == LOWER, jnp.minimum(known.high, guess - 1), known.high)
        found = seen.prev_reward > 0
        known = Range(jnp.where(found, guess, low), jnp.where(found, guess, high))
        return known, (known.low + known.high) // 2, ()

    return Agent(init, step)


def guesses_per_game(seen, params):
    """What `evaluate` averages over trials: the number of guesses in each game; float32 [GAMES]."""
    del params
    game = jnp.cumsum(seen.episode_done) - seen.episode_done  # that a step belongs to
    return jnp.stack([jnp.sum(seen.mask * (game == number)) for number in range(GAMES)])


def show_trials(played):
    """Prints trials, a line each: the guesses, and where a game ends."""
    seen, tasks = played
    for task in range(len(tasks.number)):
        alive = seen.mask[:, task] == 1
        steps = zip(seen.action[alive, task], seen.episode_done[alive, task], strict=True)
        print(f"number {tasks.number[task]:2d}: " + "".join(f"{guess:3d}{' |' if end else ''}" for guess, end in steps))


def draw(returns, scores, path):
    """The learning curve between the agents that are not trained."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(np.arange(1, len(returns) + 1), returns, label="trained, while training")
    for name, style in (("halving", "--"), ("random", ":")):
        axes.axhline(scores[name].mean, color="0.4", linestyle=style, label=f"{name}: {scores[name].mean:.2f}")
    axes.set(xlabel="iteration", ylabel="total reward in a trial", title="two games of guess the number")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=100)


def main(arguments=None):
    """Trains, evaluates beside two agents that are not trained, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the training (default 0)")
    parser.add_argument("--iterations", type=int, default=120, help="of the training (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/examples"), help="folder (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="numbers below 3, a minimal training")
    a = parser.parse_args(arguments)
    env = GuessTheNumber(num_numbers=3, episode_length=3) if a.quick else GuessTheNumber()
    config = rl2jax.preset("quick", kind="custom", num_episodes=GAMES, episode_length=env.episode_length)
    config = config.replace(iterations=a.iterations, iterations_per_chunk=10)
    if a.quick:
        config = config.replace(
            {"iterations": 20, "batch.size": 1200, "network.units": 16, "slow_rl.minibatch_trials": 25}
        )

    def progress(report):
        print(f"iteration {report.iteration}: return {report.metrics.mean_return[-1]:.2f}", flush=True)

    state, metrics = rl2jax.train(env, config, jax.random.key(a.seed), callback=progress)
    agents = {
        "trained": Learner(env, config).agent_of(state.params),
        "halving": halving_agent(env.num_numbers),
        "random": random_agent(env.action_space()),
    }
    trial, key, num_tasks = Trial(env, GAMES), evaluation_key(a.seed), 500 if a.quick else 20_000
    scores = {
        name: evaluate(agent, trial, num_tasks, key, statistic=guesses_per_game) for name, agent in agents.items()
    }
    print(f"\n{num_tasks} fresh numbers, the same for all (of {env.num_numbers} that there are)")
    for name, score in scores.items():
        first, second = score.statistic
        print(f"{name:8} {score.mean:6.3f} +- {score.standard_error:.3f}   guesses: {first:.2f}, then {second:.2f}")
    print("\nthe trained agent's guesses, | where a game ends")
    show_trials(play_tasks(agents["trained"], trial, 8, key))
    a.out.mkdir(parents=True, exist_ok=True)
    draw(metrics.mean_return, scores, a.out / "guess_the_number.png")
    print(f"\n{a.out / 'guess_the_number.png'}")


if __name__ == "__main__":
    main()
