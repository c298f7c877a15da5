"""Time and memory of one layer's attention, by document length and window.

    python benchmarks/attention.py

One document with one global token. Our backends stand beside PyTorch's
`scaled_dot_product_attention` with the same pattern as a dense mask, and without a mask (full
attention). Every configuration runs in a fresh process, the sides of a comparison in turns.
`matmul_share.py` says how near the processor's limit the backends come. The table is printed, the
last line is JSON, and results and picture go to benchmarks/results/.
"""

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import torch
import torch.nn.functional as F
from attention_picture import draw, kinds, series
from fresh_process import measured_in_fresh_process
from hardware import describe_machine
from memory import peak_bytes, resident_bytes
from reporting import write_result
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from longspan.attention import AttentionPlan, Pattern, attend
from longspan.attention.plan import build_block_table
from longspan.cost.heap import keep_pages

ROOT = Path(__file__).parents[1]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LEAST_SECONDS = 0.3  # short calls are repeated for this long

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One configuration.

    Attributes:
        attention: a backend of longspan, or `masked` or `full` for PyTorch's with and without
            the dense mask.
        window: one-sided reach W; None for full attention.
        block_size: queries a block of the backend `blocked`; None = its own choice.
    """

    attention: str
    tokens: int
    window: int | None
    heads: int
    head_size: int
    dtype: str
    block_size: int | None
    repeats: int


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    rows = measure_all(arguments)
    console = Console(width=max(Console().width, 100))
    console.print(as_table(rows))
    result = {
        "benchmark": "attention",
        "date": date.today().isoformat(),
        **describe_machine(),
        **{k: getattr(arguments, k) for k in ("dtypes", "heads", "head_size", "block_size")},
        "global_tokens": 1,
        "load_average_before": load_before,
        "exponents": exponents(rows),
        "rows": rows,
    }
    for line in result["exponents"]:
        console.print("{dtype} {attention}, window {window}: time ~ T^{time:.2f}, memory ~ T^{memory:.2f}"
                      .format_map(line), highlight=False)  # fmt: skip
    write_result(result, arguments.output)
    if arguments.output:
        draw(rows, arguments.output.with_suffix(".png"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096, 16384, 65536])
    parser.add_argument("--windows", type=int, nargs="+", default=[16, 64, 256, 512])
    parser.add_argument("--backends", nargs="+", default=["native", "blocked"])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-size", type=int, default=32)
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--block-size", type=int, help="of `blocked`, instead of its own choice")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls, of which the median")
    parser.add_argument("--masked-up-to", type=int, default=8192, help="tokens of a dense mask")
    parser.add_argument("--max-seconds", type=float, default=20, help="a call of full attention")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/attention.json")
    return parser.parse_args()


# --- measuring ----------------------------------------------------------------------------------


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every configuration; those that are too large hold no numbers but the reason."""
    rows: list[dict[str, Any]] = []
    for case in track(cases(arguments), console=Console(stderr=True)):
        reason = too_large(case, arguments, rows)
        numbers = {"skipped": reason} if reason else measured_in_fresh_process(measure, case)
        names = ("dtype", "attention", "tokens", "window")
        rows.append({name: getattr(case, name) for name in names} | numbers)
    return rows


def cases(arguments: argparse.Namespace) -> list[Case]:
    names = ("heads", "head_size", "block_size", "repeats")
    common = {name: getattr(arguments, name) for name in names}
    chosen = []
    for dtype, tokens in product(arguments.dtypes, sorted(arguments.tokens)):
        for window in arguments.windows:
            for attention in (*arguments.backends, "masked"):
                chosen.append(Case(attention, tokens, window, dtype=dtype, **common))
        chosen.append(Case("full", tokens, None, dtype=dtype, **common))
    return chosen


def too_large(case: Case, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """Why a configuration is not measured; full attention is estimated from shorter documents."""
    if case.attention == "masked" and case.tokens > arguments.masked_up_to:
        return f"--masked-up-to {arguments.masked_up_to}"
    measured = series(rows, attention="full", dtype=case.dtype)
    if case.attention == "full" and measured:
        longest = measured[-1]
        growth = (case.tokens / longest["tokens"]) ** 2
        if growth * longest["forward_backward_seconds"] > arguments.max_seconds:
            return f"--max-seconds {arguments.max_seconds:g}"
    return ""


def measure(case: Case) -> dict[str, Any]:
    """Median times, and peak memory over what the process held with the inputs alone."""
    keep_pages()
    torch.manual_seed(0)
    warm_up(case)
    q, k, v, out_gradient = random_inputs(case, case.tokens)
    memory_before = resident_bytes()
    started = time.perf_counter()
    attention = make_attention(case, case.tokens)

    def forward() -> None:
        with torch.no_grad():
            attention(q, k, v)

    def forward_backward() -> None:
        torch.autograd.grad(attention(q, k, v), (q, k, v), out_gradient)

    first_forward_bytes = peak_bytes(forward) - memory_before
    first_forward_seconds = time.perf_counter() - started
    return {
        # the first call makes the plan's tables or the mask, once a batch; the others hold them
        "first_forward_seconds": first_forward_seconds,
        "first_forward_bytes": first_forward_bytes,
        "forward_bytes": peak_bytes(forward) - memory_before,
        "forward_backward_bytes": peak_bytes(forward_backward) - memory_before,
        "forward_seconds": median_seconds(forward, case.repeats),
        "forward_backward_seconds": median_seconds(forward_backward, case.repeats),
    }


def warm_up(case: Case) -> None:
    """Load code, start threads, fill the matrix library's buffers: they count for no length."""
    q, k, v, out_gradient = random_inputs(case, 256)
    torch.autograd.grad(make_attention(case, 256)(q, k, v), (q, k, v), out_gradient)


def random_inputs(case: Case, tokens: int) -> list[Tensor]:
    """q, k, v and the gradient of the output."""
    shape = (tokens, case.heads, case.head_size)
    inputs = [torch.randn(shape, dtype=DTYPES[case.dtype]) for _ in range(4)]
    return [x.requires_grad_() for x in inputs[:3]] + inputs[3:]


def make_attention(case: Case, tokens: int) -> Attention:
    """The function of q, k and v, (T, H, E) each, with whatever it needs to know beforehand."""
    if case.attention == "full":
        return lambda q, k, v: torch_attention(q, k, v, None)
    pattern = Pattern(case.window)
    global_mask = torch.zeros(tokens, dtype=torch.bool)
    global_mask[0] = True
    if case.attention == "masked":
        bias = dense_bias(pattern, global_mask, DTYPES[case.dtype])
        return lambda q, k, v: torch_attention(q, k, v, bias)
    cu_seqlens = torch.tensor([0, tokens], dtype=torch.int32)
    plan = AttentionPlan(cu_seqlens, global_mask, pattern)
    if case.block_size and case.attention == "blocked":
        plan.block_table = build_block_table(plan, case.block_size)
    return lambda q, k, v: attend(q, k, v, plan, backend=case.attention)  # pyright: ignore


def dense_bias(pattern: Pattern, global_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(T, T), added to the scores: PyTorch would make it of a boolean mask at every call.

    Made piece by piece, so that the peak of memory is the matrix and not its making.
    """
    position = torch.arange(len(global_mask))
    bias = torch.zeros(len(position), len(position), dtype=dtype)
    for query, rows in zip(position.split(256), bias.split(256), strict=True):
        seen = pattern.near(query[:, None], position) | global_mask[query, None] | global_mask
        rows.masked_fill_(~seen, -math.inf)
    return bias


def torch_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    q_HTE, k_HTE, v_HTE = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q_HTE, k_HTE, v_HTE, attn_mask=bias)
    return out[0].transpose(0, 1)


def median_seconds(call: Callable[[], None], repeats: int) -> float:
    durations: list[float] = []
    while len(durations) < repeats or sum(durations) < LEAST_SECONDS:
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return median(durations)


# --- showing ------------------------------------------------------------------------------------


def exponents(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Powers of T that time and memory of forward and backward grow with.

    Without the shortest length, where the overhead of a call counts, if there are three or more.
    """
    fits = []
    for dtype, attention, window in kinds(rows):
        chosen = series(rows, dtype=dtype, attention=attention, window=window)
        chosen = chosen[len(chosen) > 2 :]
        if len(chosen) > 1:
            lengths = [math.log(row["tokens"]) for row in chosen]
            time, memory = (
                linear_regression(lengths, [math.log(max(row[key], 1e-9)) for row in chosen]).slope
                for key in ("forward_backward_seconds", "forward_backward_bytes")
            )
            kind = {"dtype": dtype, "attention": attention, "window": window}
            fits.append(kind | {"time": time, "memory": memory})
    return fits


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="Attention of one layer",
        caption="plan: once a batch, of the tables or the mask; "
        "both: forward and backward; ×: both beside the first of the same dtype, T and W",
        box=SIMPLE,
    )
    for name in ("dtype", "T", "W", "attention"):
        table.add_column(name, justify="right" if len(name) == 1 else "left", no_wrap=True)
    for name in ("plan ms", "forward ms", "both ms", "×", "forward MiB", "both MiB"):
        table.add_column(name, justify="right")
    for row in rows:
        window = "" if row["window"] is None else str(row["window"])
        cells = [row["dtype"], f"{row['tokens']:,}", window, row["attention"]]
        table.add_row(*cells, *(["–"] * 6 if "skipped" in row else as_cells(row, rows)))
    return table


def as_cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    first = next(
        other
        for other in rows
        if (other["dtype"], other["tokens"]) == (row["dtype"], row["tokens"])
        and row["window"] in (other["window"], None)
    )
    plan_seconds = max(row["first_forward_seconds"] - row["forward_seconds"], 0)
    ratio = row["forward_backward_seconds"] / first["forward_backward_seconds"]
    seconds = (plan_seconds, row["forward_seconds"], row["forward_backward_seconds"])
    memory = (row["forward_bytes"], row["forward_backward_bytes"])
    return [
        *(f"{1e3 * x:,.1f}" for x in seconds),
        f"{ratio:.1f}",
        *(f"{x / 2**20:,.0f}" for x in memory),
    ]


if __name__ == "__main__":
    main()
