"""What reading on is worth: the default job at growing `data.max_length`, over several seeds.

    python benchmarks/read_far.py

Two documents a batch at every length, so that all take the same number of steps; and once the
shortest with the default job's tokens a batch, which is the same command with `data.max_length`
alone changed. Each run is a fresh `train.py`; a run that was finished before is not repeated. The
table is printed, the last line is JSON, and results and picture go to benchmarks/results/.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hardware import describe_machine
from matplotlib.figure import Figure
from reporting import with_table, write_result
from rich.console import Console
from rich.table import Table
from training_runs import ROOT, parser_of, train_once

RESULT = ROOT / "benchmarks/results/read_far.json"
DOCUMENTS_PER_BATCH = 2  # as in the default job


def main() -> None:
    arguments = parse_arguments()
    batches = [(length, DOCUMENTS_PER_BATCH * length) for length in arguments.lengths]
    alone = (min(batches)[0], max(batches)[1])
    runs = list(product(dict.fromkeys([alone, *batches]), arguments.seeds))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda run: measure(*run[0], run[1], arguments), runs))
    summary = summarise(rows)
    Console().print(as_table(summary))
    result = {
        "benchmark": "read_far",
        "date": date.today().isoformat(),
        **describe_machine(),
        "overrides": arguments.overrides,
        "jobs": arguments.jobs,
        "summary": summary,
        "runs": rows,
    }
    write_result(result, arguments.output)
    if arguments.output:
        draw(rows, summary, arguments.output.with_suffix(".png"))
    if arguments.output == RESULT:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), "read_far", as_markdown(summary)))


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, RESULT, seeds=3, jobs=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 4096])
    return parser.parse_args()


def measure(
    length: int, tokens_per_batch: int, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Train once, unless that was done, and read the report. Times are not kept: runs share cores."""
    name = f"max_length={length},tokens_per_batch={tokens_per_batch},seed={seed}"
    overrides = ["experiment=sotu_era", f"data.max_length={length}", f"seed={seed}"]
    overrides += [f"data.tokens_per_batch={tokens_per_batch}", *arguments.overrides]
    report = train_once("sotu_era", name, overrides, arguments.runs_dir, arguments.jobs)
    return {
        "max_length": length,
        "tokens_per_batch": tokens_per_batch,
        "seed": seed,
        "steps": report["steps"],
        "accuracy": report["metrics"]["accuracy"],
        "macro_f1": report["metrics"]["macro_f1"],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "share_of_tokens_cut": report["data"]["test"]["share_of_tokens_cut"],
    }


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for key in dict.fromkeys((row["max_length"], row["tokens_per_batch"]) for row in rows):
        chosen = [row for row in rows if (row["max_length"], row["tokens_per_batch"]) == key]
        accuracies = [row["accuracy"] for row in chosen]
        summary.append(
            {
                "max_length": key[0],
                "tokens_per_batch": key[1],
                "steps": chosen[0]["steps"],
                "seeds": len(chosen),
                "accuracy_mean": mean(accuracies),
                "accuracy_std": stdev(accuracies) if len(chosen) > 1 else 0.0,
                "share_of_tokens_cut": chosen[0]["share_of_tokens_cut"],
            }
        )
    return summary


def as_table(summary: list[dict[str, Any]]) -> Table:
    table = Table(title="test accuracy by tokens read")
    for name in ("data.max_length", "data.tokens_per_batch", "steps", "test accuracy",
                 "tokens cut"):  # fmt: skip
        table.add_column(name, justify="right")
    for row in summary:
        table.add_row(
            f"{row['max_length']:,}",
            f"{row['tokens_per_batch']:,}",
            f"{row['steps']:,}",
            f"{row['accuracy_mean']:.3f} ± {row['accuracy_std']:.3f} ({row['seeds']} seeds)",
            f"{row['share_of_tokens_cut']:.0%}",
        )
    return table


def as_markdown(summary: list[dict[str, Any]]) -> str:
    """The README's table; a test holds it against the committed result."""
    lines = ["| tokens read of each address | tokens a batch | steps | test accuracy |"]
    lines += ["|---|---|---|---|"]
    for row in summary:
        accuracy = f"{row['accuracy_mean']:.3f} ± {row['accuracy_std']:.3f}"
        lines.append(
            f"| {row['max_length']:,} | {row['tokens_per_batch']:,} | {row['steps']:,} | "
            f"{accuracy}, {row['seeds']} seeds |"
        )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], summary: list[dict[str, Any]], file: Path) -> None:
    """Accuracy against tokens read, of the rows with the same number of steps."""
    rows = [
        row for row in rows if row["tokens_per_batch"] == DOCUMENTS_PER_BATCH * row["max_length"]
    ]
    summary = [
        row for row in summary if row["tokens_per_batch"] == DOCUMENTS_PER_BATCH * row["max_length"]
    ]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    lengths = [row["max_length"] for row in summary]
    means = [row["accuracy_mean"] for row in summary]
    axes.plot(lengths, means, color="#20527c", linewidth=2, label="mean")
    axes.scatter(
        [row["max_length"] for row in rows],
        [row["accuracy"] for row in rows],
        color="#d1662c",
        s=28,
        zorder=3,
        label="one seed",
    )
    for length, value in zip(lengths, means, strict=True):
        axes.annotate(
            f"{value:.3f}", (length, value), (10, -14), textcoords="offset points",
            color="#20527c", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set(xlabel="tokens read of each address (data.max_length)", ylabel="test accuracy")
    axes.set_title("Which era is this State of the Union address from?", fontsize=11)
    axes.margins(x=0.12, y=0.2)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
