"""Files cut at every byte, places that are no files, and documents of a million tokens."""

import json
import os
import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings

from longspan.cost.machine import resident_bytes
from longspan.data.sources import load_splits
from longspan.training.callbacks import forget_peak_memory

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
CUTS = max(10, FUZZ.max_examples // 4)  # of a file, evenly spaced; in the long mode every byte
ROWS = [{"text": "wär, \"is\"\nwar", "label": "a"}, {"text": "péace", "label": "b"}]  # fmt: skip


def contents(folder):
    """A right file of every format, by its name."""
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, folder / "a.parquet")
    squad = {"id": "1", "question": "ü?", "answers": [{"text": "wär", "answer_start": 0}]}
    articles = [{"title": "t", "paragraphs": [{"context": "wär", "qas": [squad]}]}]
    return {
        "a.csv": 'text,label\n"wär, ""is""\nwar",a\npéace,b\n'.encode(),
        "a.jsonl": "\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS).encode(),
        "a.json": json.dumps(ROWS, ensure_ascii=False).encode(),
        "squad.json": json.dumps({"data": articles}, ensure_ascii=False).encode(),
        "a.parquet": (folder / "a.parquet").read_bytes(),
    }


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "squad.json", "a.parquet"])
def test_a_file_that_was_cut(verdict, make_config, new_folder, name):
    content = contents(new_folder())[name]
    places = {round(i * (len(content) - 1) / (CUTS - 1)) for i in range(CUTS)}
    refused = 0
    for place in sorted(places):
        folder = new_folder()
        path = folder / name
        path.write_bytes(content[:place])
        fields = {"data.files": {"train": str(path)}, "data.cache_dir": str(folder / "cache")}
        cut = {"data.dev_fraction": 0.0, "data.test_fraction": 0.0}
        tables, line = verdict(load_splits, make_config(folder, **fields, **cut).data, False)
        if line is None:  # rows that are whole
            assert name in ("a.csv", "a.jsonl")
            assert len(tables["train"]) <= len(ROWS)
        else:
            assert str(path) in line
            refused += 1
    assert refused


def loop(path):
    path.symlink_to(path)


def loop_of_folders(path):
    path.mkdir()
    (path / "again").symlink_to(path)


PLACES = {
    "a folder": Path.mkdir,
    "a loop": loop,
    "a loop of folders": loop_of_folders,
    "a link to nothing": lambda path: path.symlink_to(path.parent / "gone"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a device without an end": lambda path: path.symlink_to("/dev/random"),
    "a file of the system": lambda path: path.symlink_to("/proc/self/mem"),
}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a"])
@pytest.mark.parametrize("kind", list(PLACES))
def test_a_place_that_is_no_file(verdict, read, new_folder, kind, name):
    path = new_folder() / name
    PLACES[kind](path)
    mlm = {"task.name": "mlm"}
    for fields in ({}, mlm | {"data.streaming": True, "trainer.max_steps": 1}):
        _, line = verdict(read, path, fields)
        assert line is not None
        assert str(path) in line


# --- labels --------------------------------------------------------------------------------------

LABELS = {
    "one class": (["a"] * 4, "two or more are needed"),
    "ten thousand classes": ([f"class {i}" for i in range(10_000)], None),
    "floats": ([0.5, 1.0, 2, -0.0], None),
    "truth values": ([True, False, True, False], None),
    "very long names": (["a" * 10**6, "b" * 10**6] * 2, None),
    "names that white space tells apart": (["a", " a ", "b", "b\t"], None),
    "names that white space alone tells apart": (["a", " a ", "a\n", "\ta"], "two or more"),
    "accents in one character and in two": (["é", "e\u0301"] * 2, None),
    "nothing at all": ([None] * 4, "is empty"),
    "nothing here and there": (["a", None, "b", "a"], "label of train row 1 is empty"),
    "lists": ([["a"], ["b"]] * 2, "set task.problem=multi_label"),
    "numbers beyond 64 bits": (["9" * 400, "1"] * 2, None),
    "no numbers": (["nan", "inf"] * 2, None),
}  # fmt: skip
MANY_LABELS = {
    "none anywhere": ([[]] * 4, "no label at all"),
    "twice": ([["a", "a"], ["b"]], None),
    "none in a row": ([["a", "b"], []], None),
    "lists of lists": ([[["a"]], [["b"]]], None),
    "nothing in a list": ([["a", None], ["b"]], "is empty"),
    "text": (["a", "b"], "set task.problem=single_label"),
    "ten thousand": ([[f"class {i}" for i in range(10_000)], ["class 1"]], None),
}


@pytest.mark.parametrize(
    ("problem", "labels", "said"),
    [
        *(("single_label", *case) for case in LABELS.values()),
        *(("multi_label", *case) for case in MANY_LABELS.values()),
    ],
    ids=[*LABELS, *(f"several, {name}" for name in MANY_LABELS)],
)
def test_labels(verdict, read, new_folder, problem, labels, said):
    path = new_folder() / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": "war", "label": label}) for label in labels))
    prepared, line = verdict(read, path, {"task.problem": problem})
    if said is None:
        assert line is None, line
        assert len(prepared.task.labels) > 1
    else:
        assert said in (line or "")


def test_a_label_in_dev_only(verdict, read, new_folder):
    folder = new_folder()
    for split, label in (("train", "b"), ("dev", "c")):
        rows = [{"text": "x", "label": "a"}, {"text": "x", "label": label}]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev")}
    _, line = verdict(read, files["train"], {"data.files": files})
    assert line.startswith("label of dev row 1='c' does not occur in train (known: a, b)")


# --- size ----------------------------------------------------------------------------------------


def peak_while(call):
    """The bytes that a call takes beyond what the process held before."""
    forget_peak_memory()
    before = resident_bytes()
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "mlm"])
def test_a_document_of_a_million_tokens(verdict, read, new_folder, task):
    """One document, and eight of them: memory grows with what becomes of them, not with the words."""
    peaks = []
    for documents in (1, 8):
        path = new_folder() / "a.jsonl"
        words = "war and peace , " * 250_000
        rows = ({"text": f"{row} {words}", "label": "ab"[row % 2]} for row in range(documents))
        with path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in [*rows, {"text": "x", "label": "b"}])
        fields = {"task.name": task, "data.max_length": 4096, "data.tokens_per_batch": 4096}
        peaks.append(peak_while(lambda path=path, f=fields: verdict(read, path, f)[1]))
    one, eight = peaks
    assert one < 2 * 2**30
    assert eight < one + 7 * 2**28, "not all are held as tokens at once"
