"""The paper's tables by number: what each is made of, and what goes with it."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rl2jax.results.pages import scores, table3
from rl2jax.results.pages.table3 import Picture
from rl2jax.results.pages.tables import Table
from rl2jax.results.published import MAZES, SCORES, agent_name
from rl2jax.results.rows import ScoredRow
from rl2jax.settings import require


class PaperTable(NamedTuple):
    """One of the paper's tables.

    Attributes:
      title: its caption.
      tasks: names of those whose rows it is made of.
      build: (rows, everything) -> the table, with the published numbers; rows of other tasks are left out.
      agent_name: an agent's name for people.
      pictures: folder of results -> those drawn by the program that makes the rows.
    """

    title: str
    tasks: Collection[str]
    build: Callable[[Sequence[ScoredRow], bool], Table]
    agent_name: Callable[[str], str] = agent_name
    pictures: Callable[[Path], list[Picture]] = lambda folder: []


TABLES: dict[int, PaperTable] = {
    **{n: PaperTable(published.title, published.scores, partial(scores.build, n)) for n, published in SCORES.items()},
    3: PaperTable(table3.TITLE, MAZES, table3.build, table3.agent_title, table3.all_pictures),
}


def build_table(number: int, rows: Iterable[ScoredRow], *, everything: bool = False) -> Table:
    """Table `number` of the paper from rows; what has no row is left out.

    Args:
      number: one of `TABLES`.
      rows: as from `rows.read_results`.
      everything: also the agents that the paper does not have.

    Raises:
      ValueError: if there is no such table.
    """
    require(number in TABLES, "table", number, f"one of {', '.join(map(str, TABLES))}")
    return TABLES[number].build(list(rows), everything)
