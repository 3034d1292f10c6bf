"""The README's tables: trained agents beside the paper's, the best reference agent and the limit; from rows alone."""

from pathlib import Path

from experiments.documents import put_table
from rl2jax.files import write_atomically
from rl2jax.results.pages.tables import (
    LIMIT,
    PAPERS_PRESETS,
    Row,
    best_documented,
    read_results,
    short,
    shortcuts,
    trained_part,
)
from rl2jax.results.published import TABLES, agent_name
from rl2jax.results.rows import format_score

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "experiments" / "results"
# Column -> agents of its rows, each with the presets that they may have; empty: the agent's name says it.
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "ours, the paper's recipe": {"rl2": PAPERS_PRESETS, "rl2_paper": ()},
    "ours, best-scratch": {"rl2_best_scratch": ()},
    "ours, best": {"rl2_best": ()},
}


def summary(number: int, rows: list[Row]) -> str:
    """A Markdown table of the trained agents of all cells."""
    published = TABLES[number]
    chosen = best_documented(rows)
    header = ["setup", "paper's RL²", *COLUMNS, "best reference agent", "limit"]
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for task, scores in published.scores.items():
        cells = [short(task), f"{scores['rl2']:g}"]
        for wanted in COLUMNS.values():
            found = [r for r in rows if r["task"] == task and _is_wanted(r, wanted)]
            cells.append(_score(max(found, key=lambda r: (r["iteration"], r["num_tasks"]))) if found else "–")
        references = [r for (of, agent), r in chosen.items() if of == task and _is_reference(agent, r)]
        best = max(references, key=lambda r: r["mean"], default=None)
        cells.append(f"{_score(best)} {agent_name(best['agent'])}" if best else "–")
        limit = chosen.get((task, LIMIT))
        cells.append(_limit(limit) if limit else "–")
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _is_wanted(row: Row, wanted: dict[str, tuple[str, ...]]) -> bool:
    presets = wanted.get(row["agent"])
    return presets is not None and (not presets or row.get("preset") in presets)


def _limit(row: Row) -> str:
    error = row.get("standard_error")  # an exact value has none
    return f"{row['mean']:.2f}" + (f" ± {error:.2f}" if error else "")


def _is_reference(agent: str, row: Row) -> bool:
    return agent != LIMIT and not agent.startswith("rl2") and agent != "imitation" and row["num_tasks"] >= 10_000


def _score(row: Row) -> str:
    part = trained_part(row)
    so_far = "" if part is None else f" after {part[0]} of {part[1]} iterations"
    if row.get("preset") == "paper-first-order":
        so_far += ", first-order"
    if shortcuts(row):
        so_far += ", shortened"
    return format_score(row).removesuffix(" (standard error)").replace("+-", "±") + so_far


def with_tables(text: str) -> str:
    """The README's text with its tables as the rows on disk have them."""
    for number in TABLES:
        text = put_table(text, f"table {number}", summary(number, read_results(RESULTS / f"table{number}")))
    return text


def rewrite() -> None:
    """Rewrites the tables in place."""
    write_atomically(README, with_tables(README.read_text()))


if __name__ == "__main__":
    rewrite()
