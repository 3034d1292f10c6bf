"""The README's tables: trained agents beside the paper's, the best reference agent and the limit; from rows alone."""

from pathlib import Path

from experiments.documents import put_table
from rl2jax.files import write_atomically
from rl2jax.results.pages.scores import shortcuts, trained_part
from rl2jax.results.pages.tables import short
from rl2jax.results.published import SCORES, agent_name
from rl2jax.results.rows import (
    LIMIT,
    PAPERS_PRESETS,
    ScoredRow,
    best_reference,
    best_row,
    documented,
    format_score,
    read_results,
)

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"
# Column -> agents of its rows, each with the presets that they may have; empty: the agent's name says it.
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "ours, the paper's recipe": {"rl2": PAPERS_PRESETS, "rl2_paper": ()},
    "ours, best-scratch": {"rl2_best_scratch": ()},
    "ours, best": {"rl2_best": ()},
}


def summary(number: int, rows: list[ScoredRow]) -> str:
    """A Markdown table of the trained agents of all cells."""
    header = ["setup", "paper's RL²", *COLUMNS, "best reference agent", "limit"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for task, scores in SCORES[number].scores.items():
        of_task = [row for row in rows if row.task == task]
        cells = [short(task), f"{scores['rl2']:g}"]
        for wanted in COLUMNS.values():
            found = [row for row in of_task if _is_wanted(row, wanted)]
            cells.append(_score(best_row(found)) if found else "–")
        best = best_reference(of_task)
        cells.append(f"{_score(best)} {agent_name(best.agent)}" if best else "–")
        limit = documented(of_task).get((task, LIMIT))
        cells.append(_limit(limit) if limit else "–")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _is_wanted(row: ScoredRow, wanted: dict[str, tuple[str, ...]]) -> bool:
    presets = wanted.get(row.agent)
    return presets is not None and (not presets or row.preset in presets)


def _limit(row: ScoredRow) -> str:
    error = row.standard_error  # an exact value has none
    return f"{row.mean:.2f}" + (f" ± {error:.2f}" if error else "")


def _score(row: ScoredRow) -> str:
    part = trained_part(row)
    so_far = "" if part is None else f" after {part[0]} of {part[1]} iterations"
    if row.preset == "paper-first-order":
        so_far += ", first-order"
    if shortcuts(row):
        so_far += ", shortened"
    score = format_score(row.mean, row.standard_error)
    return score.removesuffix(" (standard error)").replace("+-", "±") + so_far


def with_tables(text: str) -> str:
    """The README's text with its tables as the rows on disk have them."""
    for number in SCORES:
        text = put_table(text, f"table {number}", summary(number, read_results(RESULTS / f"table{number}")))
    return text


def rewrite() -> None:
    """Rewrites the tables in place."""
    write_atomically(README, with_tables(README.read_text()))


if __name__ == "__main__":
    rewrite()
