"""How many iterations of a candidate take as long as the base's: from ratios of times taken in turns."""

import statistics
import time
from collections.abc import Callable

import jax

from rl2jax.settings import require
from rl2jax.training.config import TrainConfig
from rl2jax.training.learner import Learner, train_chunk

ROUNDS = 5
# Settings that enter the program of an iteration as numbers only, or not at all: it takes as long whatever they are.
_NUMBERS = (
    "objective.discount",
    "objective.gae_lambda",
    "ppo.clip_range",
    "optimiser.clip",
    "ppo.learning_rate",
    "baseline.learning_rate",
    "optimiser.schedule",
    "objective.entropy_schedule",
    "network.memory_horizon",
    "iterations",
)


def iterations_for(budget: float, ratio: float) -> int:
    """Whole iterations, at least 1, in the time of `budget` iterations of the base, each `ratio` times as long."""
    require(budget > 0, "budget", budget, "> 0 iterations of the base")
    require(0.0 < ratio < float("inf"), "ratio", ratio, "finite and > 0")
    return max(1, round(budget / ratio))


def takes_as_long(config: TrainConfig, base: TrainConfig) -> bool:
    """Whether an iteration is the base's but for numbers in it, and needs no timing."""
    own, reference = config.flat(), base.flat()
    return own.keys() == reference.keys() and all(own[k] == v for k, v in reference.items() if k not in _NUMBERS)


def time_ratios(learner: Learner, base: Learner, rounds: int = ROUNDS) -> list[float]:
    """CPU seconds of an iteration of `learner` over those of `base`, just before and just after it.

    CPU seconds of this process, all its threads: what other processes do to the clock does not count. Compilation and
    the first iteration of each, which pays for page faults, do not either.

    Args:
      learner: whose iterations are timed.
      base: whose iterations they are held against.
      rounds: how many.
    """
    iterate, iterate_base = _iterating(learner), _iterating(base)
    ratios = []
    before = iterate_base()
    for _ in range(rounds):
        own, after = iterate(), iterate_base()
        ratios.append(2.0 * own / (before + after))
        before = after
    return ratios


def median(ratios: list[float]) -> float:
    """The median, to four digits: what is written down is what is used."""
    return float(f"{statistics.median(ratios):.4g}")


def _iterating(learner: Learner) -> Callable[[], float]:
    """A function that goes one iteration further and returns its CPU seconds; has been called once."""
    state = learner.init(jax.random.key(0))
    compiled = train_chunk.lower(learner, state, 1).compile()

    def iterate() -> float:
        nonlocal state
        start = time.process_time()
        state, _ = compiled(state)
        jax.block_until_ready(state.iteration)
        return time.process_time() - start

    iterate()
    return iterate
