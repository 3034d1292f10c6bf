"""A table as a value: cells with numbers, before any format; and what its texts are. Reads no rows."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from rl2jax.envs.names import read_name
from rl2jax.kinds import KINDS, find_kind
from rl2jax.results.published import TRAINED

SHARE_HEADING = "RL², % of limit"


class Cell(NamedTuple):
    """One entry of a table.

    Attributes:
      mean: ours, or in a line of published numbers theirs; None where there is none.
      standard_error: of the mean; None for a value without one.
      published: what the paper has in the same place; None where it has nothing.
      num_tasks: tasks that the mean is over; None for a limit and for published numbers.
      bold: best, or not significantly below the best of its line.
      of_limit: mean as a share of the line's limit; None without one.
      trained: whether the agent is a trained one.
    """

    mean: float | None
    standard_error: float | None = None
    published: float | None = None
    num_tasks: int | None = None
    bold: bool = False
    of_limit: float | None = None
    trained: bool = False


class Line(NamedTuple):
    """A line of a table.

    Attributes:
      heading: what it is of.
      cells: column -> cell; a column without one stays blank.
      is_ours: whether its numbers are ours; else they are published ones.
    """

    heading: str
    cells: dict[str, Cell]
    is_ours: bool = True


class Section(NamedTuple):
    """Lines under common headings; Tables 1 and 2 are one section each.

    Attributes:
      columns: column -> heading.
      lines: line -> what is in it.
      key: what tells the section from others, a text for each further axis of the table.
      heading: over this section and those after it that have the same.
      title: of this section alone.
      corner: heading of the lines' headings.
      unit: behind every mean.
      decimals: digits after the point; None: as many as the standard error supports.
      has_shares: whether a last column has the trained agents' shares of the limit.
    """

    columns: dict[str, str]
    lines: dict[str, Line]
    key: tuple[str, ...] = ()
    heading: str = ""
    title: str = ""
    corner: str = ""
    unit: str = ""
    decimals: int | None = None
    has_shares: bool = False

    @property
    def head(self) -> list[str]:
        """Headings of all columns, the corner first."""
        return [self.corner, *self.columns.values(), *([SHARE_HEADING] if self.has_shares else [])]

    @property
    def has_published(self) -> bool:
        """Whether a cell has the paper's number beside ours."""
        return any(cell.published is not None for line in self.lines.values() for cell in line.cells.values())

    def grid(self) -> Iterator[tuple[Line, list[Cell | None]]]:
        """The lines, each with its cells in the order of the columns; None is blank."""
        for line in self.lines.values():
            yield line, [line.cells.get(column) for column in self.columns]

    def shares(self, line: Line) -> list[str]:
        """Text of the last column, in percent of the limit by agent; [] without that column."""
        found = [line.cells[agent].of_limit for agent in TRAINED if agent in line.cells]
        text = " / ".join("–" if share is None else f"{100 * share:.2f}" for share in found) or "–"
        return [text] if self.has_shares else []

    def mean_text(self, cell: Cell) -> str:
        """The mean with as many digits as are meant."""
        return "–" if cell.mean is None else f"{cell.mean:.{self._digits(cell)}f}{self.unit}"

    def error_text(self, cell: Cell) -> str:
        """The standard error; "" where there is none."""
        has_error = cell.mean is not None and cell.standard_error  # exact values have none
        return f"{cell.standard_error:.{self._digits(cell)}f}" if has_error else ""

    def score_text(self, cell: Cell) -> str:
        """The mean and its standard error."""
        return " ± ".join(filter(None, (self.mean_text(cell), self.error_text(cell))))

    def _digits(self, cell: Cell) -> int:
        return decimals(cell.standard_error) if self.decimals is None else self.decimals


class FewerTasks(NamedTuple):
    """A note: a mean over fewer tasks than those of the other agents of its line.

    Attributes:
      agent: heading of the column.
      setup: heading of the line.
      num_tasks: of that agent.
      most: of the others.
    """

    agent: str
    setup: str
    num_tasks: int
    most: int

    def __str__(self) -> str:
        return f"{self.agent}, {self.setup}: {self.num_tasks} tasks, the others {self.most}."


class Table(NamedTuple):
    """A table, before any format.

    Attributes:
      title: what it shows.
      axes: names of what tells cells apart: a text for each part of a section's key, then line and column.
      sections: with at least one line each; none without rows.
      notes: below the table; what is no `FewerTasks` is a sentence.
    """

    title: str
    axes: tuple[str, ...]
    sections: list[Section]
    notes: list[FewerTasks | str]


def decimals(standard_error: float | None) -> int:
    """Digits after the point that a standard error supports: its first two, at most 3."""
    if standard_error is None or standard_error <= 0:
        return 3
    return min(3, max(0, 1 - math.floor(math.log10(standard_error))))


def score_text(mean: float, standard_error: float | None) -> str:
    """A mean and its standard error, as many digits as the error supports."""
    return Section({}, {}).score_text(Cell(mean, standard_error))


def short(task: str) -> str:
    """A task's name without its kind and the paper's MDP sizes: "k=5, n=10" or "n=10"; for people."""
    kind, settings = read_name(task)
    return kind.title(settings)


def readable_tasks(text: str) -> str:
    """A text for people: names of tasks in it as words, "bandit, k=5, n=10" for "bandit:k=5,n=10"."""
    pattern = rf"\b({'|'.join(KINDS)}):(\w+=\w+(?:,\w+=\w+)*)"
    return re.sub(pattern, lambda found: f"{find_kind(found[1]).words}, {short(found[0])}", text)
