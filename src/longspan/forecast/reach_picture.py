"""Reach, drawn: the cone of one token through the layers, and the lengths that it covers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from longspan.forecast.connected import Connected
from longspan.forecast.table import WIDTH, as_cell, describe

MOST_CONES = 12  # more are not drawn
COLUMNS = 3
BLUE, ORANGE, GREY = "#4878a8", "#d9823b", "#8a8a8a"


def draw_reach(cells: Sequence[Connected], file: Path) -> None:
    """Write a PNG: a cone for each cell, and below them the lengths of the documents."""
    drawn = cells[:MOST_CONES]
    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(max(6.5, 3.7 * columns), 2.3 * rows + 2.9), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.3 * rows, 2.9])
    above, below = parts
    axes = np.atleast_1d(above.subplots(rows, columns, squeeze=False)).ravel()
    for ax, cell in zip(axes, drawn):
        _cone(ax, cell)
    for ax in axes[len(drawn) :]:
        ax.set_axis_off()
    above.suptitle(
        "what influences one token near the middle of a document, layer by layer; ▲ global",
        fontsize=10,
    )
    _lengths(below.subplots(), cells)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)


def _cone(ax: Axes, cell: Connected) -> None:
    example = cell.example
    layers, length = len(example.influencing) - 1, example.num_tokens
    shown = np.where(example.influencing, 1.0, np.nan)
    ax.imshow(
        shown, aspect="auto", origin="lower", cmap="Blues", vmin=0, vmax=1.6,
        extent=(0, length, -0.5, layers + 0.5), interpolation="nearest",
    )  # fmt: skip
    ax.axvline(example.token + 0.5, color=BLUE, linewidth=0.8)
    if len(example.positions):
        ends = np.full(len(example.positions), -0.5)
        ax.plot(example.positions + 0.5, ends, "^", color=ORANGE, clip_on=False, markersize=5)
    step = -(-layers // 6)
    ticks = range(0, layers + 1, step)
    ax.set_yticks(ticks, ["input" if t == 0 else f"after {t}" for t in ticks], fontsize=7)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_ylim(-0.5, layers + 0.5)
    ax.set_xlim(0, length)
    share = example.num_reached / length
    ax.set_title(f"{cell.name or 'model'}\n{example.num_reached:,} tokens, {share:.0%}", fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def _lengths(ax: Axes, cells: Sequence[Connected]) -> None:
    """Share of documents up to each length, and how long one may be for each reach."""
    lengths = np.sort(cells[0].documents.lengths)
    share = np.arange(1, len(lengths) + 1) / len(lengths)
    ax.step([0, *lengths], [0, *share], where="post", color=GREY)
    ax.fill_between([0, *lengths], [0, *share], step="post", color=GREY, alpha=0.15)
    reach = {c.summed_windows for c in cells if c.summed_windows is not None}
    for total in sorted(reach):
        ax.axvline(total + 1, color=BLUE, linewidth=1)
        ax.annotate(
            f"{total:,}", (total + 1, 1.0), xycoords=("data", "axes fraction"), rotation=90,
            fontsize=7, color=BLUE, ha="right", va="top", xytext=(-2, -3),
            textcoords="offset points",
        )  # fmt: skip
    ax.set_xlim(0, 1.05 * max([*lengths, *(total + 1 for total in reach)]))
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("tokens of a document", fontsize=8)
    ax.set_ylabel("share of documents", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.set_title(
        "documents left of a line are connected by windows alone: Σ W of the cells", fontsize=9
    )
    ax.spines[["top", "right"]].set_visible(False)


def show_reach(cells: Sequence[Connected], console: Console) -> None:
    """Print a row a cell."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    table = Table(title="reach")
    table.add_column("cell", no_wrap=True)
    has_answers = any(cell.answers is not None for cell in cells)
    names = ["layers", "Σ W each side", "every pair", "first to last"]
    for name in [*names, *["question to answer"] * has_answers, "found by gradient"]:
        table.add_column(name, justify="right")
    for cell in cells:
        total, example = cell.summed_windows, cell.example
        share = cell.answers_connected
        table.add_row(
            as_cell(cell.name),
            str(cell.model.num_layers),
            "everything" if total is None else f"{total:,}",
            f"{cell.every_pair:.1%}",
            f"{cell.first_to_last:.1%}",
            *["–" if share is None else f"{share:.1%}"] * has_answers,
            f"{example.num_reached:,} of {example.num_tokens:,} tokens",
        )
    console.print(table)
    for text in dict.fromkeys(describe(cell.documents) for cell in cells):
        console.print(text, highlight=False)
