"""Time and memory of one document, by its length: a training step, and inference in chunks.

    python benchmarks/scaling.py

A training step is forward, backward, clipping and AdamW, in bf16 with gradient checkpointing;
inference is float32 as `predict` does it, with the encoder at once beside it where that is asked
for. Every point is measured in a fresh process, after a warm-up. The table is printed, the last
line is JSON, and results and picture go to benchmarks/results/.
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from fresh_process import measured_in_fresh_process
from hardware import describe_machine
from memory import peak_bytes, resident_bytes
from reporting import write_result
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scaling_picture import draw

from longspan.config import ClassificationConfig, Config, DataConfig, MaskedLMConfig, ModelConfig
from longspan.cost.documents import Documents
from longspan.cost.heap import keep_pages
from longspan.forecast.steps import random_batch
from longspan.model.chunked import encode_in_chunks
from longspan.predict import CHUNK_TOKENS
from longspan.tasks.classification import Classification
from longspan.tasks.masked_lm import MaskedLM, Vocabulary
from longspan.training.module import LongDocumentModule
from longspan.training.optim import build_optimizer

ROOT = Path(__file__).parents[1]
TRAINING, RETURNED = "training step", "training step, pages returned"
IN_CHUNKS, AT_ONCE = "inference in chunks", "inference at once"
RETURN_PAGES = {"LONGSPAN_KEEP_PAGES": "0"}
WARM_UP_TOKENS = 1024  # of inference: code is loaded, threads are started


@dataclass(frozen=True)
class Case:
    """One point.

    Attributes:
        what: TRAINING, RETURNED, IN_CHUNKS or AT_ONCE.
        tokens: of the document; its first is global.
        task: classification or mlm.
        chunk_tokens: of a chunk.
        repeats: timed ones.
    """

    what: str
    tokens: int
    layers: int
    hidden_size: int
    heads: int
    window: int
    vocab_size: int
    task: str
    chunk_tokens: int
    repeats: int

    def config(self) -> Config:
        task = MaskedLMConfig() if self.task == "mlm" else ClassificationConfig()
        model = ModelConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_layers=self.layers,
            num_heads=self.heads,
            window=self.window,
            gradient_checkpointing=True,
        )
        data = DataConfig(max_length=self.tokens, tokens_per_batch=self.tokens)
        return Config(model=model, task=task, data=data)


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    rows = [
        {"what": case.what, "tokens": case.tokens} | measure_case(case)
        for case in track(cases(arguments), console=Console(stderr=True))
    ]
    names = ("layers", "hidden_size", "heads", "window", "vocab_size", "task", "chunk_tokens")
    result = {
        "benchmark": "scaling",
        "date": date.today().isoformat(),
        **describe_machine(),
        **{name: getattr(arguments, name) for name in names},
        "precision": {"training": "bf16-mixed", "inference": "32-true"},
        "load_average_before": load_before,
        "time_per_token": growth(rows),
        "rows": rows,
    }
    Console(width=110).print(as_table(rows))
    for what, ratio in result["time_per_token"].items():
        print(f"{what}: a token of the longest takes {ratio:.2f} × one of the shortest")
    write_result(result, arguments.output)
    if arguments.output:
        draw(rows, arguments.output.with_suffix(".png"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    lengths = {"type": int, "nargs": "*"}
    parser.add_argument("--train", **lengths, default=[4096, 16384, 65536, 131072])
    parser.add_argument("--returned", **lengths, default=[4096, 131072], help="with RETURN_PAGES")
    parser.add_argument("--chunked", **lengths, default=[65536, 1048576])
    parser.add_argument("--at-once", **lengths, default=[65536])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--task", choices=["classification", "mlm"], default="classification")
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK_TOKENS)
    parser.add_argument("--repeats", type=int, default=5, help="timed steps or documents")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/scaling.json")
    return parser.parse_args()


def cases(arguments: argparse.Namespace) -> list[Case]:
    common = {n: v for n, v in vars(arguments).items() if n in Case.__annotations__}
    lengths = {TRAINING: arguments.train, RETURNED: arguments.returned}
    lengths |= {IN_CHUNKS: arguments.chunked, AT_ONCE: arguments.at_once}
    return [Case(what, n, **common) for what, chosen in lengths.items() for n in sorted(chosen)]


# --- measuring ----------------------------------------------------------------------------------


def measure_case(case: Case) -> dict[str, Any]:
    environment = RETURN_PAGES if case.what == RETURNED else {}
    os.environ.update(environment)
    try:
        return measured_in_fresh_process(measure, case)
    finally:
        for name in environment:
            del os.environ[name]


def measure(case: Case) -> dict[str, Any]:
    """Seconds, and resident memory: before, with the weights alone, and at the peak."""
    keep_pages()
    torch.manual_seed(0)
    config, task = case.config(), make_task(case)
    module = LongDocumentModule(config, task)

    def document(tokens: int) -> Callable[[], None]:
        batch = random_batch(config, task, Documents([tokens], [np.array([0])]))
        return make_call(case, module, batch)

    # a first step makes the optimiser's moments, and the heap grows into the ones after it
    call = document(case.tokens)
    warm_up = (
        call if case.what in (TRAINING, RETURNED) else document(min(WARM_UP_TOKENS, case.tokens))
    )
    before = resident_bytes()
    warm_up()
    seconds: list[float] = []
    processor_seconds: list[float] = []  # of all threads: what others on the machine do not change

    def timed() -> None:
        for _ in range(case.repeats):
            started, processor_started = time.perf_counter(), time.process_time()
            call()
            seconds.append(time.perf_counter() - started)
            processor_seconds.append(time.process_time() - processor_started)

    peak = peak_bytes(timed)
    return {
        "seconds": median(seconds),
        "fastest_seconds": min(seconds),
        "slowest_seconds": max(seconds),
        "processor_seconds": median(processor_seconds),
        "tokens_per_second": case.tokens / median(seconds),
        "resident_bytes_before": before,
        "peak_bytes": peak,
    }


def make_task(case: Case) -> Any:
    config = case.config().task
    if isinstance(config, MaskedLMConfig):
        return MaskedLM(config, Vocabulary(0, np.arange(1, case.vocab_size)))
    assert isinstance(config, ClassificationConfig)
    return Classification(config, ["war", "peace"])


def make_call(case: Case, module: LongDocumentModule, batch: Any) -> Callable[[], None]:
    if case.what in (TRAINING, RETURNED):
        optimizer = build_optimizer(module, case.layers, module.config.optim)
        return lambda: training_step(module.train(), optimizer, batch)
    encoder = module.eval().encoder
    if case.what == AT_ONCE:
        return lambda: inference(encoder, batch)
    return lambda: inference(lambda b: encode_in_chunks(encoder, b, case.chunk_tokens), batch)


def training_step(module: LongDocumentModule, optimizer: Any, batch: Any) -> None:
    """As Lightning runs it with `trainer.precision=bf16-mixed`."""
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.task.loss(module(batch), batch).sum() / batch.weight
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), module.config.trainer.gradient_clip_val)
    optimizer.step()


@torch.inference_mode()
def inference(encode: Callable[[Any], torch.Tensor], batch: Any) -> None:
    encode(batch)


# --- showing ------------------------------------------------------------------------------------


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Time a token of the longest document over that of the shortest, where there are two."""
    ratios = {}
    for what in dict.fromkeys(row["what"] for row in rows):
        own = [row for row in rows if row["what"] == what]
        if len(own) > 1:
            ratios[what] = own[0]["tokens_per_second"] / own[-1]["tokens_per_second"]
    return ratios


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title="One document",
        caption="seconds: median (fastest–slowest); µs: a token; GiB: peak of the whole process",
        box=SIMPLE,
    )
    for name in ("", "T", "seconds", "", "tokens/s", "µs", "GiB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['tokens']:,}",
            f"{row['seconds']:,.2f}",
            f"({row['fastest_seconds']:,.2f}–{row['slowest_seconds']:,.2f})",
            f"{row['tokens_per_second']:,.0f}",
            f"{1e6 / row['tokens_per_second']:,.1f}",
            f"{row['peak_bytes'] / 2**30:,.2f}",
        )
    return table


if __name__ == "__main__":
    main()
