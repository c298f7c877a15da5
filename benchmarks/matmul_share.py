"""How near attention comes to the processor's limit: its share of the rate of a large product.

Work counts as useful where the pattern needs it: 2W + 1 keys a query, and for each pair of query
and key seven products of a head's size (two forward, five backward), of two operations a number.
Pairs that are computed and masked away, softmax and copies count for nothing. The rate beside
it is that of one large matrix product in the same process, timed in turns with attention.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

import torch
from fresh_process import measured_in_fresh_process
from rich.box import SIMPLE
from rich.table import Table

from longspan.attention import AttentionPlan, Pattern, attend
from longspan.cost.machine import keep_pages

PRODUCTS = 2 + 5  # a pair: scores and output; in the backward also what recomputing costs


@dataclass(frozen=True)
class ShareCase:
    """One configuration; `matmul` is the side of the square matrices beside it."""

    attention: str
    dtype: str
    tokens: int
    window: int
    heads: int
    head_size: int
    matmul: int
    repeats: int


def add_share_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--share-tokens", type=int, default=4096)
    parser.add_argument("--share-windows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--share-heads", type=int, default=12)
    parser.add_argument("--share-head-size", type=int, default=64)
    parser.add_argument("--share-matmul", type=int, default=2048, help="rows of square matrices")
    parser.add_argument("--share-repeats", type=int, default=15)


def measure_shares(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every backend, dtype and window, each measured in a fresh process."""
    names = ("tokens", "heads", "head_size", "matmul", "repeats")
    common = {name: getattr(arguments, f"share_{name}") for name in names}
    rows = []
    for dtype, window in product(arguments.dtypes, arguments.share_windows):
        for attention in arguments.backends:
            case = ShareCase(attention, dtype, window=window, **common)
            numbers = measured_in_fresh_process(measure_share, case)
            row = {name: getattr(case, name) for name in ("dtype", "attention", "tokens", "window")}
            rows.append(row | {"heads": case.heads, "head_size": case.head_size} | numbers)
    return rows


def measure_share(case: ShareCase) -> dict[str, float]:
    """Median seconds of both, the rate of the product, and attention's share of it."""
    keep_pages()
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    a, b = torch.randn(2, case.matmul, case.matmul).to(dtype).unbind()
    shape = (case.tokens, case.heads, case.head_size)
    q, k, v, out_gradient = (torch.randn(shape).to(dtype) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    global_mask = torch.zeros(case.tokens, dtype=torch.bool)
    global_mask[0] = True
    bounds = torch.tensor([0, case.tokens], dtype=torch.int32)
    plan = AttentionPlan(bounds, global_mask, Pattern(case.window))

    def attention() -> object:
        out = attend(*inputs, plan, backend=case.attention)  # pyright: ignore
        return torch.autograd.grad(out, inputs, out_gradient)

    calls: list[Callable[[], object]] = [attention, lambda: a @ b]
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(case.repeats + 1):
        for call, durations in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if repeat:  # the first is warm-up
                durations.append(time.perf_counter() - started)
    attention_seconds, matmul_seconds = (median(durations) for durations in seconds)
    rate = 2 * case.matmul**3 / matmul_seconds
    pairs = case.tokens * (2 * case.window + 1) * case.heads
    useful = 2 * PRODUCTS * pairs * case.head_size
    return {
        "forward_backward_seconds": attention_seconds,
        "matmul_flops_per_second": rate,
        "share_of_matmul_rate": useful / attention_seconds / rate,
    }


def shares_as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Share of the rate of a large matrix product",
        caption="forward and backward; only the 2W + 1 keys that a query sees count",
        box=SIMPLE,
    )
    for name in ("dtype", "T", "W", "attention", "ms", "matmul GFLOP/s", "share"):
        table.add_column(name, justify="left" if name in ("dtype", "attention") else "right")
    for row in rows:
        table.add_row(
            row["dtype"],
            f"{row['tokens']:,}",
            str(row["window"]),
            row["attention"],
            f"{1e3 * row['forward_backward_seconds']:,.1f}",
            f"{row['matmul_flops_per_second'] / 1e9:,.0f}",
            f"{row['share_of_matmul_rate']:.0%}",
        )
    return table
