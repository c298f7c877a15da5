"""The whole training step beside Hugging Face's long-document models, on the same weights.

    python benchmarks/train_step.py

Forward, loss, backward and AdamW of encoders of 4 layers × 768 that classify documents: one of
4,096 tokens, and real ones, 8 a batch, of the lengths they have. Theirs get padded batches, ours
packed ones. Ours of a family's weights computes what the family computes: this is checked first.

Every contender runs in a fresh process, in turns with the others: a short step to warm up, then
timed ones. A contender whose pass over its batches takes longer than `--slow` seconds takes all its
passes in its first process, five, or fewer where `--seconds` are over; the table says how many
steps counted. Tokens are those that are not padding; memory is the most that the process held. Two
idle cores should take 20 to 25 minutes, as single steps let expect: none of 20 configurations takes
longer than `--seconds` and a step. The table is printed, the last line is JSON, and the result goes
to benchmarks/results/ and docs/speed.md.
"""

import argparse
import os
import time
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import FAMILIES, NAMES, Sizes, largest_difference, make_contender, training_step
from fresh_process import in_fresh_process
from hardware import describe_machine
from memory import peak_bytes, resident_bytes
from real_lengths import full_document, real_documents
from reporting import with_table, write_result
from rich.console import Console
from rich.progress import Progress
from train_step_table import as_markdown, as_table, summarise
from training_runs import ROOT

from longspan.cost.heap import keep_pages

RESULT = ROOT / "benchmarks/results/train_step.json"
PAGE = ROOT / "docs/speed.md"
TOLERANCE = 1e-4  # of hidden states, which are normalised: what float32 leaves after some layers
# at the full size a padded batch of real documents takes RoBERTa a minute a step
MIX_CONTENDERS = [name for name in NAMES if not name.endswith(("roberta", "-kept"))]
Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    agreement = check_agreement(arguments)
    rows = measure_all(arguments)
    summary = summarise(rows)
    Console(width=max(Console().width, 120)).print(as_table(summary))
    result = {
        "benchmark": "train_step",
        "date": date.today().isoformat(),
        **describe_machine(),
        "load_average_before": load_before,
        "sizes": vars(sizes_of(arguments, None)) | {"window": arguments.windows},
        "largest_difference": agreement,
        "summary": summary,
        "rows": rows,
    }
    write_result(result, arguments.output)
    if arguments.output:
        from train_step_picture import draw  # not in every process that measures

        draw(summary, arguments.output.with_suffix(".png"))
        if arguments.output == RESULT:
            table = as_markdown(summary)
            PAGE.write_text(with_table(PAGE.read_text(), "train_step", table))


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contenders", choices=NAMES, nargs="+", default=list(NAMES))
    parser.add_argument("--data", choices=("full", "mix"), nargs="+", default=["full", "mix"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--mix-dtypes", nargs="+", default=["bfloat16"], help="of real documents")
    parser.add_argument("--mix-contenders", choices=NAMES, nargs="+", default=MIX_CONTENDERS)
    parser.add_argument("--windows", type=int, nargs="+", default=[256], help="one-sided")
    parser.add_argument("--tokens", type=int, default=4096, help="of the full-length document")
    parser.add_argument("--documents", type=int, default=8, help="real ones, a batch")
    parser.add_argument("--batches", type=int, default=5, help="of real documents, a pass")
    parser.add_argument("--longest", type=int, default=4096, help="tokens of a real document")
    parser.add_argument("--passes", type=int, default=5, help="over the batches")
    parser.add_argument("--slow", type=float, default=4, help="seconds of a slow pass")
    parser.add_argument("--seconds", type=float, default=100, help="of a slow contender")
    parser.add_argument("--limit-gib", type=float, default=20, help="resident memory")
    for name in ("layers", "hidden", "heads", "mlp", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sizes, name))
    parser.add_argument("--quick", action="store_true", help="sizes of a test")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args(words)
    if arguments.quick:
        small = {"layers": 1, "hidden": 32, "heads": 2, "mlp": 48, "vocabulary": 8192}
        small |= {"windows": [8], "tokens": 128, "longest": 128, "documents": 3, "batches": 2}
        vars(arguments).update(small | {"passes": 2})
    return arguments


def sizes_of(arguments: argparse.Namespace, window: int | None) -> Sizes:
    names = ("layers", "hidden", "heads", "mlp", "vocabulary")
    positions = max(arguments.tokens, arguments.longest)
    chosen = {name: getattr(arguments, name) for name in names}
    return Sizes(**chosen, positions=positions, window=window or arguments.windows[0])


# --- the same function --------------------------------------------------------------------------


def check_agreement(arguments: argparse.Namespace) -> dict[str, float]:
    """Largest difference of the hidden states of every family that is measured on both sides.

    Raises:
        SystemExit: one that float32 does not explain: what follows would compare nothing.
    """
    found: dict[str, float] = {}
    for window, family in product(arguments.windows, FAMILIES):
        if {family, f"longspan-{family}"} <= set(arguments.contenders):
            given = (family, sizes_of(arguments, window))
            result = in_fresh_process(measure_difference, *given, limit_gib=arguments.limit_gib)
            difference = result.get("difference", float("inf"))
            if not difference <= TOLERANCE:
                raise SystemExit(f"{family}, window {window}: both sides differ: {result}")
            found[family] = max(difference, found.get(family, 0.0))
    return found


def measure_difference(family: str, sizes: Sizes) -> dict[str, float]:
    """Of two documents, one longer than the windows of both sides together, one short."""
    long = full_document(min(sizes.positions, 5 * sizes.window))
    documents = [long, long[: sizes.window]]
    return {"difference": largest_difference(family, sizes, documents)}


# --- measuring ----------------------------------------------------------------------------------


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """A row for every process that measured."""
    rows: list[Row] = []
    cases = chosen_cases(arguments)
    with Progress(console=Console(stderr=True)) as progress:
        for turn in range(arguments.passes):
            # there and back again, so that no contender always follows the same one
            order = cases[:: -1 if turn % 2 else 1]
            for case in progress.track(order, description=f"turn {turn + 1}"):
                if turn and is_done(case, rows, arguments):
                    continue
                rows.append(case | measure_case(case, arguments))
    return rows


def chosen_cases(arguments: argparse.Namespace) -> list[Row]:
    cases = []
    for data, window in product(arguments.data, arguments.windows):
        dtypes = arguments.dtypes if data == "full" else arguments.mix_dtypes
        for dtype, name in product(dtypes, arguments.contenders):
            # all that BigBird has to show where nothing else is measured in float32
            if name == "bigbird-float32" and "float32" in dtypes:
                continue
            if data == "full" or name in arguments.mix_contenders:
                cases.append({"data": data, "window": window, "dtype": dtype, "model": name})
    return cases


def is_done(case: Row, rows: list[Row], arguments: argparse.Namespace) -> bool:
    own = [row for row in rows if case.items() <= row.items()]
    passes = sum(len(row.get("passes", ())) for row in own)
    return passes >= arguments.passes or any("failed" in row or row["slow"] for row in own)


def measure_case(case: Row, arguments: argparse.Namespace) -> Row:
    """One process of a contender."""
    sizes = sizes_of(arguments, case["window"])
    given = (case["model"], sizes, case["dtype"], case["data"], vars(arguments))
    return in_fresh_process(measure, *given, limit_gib=arguments.limit_gib)


def measure(name: str, sizes: Sizes, dtype: str, data: str, arguments: Row) -> Row:
    """Time and memory of the steps of one contender.

    Returns:
        passes: for each pass over the batches, the seconds of its steps. A slow contender whose
            time is over may end in the middle of one.
        tokens: of each batch, without padding.
        share_of_padding: of what the model was given.
        held_bytes: of the process, model and optimiser before the timed steps.
        peak_bytes: the most that it held.
    """
    if name.startswith("longspan-") or name.endswith("-kept"):
        keep_pages()  # as our trainer does; what theirs would gain by it is measured too
    contender = make_contender(name, sizes)
    step = training_step(contender, "float32" if name.endswith("-float32") else dtype)
    documents = documents_of(data, sizes, arguments)
    batches = [(contender.collate(x), torch.zeros(len(x), dtype=torch.long)) for x in documents]
    short = [documents[0][0][: 4 * sizes.window]]
    step(contender.collate(short), torch.zeros(1, dtype=torch.long))  # to warm up
    held = resident_bytes()
    passes: list[list[float]] = []
    slow = False

    def timed_steps() -> None:
        nonlocal slow
        started = time.perf_counter()
        while not passes or (slow and len(passes) < arguments["passes"]):
            passes.append([])
            for batch in batches:
                before = time.perf_counter()
                step(*batch)
                passes[-1].append(time.perf_counter() - before)
                if time.perf_counter() - started > arguments["seconds"]:
                    slow = True
                    return
            slow = slow or sum(passes[0]) > arguments["slow"]

    peak = peak_bytes(timed_steps)
    tokens = [sum(map(len, group)) for group in documents]
    given = [given_tokens(batch) for batch, _ in batches]
    return {
        "passes": passes,
        "slow": slow,
        "tokens": tokens,
        "share_of_padding": 1 - sum(tokens) / sum(given),
        "held_bytes": held,
        "peak_bytes": peak,
    }


def given_tokens(batch: Any) -> int:
    """Of a rectangle or of a packed batch."""
    return batch["input_ids"].numel() if isinstance(batch, dict) else batch.num_tokens


def documents_of(data: str, sizes: Sizes, arguments: Row) -> list[list[np.ndarray]]:
    """The batches of a pass."""
    if data == "full":
        return [[full_document(arguments["tokens"])]]
    number = arguments["documents"]
    _, documents = real_documents(number * arguments["batches"])
    documents = [document[: arguments["longest"]] for document in documents]
    return [documents[i : i + number] for i in range(0, len(documents), number)]


if __name__ == "__main__":
    main()
