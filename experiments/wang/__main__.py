"""`make reproduce-wang`: the experiments of Wang et al. 2016 and 2018; resumable at any point."""

import argparse
from html import escape
from pathlib import Path

from rich.console import Console

from experiments.messages import in_one_line
from experiments.wang import bandits, dependent, harlow, informative, navigation, restless, two_step
from experiments.wang.study import PRESETS, Plan, Study, is_complete, rows_of
from rl2jax import xla
from rl2jax.files import write_atomically
from rl2jax.results.pages.figures import LIGHT
from rl2jax.results.pages.page import PAGE, document, figure_element, provenance, svg
from rl2jax.results.rows import MeasuredRow, read_rows

RESULTS = Path(__file__).resolve().parents[1] / "results" / "wang"
EVALUATION_SEED = 1
STUDIES = {m.STUDY.name: m.STUDY for m in (bandits, dependent, informative, restless, two_step, harlow, navigation)}


def write_report(results: Path) -> None:
    """Figures, a list of claims and a page, from the rows on disk alone."""
    found: list[tuple[Study, list[MeasuredRow]]] = []
    for study in STUDIES.values():
        path = results / f"{study.name}.json"
        rows = read_rows(path) if path.exists() else []
        if is_complete(study, rows):
            found.append((study, rows))
    lines, parts = ["# Wang et al. 2016 and 2018", ""], ["<h1>Wang et al. 2016 and 2018</h1>"]
    for study, rows in found:
        study.draw(rows, LIGHT).savefig(results / f"{study.name}.png", dpi=150)
        drawing = svg(study.draw(rows, PAGE), study.title)  # in the page's colours, for `rl2jax report`, too
        write_atomically(results / f"{study.name}.svg", drawing)
        claims = study.claims(rows)
        lines += [f"## {study.title}", "", f"![{study.title}](wang/{study.name}.png)", ""]
        lines += [f"- {'yes' if claim.holds else '**no**'}: {claim.text}" for claim in claims] + [""]
        items = [
            f"<li>{'yes' if claim.holds else '<strong>no</strong>'}: {escape(claim.text)}</li>" for claim in claims
        ]
        parts += [f"<h2>{escape(study.title)}</h2>", figure_element(drawing, study.title), f"<ul>{''.join(items)}</ul>"]
    parts += ["<h2>How every number was made</h2>", provenance([row for _, rows in found for row in rows])]
    write_atomically(results.with_suffix(".md"), "\n".join(lines))
    write_atomically(results.with_suffix(".html"), document("Wang et al. 2016 and 2018", parts))


def main() -> None:
    """Runs what is not done yet, and ends with figures and a page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.wang", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="cpu", help="of the trainings (default cpu)")
    parser.add_argument("--only", choices=list(STUDIES), nargs="+", default=list(STUDIES), help="experiments")
    parser.add_argument("--seed", type=int, default=0, help="first training seed")
    parser.add_argument("--iterations", type=int, help="in place of each experiment's own")
    parser.add_argument("--out", type=Path, help="folder of the runs (default runs/wang/PRESET)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    a = parser.parse_args()
    console = Console(highlight=False)
    out = a.out or Path("runs/wang") / a.preset
    plan = Plan(a.preset, a.seed, EVALUATION_SEED, out, a.results, console, a.iterations)
    a.results.mkdir(parents=True, exist_ok=True)
    with in_one_line():
        for name in a.only:
            for claim in STUDIES[name].claims(rows_of(STUDIES[name], plan)):
                console.print(f"{'yes' if claim.holds else 'no '}: {claim.text}", soft_wrap=True)
            write_report(a.results)
    console.print(f"figures and page: {a.results}.(md, html)", soft_wrap=True)


if __name__ == "__main__":
    xla.prepare()
    main()
