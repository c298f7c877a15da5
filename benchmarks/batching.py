"""Packing by token budget beside padded batches and single documents, on documents as they come.

    python benchmarks/batching.py

One model, real documents of all lengths, every one once: packed end to end into batches of a token
budget, as Longspan trains; one document a batch; and in rectangles of as many documents as long as
the longest of them, in random order and grouped by length, as padding collators make them (the
model computes the padding, as others do). Every way runs in a fresh process, in turns, the median
counts. About three minutes on two idle cores, reckoned. The table is printed, the last line is JSON, and the
result goes to benchmarks/results/ and docs/speed.md.
"""

import argparse
import os
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fresh_process import in_fresh_process
from hardware import describe_machine
from memory import peak_bytes
from real_lengths import real_documents
from reporting import with_table, write_result
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from training_runs import ROOT

from longspan.batch import Feature, PackedBatch, pack
from longspan.config import ModelConfig, OptimConfig
from longspan.cost.heap import keep_pages
from longspan.data.batching import training_batches
from longspan.model.encoder import Encoder
from longspan.training.optim import build_optimizer

RESULT = ROOT / "benchmarks/results/batching.json"
PAGE = ROOT / "docs/speed.md"
WAYS = {
    "packed": "packed by token budget",
    "one": "one document a batch",
    "padded": "rectangles, random order",
    "grouped": "rectangles, grouped by length",
}
GROUP = 50  # batches' worth of documents that the Trainer's `group_by_length` sorts at a time
Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    runs: list[Row] = []
    for turn in range(arguments.repeats):
        for way in list(WAYS)[:: -1 if turn % 2 else 1]:
            given = (way, vars(arguments))
            runs.append({"way": way} | in_fresh_process(measure, *given, limit_gib=20))
    summary = summarise(runs)
    Console().print(as_table(summary))
    result = {
        "benchmark": "batching",
        "date": date.today().isoformat(),
        **describe_machine(),
        "load_average_before": load_before,
        **{k: v for k, v in vars(arguments).items() if k != "output"},
        "data": real_documents(1)[0],
        "summary": summary,
        "runs": runs,
    }
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "batching", as_markdown(summary)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--number", type=int, default=40, help="of documents")
    parser.add_argument("--longest", type=int, default=4096, help="tokens of a document")
    parser.add_argument("--budget", type=int, default=8192, help="tokens of a packed batch")
    parser.add_argument("--documents", type=int, default=8, help="of a rectangle")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def measure(way: str, arguments: Row) -> Row:
    """Seconds and peak memory of training steps over all documents, after one to warm up."""
    keep_pages()
    torch.manual_seed(0)
    _, documents = real_documents(arguments["number"])
    documents = [document[: arguments["longest"]] for document in documents]
    groups = group(way, [len(document) for document in documents], arguments)
    batches = [as_batch([documents[row] for row in rows], way) for rows in groups]
    model = torch.nn.ModuleDict(
        {
            "encoder": Encoder(
                ModelConfig(
                    vocab_size=8192,
                    hidden_size=arguments["hidden"],
                    num_heads=arguments["hidden"] // 64 or 1,
                    num_layers=arguments["layers"],
                    window=arguments["window"],
                    hidden_dropout=0.0,
                )
            ),
            "head": torch.nn.Linear(arguments["hidden"], 2),
        }
    ).train()
    optimizer = build_optimizer(model, arguments["layers"], OptimConfig())
    in_bf16 = arguments["dtype"] == "bfloat16"

    def step(batch: PackedBatch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            hidden = model["encoder"](batch)
            logits = model["head"](hidden.index_select(0, batch.cu_seqlens[:-1].long()))
        labels = torch.zeros(len(logits), dtype=torch.long)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    step(batches[0])
    started = time.perf_counter()
    peak = peak_bytes(lambda: [step(batch) for batch in batches] and None)
    seconds = time.perf_counter() - started
    tokens, given = sum(map(len, documents)), sum(batch.num_tokens for batch in batches)
    return {
        "tokens_per_second": tokens / seconds,
        "share_of_padding": 1 - tokens / given,
        "batches": len(batches),
        "tokens": tokens,
        "longest": max(map(len, documents)),
        "peak_bytes": peak,
    }


def group(way: str, lengths: list[int], arguments: Row) -> list[list[int]]:
    """Which documents share a batch."""
    if way == "packed":
        specs = training_batches(lengths, budget=arguments["budget"], seed=0, epoch=0)[0]
        return [list(spec.rows) for spec in specs]
    order = np.random.default_rng(0).permutation(len(lengths)).tolist()
    size = arguments["documents"]
    if way == "one":
        return [[row] for row in order]
    if way == "grouped":  # as the Trainer does: longest first within a group of batches
        spans = [order[i : i + GROUP * size] for i in range(0, len(order), GROUP * size)]
        order = [row for span in spans for row in sorted(span, key=lambda r: -lengths[r])]
    return [order[i : i + size] for i in range(0, len(order), size)]


def as_batch(documents: list[np.ndarray], way: str) -> PackedBatch:
    """End to end; of a rectangle with the padding as if it were text."""
    if way in ("padded", "grouped"):
        longest = max(map(len, documents))
        documents = [np.pad(x, (0, longest - len(x))) for x in documents]
    cls = np.zeros(1, np.int32)
    return pack([Feature(str(i), x, cls) for i, x in enumerate(documents)])


def summarise(runs: list[Row]) -> list[Row]:
    """Median and spread of every way, and how much faster packing is."""
    rates = {w: [r["tokens_per_second"] for r in runs if r["way"] == w] for w in WAYS}
    summary = []
    for way, found in rates.items():
        own = [run for run in runs if run["way"] == way]
        summary.append(
            {
                "way": way,
                "tokens_per_second": median(found),
                "lowest": min(found),
                "highest": max(found),
                "packing_is_faster": median(rates["packed"]) / median(found),
                "share_of_padding": own[0]["share_of_padding"],
                "batches": own[0]["batches"],
                "peak_bytes": max(run["peak_bytes"] for run in own),
            }
        )
    return summary


HEADS = ("batches are", "tokens/s", "lowest – highest", "packing is faster", "padding", "peak GiB")


def cells(row: Row) -> list[str]:
    return [
        WAYS[row["way"]],
        f"{row['tokens_per_second']:,.0f}",
        f"{row['lowest']:,.0f} – {row['highest']:,.0f}",
        "" if row["way"] == "packed" else f"{row['packing_is_faster']:.1f} ×",
        f"{row['share_of_padding']:.0%}",
        f"{row['peak_bytes'] / 2**30:.2f}",
    ]


def as_table(summary: list[Row]) -> Table:
    table = Table(title="Batches of documents as they come", box=SIMPLE)
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right")
    for row in summary:
        table.add_row(*cells(row))
    return table


def as_markdown(summary: list[Row]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in summary)])


if __name__ == "__main__":
    main()
