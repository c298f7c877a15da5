"""The picture of the training-step benchmark: tokens a second and memory of every contender."""

from pathlib import Path
from typing import Any

from contenders import NAMES
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS, THEIRS = "#20527c", "#b9c2cb"


def draw(summary: list[dict[str, Any]], file: Path) -> None:
    """A line of two axes for each setting."""
    settings = list(dict.fromkeys((r["data"], r["window"], r["dtype"]) for r in summary))
    figure = Figure(figsize=(11, 0.6 + 2.1 * len(settings)), layout="constrained")
    for axes, setting in zip(figure.subplots(len(settings), 2, squeeze=False), settings):
        rows = [r for r in summary if (r["data"], r["window"], r["dtype"]) == setting][::-1]
        data, window, dtype = setting
        bars(axes[0], rows, "tokens_per_second", 1, "tokens that are not padding, a second")
        bars(axes[1], rows, "peak_bytes", 2**30, "peak memory, GiB")
        what = "one full-length document" if data == "full" else "real documents"
        axes[0].set_title(f"{what}, W = {window}, {dtype}", loc="left", fontsize=9)
        axes[1].set_yticklabels([])
    figure.savefig(file, dpi=150)


def bars(axes: Axes, rows: list[dict[str, Any]], key: str, unit: float, label: str) -> None:
    """A bar for each contender; the reason where it has none."""
    names = [NAMES[row["model"]] for row in rows]
    values = [row.get(key, 0) / unit for row in rows]
    colours = [OURS if name.startswith("Longspan") else THEIRS for name in names]
    axes.barh(names, values, color=colours)
    for place, (row, value) in enumerate(zip(rows, values)):
        text = (
            row["failed"].partition(":")[0]
            if "failed" in row
            else f"{value:,.0f}"
            if value > 100
            else f"{value:.1f}"
        )
        axes.text(value, place, f" {text}", va="center", fontsize=7)
    axes.set_xlabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
