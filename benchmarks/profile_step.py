"""What a training step spends its time on, by kind of operation, in processor time.

    python benchmarks/profile_step.py

One batch of random documents goes through forward, backward, clipping and AdamW. Every operation
that reaches PyTorch's kernels is timed alone, by the time that the process spent on its processors:
others who share the machine do not count. What is left over is Python, autograd and the timing
itself; the whole step is measured apart, without it. The tables are printed, the last line is JSON,
and the result goes to benchmarks/results/ and docs/speed.md.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fresh_process import measured_in_fresh_process
from hardware import describe_machine
from memory import peak_bytes, resident_bytes
from reporting import with_table, write_result
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import ROOT

from longspan.config import ClassificationConfig, Config, DataConfig, MaskedLMConfig, ModelConfig
from longspan.cost.documents import Documents
from longspan.cost.heap import keep_pages
from longspan.forecast.steps import random_batch
from longspan.tasks.classification import Classification
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.training.module import LongDocumentModule, Task
from longspan.training.optim import build_optimizer

# 8 documents of 743 tokens in the mean, the longest of 4,096
MIX = (4096, 620, 410, 290, 210, 150, 100, 68)
RESULT = ROOT / "benchmarks/results/profile_step.json"
PAGE = ROOT / "docs/speed.md"
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
MODELS: dict[str, dict[str, Any]] = {
    "own": {},
    "longformer": {
        "norm_position": "post", "positions": "learned", "global_projections": "separate",
        "type_vocab_size": 1,
    },
}  # fmt: skip

# Kinds of operations, and the beginnings of their names without `aten::`; the first that fits.
KINDS = {
    "matrix product": ("mm", "addmm", "bmm", "baddbmm", "_addmm", "linear", "mkldnn", "mv"),
    "attention": ("attention", "_scaled_dot_product"),
    "norms and activation": ("native_layer_norm", "_fused_rms_norm", "rms_norm", "gelu", "silu"),
    "dropout": ("native_dropout", "bernoulli", "drop"),
    "embedding": ("embedding",),
    "loss": ("_log_softmax", "nll_loss", "binary_cross_entropy"),
    "casts": (),  # copies into another dtype
    "copies": ("_to_copy", "copy", "clone", "cat", "index", "contiguous", "split_with_sizes_copy"),
    "fill": ("zero", "fill", "new_zeros", "full", "ones", "zeros"),
}


@dataclass(frozen=True)
class Case:
    """One configuration of a step."""

    name: str
    lengths: tuple[int, ...]
    dtype: str
    model: str
    task: str
    layers: int
    hidden: int
    heads: int
    window: int
    vocabulary: int
    dropout: float
    steps: int


def main() -> None:
    arguments = parse_arguments()
    rows = []
    for case in cases(arguments):
        rows.append(asdict(case) | measured_in_fresh_process(measure, case))
        Console().print(as_table(rows[-1]))
    result = {
        "benchmark": "profile_step",
        "date": date.today().isoformat(),
        **describe_machine(),
        "rows": rows,
    }
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "profile_step", as_markdown(rows)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batches", choices=["long", "mix"], nargs="+", default=["long", "mix"])
    parser.add_argument("--tokens", type=int, default=4096, help="of the longest document")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=list(DTYPES))
    parser.add_argument("--model", choices=MODELS, default="own")
    parser.add_argument("--task", choices=["classification", "mlm"], default="classification")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=50_265)
    parser.add_argument("--dropout", type=float, default=0.1, help="on hidden states")
    parser.add_argument("--steps", type=int, default=3, help="measured, after one to warm up")
    parser.add_argument("--output", type=Path, default=RESULT)
    return parser.parse_args()


def cases(arguments: argparse.Namespace) -> list[Case]:
    given = vars(arguments)
    common = {name: given[name] for name in Case.__annotations__.keys() & given.keys()}
    longest = arguments.tokens
    lengths = {
        "long": (longest,),
        "mix": tuple(max(1, length * longest // MIX[0]) for length in MIX),
    }
    return [
        Case(name=batch, lengths=lengths[batch], dtype=dtype, **common)
        for batch in arguments.batches
        for dtype in arguments.dtypes
    ]


class Step:
    """A training step, repeated on one batch."""

    def __init__(
        self, config: Config, task: Task, lengths: Sequence[int], autocast: torch.dtype | None
    ) -> None:
        keep_pages()
        torch.manual_seed(0)
        documents = Documents(lengths, [np.arange(1)] * len(lengths))
        self.batch, self.task = random_batch(config, task, documents), task
        self.module = LongDocumentModule(config, task).train()
        self.optimizer = build_optimizer(self.module, config.model.num_layers, config.optim)
        self.autocast = autocast

    @classmethod
    def of(cls, case: Case) -> "Step":
        return cls(*configure(case), case.lengths, DTYPES[case.dtype])

    def run(self, phase: Callable[[str], Any] = lambda name: None) -> None:
        """One step; `phase` is told what begins."""
        phase("forward")
        with torch.autocast("cpu", self.autocast, enabled=self.autocast is not None):
            loss = self.task.loss(self.module(self.batch), self.batch).sum()
        self.optimizer.zero_grad()
        phase("backward")
        loss.backward()
        phase("clipping")
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        phase("optimizer")
        self.optimizer.step()


def configure(case: Case) -> tuple[Config, Classification | MaskedLM]:
    model = ModelConfig(
        vocab_size=case.vocabulary,
        max_positions=max(case.lengths),
        hidden_size=case.hidden,
        num_layers=case.layers,
        num_heads=case.heads,
        window=case.window,
        hidden_dropout=case.dropout,
        **MODELS[case.model],
    )
    config = Config(model=model, data=DataConfig(max_length=max(case.lengths)))
    if case.task == "mlm":
        own = MaskedLMConfig()
        ordinary = np.arange(case.vocabulary)
        return Config(model=model, data=config.data, task=own), MaskedLM(
            own, Vocabulary(0, ordinary)
        )
    return config, Classification(ClassificationConfig(), ["a", "b"])


class OperationTimes(TorchDispatchMode):
    """Processor seconds and calls of each kind of operation, and of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = ""
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def begin(self, phase: str) -> None:
        self.phase = phase

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        started = time.process_time()
        result = func(*args, **(kwargs or {}))
        seconds = time.process_time() - started
        kind = self.phase
        if self.phase in ("forward", "backward"):
            kind = kind_of(func, args, result)
        self.seconds[kind] += seconds
        self.calls[kind] += 1
        self.operations[f"{kind}: {func}"] += seconds
        return result


def kind_of(func: Any, args: tuple[Any, ...], result: Any) -> str:
    """Of an operation within forward or backward."""
    name = func.name().partition("::")[2]
    if is_cast(name, args, result):
        return "casts"
    for kind, beginnings in KINDS.items():
        if name.startswith(beginnings):
            return kind
    return "elementwise and rest"


def is_cast(name: str, args: tuple[Any, ...], result: Any) -> bool:
    tensors = [x for x in (*args[:2], result) if isinstance(x, torch.Tensor)]
    return name.startswith(("_to_copy", "copy")) and len({x.dtype for x in tensors}) > 1


def measure(case: Case) -> dict[str, Any]:
    """Processor seconds of a step, as a whole and by kind, and the memory that it takes."""
    before = resident_bytes()
    step = Step.of(case)
    step.run()
    whole, peaks = [], []
    for _ in range(case.steps):
        started = time.process_time()
        peaks.append(peak_bytes(step.run))
        whole.append(time.process_time() - started)
    times = OperationTimes()
    for _ in range(case.steps):
        times.begin("")
        with times:
            step.run(times.begin)
    tokens = sum(case.lengths)
    by_kind = {kind: seconds / case.steps for kind, seconds in times.seconds.most_common()}
    return {
        "tokens": tokens,
        "cpu_seconds": median(whole),
        "tokens_per_cpu_second": tokens / median(whole),
        "peak_bytes": max(peaks) - before,
        "seconds_by_kind": by_kind,
        "calls_by_kind": {kind: calls / case.steps for kind, calls in times.calls.items()},
        "operations": {k: s / case.steps for k, s in times.operations.most_common(30)},
    }


def as_table(row: dict[str, Any]) -> Table:
    table = Table(
        title=f"{row['name']}: {row['tokens']:,} tokens, {row['dtype']}, {row['model']}, "
        f"{row['task']}",
        caption=f"a step: {1e3 * row['cpu_seconds']:,.0f} ms of processor time, "
        f"{row['tokens_per_cpu_second']:,.0f} tokens a second of it, "
        f"{row['peak_bytes'] / 2**20:,.0f} MiB at the peak",
        box=SIMPLE,
    )
    table.add_column("kind")
    for name in ("ms", "share", "calls"):
        table.add_column(name, justify="right")
    kinds = row["seconds_by_kind"]
    total = max(sum(kinds.values()), 1e-9)
    for kind, seconds in kinds.items():
        calls = f"{row['calls_by_kind'][kind]:,.0f}"
        table.add_row(kind, f"{1e3 * seconds:,.1f}", f"{seconds / total:.1%}", calls)
    return table


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The page's table, in milliseconds; a test holds it against the committed result."""
    heads = [f"{'one document' if r['name'] == 'long' else 'a mix'}, {r['dtype']}" for r in rows]
    kinds = list(dict.fromkeys(kind for row in rows for kind in row["seconds_by_kind"]))
    lines = [f"| kind | {' | '.join(heads)} |", "|---|" + "---:|" * len(rows)]
    for kind in kinds:
        cells = [f"{1e3 * row['seconds_by_kind'].get(kind, 0):,.0f}" for row in rows]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    whole = [f"{1e3 * row['cpu_seconds']:,.0f}" for row in rows]
    peaks = [f"{row['peak_bytes'] / 2**20:,.0f}" for row in rows]
    lines.append(f"| whole step, measured apart | {' | '.join(whole)} |")
    lines.append(f"| peak memory beside the program, MiB | {' | '.join(peaks)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
