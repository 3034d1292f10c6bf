"""A backtracking line search; knows no RL objects."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rl2jax.types import PyTree

MAX_BACKTRACKS = 10  # then a step is given up


class Search(NamedTuple):
    """Where a search is.

    Attributes:
      backtracks: how often the step was shortened: its length is ratio^backtracks; -1 before the
        first step; float32 [].
      surrogate: there; float32 [].
      kl: there, from the policy that collected the batch; float32 [].
      found: what else the caller wants to keep of where it leads; empty if it finds the parameters again by the length.
    """

    backtracks: chex.Array
    surrogate: chex.Array
    kl: chex.Array
    found: PyTree = ()


def backtracking_search(
    evaluate_fn: Callable[[chex.Array], tuple],
    acceptable: Callable[[Search], chex.Array],
    start: Search,
    ratio: float | chex.Array,
    max_backtracks: int = MAX_BACKTRACKS,
) -> tuple[Search, chex.Array]:
    """Shortens a step until it is acceptable, or was shortened `max_backtracks` times.

    Which parameters a length leads to is the caller's to say, so that the loop has one copy of the networks to compile.

    Args:
      evaluate_fn: length of the step, float32 [] -> (surrogate, mean KL[, found]) where it leads.
      acceptable: whether to stop; bool [].
      start: what is known already: with -1 backtracks, what is there without a step, which `acceptable` must refuse;
        with 0, where the whole step leads.
      ratio: what the length is multiplied by.
      max_backtracks: static.

    Returns:
      (where it ended, whether that is acceptable).
    """

    def shorten(search: Search) -> Search:
        backtracks = search.backtracks + 1.0
        return Search(backtracks, *evaluate_fn(ratio**backtracks))

    def unfinished(search: Search) -> chex.Array:
        return jnp.logical_and(~acceptable(search), search.backtracks < max_backtracks)

    search = jax.lax.while_loop(unfinished, shorten, start)
    return search, acceptable(search)
