"""Tables 1 and 2 of the paper beside ours: a line a setup, a column an agent. Reads rows only."""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from rl2jax.results.pages.tables import Cell, FewerTasks, Line, Section, Table, short
from rl2jax.results.published import PAPERS_BATCH, RECIPE_COLUMNS, SCORES, TRAINED, agent_name
from rl2jax.results.rows import LIMIT, PAPERS_PRESETS, EvaluationRow, ScoredRow, documented

_ONE_SIDED = NormalDist().inv_cdf(0.95)
_BOLD = {
    "large": "Bold: no other agent of the line is significantly better (one-sided paired t-test on common tasks, of "
    "two agents that were never compared an unpaired test of their means; p < 0.05, not adjusted for the number of "
    "agents).",
    "paper": "Bold, paper's protocol: the same with an unpaired t-test on 1000 tasks.",
}


def build(number: int, rows: Sequence[ScoredRow], everything: bool = False) -> Table:
    """Table `number`; setups without any row are left out.

    Args:
      number: 1 or 2.
      rows: of any tasks.
      everything: also the agents that the paper does not have.
    """
    published = SCORES[number]
    chosen = {place: row for place, row in documented(rows).items() if place[0] in published.scores}
    present = {agent for _, agent in chosen}
    columns = published.columns | {agent: head for agent, head in RECIPE_COLUMNS.items() if agent in present}
    if everything:
        columns |= {agent: agent_name(agent) for agent in sorted(present - {*columns, LIMIT})}
    columns |= {LIMIT: "limit"} if LIMIT in present else {}
    lines, notes = {}, []
    for task in published.scores:
        found = {agent: chosen[task, agent] for agent in columns if (task, agent) in chosen}
        if found:
            best = _best(found, [row for row in rows if row.task == task])
            lines[task] = Line(short(task), _cells(columns, found, published.scores[task], best))
            notes += _notes(columns, short(task), found)
    notes += _provenance([row for (task, _), row in chosen.items() if task in lines])
    section = Section(columns, lines, corner="setup", has_shares=True)
    return Table(published.title, ("task", "agent"), [section] if lines else [], notes)


def _cells(
    columns: Iterable[str], found: dict[str, ScoredRow], published: dict[str, float], best: set[str]
) -> dict[str, Cell]:
    """A line, by column."""
    limit = found[LIMIT].mean if LIMIT in found else None
    cells = {}
    for agent in columns:
        row, trained = found.get(agent), agent in TRAINED
        if row is None:
            cells[agent] = Cell(None, published=published.get(agent), trained=trained)
            continue
        is_limit, error = agent == LIMIT, row.standard_error
        share = row.mean / limit if limit and not is_limit else None
        count = None if is_limit else row.num_tasks
        cells[agent] = Cell(row.mean, error, published.get(agent), count, agent in best, share, trained)
    return cells


def _notes(columns: dict[str, str], setup: str, found: dict[str, ScoredRow]) -> list[FewerTasks | str]:
    """What is to be said of the agents of a line."""
    notes: list[FewerTasks | str] = []
    most = max((row.num_tasks for agent, row in found.items() if agent != LIMIT), default=0)
    for agent, row in found.items():
        if agent != LIMIT and row.num_tasks < most:
            notes.append(FewerTasks(columns[agent], setup, row.num_tasks, most))
        if (part := trained_part(row)) is not None:
            notes.append(f"{columns[agent]}, {setup}: after {part[0]} of {part[1]} iterations.")
        if cuts := shortcuts(row):
            listed = " and ".join(filter(None, (", ".join(cuts[:-1]), cuts[-1])))
            notes.append(f"{columns[agent]}, {setup}: trained with {listed}.")
    return notes


def trained_part(row: ScoredRow) -> tuple[int, int] | None:
    """(iterations done, iterations of its settings) of an agent whose training was not finished; else None."""
    done, wanted = row.iteration, (row.hyperparameters or {}).get("iterations")
    return (done, wanted) if done is not None and wanted is not None and done < wanted else None


def shortcuts(row: ScoredRow) -> list[str]:
    """What made the training of an agent by the paper's recipe cheaper than the recipe is; of other agents nothing."""
    if row.agent != "rl2_paper" and row.preset not in PAPERS_PRESETS:
        return []
    settings, cuts = row.hyperparameters or {}, []
    if (steps := settings.get("batch.size", PAPERS_BATCH)) < PAPERS_BATCH:
        cuts.append(f"batches of {steps} steps")
    if (share := settings.get("trpo.fisher_fraction", 1.0)) < 1:
        cuts.append(f"Fisher products of {share:g} of the trials")
    if settings.get("network.matmul_precision") == "bfloat16":
        cuts.append("products rounded to bfloat16")
    return cuts


def _best(line: dict[str, ScoredRow], rows: Iterable[ScoredRow]) -> set[str]:
    """Of the agents that are shown, those that none of them is significantly better than; none without tests.

    An agent may have been in several comparisons (`rows`, of one task). It is below whatever beat it in one of them.
    Agents that never met are held against each other by their means and standard errors.
    """
    tested = {agent: row for agent, row in line.items() if _better(row) is not None}
    above = {agent: {other for other in tested if _is_above(tested[other], row)} for agent, row in tested.items()}
    for row in rows:
        shown = tested.get(row.agent)
        if shown is not None and row.parameters_sha256 == shown.parameters_sha256:  # the same agent
            above[row.agent].update(_better(row) or [])
    return {agent for agent, names in above.items() if not names & tested.keys()}


def _better(row: ScoredRow) -> list[str] | None:
    """Agents that were significantly better in the row's comparison; None without one."""
    return row.significantly_better if isinstance(row, EvaluationRow) else None


def _is_above(row: ScoredRow, other: ScoredRow) -> bool:
    """Whether a mean is significantly larger than another, one-sided and unpaired.

    On common tasks, where scores rise and fall together, this finds less than a test in pairs, and nothing else.
    """
    if row.standard_error is None or other.standard_error is None:
        return False
    return row.mean - other.mean > _ONE_SIDED * math.hypot(row.standard_error, other.standard_error)


def _provenance(rows: Iterable[ScoredRow]) -> list[str]:
    """How trained agents were trained, and what bold means."""
    trainings = {(row.preset or row.recipe, row.training_seed) for row in rows if row.training_seed is not None}
    protocols = {row.protocol for row in rows if isinstance(row, EvaluationRow)}
    return [
        f"RL² trained with {'settings of its own' if how is None else f'preset {how}'}, seed {seed}."
        for how, seed in sorted(trainings, key=str)
    ] + [text for protocol, text in _BOLD.items() if protocol in protocols]
