"""The Markdown that this project's experiments write, as HTML: headings, tables, lists, pictures, paragraphs."""

import re
from collections.abc import Callable
from html import escape
from itertools import groupby

from rl2jax.settings import InputError

_INLINE = (
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*([^*]+)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<!\*)\*([^*]+)\*(?!\*)"), r"<em>\1</em>"),
    (re.compile(r"\[([^\]]*)\]\([^)]*\)"), r"\1"),  # a page of its own has no files beside it
)
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")


def to_html(text: str, level: int = 2, picture: Callable[[str, str], str] = lambda description, file: "") -> str:
    """HTML of a document.

    Args:
      text: Markdown; of what this module does not know, the text.
      level: of the HTML headings that the document's second level becomes; its first, the title, is left out.
      picture: (description, file as written) -> HTML.

    Raises:
      ValueError: for a table whose lines do not fit together.
    """
    parts: list[str] = []
    for kind, lines in groupby(text.splitlines(), _kind):
        block = [line.strip() for line in lines]
        if kind == "heading":
            parts += [_heading(line, level) for line in block if line.startswith("##")]
        elif kind == "table":
            parts.append(_table(block))
        elif kind == "list":
            items = "".join(f"<li>{inline(line[2:])}</li>" for line in block)
            parts.append(f"<ul>{items}</ul>")
        elif kind == "picture":
            parts += [picture(*found.groups()) for line in block if (found := _PICTURE.match(line))]
        elif kind == "text":
            parts.append(f"<p>{inline(' '.join(block))}</p>")
    return "".join(parts)


def inline(text: str) -> str:
    """A line's HTML: code, bold, emphasis; of links, the words."""
    text = escape(text, quote=False)
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return text


def _kind(line: str) -> str:
    starts = {"#": "heading", "|": "table", "- ": "list", "![": "picture"}
    line = line.strip()
    return next((kind for start, kind in starts.items() if line.startswith(start)), "text" if line else "")


def _heading(line: str, level: int) -> str:
    marks, _, text = line.partition(" ")
    depth = min(6, level + len(marks) - 2)
    return f"<h{depth}>{inline(text)}</h{depth}>"


_LONG = 60  # letters, from which on a cell's words are wrapped in a column of their own width


def _table(lines: list[str]) -> str:
    rows_of_cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if len(lines) < 2 or len(set(map(len, rows_of_cells))) > 1:
        raise InputError(f"a table's lines must have equally many cells, and a second line of dashes: {lines[0]!r:.80}")
    head, marks, *body = rows_of_cells
    words = [not mark.endswith(":") for mark in marks]

    def kind(column: int) -> str:
        long = any(len(cells[column]) > _LONG for cells in body)
        return ' class="words long"' if words[column] and long else ' class="words"' if words[column] else ""

    kinds = [kind(column) for column in range(len(head))]
    heads = "".join(f'<th scope="col"{style}>{inline(cell)}</th>' for style, cell in zip(kinds, head, strict=True))
    rows = []
    for first, *cells in body:
        rest = "".join(f"<td{style}>{inline(cell)}</td>" for style, cell in zip(kinds[1:], cells, strict=True))
        rows.append(f'<tr><th scope="row">{inline(first)}</th>{rest}</tr>')
    name = escape(f"table by {head[0] or 'line'}")
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{name}"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
