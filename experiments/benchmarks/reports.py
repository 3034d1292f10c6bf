"""What becomes of benchmark rows: a Markdown table, a roofline, and a comparison with earlier rows. Reads rows only."""

from typing import Any

import matplotlib.figure

from rl2jax.tables import readable_tasks

Row = dict[str, Any]

# A shared machine's ratios move by this much between runs.
TOLERANCE = 0.25
# Ratios that should not fall, and what should not grow; times are not compared.
HIGHER_IS_BETTER = ("of_floor", "speedup")
LOWER_IS_BETTER = ("memory_bytes",)
# Rows with the same of these measure the same thing.
SAME = ("platform", "task", "part", "batch_size", "gru_units", "threads")


def identity(row: Row) -> tuple:
    """What a row measures."""
    return tuple(row.get(field) for field in SAME)


def regressions(rows: list[Row], reference: list[Row], tolerance: float = TOLERANCE) -> list[str]:
    """A line for every ratio that is worse than the reference's by more than `tolerance`.

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
                found.append(f"{new['task']} {new['part']}: {field} {new[field]:.3g}, was {old[field]:.3g}")
    return found


def rate(steps_per_second: float) -> str:
    """Two digits: "1.2 M", "340 k"."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if steps_per_second >= size:
            value = steps_per_second / size
            return f"{value:.{1 if value < 10 else 0}f}{letter}"
    return f"{steps_per_second:.0f}"


def to_markdown(rows: list[Row]) -> str:
    """The machine, parts against their floors, compilation and memory, and other ways to write it."""
    lines = [_machine(rows), ""]
    lines += ["| task | part | time | steps/s | floor | floor / time |", "|---|---|---:|---:|---:|---:|"]
    for row in rows:
        if "of_floor" in row and "speedup" not in row:
            low, high = row["of_floor_range"]
            lines.append(
                f"| {_task(row)} | {row['part']} | {row['seconds']:.3g} s | {rate(row['steps_per_second'])} "
                f"| {row['floor_seconds']:.2g} s | {row['of_floor']:.2f} ({low:.2f} to {high:.2f}) |"
            )
    lines += [
        "",
        "| task | program | compiled cold | from the cache | arrays | process |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "cached_compile_seconds" in row:
            memory = f"{row['memory_bytes'] / 1e9:.2f} GB | {row['max_rss_bytes'] / 1e9:.2f} GB"
            cold, cached = row["compile_seconds"], row["cached_compile_seconds"]
            lines.append(f"| {_task(row)} | {row['part']} | {cold:.1f} s | {cached:.1f} s | {memory} |")
    beside = [row for row in rows if "speedup" in row]
    if beside:
        lines += [
            "",
            "| task | other loop | its floor / time | its steps/s | ours | ratio |",
            "|---|---|---:|---:|---:|---:|",
        ]
    for row in beside:
        ours = row["steps_per_second"] * row["speedup"]
        share = f"{row['of_floor']:.2f}" if "of_floor" in row else ""
        rates = f"{rate(row['steps_per_second'])} | {rate(ours)} | {row['speedup']:.2g}"
        version = f" ({row['torch']})" if "torch" in row else ""
        lines.append(f"| {_task(row)} | {row['part']}{version} | {share} | {rates} |")
    return "\n".join(lines) + "\n"


def _machine(rows: list[Row]) -> str:
    m = rows[0]["machine"]
    ours = [row for row in rows if "speedup" not in row]
    peaks = [row["peak_operations_per_second"] / 1e9 for row in ours]
    copies = [row["peak_bytes_per_second"] / 1e9 for row in ours]
    return (
        f"{m['processor']}, {m['cores']} cores, {m['device']}, JAX {m['jax']}, commit {m['commit']}, {m['date']}; "
        f"load before the run {m['load']:.1f}; while it ran, matrix products at {min(peaks):.0f} to {max(peaks):.0f} "
        f"GFLOP/s and copies at {min(copies):.1f} to {max(copies):.1f} GB/s."
    )


def _task(row: Row) -> str:
    return f"{row['task']}, {row['batch_size']:,} steps"


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
