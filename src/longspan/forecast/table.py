"""Forecasts as a person reads them."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longspan.attention import Pattern
from longspan.cost.documents import Documents
from longspan.forecast.calibration import Rates
from longspan.forecast.forecast import Forecast
from longspan.terminal import printable

WIDTH = 160  # of a file, which has no width of its own
KINDS = {
    "process": "process",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "activations": "activations",
    "attention": "attention",
    "logits": "logits",
    "workspace": "backward",
    "heap": "holes",
}


def show(forecasts: Sequence[Forecast], rates: Sequence[Rates], console: Console) -> None:
    """Print operations and time, memory by kind, and what both rest on."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(cost_table(forecasts))
    console.print(memory_table(forecasts))
    for text in [*dict.fromkeys(describe(f.documents) for f in forecasts), *map(_said, rates)]:
        console.print(text, highlight=False)


def cost_table(forecasts: Sequence[Forecast]) -> Table:
    """One row a cell: parameters, operations, time."""
    table = Table(title="GFLOPs of the mean document; batches of an epoch; time of training")
    table.add_column("cell", no_wrap=True)
    for name in (
        "parameters", "projections", "MLP", "attention", "forward",
        "training", "batches", "s/batch", "tokens/s", "in all",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for f in forecasts:
        forward = f.forward
        number = f.batches.number
        table.add_row(
            as_cell(f.name),
            f"{f.parameters:,}",
            *(f"{x / 1e9:,.2f}" for x in (forward.projections, forward.mlp, forward.attention)),
            f"{forward.total / 1e9:,.2f}",
            f"{f.training.total / 1e9:,.2f}",
            "–" if number is None else f"{number:,.0f}",
            "–" if f.step_seconds is None else f"{f.step_seconds:,.2f}",
            "–" if f.tokens_per_second is None else f"{f.tokens_per_second:,.0f}",
            "–" if f.total_seconds is None else duration(f.total_seconds),
        )
    return table


def memory_table(forecasts: Sequence[Forecast]) -> Table:
    """One row a cell: gibibytes by kind of tensor, and the largest batch."""
    table = Table(title="GiB at the peak of training, by tokens of a batch")
    table.add_column("cell", no_wrap=True)
    table.add_column("tokens", justify="right")
    for name in KINDS.values():
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")
    table.add_column("most that fit", justify="right")
    for f in forecasts:
        sizes = (getattr(f.memory, kind) for kind in KINDS)
        table.add_row(
            as_cell(f.name),
            f"{f.batches.largest:,}",
            *(f"{size / 2**30:.2f}" for size in sizes),
            f"{f.memory.total / 2**30:.2f}",
            "none" if f.largest_budget is None else f"{f.largest_budget:,}",
        )
    return table


def as_cell(name: str) -> Text:
    """The name of a cell as a table's cell: brackets and colons are no markup of Rich's."""
    return Text(printable(name) or "–")


def describe(documents: Documents) -> str:
    """Which documents were counted for."""
    tokens = f"{documents.mean_length:,.0f} tokens, {documents.mean_globals:,.1f} of them global"
    if documents.are_read:
        return f"documents: {len(documents)} of the training split; the mean one has {tokens}"
    return f"documents: none read; all are taken to have data.max_length, {tokens}"


def duration(seconds: float) -> str:
    """`4 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _said(rates: Rates) -> str:
    attention = ", ".join(
        f"{1e9 * seconds:,.1f} at {_pattern(pattern)}"
        for pattern, seconds in rates.attention.items()
    )
    return (
        f"measured on {rates.tokens:,} tokens: linear layers {rates.linear / 1e9:,.1f} GFLOP/s; "
        f"attention, ns a pair, {attention}; µs a token: rest of a block {1e6 * rates.rest:.2f}, "
        f"embeddings and head {1e6 * rates.ends:.2f}; optimiser "
        f"{1e9 * rates.optimizer:.1f} ns a parameter; a batch {1e3 * rates.overhead:.1f} ms"
    )


def _pattern(pattern: Pattern) -> str:
    if pattern.is_plain:
        return f"window {'null' if pattern.window is None else pattern.window}"
    return str(pattern)
