"""Tables inside documents that people write: between a pair of comments, made again from rows."""

import re


def put_table(text: str, name: str, table: str) -> str:
    """The document with its table of this name replaced; unchanged if it has none.

    Args:
      text: of the document, with `<!-- NAME -->` and `<!-- end of NAME -->` around the table.
      name: of the table.
      table: ends with a newline.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{table}{end}", text)
