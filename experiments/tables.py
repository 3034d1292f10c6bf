"""`make tables`: every table, figure and page that is made of rows on disk, made again; nothing is trained.

Tables 1 to 3 with figures 2 and 3, the experiments of Wang et al., extrapolation, candidates, what reinforcement adds
to imitation, other training seeds, benchmarks, the tables in README.md and docs/, and the page of `rl2jax report`, for
which shipped agents play a few trials. Figures 4 to 6 and the films of mazes are of agents and runs, not of rows: they
stay as they are.
"""

import argparse
import contextlib
import hashlib
import io
import re
import tempfile
from pathlib import Path

from experiments import beyond_teacher, readme, training_seeds
from experiments.benchmarks import __main__ as benchmarks
from experiments.benchmarks import mazes as maze_benchmark
from experiments.candidates import __main__ as candidates
from experiments.extrapolation import __main__ as extrapolation
from experiments.messages import in_one_line
from experiments.wang import __main__ as wang
from rl2jax import xla
from rl2jax.cli.show import report
from rl2jax.files import write_atomically
from rl2jax.results.pages.papers import TABLES
from rl2jax.results.reproduction.tables import write_report
from rl2jax.results.rows import read_objects

MADE_OF_ROWS = (".md", ".tex", ".csv", ".html", ".png", ".svg")
_COMMIT = re.compile(r"(Made by <code>rl2jax report</code> [^,<]*, commit )[0-9a-z]+\+?")


def rewrite(results: Path) -> None:
    """What is made of the rows of a folder of results, beside them; what has no rows is left out.

    Args:
      results: as experiments/results. Of this one, the tables in README.md and docs/ are made again too.
    """
    for number in TABLES:
        if (folder := results / f"table{number}").is_dir():
            write_report(number, folder)
    for name, write in (("wang", wang.write_report), ("candidates", candidates.write_report)):
        if (folder := results / name).is_dir():
            write(folder)
    for folder in sorted(results.glob("extrapolation*/")):
        extrapolation.write_report(folder)
    if (folder := results / "beyond-teacher").is_dir():
        write_atomically(folder.with_suffix(".md"), beyond_teacher.to_markdown(folder))
    if (folder := results / "training-seeds").is_dir():
        training_seeds.write_report(folder)
    for path in sorted((results / "benchmarks").glob("*.json")):
        if path.stem == maze_benchmark.NAME:
            write_atomically(path.with_suffix(".md"), maze_benchmark.to_markdown(read_objects(path)))
        else:
            benchmarks.write_report(path.parent, path.stem)
    if results.resolve() == readme.RESULTS:
        readme.rewrite()


def rewrite_page(results: Path) -> None:
    """The page of `rl2jax report`, unless nothing but the commit in its foot would change."""
    page = results / "report.html"
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / page.name
        with contextlib.redirect_stdout(io.StringIO()):  # it would name the temporary file
            report(results, new)
        text = new.read_text()
    if not page.exists() or without_commit(page.read_text()) != without_commit(text):
        write_atomically(page, text)


def without_commit(page: str) -> str:
    """The page but for the commit that made it."""
    return _COMMIT.sub(r"\1", page)


def digests(results: Path) -> dict[Path, str]:
    """Path -> SHA-256 of everything that might be made of rows."""
    paths = [path for path in results.rglob("*") if path.suffix in MADE_OF_ROWS]
    paths += [readme.README, benchmarks.DOCUMENT, candidates.DOCUMENT]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


def main() -> None:
    """Makes all of it, and says what is no longer as it was."""
    argparse.ArgumentParser(prog="python -m experiments.tables", description=__doc__.splitlines()[0]).parse_args()
    before = digests(readme.RESULTS)
    with in_one_line():
        rewrite(readme.RESULTS)
        rewrite_page(readme.RESULTS)
    after = digests(readme.RESULTS)
    changed = [path for path, digest in after.items() if before.get(path) != digest]
    print("\n".join(f"changed: {path.relative_to(readme.ROOT)}" for path in changed) or "nothing has changed")


if __name__ == "__main__":
    xla.prepare()
    main()
