"""Mazes by randomised Prim, with a start and a target: pure functions, and fixed sets of configurations.

A maze of `size` x `size` cells is described by its walls, the edges between cells, so that solid blocks and thin
walls are one thing to whoever moves or looks. Row r is the r-th from below (y), column c the c-th from the left (x).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rl2jax.settings import InputError, require
from rl2jax.xla import less_optimised

# Quarter turns; headings elsewhere count in sixteenths, counter-clockwise from east.
NUM_START_HEADINGS = 4
HEADINGS = 16
_MOST_DRAWS = 40  # of test mazes, in numbers of the test set's size
_DRAWN_AT_ONCE = 100  # one program for sets of all sizes: compiling it takes longer than drawing 20000 mazes


class Maze(NamedTuple):
    """One configuration: a maze, where an episode starts, and where the target is.

    Attributes:
      east_walls: whether there is a wall on the line x = c, in row r; bool [size, size + 1] (row, line).
      north_walls: whether there is a wall on the line y = r, in column c; bool [size + 1, size] (line, column).
      target: row and column of the target's cell; int32 [2].
      start: row and column of the cell in whose middle an episode starts; int32 [2].
      start_heading: in sixteenths of a turn, counter-clockwise from east, a multiple of 4; int32 [].
    """

    east_walls: chex.Array
    north_walls: chex.Array
    target: chex.Array
    start: chex.Array
    start_heading: chex.Array

    def at(self, index: int | chex.Array) -> "Maze":
        """The maze with this index among many, leaves [num_mazes, ...]."""
        return jax.tree.map(lambda leaf: leaf[index], self)


def spanning_tree(key: chex.PRNGKey, side: int) -> tuple[chex.Array, chex.Array]:
    """A random spanning tree of `side` x `side` rooms by randomised Prim.

    From one random room, again and again an edge is drawn uniformly among those that lead from a room that was
    reached to one that was not.

    Returns:
      (passages to the east, bool [side, side - 1]; passages to the north, bool [side - 1, side]).
    """
    key_first, key_edges = jax.random.split(key)
    first = jax.random.randint(key_first, (), 0, side * side)
    rooms = np.arange(side * side).reshape(side, side)
    num_east = side * (side - 1)
    # The two rooms of each edge: those to the east, then those to the north.
    one, other = np.r_[rooms[:, :-1].ravel(), rooms[:-1].ravel()], np.r_[rooms[:, 1:].ravel(), rooms[1:].ravel()]
    ends = jnp.asarray(np.stack([one, other], axis=1))

    def add_room(carry, key_edge):
        reached, passages = carry
        frontier = reached[one] != reached[other]
        edge = jax.random.categorical(key_edge, jnp.where(frontier, 0.0, -jnp.inf))
        return (reached.at[ends[edge]].set(True), passages.at[edge].set(True)), None

    reached = jnp.zeros(side * side, bool).at[first].set(True)
    keys = jax.random.split(key_edges, side * side - 1)
    (_, passages), _ = jax.lax.scan(add_room, (reached, jnp.zeros(2 * num_east, bool)), keys)
    return passages[:num_east].reshape(side, side - 1), passages[num_east:].reshape(side - 1, side)


def block_maze(key: chex.PRNGKey, size: int) -> chex.Array:
    """Free cells of a maze whose walls are solid blocks; bool [size, size], `size` odd.

    Rooms are the cells of even row and column; a passage is the free cell between two of them.
    """
    side = (size + 1) // 2
    east, north = spanning_tree(key, side)
    free = jnp.zeros((size, size), bool)
    return free.at[::2, ::2].set(True).at[::2, 1::2].set(east).at[1::2, ::2].set(north)


def walls_of_blocks(free: chex.Array) -> tuple[chex.Array, chex.Array]:
    """The walls (`Maze.east_walls`, `Maze.north_walls`) between cells that are not both free."""
    rows, columns = jnp.pad(free, ((0, 0), (1, 1))), jnp.pad(free, ((1, 1), (0, 0)))
    return ~(rows[:, 1:] & rows[:, :-1]), ~(columns[1:] & columns[:-1])


def thin_walls(key: chex.PRNGKey, size: int) -> tuple[chex.Array, chex.Array]:
    """The walls of a maze in which every cell is a room and walls have no width."""
    east, north = spanning_tree(key, size)
    return (
        jnp.ones((size, size + 1), bool).at[:, 1:-1].set(~east),
        jnp.ones((size + 1, size), bool).at[1:-1].set(~north),
    )


def generate_maze(key: chex.PRNGKey, size: int, thin: bool = False) -> Maze:
    """Draws a maze, two different free cells for start and target, and the heading at the start.

    Args:
      key: all its randomness.
      size: cells along a side; odd unless `thin`.
      thin: walls without width between size x size rooms, instead of solid blocks.
    """
    key_walls, key_cells, key_heading = jax.random.split(key, 3)
    if thin:
        free = jnp.ones((size, size), bool)
        east_walls, north_walls = thin_walls(key_walls, size)
    else:
        free = block_maze(key_walls, size)
        east_walls, north_walls = walls_of_blocks(free)
    # The two highest of independent Gumbel variables: two cells without replacement.
    noise = jax.random.gumbel(key_cells, (size * size,))
    _, (target, start) = jax.lax.top_k(jnp.where(free.ravel(), noise, -jnp.inf), 2)
    quarter = jax.random.randint(key_heading, (), 0, NUM_START_HEADINGS)
    return Maze(
        east_walls,
        north_walls,
        jnp.stack(jnp.divmod(target, size)).astype(jnp.int32),
        jnp.stack(jnp.divmod(start, size)).astype(jnp.int32),
        (quarter * (HEADINGS // NUM_START_HEADINGS)).astype(jnp.int32),
    )


def check_size(size: int, thin: bool) -> None:
    """Raises ValueError unless mazes of this size exist."""
    require(2 <= size <= 63 if thin else 3 <= size <= 63, "size", size, f"between {2 if thin else 3} and 63")
    require(thin or size % 2 == 1, "size", size, "odd, as walls are whole cells (or thin=1)")


@lru_cache(maxsize=8)
def maze_set(size: int, thin: bool, seed: int, num_train: int, num_test: int) -> tuple[Maze, Maze]:
    """Training and test configurations; numpy leaves [num_train, ...] and [num_test, ...].

    Mazes are drawn one after the other from the seed; the first `num_train` make the training set. A test maze is the
    next whose walls and target are together in no training maze, wherever it starts: what was learned of a training
    maze by heart is of no use there.

    Raises:
      ValueError: if there are too few different mazes of this size for a test set.
    """
    check_size(size, thin)
    train = _drawn(size, thin, seed, 0, num_train)
    known = set(_contents(train))
    found: list[Maze] = []
    for part in range(_MOST_DRAWS):
        more = _drawn(size, thin, seed, num_train + part * num_test, num_test)
        found += [more.at(i) for i, content in enumerate(_contents(more)) if content not in known]
        if len(found) >= num_test:
            return train, jax.tree.map(lambda *leaves: np.stack(leaves), *found[:num_test])
    raise InputError(
        f"size {size} has too few different mazes for {num_train} to train and {num_test} to test on; "
        f"take fewer, or a larger size"
    )


@lru_cache(maxsize=8)
def more_mazes(size: int, thin: bool, seed: int, num_train: int, num_test: int, count: int) -> Maze:
    """Further configurations to train on, none of which has walls and target of a test maze; leaves [count, ...].

    They are drawn from the same seed, after all that `maze_set` looks at; the test set stays as it is.

    Args as in `maze_set`, and how many.

    Raises:
      ValueError: if nearly all mazes of this size are test mazes.
    """
    _, test = maze_set(size, thin, seed, num_train, num_test)
    known, first = set(_contents(test)), num_train + _MOST_DRAWS * num_test
    found: list[Maze] = []
    for part in range(_MOST_DRAWS):
        more = _drawn(size, thin, seed, first + part * count, count)
        found.append(more.at(np.array([content not in known for content in _contents(more)])))
        if sum(len(some.target) for some in found) >= count:
            return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *found)
    raise InputError(f"size {size} has too few mazes that are no test maze for {count} more; take fewer test mazes")


def _drawn(size: int, thin: bool, seed: int, first: int, count: int) -> Maze:
    """The mazes that a seed makes, from one of them on; numpy leaves [count, ...]."""
    draw = _drawer(size, thin)
    starts = range(first, first + count, _DRAWN_AT_ONCE)
    parts = [jax.device_get(draw(seed, np.arange(start, start + _DRAWN_AT_ONCE))) for start in starts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)


@lru_cache(maxsize=8)
def _drawer(size: int, thin: bool) -> Callable[[int, np.ndarray], Maze]:
    """(seed, numbers of mazes) -> the mazes; compiled: it also runs while a program that uses them is traced."""

    @partial(jax.jit, compiler_options=less_optimised())
    def draw(seed: int, indices: chex.Array) -> Maze:
        return jax.vmap(lambda i: generate_maze(jax.random.fold_in(jax.random.key(seed), i), size, thin))(indices)

    return draw.lower(0, np.arange(_DRAWN_AT_ONCE)).compile()


def _contents(mazes: Maze) -> list[bytes]:
    """Walls and target of each maze, as something to compare."""
    described = (mazes.east_walls, mazes.north_walls, mazes.target)
    return [b"".join(leaf[i].tobytes() for leaf in described) for i in range(len(mazes.target))]


def free_cells(maze: Maze) -> np.ndarray:
    """Cells that can be reached from the start; bool [size, size]."""
    size = maze.north_walls.shape[1]
    free = np.zeros((size, size), bool)
    waiting = [tuple(int(v) for v in maze.start)]
    while waiting:
        row, column = waiting.pop()
        if free[row, column]:
            continue
        free[row, column] = True
        neighbours = [
            (maze.east_walls[row, column], (row, column - 1)),
            (maze.east_walls[row, column + 1], (row, column + 1)),
            (maze.north_walls[row, column], (row - 1, column)),
            (maze.north_walls[row + 1, column], (row + 1, column)),
        ]
        waiting += [cell for wall, cell in neighbours if not wall]
    return free
