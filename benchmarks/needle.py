"""What global question tokens are worth: experiment=needle_qa, and it again without them, or short.

    python benchmarks/needle.py

Three variants over several seeds, each a fresh `train.py`; a run that was finished before is not
repeated. The table is printed, the last line is JSON, and the result and the heat map of the main
variant, the mean over its seeds, go to benchmarks/results/.
"""

import argparse
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hardware import describe_machine
from reporting import with_table, write_result
from rich.console import Console
from rich.table import Table
from training_runs import ROOT, parser_of, report_file, train_once

from longspan.data.needle import cell_of
from longspan.tasks.qa_metrics import score
from longspan.training.figures import heat_map

RESULT = ROOT / "benchmarks/results/needle.json"
VARIANTS = {
    "question and [CLS] global": [],
    "only [CLS] global": ["globals=cls"],
    "cut at 512 tokens": ["data.max_length=512", "task.long_documents=truncate"],
}


def main() -> None:
    arguments = parse_arguments()
    runs = list(product(arguments.seeds, arguments.variants))  # a seed of everything, then the next
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda run: measure(*run, arguments), runs))
    summary = summarise(rows)
    Console().print(as_table(summary))
    result = {
        "benchmark": "needle",
        "date": date.today().isoformat(),
        **describe_machine(),
        "overrides": arguments.overrides,
        "jobs": arguments.jobs,
        "summary": summary,
        "runs": rows,
    }
    write_result(result, arguments.output)
    if arguments.output:
        draw(rows, arguments.output.with_suffix(".png"))
    if arguments.output == RESULT:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), "needle", as_markdown(summary)))


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, RESULT, seeds=3, jobs=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser.parse_args()


def measure(seed: int, variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, unless that was done, and score the predictions by length and depth.

    Times are not kept: runs share cores.
    """
    changes = [*VARIANTS[variant], f"seed={seed}"]
    name = ",".join(change.rpartition(".")[2] for change in changes)
    overrides = ["experiment=needle_qa", *changes, *arguments.overrides]
    report = train_once("needle_qa", name, overrides, arguments.runs_dir, arguments.jobs)
    folder = report_file("needle_qa", name, arguments.runs_dir).parent
    cells = exact_match_by_cell(folder / "predictions/test.jsonl")
    return {
        "variant": variant,
        "seed": seed,
        "steps": report["steps"],
        "exact_match": mean_by_length(cells),
        "highest_exact_match": report["data"]["test"]["highest_exact_match"],
        "cells": [
            {
                "length": length,
                "depth": depth,
                "questions": len(scores),
                "exact_match": mean(scores),
            }
            for (length, depth), scores in sorted(cells.items())
        ],
    }


def exact_match_by_cell(predictions: Path) -> dict[tuple[int, int], list[float]]:
    """(length, depth) to the exact match of each of its questions."""
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for line in predictions.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        cell = cell_of(row["id"])
        assert cell is not None, f"{row['id']} is no needle"
        cells[cell].append(score(row["predicted"], row["gold"])[0])
    return cells


def mean_by_length(cells: dict[tuple[int, int], list[float]]) -> dict[str, float]:
    """Exact match over all questions of each length, named as JSON names keys."""
    lengths = sorted({length for length, _ in cells})
    return {
        str(n): mean(score for cell, scores in cells.items() if cell[0] == n for score in scores)
        for n in lengths
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        chosen = [row for row in rows if row["variant"] == variant]
        by_length = {
            length: [row["exact_match"][length] for row in chosen]
            for length in chosen[0]["exact_match"]
        }
        summary.append(
            {
                "variant": variant,
                "steps": chosen[0]["steps"],
                "seeds": len(chosen),
                "exact_match_mean": {n: mean(values) for n, values in by_length.items()},
                "exact_match_std": {
                    n: stdev(values) if len(values) > 1 else 0.0 for n, values in by_length.items()
                },
            }
        )
    return summary


def as_table(summary: list[dict[str, Any]]) -> Table:
    table = Table(title="exact match by tokens of question and document")
    table.add_column("variant")
    for length in summary[0]["exact_match_mean"]:
        table.add_column(f"{int(length):,}", justify="right")
    for name in ("seeds", "steps"):
        table.add_column(name, justify="right")
    for row in summary:
        table.add_row(row["variant"], *_cells(row), str(row["seeds"]), str(row["steps"]))
    return table


def as_markdown(summary: list[dict[str, Any]]) -> str:
    """The README's table; a test holds it against the committed result."""
    lengths = [f"{int(length):,} tokens" for length in summary[0]["exact_match_mean"]]
    lines = [f"| exact match at | {' | '.join(lengths)} |"]
    lines += [f"|{'---|' * (len(lengths) + 1)}"]
    for row in summary:
        cells = " | ".join(_cells(row))
        name = f"{row['variant']}, {row['seeds']} seeds"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    means, deviations = row["exact_match_mean"], row["exact_match_std"]
    return [f"{means[length]:.3f} ± {deviations[length]:.3f}" for length in means]


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """The heat map of the first variant, the mean over its seeds."""
    values: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        if row["variant"] == rows[0]["variant"]:
            for cell in row["cells"]:
                values[cell["length"], cell["depth"]].append(cell["exact_match"])
    heat_map({cell: mean(scores) for cell, scores in values.items()}).savefig(file, dpi=150)


if __name__ == "__main__":
    main()
