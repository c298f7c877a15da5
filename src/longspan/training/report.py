"""What a run says at its end: metrics overall and by document length, speed, memory, folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from longspan.training.module import Task

LENGTH_BOUNDS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288)


def by_length(task: Task, predictions: Sequence[Any]) -> list[dict[str, Any]]:
    """Metrics of the documents of each length, counted before truncation.

    Returns:
        rows of `above`, `up_to` (None = no bound), `documents` and the metrics, shortest first.
    """
    rows = []
    for above, up_to in zip((0, *LENGTH_BOUNDS), (*LENGTH_BOUNDS, None), strict=True):
        chosen = [
            p
            for p in predictions
            if above < p.length + p.tokens_cut
            and (up_to is None or p.length + p.tokens_cut <= up_to)
        ]
        if chosen:
            row = {"above": above, "up_to": up_to, "documents": len(chosen)}
            rows.append(row | task.metrics(chosen))
    return rows


def show(summary: dict[str, Any], folder: Path, console: Console | None = None) -> None:
    """Print a report as a person reads it."""
    console = console or Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a file has no width of its own
    if summary.get("metrics"):
        console.print(metric_table(summary["split"], summary["metrics"], summary["by_length"]))
    if "tokens_per_second" in summary:
        console.print(
            f"{summary['tokens_per_second']:,.0f} tokens/s in training · "
            f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB · "
            f"{summary['parameters']:,} parameters · {summary['steps']:,} steps in "
            f"{summary['seconds']:,.0f} s",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


def metric_table(split: str, overall: dict[str, float], rows: list[dict[str, Any]]) -> Table:
    """One row for all documents and one for each range of lengths."""
    total = sum(row["documents"] for row in rows)
    table = Table(title=f"{split}: {total} documents, by tokens before truncation")
    table.add_column("tokens", justify="right")
    table.add_column("documents", justify="right")
    for name in overall:
        table.add_column(name, justify="right")
    table.add_row("all", str(total), *(f"{value:.4f}" for value in overall.values()), style="bold")
    for row in rows:
        span = f"{row['above'] + 1:,}–{row['up_to']:,}" if row["up_to"] else f"> {row['above']:,}"
        cells = (f"{row[name]:.4f}" if name in row else "–" for name in overall)
        table.add_row(span, str(row["documents"]), *cells)
    return table
