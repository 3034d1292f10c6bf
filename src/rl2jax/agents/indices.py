"""Index of a Bernoulli arm: what a sure reward per pull would have to be worth to give the arm up.

The belief about an arm after s successes in n pulls is Beta(1 + s, 1 + n - s); its index depends on nothing else,
and for a discounted infinite horizon pulling the arm of greatest index is optimal (Gittins 1979). For a finite
horizon it is a heuristic, and the best one known.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.files import cache_folder
from rl2jax.settings import require

_VERSION = 1  # of what is kept on disk: change it with anything that changes a table
MOST_PULLS_FINITE_HORIZON = 600  # its table has n^3 / 6 entries
_DISCOUNTED_PRICES, _FINITE_PRICES = 1_500, 500
# Half the width of the band of means about a price, in standard deviations of the belief.
_BAND = 5.0
# Deeper than the table, the gain that a look ahead misses shrinks below this share.
_TRUNCATED = 1e-2


def pair_index(pulls: chex.Array, successes: chex.Array) -> chex.Array:
    """Place of (pulls, successes) in a table of all pairs with 0 <= successes <= pulls; int32."""
    return pulls * (pulls + 1) // 2 + successes


def gittins_table(num_pulls: int, discount: float) -> np.ndarray:
    """Gittins indices, to an error below 2e-4, 2e-5 on average.

    For each price per pull the problem of when to stop is solved by backward induction, in units of the gain over
    stopping at once, so that float32 keeps the digits that matter; the index is the price of zero gain, interpolated
    between those of a grid (calibration: Gittins, Glazebrook and Weber, "Multi-armed Bandit Allocation Indices",
    2011, chapter 8). For each price only means within five standard deviations of it are looked at: beyond them the
    decision is never in doubt.

    Args:
      num_pulls: beliefs after fewer pulls than this are in the table.
      discount: in (0, 1).

    Returns:
      float32 [num_pulls * (num_pulls + 1) / 2], in the order of `pair_index`.

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    require(num_pulls >= 1, "num_pulls", num_pulls, "an integer >= 1")
    require(0.0 < discount < 1.0, "discount", discount, "in (0, 1)")

    def compute() -> np.ndarray:
        depth = num_pulls + int(np.ceil(np.log(_TRUNCATED) / np.log(discount)))
        prices, offsets = _prices(_DISCOUNTED_PRICES, depth)
        # Far down the belief is sharper than near the top, in means; in numbers of successes it is wider.
        wide, narrow = _half_width(depth), _half_width(num_pulls)
        deep = _descend(prices, offsets[num_pulls:], num_pulls, discount, wide)
        gain = deep[:, wide - narrow : wide + narrow]
        rows = _discounted_rows(prices, offsets[: num_pulls + 1], gain, discount)
        return _pack(np.asarray(rows))

    return _kept(f"gittins-{discount:.6g}-{num_pulls}", num_pulls * (num_pulls + 1) // 2, compute)


def finite_horizon_place(time: chex.Array) -> chex.Array:
    """Where the indices after `time` pulls in all begin in a finite-horizon table; int32."""
    return time * (time + 1) * (time + 2) // 6


def finite_horizon_gittins_table(num_pulls: int) -> np.ndarray:
    """Gittins indices without discount, for the pulls that remain in a trial of `num_pulls`.

    The index of an arm after n of its pulls and t of all is the price at which the best stopping rule within the
    N - t pulls that are left gains nothing, to an error below 4e-4, 3e-5 on average (Gittins, Glazebrook and Weber
    2011, section 8.5; the Whittle index of the finite-horizon bandit).

    Returns:
      float32 [N (N + 1) (N + 2) / 6]: entry `finite_horizon_place(t) + pair_index(n, s)` for s <= n <= t < N.

    Raises:
      ValueError: naming the argument that is not allowed.
    """
    require(
        1 <= num_pulls <= MOST_PULLS_FINITE_HORIZON,
        "num_pulls",
        num_pulls,
        f"an integer from 1 to {MOST_PULLS_FINITE_HORIZON}",
    )

    def compute() -> np.ndarray:
        prices, offsets = _prices(_FINITE_PRICES, num_pulls)
        table = np.empty(num_pulls * (num_pulls + 1) * (num_pulls + 2) // 6, np.float32)
        pulls, successes = np.tril_indices(num_pulls)
        pairs = pair_index(pulls, successes)

        def fill(last: int) -> None:
            # An arm with n pulls now can have `last` at the end: the trial has seen N - last + n pulls.
            rows = np.asarray(_finite_rows(prices, offsets, last))
            count = last * (last + 1) // 2
            place = finite_horizon_place(num_pulls - last + pulls[:count]) + pairs[:count]
            table[place] = rows[pulls[:count], successes[:count]]

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, range(num_pulls, 0, -1)))
        return table

    return _kept(f"finite-{num_pulls}", num_pulls * (num_pulls + 1) * (num_pulls + 2) // 6, compute)


def whittle_index(pulls: chex.Array, successes: chex.Array, discount: float) -> chex.Array:
    """Whittle's approximation of the Gittins index ("Optimization over Time", 1982, volume 1, chapter 14).

    With m the posterior mean, N = n + 2 and c = log(1 / discount):
    m + m (1 - m) / (N sqrt((2 c + 1 / N) m (1 - m)) + m - 1/2).

    Args:
      pulls: n; int32 [...].
      successes: s; int32 [...].
      discount: in (0, 1).

    Returns:
      float32 [...].
    """
    total = pulls + 2.0
    mean = (successes + 1.0) / total
    variance = mean * (1.0 - mean)
    return mean + variance / (total * jnp.sqrt((-2.0 * np.log(discount) + 1.0 / total) * variance) + mean - 0.5)


def brezzi_lai_index(pulls: chex.Array, successes: chex.Array, discount: float) -> chex.Array:
    """Brezzi and Lai's approximation, from the diffusion limit ("Optimal learning and control ...", 2002).

    m + sd psi(1 / (c (N + 1))) with m and sd the posterior mean and standard deviation, N = n + 2,
    c = log(1 / discount), and psi their closed form, whose pieces do not join.

    Args:
      pulls: n; int32 [...].
      successes: s; int32 [...].
      discount: in (0, 1).

    Returns:
      float32 [...].
    """
    total = pulls + 2.0
    mean = (successes + 1.0) / total
    deviation = jnp.sqrt(mean * (1.0 - mean) / (total + 1.0))
    x = 1.0 / (-np.log(discount) * (total + 1.0))
    log_x = jnp.log(jnp.maximum(x, 15.0))
    pieces = [
        (x <= 0.2, jnp.sqrt(x / 2.0)),
        (x <= 1.0, 0.49 - 0.11 / jnp.sqrt(x)),
        (x <= 5.0, 0.63 - 0.26 / jnp.sqrt(x)),
        (x <= 15.0, 0.77 - 0.58 / jnp.sqrt(x)),
        (x > 15.0, jnp.sqrt(2.0 * log_x - jnp.log(log_x) - np.log(16.0 * np.pi))),
    ]
    psi = jnp.select([condition for condition, _ in pieces], [value for _, value in pieces])
    return mean + deviation * psi


def _prices(count: int, depth: int) -> tuple[jax.Array, np.ndarray]:
    """Prices from 0 to 1, spaced as the standard deviation of a belief, and where their bands lie.

    Returns:
      prices float32 [count], and for each level of 0..depth pulls the number of successes whose mean is nearest
      below each price; int32 [depth + 1, count].
    """
    prices = np.sin(np.linspace(0.0, np.pi / 2, count)) ** 2
    levels = np.arange(depth + 1)[:, None]
    return jnp.asarray(prices, jnp.float32), (np.floor(prices * (levels + 2)) - 1).astype(np.int32)


def _half_width(depth: int) -> int:
    return int(np.ceil(_BAND * 0.5 * np.sqrt(depth + 1.0))) + 2


def _gain_of_pulling(prices, gain, offset, offset_below, pulls, weight, discount, edge_weight):
    """Gain of one pull and then stopping when best, over stopping now; for each price and each mean in its band.

    Args:
      prices: float32 [L].
      gain: of stopping when best, at one pull more; float32 [L, B].
      offset: successes at the middle of the band; int32 [L].
      offset_below: the same at one pull more; int32 [L].
      pulls: of this level; int32 [].
      weight: of the reward of this pull.
      discount: of what follows.
      edge_weight: gain per unit of (mean - price) for an arm that will never be given up, one pull more.

    Returns:
      float32 [L, B].
    """
    half = gain.shape[1] // 2
    places = jnp.arange(gain.shape[1])[None]
    mean = jnp.clip((offset[:, None] + places - half + 1.0) / (pulls + 2.0), 0.0, 1.0)
    edge = edge_weight * jnp.maximum((offset_below + half + 1.0) / (pulls + 3.0) - prices, 0.0)
    padded = jnp.concatenate([jnp.zeros_like(gain[:, :1]), gain, edge[:, None]], axis=1)
    moved = (offset_below > offset)[:, None]
    failure = jnp.where(moved, padded[:, :-2], padded[:, 1:-1])
    success = jnp.where(moved, padded[:, 1:-1], padded[:, 2:])
    return weight * (mean - prices[:, None]) + discount * (failure + mean * (success - failure))


@partial(jax.jit, static_argnames=("top", "half"))
def _descend(prices, offsets, top, discount, half):
    """Gain of stopping when best at level `top`, from `len(offsets) - 1` levels below; float32 [L, 2 half]."""
    depth = len(offsets) - 1 + top
    mean = (jnp.asarray(offsets[-1])[:, None] + jnp.arange(2 * half)[None] - half + 1.0) / (depth + 2.0)
    gain = jnp.maximum(mean - prices[:, None], 0.0)  # as if nothing more were learned
    weight = 1.0 - discount

    def climb(gain, level):
        offset, offset_below, pulls = level
        pulled = _gain_of_pulling(prices, gain, offset, offset_below, pulls, weight, discount, 1.0)
        return jnp.maximum(pulled, 0.0), None

    levels = (offsets[:-1], offsets[1:], jnp.arange(top, depth))
    return jax.lax.scan(climb, gain, levels, reverse=True)[0]


@jax.jit
def _discounted_rows(prices, offsets, gain, discount):
    """Indices at the levels above `gain`; float32 [levels, levels]."""
    num_levels = len(offsets) - 1
    weight = 1.0 - discount

    def climb(gain, level):
        offset, offset_below, pulls = level
        pulled = _gain_of_pulling(prices, gain, offset, offset_below, pulls, weight, discount, 1.0)
        return jnp.maximum(pulled, 0.0), _zero_gain_prices(prices, pulled, offset, num_levels)

    levels = (offsets[:-1], offsets[1:], jnp.arange(num_levels))
    return jax.lax.scan(climb, gain, levels, reverse=True)[1]


@jax.jit
def _finite_rows(prices, offsets, last):
    """Indices of arms that can have `last` pulls at the end, by their pulls now; float32 [levels, levels]."""
    num_levels = len(offsets) - 1
    half = _half_width(num_levels)
    offsets = jnp.asarray(offsets)

    def climb(i, carry):
        gain, rows = carry
        pulls = last - 1 - i
        pulled = _gain_of_pulling(prices, gain, offsets[pulls], offsets[pulls + 1], pulls, 1.0, 1.0, 1.0 * i)
        row = _zero_gain_prices(prices, pulled, offsets[pulls], num_levels)
        return jnp.maximum(pulled, 0.0), rows.at[pulls].set(row)

    start = jnp.zeros((len(prices), 2 * half)), jnp.zeros((num_levels, num_levels))
    return jax.lax.fori_loop(0, last, climb, start)[1]


def _zero_gain_prices(prices, gain, offset, num_states):
    """The price at which the gain of each number of successes crosses zero, by bisection; float32 [num_states]."""
    half = gain.shape[1] // 2
    states = jnp.arange(num_states)

    def look_up(price):
        place = states - offset[price] + half
        found = gain[price, jnp.clip(place, 0, 2 * half - 1)]
        # Outside the band the mean is far above the price, or far below.
        return jnp.where(place < 0, -1.0, jnp.where(place >= 2 * half, 1.0, found))

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) // 2
        positive = look_up(middle) > 0.0
        return jnp.where(positive, middle, low), jnp.where(positive, high, middle)

    start = jnp.zeros(num_states, jnp.int32), jnp.full(num_states, len(prices) - 1, jnp.int32)
    low, high = jax.lax.fori_loop(0, int(np.ceil(np.log2(len(prices)))), halve, start)
    above, below = look_up(low), look_up(high)
    return prices[low] + (prices[high] - prices[low]) * above / (above - below)


def _pack(rows: np.ndarray) -> np.ndarray:
    """[levels, levels] -> the lower triangle in the order of `pair_index`."""
    return rows[np.tril_indices(len(rows))].astype(np.float32)


_TABLES: dict[Path, np.ndarray] = {}


def _kept(name: str, size: int, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """A table from memory, else from this machine's disk, else computed and kept; read-only."""
    path = cache_folder() / "indices" / f"{name}-v{_VERSION}.npy"
    if path not in _TABLES:
        table = _read(path, size)
        if table is None:
            table = compute()
            _write(path, table)
        table.flags.writeable = False
        _TABLES[path] = table
    return _TABLES[path]


def _read(path: Path, size: int) -> np.ndarray | None:
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None  # not there yet, or damaged: it can be computed again
    whole = table.shape == (size,) and table.dtype == np.float32 and bool(np.isfinite(table).all())
    return table if whole else None


def _write(path: Path, table: np.ndarray) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):  # nowhere to keep it: the table is good all the same
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, table)
        temporary.replace(path)
    with suppress(OSError):
        temporary.unlink()
