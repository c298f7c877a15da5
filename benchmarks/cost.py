"""What `longspan cost` predicts, beside what the same cells then measure.

    python benchmarks/cost.py

Every cell is predicted by one command, then trained for some batches, each in a fresh process:
tokens a second and peak memory are those of its report. The table is printed, the last line is
JSON, and the result goes to benchmarks/results/.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

from hardware import describe_machine
from reporting import with_table, write_result
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from training_runs import ROOT, train_once

RESULT = ROOT / "benchmarks/results/cost.json"
PAGE = ROOT / "docs/cost.md"
SETTINGS = [
    "experiment=sotu_era",
    "data.max_length=2048",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1000",
]
# what costs: width and depth, windows and none, tokens of a batch, precision
GROUPS = [
    {"model.window": ["16", "128", "null"], "model.num_layers": ["1", "4"]},
    {
        "model.window": ["64"],
        "model.num_layers": ["4"],
        "model.hidden_size": ["256"],
        "model.intermediate_size": ["1024"],
        "data.tokens_per_batch": ["4096", "16384"],
    },
    {"model.window": ["64"], "model.num_layers": ["4"], "trainer.precision": ["bf16-mixed"]},
]


def main() -> None:
    arguments = parse_arguments()
    load_before = os.getloadavg()[0]  # of others: a busy machine makes times worthless
    rows = []
    for group in GROUPS[: arguments.groups]:
        rows += measure(group, arguments)
    result = {
        "benchmark": "cost",
        "date": date.today().isoformat(),
        **describe_machine(),
        "load_average_before": load_before,
        "settings": SETTINGS + arguments.overrides,
        "batches": arguments.batches,
        "largest_error": {
            what: max(abs(row[what]["error"]) for row in rows) for what in ("memory", "time")
        },
        "rows": rows,
    }
    Console().print(as_table(rows))
    for what, error in result["largest_error"].items():
        print(f"{what}: at most {error:.0%} off")
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "cost", as_markdown(rows)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--groups", type=int, default=len(GROUPS), help="how many of them")
    parser.add_argument("--batches", type=int, default=8, help="of each training")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a group's calibration")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--overrides", nargs="*", default=[], help="further ones, for both sides")
    return parser.parse_args()


def measure(group: dict[str, list[str]], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict the cells of a group, then train each."""
    settings = [*SETTINGS, *arguments.overrides]
    swept = [f"{field}={','.join(values)}" for field, values in group.items()]
    forecasts = predict([*settings, *swept], arguments.seconds)
    cells = [dict(zip(group, values)) for values in product(*group.values())]
    rows = []
    folder = tempfile.mkdtemp(prefix="longspan-cost-")
    try:
        for cell, forecast in zip(cells, forecasts, strict=True):
            overrides = [*settings, *(f"{field}={value}" for field, value in cell.items())]
            overrides.append(f"trainer.limit_train_batches={arguments.batches}")
            name = ",".join(f"{field.split('.')[1]}={value}" for field, value in cell.items())
            report = train_once("sotu_era", name, overrides, folder, jobs=1)
            rows.append(compare(name, forecast, report))
            print(f"{name}: {rows[-1]['memory']['error']:+.0%} memory, "
                  f"{rows[-1]['time']['error']:+.0%} time", flush=True)  # fmt: skip
    finally:
        shutil.rmtree(folder)
    return rows


def predict(overrides: list[str], seconds: float) -> list[dict[str, Any]]:
    """What `longspan cost` says."""
    command = [str(Path(sys.executable).with_name("longspan")), "cost", *overrides]
    command += ["--json", "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def compare(name: str, forecast: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Predicted, measured and relative error of memory (bytes) and time (seconds a 1,000 tokens)."""
    pairs = {
        "memory": (forecast["memory_bytes"]["total"], report["peak_memory_bytes"]),
        "time": (1e3 / forecast["tokens_per_second"], 1e3 / report["tokens_per_second"]),
        "in_the_report": (report["predicted"]["peak_memory_bytes"], report["peak_memory_bytes"]),
    }
    return {"cell": name} | {
        what: {"predicted": predicted, "measured": measured, "error": predicted / measured - 1}
        for what, (predicted, measured) in pairs.items()
    }


def cells_of(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    memory, time = row["memory"], row["time"]
    return [
        row["cell"].replace(",", ", "),
        f"{memory['predicted'] / 2**30:.2f}",
        f"{memory['measured'] / 2**30:.2f}",
        f"{memory['error']:+.0%}",
        f"{1e3 * time['predicted']:.0f}",
        f"{1e3 * time['measured']:.0f}",
        f"{time['error']:+.0%}",
    ]


HEAD = ["cell", "GiB predicted", "measured", "error", "µs a token predicted", "measured", "error"]


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, title="predicted and measured")
    for name in HEAD:
        table.add_column(name, justify="left" if name == "cell" else "right")
    for row in rows:
        table.add_row(*cells_of(row))
    return table


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells_of(row))} |" for row in rows)])


if __name__ == "__main__":
    main()
