"""How near attention comes to the processor's limit: its share of the rate of a large product.

    python benchmarks/matmul_share.py

Work counts as useful where the pattern needs it: 2W + 1 keys a query, and for each pair of query
and key seven products of a head's size (two forward, five backward), of two operations a number.
Pairs that are computed and masked away, softmax and copies count for nothing. The rate beside
it is that of one large matrix product in the same process, timed in turns with attention. The table
is printed, the last line is JSON, and the result goes to benchmarks/results/ and docs/attention.md.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from fresh_process import measured_in_fresh_process
from hardware import describe_machine
from reporting import with_table, write_result
from training_runs import ROOT

from longspan.attention import AttentionPlan, Pattern, attend
from longspan.cost.heap import keep_pages

RESULT = ROOT / "benchmarks/results/matmul_share.json"
PAGE = ROOT / "docs/attention.md"
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


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    rows = measure_all(arguments)
    table = as_markdown(rows)
    print(table)
    result = {
        "benchmark": "matmul_share",
        "date": date.today().isoformat(),
        **describe_machine(),
        "load_average_before": load_before,
        "rows": rows,
    }
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "matmul_share", table))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--backends", nargs="+", default=["native", "blocked"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--matmul", type=int, default=2048, help="rows of square matrices")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every backend, dtype and window, each measured in a fresh process."""
    names = ("tokens", "heads", "head_size", "matmul", "repeats")
    common = {name: getattr(arguments, name) for name in names}
    rows = []
    for dtype, window in product(arguments.dtypes, arguments.windows):
        for attention in arguments.backends:
            case = ShareCase(attention, dtype, window=window, **common)
            rows.append(asdict(case) | measured_in_fresh_process(measure_share, case))
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


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [
        "| dtype | W | backend | ms | matrix product, GFLOP/s | share |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["dtype"], str(row["window"]), row["attention"]]
        cells.append(f"{1e3 * row['forward_backward_seconds']:,.0f}")
        cells.append(f"{row['matmul_flops_per_second'] / 1e9:,.0f}")
        cells.append(f"{row['share_of_matmul_rate']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
