"""Pictures of an evaluation: confusion matrix, main metric by length and by depth, needles."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from longspan.data.needle import cell_of
from longspan.terminal import on_one_line
from longspan.training.module import Task
from longspan.training.report import by_depth, by_length

MAX_CLASSES = 40  # more make a matrix that nobody can read
LABEL_WIDTH = 30  # characters of a class's name


def draw_figures(task: Task, predictions: Sequence[Any], folder: Path) -> dict[str, Path]:
    """Draw what the predictions allow.

    Returns:
        figure name to PNG file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metric = task.monitor[0]
    figures = {f"{metric}_by_length": _by_length(metric, by_length(task, predictions))}
    if depths := by_depth(task, predictions):
        figures[f"{metric}_by_depth"] = _by_depth(metric, depths)
    has_classes = 0 < len(task.labels) <= MAX_CLASSES
    known = [p for p in predictions if isinstance(p.gold, str)] if has_classes else []
    if known:
        figures["confusion_matrix"] = _confusion_matrix(task.labels, known)
    needles = by_length_and_depth(task, predictions)
    if needles:
        figures["exact_match_by_length_and_depth"] = heat_map(needles)
    files = {}
    for name, figure in figures.items():
        files[name] = folder / f"{name}.png"
        figure.savefig(files[name], dpi=120)
    return files


def by_length_and_depth(task: Task, predictions: Sequence[Any]) -> dict[tuple[int, int], float]:
    """Exact match of the needles at each (length, depth); nothing for other questions."""
    cells: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for prediction in predictions:
        cell = cell_of(prediction.id)
        if cell is not None:
            cells[cell].append(prediction)
    metrics = {cell: task.metrics(chosen) for cell, chosen in cells.items()}
    return {cell: m["exact_match"] for cell, m in metrics.items() if "exact_match" in m}


def heat_map(cells: Mapping[tuple[int, int], float]) -> Figure:
    """Exact match over length, to the right, and depth, downwards.

    Args:
        cells: (length in tokens, depth in per cent) to exact match; some may be missing.
    """
    lengths, depths = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    grid = np.array([[cells.get((n, d), np.nan) for n in lengths] for d in depths])
    size = (2.6 + 0.9 * len(lengths), 1.8 + 0.5 * len(depths))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(grid, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths])
    axes.set(xlabel="tokens of question and document", ylabel="depth of the fact")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            color = "white" if value < 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    figure.colorbar(image, label="exact match")
    return figure


def _by_length(metric: str, rows: list[dict[str, Any]]) -> Figure:
    rows = [row for row in rows if metric in row]
    names = [f"≤ {row['up_to']:,}" if row["up_to"] else f"> {row['above']:,}" for row in rows]
    return _bars(metric, names, rows, "tokens of the document, before truncation")


def _by_depth(metric: str, rows: list[dict[str, Any]]) -> Figure:
    rows = [row for row in rows if metric in row]
    names = [f"{100 * row['from']:.0f}–{100 * row['to']:.0f} %" for row in rows]
    return _bars(metric, names, rows, "where in the document the answer begins")


def _bars(metric: str, names: list[str], rows: list[dict[str, Any]], xlabel: str) -> Figure:
    figure = Figure(figsize=(1.2 + 1.1 * max(3, len(rows)), 3.6), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(names, [row[metric] for row in rows], color="#4878a8", width=0.7)
    axes.bar_label(bars, [f"{row[metric]:.2f}\nn={row['documents']}" for row in rows], padding=2)
    axes.set(xlabel=xlabel, ylabel=metric)
    axes.margins(y=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion_matrix(labels: list[str], predictions: Sequence[Any]) -> Figure:
    place = {name: i for i, name in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for p in predictions:
        counts[place[p.gold], place[p.predicted]] += 1
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = 2.4 + 0.6 * len(labels)
    figure = Figure(figsize=(size + 0.6, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [_shortened(on_one_line(label)) for label in labels]
    # labels are names, not formulas: "$" has no meaning in them
    axes.set_xticks(range(len(labels)), names, rotation=40, ha="right", parse_math=False)
    axes.set_yticks(range(len(labels)), names, parse_math=False)
    axes.set(xlabel="predicted", ylabel="gold")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if share[row, column] > 0.6 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure


def _shortened(label: str) -> str:
    return label if len(label) <= LABEL_WIDTH else f"{label[: LABEL_WIDTH - 1]}…"
