"""Every ready `data=` config, on small local tables with the columns of the real data sets.

The columns are those of the data sets' cards and viewers on the hub; nothing here downloads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from longspan.data.sources import load_splits
from longspan.data.stream_sources import load_stream

THREE = ("train", "validation", "test")
ROWS = {"train": 40, "validation": 6, "test": 5, "unsupervised": 3}
SUBJECTS = ["math.AC", "cs.CV", "cs.AI", "cs.SY", "math.GR", "cs.CE", "cs.PL", "cs.IT", "cs.DS"]
SUBJECTS += ["cs.NE", "math.ST"]
ARTICLES = ["2", "3", "5", "6", "8", "9", "10", "11", "14", "P1-1"]
AREAS = [str(area) for area in range(1, 14)]


@dataclass(frozen=True)
class HubData:
    """A data set as the hub has it, and the label cell of a row of ours."""

    path: str
    name: str | None
    columns: dict[str, Any]
    labels: list[str]
    cell: Callable[[int], Any]
    splits: tuple[str, ...] = THREE
    problem: str = "single_label"


def one_label(names):
    return {"text": Value("string"), "label": ClassLabel(names=names)}


ECTHR = {"text": List(Value("string")), "labels": List(ClassLabel(names=ARTICLES))}
HUB = {
    "imdb": HubData(
        "stanfordnlp/imdb",
        None,
        one_label(["neg", "pos"]),
        ["neg", "pos"],
        lambda row: row % 2,
        splits=("train", "test", "unsupervised"),
    ),
    "arxiv": HubData(
        "ccdv/arxiv-classification", "no_ref", one_label(SUBJECTS), SUBJECTS, lambda row: row % 11
    ),
    "ecthr_a": HubData(
        "coastalcph/lex_glue",
        "ecthr_a",
        ECTHR,
        ARTICLES,
        lambda row: [row % 9, 9] if row % 3 else [],  # some cases violate nothing
        problem="multi_label",
    ),
    "ecthr_b": HubData(
        "coastalcph/lex_glue",
        "ecthr_b",
        ECTHR,
        ARTICLES,
        lambda row: [row % 10],
        problem="multi_label",
    ),
    "scotus": HubData(
        "coastalcph/lex_glue", "scotus", one_label(AREAS), AREAS, lambda row: row % 13
    ),
    # the files of Longformer's own preparation: its labels are the words of the competition's XML
    "hyperpartisan": HubData(
        "jonathanli/hyperpartisan-longformer-split",
        None,
        {"text": Value("string"), "label": Value("string"), "id": Value("int64")},
        ["false", "true"],
        lambda row: ["false", "true"][row % 2],
    ),
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that holds one data set, as parquet files with its features."""
    load_dataset = datasets.load_dataset

    def serve(data):
        files = {}
        for split in data.splits:
            rows = range(ROWS[split])
            facts = isinstance(data.columns["text"], List)
            columns = {
                "text": [[f"Fact {i}.", "So held."] if facts else f"Text {i}." for i in rows],
                "label": [data.cell(i) for i in rows],
                "labels": [data.cell(i) for i in rows],
                "id": list(rows),
            }
            table = Dataset.from_dict(
                {name: columns[name] for name in data.columns}, Features(data.columns)
            )
            files[split] = str(tmp_path / f"{split}.parquet")
            table.to_parquet(files[split])

        def load(path, name=None, *, split, revision, cache_dir, streaming):
            assert (path, name, revision) == (data.path, data.name, None)
            return load_dataset(
                "parquet", data_files=files, split=split, cache_dir=cache_dir, streaming=streaming
            )

        monkeypatch.setattr(datasets, "load_dataset", load)

    return serve


def test_every_config_is_tested(conf, question_sets):
    ours = {*HUB, *question_sets, "files", "needle", "sotu"}
    ours |= {"contract_nli", "quality"}  # test_asking_sets.py
    assert {file.stem for file in (conf / "data").glob("*.yaml")} == ours


@pytest.mark.parametrize("name", HUB)
def test_hub(name, hub, composed, encode, tokenizers):
    data = HUB[name]
    hub(data)
    config = composed(f"data={name}", f"task={data.problem}")
    encoded, task = encode(config.data, data.problem, config.globals)

    assert config.task.problem == data.problem
    assert {split: len(features) for split, features in encoded.items()} == (
        {"train": 36, "dev": 4, "test": 5}  # dev is cut from train
        if name == "imdb"
        else {"train": 40, "dev": 6, "test": 5}
    )
    assert task.labels == data.labels
    for row, feature in enumerate(encoded["test"].read(range(5))):
        cell = data.cell(row)
        if data.problem == "multi_label":
            expected = [float(i in cell) for i in range(len(data.labels))]
        else:
            expected = data.labels.index(cell) if isinstance(cell, str) else cell
        assert feature.label == expected
        assert feature.id == f"test-{row}"
        text = tokenizers["embedded"].decode(feature.input_ids.tolist(), skip_special_tokens=True)
        sections = isinstance(data.columns["text"], List)
        assert text == (f"Fact {row}.\n\nSo held." if sections else f"Text {row}.")


def test_a_hub_set_streams(hub, composed):
    data = HUB["arxiv"]
    hub(data)
    config = composed("data=arxiv", "data.streaming=true", "data.held_out=3", "task=mlm",
                      "trainer.max_steps=9")  # fmt: skip
    train, held_out = load_stream(config.data)
    assert [row["text"] for row in train.take(2)] == ["Text 0.", "Text 1."]
    assert {split: len(table) for split, table in held_out.items()} == {"dev": 3, "test": 3}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files(write, composed, encode, suffix):
    rows = [{"text": f"Text {i}.", "label": "ab"[i % 2]} for i in range(30)]
    file = write(f"rows.{suffix}", rows)
    config = composed("data=files", f"data.files.train={file}")
    encoded, task = encode(config.data, config.task.problem, config.globals)
    assert {split: len(features) for split, features in encoded.items()} == {
        "train": 21,
        "dev": 3,
        "test": 6,
    }
    assert task.labels == ["a", "b"]


def test_files_by_path(write, composed, encode):
    rows = [{"text": f"Text {i}.", "label": "ab"[i % 2]} for i in range(30)]
    config = composed("data=files", f"data.path={write('rows.csv', rows)}")
    encoded, _ = encode(config.data, config.task.problem, config.globals)
    assert sum(map(len, encoded.values())) == 30


def test_sotu(composed, encode):
    config = composed("data=sotu", "data.max_length=64")
    tables = load_splits(config.data, stratify=True)
    few = {split: table.select(range(0, len(table), 7)) for split, table in tables.items()}
    encoded, task = encode(config.data, config.task.problem, config.globals, tables=few)
    assert sorted(encoded) == ["dev", "test", "train"]
    assert len(task.labels) > 1
    (feature,) = encoded["test"].read([0])
    assert feature.id == few["test"]["id"][0]
    assert len(feature.input_ids) == 64
    assert feature.tokens_cut > 0
