"""The picture of the scaling benchmark: time a token and peak memory, by length."""

from pathlib import Path
from typing import Any

from attention_picture import COLOURS
from matplotlib.figure import Figure


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """One line for each thing that was measured; a flat line of time is linear growth."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for what, colour in zip(dict.fromkeys(row["what"] for row in rows), COLOURS, strict=False):
        own = [row for row in rows if row["what"] == what]
        tokens = [row["tokens"] for row in own]
        # from the fastest to the slowest of the repeats, around the median
        middle, fastest, slowest = (
            [1e6 * row[key] / row["tokens"] for row in own]
            for key in ("seconds", "fastest_seconds", "slowest_seconds")
        )
        time_axes.plot(tokens, middle, marker=".", color=colour, label=what)
        time_axes.vlines(tokens, fastest, slowest, color=colour)
        peaks = [row["peak_bytes"] / 2**30 for row in own]
        memory_axes.plot(tokens, peaks, marker=".", color=colour, label=what)
    time_axes.set(title="time", ylabel="µs a token", ylim=(0, None))
    memory_axes.set(title="peak memory of the process", ylabel="GiB", ylim=(0, None))
    lengths = sorted({row["tokens"] for row in rows})
    for axes in (time_axes, memory_axes):
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{n:,}" for n in lengths], rotation=30)
        axes.set_xlabel("tokens of the document")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=150)
