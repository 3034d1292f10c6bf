"""What becomes of benchmark rows: tables, a roofline, and comparisons with bars and earlier rows. Reads rows only."""

import math
from typing import Any, NamedTuple

import matplotlib.figure

from experiments.benchmarks.parts import ITERATIONS
from experiments.benchmarks.predict import predicted_seconds
from rl2jax.results.pages.tables import readable_tasks
from rl2jax.results.published import PAPERS_BATCH

Row = dict[str, Any]

# A shared machine's ratios move by this much between runs.
TOLERANCE = 0.25
# Ratios that should not fall, and what should not grow; times are not compared.
HIGHER_IS_BETTER = ("of_floor", "speedup")
LOWER_IS_BETTER = ("memory_bytes",)
# Rows with the same of these measure the same thing.
SAME = ("platform", "task", "part", "batch_size", "gru_units", "devices", "matmul_precision", "threads")


class Regression(NamedTuple):
    """A ratio that has become worse.

    Attributes:
      row: the new one.
      field: of the row, which is worse.
      was: what the earlier row has.
    """

    row: Row
    field: str
    was: float

    def __str__(self) -> str:
        return f"{self.row['task']} {self.row['part']}: {self.field} {self.row[self.field]:.3g}, was {self.was:.3g}"

    def is_again(self, other: "Regression") -> bool:
        """Whether another measurement of the same is worse, too."""
        return (identity(self.row), self.field) == (identity(other.row), other.field)


class Bar(NamedTuple):
    """What the project asks of one number of its rows, on two idle cores.

    Attributes:
      text: what is asked.
      task: of the rows.
      part: how the name of the part begins; of several such rows the one with most steps a second counts.
      field: of the row.
      bound: at least this for ratios, less than this for seconds and bytes.
      batch_size: at which it is asked; None: at any.
    """

    text: str
    task: str
    part: str
    field: str
    bound: float
    batch_size: int | None = None


_FEW, _MANY = "bandit:k=5,n=10", "bandit:k=50,n=500"
_FIRST_ORDER, _NATURAL = "first-order iteration in PyTorch", "natural-gradient iteration in PyTorch"
_PYTHON = "rollout, step by step in Python, network in"
BARS = (
    Bar("floor / time of an iteration >= 0.6", _FEW, "iteration", "of_floor", 0.6, PAPERS_BATCH),
    Bar("floor / time of an iteration >= 0.4", _MANY, "iteration", "of_floor", 0.4, PAPERS_BATCH),
    Bar("2.5 times PyTorch's first-order iteration", _FEW, _FIRST_ORDER, "speedup", 2.5),
    Bar("2.5 times PyTorch's natural-gradient iteration", _FEW, _NATURAL, "speedup", 2.5),
    Bar("1.5 times PyTorch's first-order iteration", _MANY, _FIRST_ORDER, "speedup", 1.5),
    Bar("1.5 times PyTorch's natural-gradient iteration", _MANY, _NATURAL, "speedup", 1.5),
    Bar("100 times the rollout in Python, network in PyTorch", _FEW, f"{_PYTHON} PyTorch", "speedup", 100.0),
    Bar("100 times the rollout in Python, network in PyTorch", _MANY, f"{_PYTHON} PyTorch", "speedup", 100.0),
    Bar("100 times the rollout in Python, network in NumPy", _FEW, f"{_PYTHON} NumPy", "speedup", 100.0),
    Bar("100 times the rollout in Python, network in NumPy", _MANY, f"{_PYTHON} NumPy", "speedup", 100.0),
    Bar("an iteration compiled in less than 15 s", _FEW, "iteration", "compile_seconds", 15.0),
    Bar("an iteration compiled in less than 15 s", _MANY, "iteration", "compile_seconds", 15.0),
    Bar("found in the cache in less than 3 s", _FEW, "iteration", "cached_compile_seconds", 3.0),
    Bar("found in the cache in less than 3 s", _MANY, "iteration", "cached_compile_seconds", 3.0),
    Bar("memory of an iteration under 12 GiB", _MANY, "iteration", "memory_bytes", 12 * 2**30, PAPERS_BATCH),
)
_UNITS = {"compile_seconds": (1.0, ".1f", " s"), "cached_compile_seconds": (1.0, ".1f", " s")}
_UNITS |= {"memory_bytes": (2**30, ".2f", " GiB"), "of_floor": (1.0, ".2f", ""), "speedup": (1.0, ".3g", " times")}


def identity(row: Row) -> tuple:
    """What a row measures."""
    return tuple(row.get(field) for field in SAME)


def regressions(rows: list[Row], reference: list[Row], tolerance: float = TOLERANCE) -> list[Regression]:
    """Every ratio that is worse than the reference's by more than `tolerance`.

    Args:
      rows: new ones.
      reference: earlier ones, of the same platform.
      tolerance: 0.25: three quarters of the reference's ratio, or 4/3 of its memory, still pass.

    Raises:
      ValueError: if no row has a counterpart.
    """
    earlier = {identity(row): row for row in reference}
    pairs = [(row, earlier[identity(row)]) for row in rows if identity(row) in earlier]
    if not pairs:
        raise ValueError("no earlier row measures the same task, part and batch as any of these")
    found = []
    for new, old in pairs:
        for field in (*HIGHER_IS_BETTER, *LOWER_IS_BETTER):
            if field not in new or field not in old:
                continue
            kept = new[field] / old[field] if field in HIGHER_IS_BETTER else old[field] / new[field]
            if kept < 1.0 - tolerance:
                found.append(Regression(new, field, old[field]))
    return found


def rate(steps_per_second: float) -> str:
    """Two digits: "1.2 M", "340 k"."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if steps_per_second >= size:
            value = steps_per_second / size
            return f"{value:.{1 if value < 10 else 0}f}{letter}"
    return f"{steps_per_second:.0f}"


def to_markdown(rows: list[Row]) -> str:
    """The machine; parts against their floors; compilation and memory; the cost model; other ways to write it."""
    tables = (_floors(rows), _compiled(rows), _planned(rows), _predictions(rows), _beside(rows), _loaded(rows))
    return "\n".join([_machine(rows), *(line for table in tables for line in table)]) + "\n"


def _floors(rows: list[Row]) -> list[str]:
    """Our own parts."""
    chosen = [row for row in rows if "of_floor" in row and "speedup" not in row]
    if not chosen:
        return []
    lines = ["", "| task | part | time | steps/s | floor | floor / time |", "|---|---|---:|---:|---:|---:|"]
    for row in chosen:
        low, high = row["of_floor_range"]
        lines.append(
            f"| {_task(row)} | {row['part']} | {row['seconds']:.3g} s | {rate(row['steps_per_second'])} "
            f"| {row['floor_seconds']:.2g} s | {row['of_floor']:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return lines


def _compiled(rows: list[Row]) -> list[str]:
    """What whole iterations take to compile and to hold."""
    chosen = [row for row in rows if "cached_compile_seconds" in row]
    if not chosen:
        return []
    lines = [
        "",
        "| task | program | compiled cold | from the cache | arrays | process |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in chosen:
        memory = f"{row['memory_bytes'] / 1e9:.2f} GB | {row['max_rss_bytes'] / 1e9:.2f} GB"
        cold, cached = row["compile_seconds"], row["cached_compile_seconds"]
        lines.append(f"| {_task(row)} | {row['part']} | {cold:.1f} s | {cached:.1f} s | {memory} |")
    return lines


def _planned(rows: list[Row]) -> list[str]:
    """Of programs that were compiled and never run."""
    chosen = [row for row in rows if "argument_bytes" in row]
    if not chosen:
        return []
    lines = ["", "| task | program, compiled and not run | planned arrays | arguments |", "|---|---|---:|---:|"]
    for row in chosen:
        planned, arguments = (row[name] / 2**30 for name in ("memory_bytes", "argument_bytes"))
        lines.append(f"| {_task(row)} | {row['part']} | {planned:.2f} GiB | {arguments:.3f} GiB |")
    return lines


def _predictions(rows: list[Row]) -> list[str]:
    """The cost model beside what was measured, of every whole iteration at the precision that its efficiencies had."""
    chosen = [row for row in rows if row["part"] in ITERATIONS and "of_floor" in row and "matmul_precision" not in row]
    if not chosen:
        return []
    lines = ["", "| task | program | predicted | measured | predicted / measured |", "|---|---|---:|---:|---:|"]
    for row in chosen:
        predicted, measured = predicted_seconds(row), row["seconds"]
        numbers = f"{predicted:.3g} s | {measured:.3g} s | {predicted / measured:.2f}"
        lines.append(f"| {_task(row)} | {row['part']} | {numbers} |")
    return lines


def _loaded(rows: list[Row]) -> list[str]:
    """Trained agents in processes of their own."""
    chosen = [row for row in rows if "recipe" in row]
    if not chosen:
        return []
    lines = ["", "| agent | recipe | trials | seconds of the process | its memory |", "|---|---|---:|---:|---:|"]
    for row in chosen:
        numbers = f"{row['num_trials']:,} | {row['seconds']:.1f} s | {row['max_rss_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {row['name']} | {row['recipe']} | {numbers} |")
    return lines


def _times(ratio: float) -> str:
    """Two digits, or all before the point: "1.9", "18", "111"."""
    return f"{ratio:.{2 if ratio < 99.5 else 3}g}"


def _beside(rows: list[Row]) -> list[str]:
    """Other loops beside ours."""
    beside = [row for row in rows if "speedup" in row]
    if not beside:
        return []
    lines = [
        "",
        "| task | other loop | its floor / time | its steps/s | ours | ratio |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in beside:
        ours = row["steps_per_second"] * row["speedup"]
        share = f"{row['of_floor']:.2f}" if "of_floor" in row else ""
        rates = f"{rate(row['steps_per_second'])} | {rate(ours)} | {_times(row['speedup'])}{_range(row)}"
        version = f" ({row['torch']})" if "torch" in row else ""
        lines.append(f"| {_task(row)} | {row['part']}{version} | {share} | {rates} |")
    return lines


def _range(row: Row) -> str:
    """Of ratios that were measured in turns."""
    if "rounds" not in row:
        return ""
    low, high = row["speedup_range"]
    return f" ({low:.2g} to {high:.2g} in {row['rounds']} turns)"


def against_bars(rows: list[Row]) -> str:
    """A Markdown table of all `BARS`: what was measured, and whether one device, or one for each core, meets it.

    Its last column is the share of the floor that our program would need for a bar on another loop: bar / ratio times
    the share that it has. Above 1 the device would have to be faster than it is.

    Args:
      rows: of all batches, of one platform.
    """
    lines = ["| asked | task | measured | met | floor / time, needed for it |", "|---|---|---:|---|---:|"]
    for bar in BARS:
        row = _row_of(bar, rows)
        value = met = needed = "–"
        if row is not None:
            size, digits, unit = _UNITS[bar.field]
            ratio = _range(row) if bar.field == "speedup" else ""
            value = f"{row[bar.field] / size:{digits}}{unit}{ratio}, {_size(row)}"
            met = "yes" if _is_met(bar, row[bar.field]) else "**no**"
            shared = _row_of(bar, [r for r in rows if r.get("devices", 1) > 1 and r["batch_size"] == row["batch_size"]])
            if met != "yes" and shared is not None:
                met = "yes" if _is_met(bar, shared[bar.field]) else met
                of_shared = _range(shared) if bar.field == "speedup" else ""
                met += f"; {shared[bar.field] / size:{digits}}{unit}{of_shared} on {shared['devices']} devices"
            if bar.batch_size not in (None, row["batch_size"]):
                met += f"; at {bar.batch_size:,} steps not measured"
            ours = _counterpart(row, rows) if bar.field == "speedup" else None
            if ours is not None:
                needed = f"{ours['of_floor'] * bar.bound / row['speedup']:.2f} (has {ours['of_floor']:.2f})"
                if ours["part"] == "iteration":  # rows before there were those of PyTorch's GRU
                    met += "; of other gates"
        lines.append(f"| {bar.text} | {bar.task} | {value} | {met} | {needed} |")
    return "\n".join(lines) + "\n"


def _row_of(bar: Bar, rows: list[Row]) -> Row | None:
    """The row that answers a bar: at its batch if there is one, else the largest; one device; unrounded; fastest.

    Before all that, one that was measured in turns with ours.
    """
    exact = bar.part == "iteration"
    found = [
        row
        for row in rows
        if row["task"] == bar.task
        and bar.field in row
        and (row["part"] == bar.part if exact else row["part"].startswith(bar.part))
    ]
    return max(
        found,
        key=lambda row: (
            "rounds" in row,
            row["batch_size"] == bar.batch_size,
            row["batch_size"],
            -row.get("devices", 1),
            "matmul_precision" not in row,
            row.get("steps_per_second", 0.0),
        ),
        default=None,
    )


def _is_met(bar: Bar, value: float) -> bool:
    return value >= bar.bound if bar.field in HIGHER_IS_BETTER else value < bar.bound


def _counterpart(other: Row, rows: list[Row]) -> Row | None:
    """The row of ours that another loop was compared with: the one whose rate its ratio gives."""
    rate_of_ours = other["steps_per_second"] * other["speedup"]
    for row in rows:
        same = (row["task"], row["batch_size"]) == (other["task"], other["batch_size"])
        if same and "of_floor" in row and math.isclose(row["steps_per_second"], rate_of_ours, rel_tol=1e-9):
            return row
    return None


def _machine(rows: list[Row]) -> str:
    m = rows[0]["machine"]
    text = f"{m['processor']}, {m['cores']} cores, {m['device']}, JAX {m['jax']}, commit {m['commit']}, {m['date']}"
    ours = [row for row in rows if "of_floor" in row and "speedup" not in row]
    if not ours:  # nothing was run
        return f"{text}."
    peaks = [row["peak_operations_per_second"] / 1e9 for row in ours]
    copies = [row["peak_bytes_per_second"] / 1e9 for row in ours]
    return (
        f"{text}; load before the run {m['load']:.1f}; while it ran, matrix products at {min(peaks):.0f} to "
        f"{max(peaks):.0f} GFLOP/s and copies at {min(copies):.1f} to {max(copies):.1f} GB/s."
    )


def _task(row: Row) -> str:
    return f"{row['task']}, {_size(row)}"


def _size(row: Row) -> str:
    devices = f", {row['devices']} devices" if "devices" in row else ""
    precision = f", {row['matmul_precision']}" if "matmul_precision" in row else ""
    return f"{row['batch_size']:,} steps{devices}{precision}"


def roofline(rows: list[Row]) -> matplotlib.figure.Figure:
    """Achieved share of the matrix-product peak over operations per byte, each point under its own roof.

    Both axes are in units of the device as it was while a part ran: x = 1 is where operations and bytes take
    equally long, so that all parts share one roof.
    """
    parts = [row for row in rows if "of_floor" in row and "speedup" not in row]
    figure = matplotlib.figure.Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    tasks = list(dict.fromkeys(row["task"] for row in parts))
    names = list(dict.fromkeys(row["part"] for row in parts))
    points = [_place(row) for row in parts]
    low, high = min(0.1, *(x for x, _ in points)) / 2, max(10.0, *(x for x, _ in points)) * 2
    axes.plot([low, 1.0, high], [low, 1.0, 1.0], color="0.3", linewidth=1.2, zorder=1)
    for row, (x, y) in zip(parts, points, strict=True):
        colour, marker = f"C{names.index(row['part'])}", "osD^v"[tasks.index(row["task"]) % 5]
        axes.scatter(x, y, color=colour, marker=marker, s=36, edgecolors="white", linewidths=0.5, zorder=2)
    for index, name in enumerate(names):
        axes.scatter([], [], color=f"C{index}", label=name)
    for index, task in enumerate(tasks):
        axes.scatter([], [], facecolors="none", edgecolors="0.2", marker="osD^v"[index % 5], label=readable_tasks(task))
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations per byte, in units of peak / bandwidth",
        ylabel="share of the matrix-product peak",
        title="Parts of an iteration under the roof",
    )
    axes.title.set_fontsize(10)
    axes.set_ylim(top=1.3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_axisbelow(True)
    axes.grid(color="0.9", linewidth=0.5)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _place(row: Row) -> tuple[float, float]:
    """(intensity in units of the ridge's, share of the peak reached)."""
    peak, bandwidth = row["peak_operations_per_second"], row["peak_bytes_per_second"]
    intensity = row["operations"] / row["bytes"] * bandwidth / peak
    return intensity, min(1.0, intensity) * row["of_floor"]
