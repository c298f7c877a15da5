"""What a run says at its end: metrics overall and by document length, speed, memory, folder."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longspan.errors import UserError
from longspan.terminal import printable
from longspan.training.module import Task
from longspan.training.run_folder import RunFolder

LENGTH_BOUNDS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288)
COLUMN_WIDTH = 10  # characters of a metric's name on one line
DEPTH_PARTS = 5  # equal parts of a document, by where its answer begins


def breakdown(task: Task, predictions: Sequence[Any]) -> dict[str, Any]:
    """What a report says of predictions: `metrics`, and the same in parts of them.

    Returns:
        `metrics` and `by_length`, and `by_depth` and `by_length_and_depth` where documents say
        where in them the answer stands.
    """
    measured = {
        "metrics": task.metrics(predictions),
        "by_length": by_length(task, predictions),
        "by_depth": by_depth(task, predictions),
        "by_length_and_depth": by_length_and_depth(task, predictions),
    }
    return {name: found for name, found in measured.items() if found or "depth" not in name}


def by_length(task: Task, predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Metrics of the documents of each length, counted before truncation.

    Returns:
        rows of `above`, `up_to` (None = no bound), `documents` and the metrics, shortest first.
    """
    return [row | _measure(task, chosen) for row, chosen in _of_each_length(predictions)]


def by_depth(task: Task, predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Metrics of the documents whose answer begins at each depth (`Prediction.depth`).

    Returns:
        rows of `from`, `to` (shares of the document), `documents` and the metrics, the beginning
        first; documents without a depth are in none.
    """
    return [row | _measure(task, chosen) for row, chosen in _of_each_depth(predictions)]


def by_length_and_depth(task: Task, predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Metrics of the documents of each length and depth: the cells of a heat map, as rows."""
    return [
        length | depth | _measure(task, chosen)
        for length, those in _of_each_length(predictions)
        for depth, chosen in _of_each_depth(those)
    ]


def _of_each_length(predictions: Sequence[Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    for above, up_to in zip((0, *LENGTH_BOUNDS), (*LENGTH_BOUNDS, None), strict=True):
        chosen = [
            p
            for p in predictions
            if above < p.length + p.tokens_cut
            and (up_to is None or p.length + p.tokens_cut <= up_to)
        ]
        if chosen:
            yield {"above": above, "up_to": up_to}, chosen


def _of_each_depth(predictions: Sequence[Any]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    depths = [getattr(p, "depth", None) for p in predictions]  # other tasks have no answers
    for part in range(DEPTH_PARTS):
        chosen = [
            p
            for p, depth in zip(predictions, depths, strict=True)
            if depth is not None and min(int(depth * DEPTH_PARTS), DEPTH_PARTS - 1) == part
        ]
        if chosen:
            yield {"from": part / DEPTH_PARTS, "to": (part + 1) / DEPTH_PARTS}, chosen


def _measure(task: Task, predictions: list[Any]) -> dict[str, Any]:
    return {"documents": len(predictions)} | task.metrics(predictions)


def show(summary: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a report as a person reads it."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file has no width of its own
    if summary.get("metrics"):
        console.print(metric_table(summary["split"], summary["metrics"], summary["by_length"]))
    if summary.get("by_depth"):
        console.print(depth_table(summary["split"], summary["by_depth"]))
    if "tokens_per_second" in summary:
        console.print(
            f"{summary['tokens_per_second']:,.0f} tokens/s in training · "
            f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB · "
            f"{summary['parameters']:,} parameters · {summary['steps']:,} steps in "
            f"{summary['seconds']:,.0f} s",
            highlight=False,
            soft_wrap=True,
        )
    where = printable(f"run folder: {folder}")
    console.print(Text(where), soft_wrap=True)


def show_again(folder: RunFolder) -> dict[str, Any]:
    """Print the report that a finished run wrote, and return it.

    Raises:
        UserError: it is damaged.
    """
    summary = folder.read_report()
    try:
        show(summary, folder.path)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder.report_file} is damaged ({error!r}); remove it, and the same command "
            "finishes the run again"
        ) from error
    return summary


def metric_table(split: str, overall: dict[str, float], rows: list[dict[str, Any]]) -> Table:
    """One row for all documents and one for each range of lengths."""
    total = sum(row["documents"] for row in rows)
    names = _shown(overall)
    table = _table(f"{split}: {total} documents, by tokens before truncation", "tokens", names)
    table.add_row("all", str(total), *_cells(overall, names), style="bold")
    for row in rows:
        span = f"{row['above'] + 1:,}–{row['up_to']:,}" if row["up_to"] else f"> {row['above']:,}"
        table.add_row(span, str(row["documents"]), *_cells(row, names))
    return table


def depth_table(split: str, rows: list[dict[str, Any]]) -> Table:
    """One row for each part of the document in which answers begin."""
    total = sum(row["documents"] for row in rows)
    measured = {name: value for row in rows for name, value in row.items()}
    names = [name for name in _shown(measured) if name not in ("from", "to", "documents")]
    title = f"{split}: {total} documents with an answer, by its depth"
    table = _table(title, "depth", names)
    for row in rows:
        span = f"{100 * row['from']:.0f}–{100 * row['to']:.0f} %"
        table.add_row(span, str(row["documents"]), *_cells(row, names))
    return table


def _shown(measured: dict[str, Any]) -> list[str]:
    return [name for name in measured if not name.endswith("_thresh")]  # these are no scores


def _table(title: str, first: str, names: list[str]) -> Table:
    table = Table(title=Text(printable(title)))
    for name in (first, "documents", *names):
        table.add_column(Text(_in_lines(printable(name))), justify="right")
    return table


def _in_lines(name: str) -> str:
    """A name that is too long for a column, broken behind its underscores."""
    lines = textwrap.wrap(name.replace("_", "_ "), COLUMN_WIDTH, break_long_words=False)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def _cells(row: dict[str, Any], names: list[str]) -> list[str]:
    return [f"{row[name]:.4f}" if name in row else "–" for name in names]
