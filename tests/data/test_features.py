"""Rows to features: every kind of text and label, the same by one process or two, and cached."""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from longspan.config import GlobalsConfig
from longspan.data.rows import text_digest
from longspan.encoding import DocumentEncoder

ROWS = [{"text": f"Text {i} " * (i + 1), "label": "ab"[i % 2]} for i in range(10)]


def read(features):
    """All features as plain values."""
    return [
        (
            f.id,
            f.input_ids.tolist(),
            f.global_positions.tolist(),
            f.token_type_ids.tolist(),
            f.label,
            f.tokens_cut,
            f.is_empty,
        )
        for f in features.read(range(len(features)))
    ]


@pytest.fixture
def counted(monkeypatch):
    """How many texts were tokenised."""
    texts = []
    encode = DocumentEncoder.encode

    def counting(self, ids, *arguments):
        texts.extend(ids)
        return encode(self, ids, *arguments)

    monkeypatch.setattr(DocumentEncoder, "encode", counting)
    return texts


# --- what becomes of a row ----------------------------------------------------------------------


def test_features_are_those_of_the_encoder(write, config, encode, make_encoder):
    policies = GlobalsConfig(every_k=3)
    splits, _ = encode(config(path=write("a.jsonl", ROWS), max_length=16), policies=policies)
    features = splits["train"]
    expected = make_encoder(max_length=16, policies=policies).encode(
        [f"train-{i}" for i in range(10)], [row["text"] for row in ROWS]
    )
    assert len(features) == 10
    for place, feature in enumerate(expected):
        (found,) = features.read([place])
        assert found.id == feature.id
        assert found.input_ids.tolist() == feature.input_ids.tolist()
        assert found.global_positions.tolist() == feature.global_positions.tolist()
        assert found.token_type_ids.tolist() == feature.token_type_ids.tolist()
        assert (found.tokens_cut, found.is_empty) == (feature.tokens_cut, False)
        assert found.label == place % 2
        assert features.lengths[place] == len(feature.input_ids)
    assert max(features.lengths) == 16
    assert [f.id for f in features.read([7, 2, 7])] == ["train-7", "train-2", "train-7"]
    assert [p.tolist() for p in features.global_positions(limit=2)] == [
        f.global_positions.tolist() for f in expected[:2]
    ]
    assert features.table["text_digest"][:] == [text_digest(row["text"]) for row in ROWS]


def test_sections_pairs_ids_and_globals_by_column(write, config, encode, tokenizers):
    rows = [
        {
            "name": f"case {i}",
            "title": f"w{i}",
            "facts": ["w1 w2", "w3"],
            "question": ["w8", "w9"] if i else None,
            "spans": [[0, 1]] if i else [],
            "label": "ab"[i % 2],
        }
        for i in range(4)
    ]
    data = config(
        path=write("a.jsonl", rows),
        id_column="name",
        text_column=("title", "facts"),
        text_pair_column="question",
        section_separator=" ",
    )
    policies = GlobalsConfig(cls=False, column="spans")
    splits, _ = encode(data, policies=policies, kind="roberta")
    vocabulary = tokenizers["roberta"].convert_ids_to_tokens
    features = splits["train"].read([0, 1])
    assert [f.id for f in features] == ["case 0", "case 1"]
    assert " ".join(vocabulary(features[0].input_ids.tolist())) == "<s> w0 w1 w2 w3 </s> </s> </s>"
    expected = "<s> w1 w1 w2 w3 </s> </s> w8 w9 </s>"
    assert " ".join(vocabulary(features[1].input_ids.tolist())) == expected
    assert [f.global_positions.tolist() for f in features] == [[], [1]]


def test_texts_that_are_numbers_or_missing(config, encode):
    table = Dataset.from_dict({"text": [1.5, None, 3.0, 2.0], "label": [True, False, True, False]})
    splits, task = encode(config(), tables={"train": table}, kind="roberta")
    features = splits["train"].read(range(4))
    assert [f.is_empty for f in features] == [False, True, False, False]
    assert task.labels == ["False", "True"]
    assert [f.label for f in features] == [1, 0, 1, 0]


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["no", "yes"], ["no", "yes"]),
        ([10, 9], ["9", "10"]),
        ([1.0, 0.0], ["0", "1"]),
        ([True, False], ["False", "True"]),
        ([" a", "b "], ["a", "b"]),
    ],
)
def test_one_label(write, config, encode, suffix, values, labels):
    rows = [{"text": f"text {i}", "label": values[i % 2]} for i in range(4)]
    splits, task = encode(config(path=write(f"a{suffix}", rows)))
    assert task.labels == labels
    indices = [f.label for f in splits["train"].read(range(4))]
    names = [str(int(v) if isinstance(v, float) else v).strip() for v in values]
    assert [task.labels[i] for i in indices] == [names[i % 2] for i in range(4)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_several_labels(write, config, encode, suffix):
    cells = [["x", "y"], ["y"], [], ["z"]]
    rows = [{"text": f"text {i}", "labels": cell} for i, cell in enumerate(cells)]
    data = config(path=write(f"a{suffix}", rows), label_column="labels")
    splits, task = encode(data, problem="multi_label")
    assert task.labels == ["x", "y", "z"]
    assert [f.label for f in splits["train"].read(range(4))] == [
        [1.0, 1.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("targets", [[0.5, -3.0, 2.25], [1, 2, 3], ["0.5", "1e3", "7"]])
def test_a_number(write, config, encode, suffix, targets):
    rows = [{"text": f"text {i}", "label": target} for i, target in enumerate(targets)]
    splits, _ = encode(config(path=write(f"a{suffix}", rows)), problem="regression")
    features = splits["train"].read(range(3))
    assert [f.label for f in features] == [float(target) for target in targets]
    assert all(isinstance(f.label, float) for f in features)


def test_names_that_the_data_declare(config, encode):
    names = ["zebra", "ape", "10", "9"]  # in the order of the data, not of the alphabet
    one = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    table = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 3]}, one)
    splits, task = encode(config(), tables={"train": table})
    assert task.labels == names
    assert [f.label for f in splits["train"].read(range(3))] == [1, 0, 3]
    many = Features({"text": Value("string"), "label": List(ClassLabel(names=names))})
    table = Dataset.from_dict({"text": ["a", "b", "c"], "label": [[1, 3], [], [0]]}, many)
    splits, task = encode(config(), "multi_label", tables={"train": table})
    assert task.labels == names
    labels = [f.label for f in splits["train"].read(range(3))]
    assert np.array(labels).tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_labels_of_other_splits_use_the_indices_of_train(write, config, encode):
    files = {
        "train": write("train.csv", [{"text": t, "label": t} for t in "abc"]),
        "test": write("test.csv", [{"text": t, "label": t} for t in "cb"]),
    }
    splits, task = encode(config(path="", files=files))
    assert task.labels == ["a", "b", "c"]
    assert [f.label for f in splits["test"].read(range(2))] == [2, 1]


# --- what is reported ---------------------------------------------------------------------------


def test_truncation_and_empty_documents_are_reported(write, config, encode, caplog):
    rows = [
        {"text": "w1 " * 10, "label": "a"},
        {"text": "w1 " * 3, "label": "b"},
        {"text": " ", "label": "a"},
        {"text": "", "label": "b"},
    ]
    data = config(path=write("a.jsonl", rows), max_length=6)
    features = encode(data, kind="roberta")[0]["train"]
    with caplog.at_level("INFO", logger="longspan"):
        report = features.report_truncation()
    # 10 + 3 tokens of text and 2 special ones for each document, of which 6 are cut
    assert report == {
        "documents": 4,
        "documents_cut": 1,
        "share_of_tokens_cut": pytest.approx(6 / 21),
        "documents_empty": 2,
    }
    assert "4 documents, 15 tokens; 1 documents cut, 28.6% of all tokens lost" in caplog.text
    assert "2 documents hold nothing but white space" in caplog.text
    assert [f.is_empty for f in features.read(range(4))] == [False, False, True, True]


# --- processes and cache ------------------------------------------------------------------------


def test_two_processes_make_the_same_features(write, config, encode):
    rows = [{"text": f"Text {i} " * (i % 9 + 1), "label": "ab"[i % 2]} for i in range(150)]
    policies = GlobalsConfig(every_k=4)
    made = {}
    for processes in (None, 2):
        # another file, so that nothing is found done
        file = write(f"{processes}.jsonl", rows)
        splits, _ = encode(config(path=file, num_proc=processes), policies=policies)
        assert len(splits["train"].table.cache_files) == (processes or 1)
        made[processes] = read(splits["train"])
    assert made[None] == made[2]
    assert [row[0] for row in made[2]] == [f"train-{i}" for i in range(150)]


def test_features_are_made_once(write, config, encode, counted, tmp_path):
    file = write("a.csv", ROWS)
    folder = tmp_path / "texts"
    for row, place in zip(ROWS, ("a/1.txt", "b/2.txt", "a/3.txt", "b/4.txt")):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(row["text"])
    sources = {
        "file": {"path": file},
        "cut": {"path": file, "dev_fraction": 0.2},
        "files": {"path": "", "files": {"train": file, "test": file}},
        "folder": {"path": str(folder)},
    }
    for name, fields in sources.items():
        first = {s: read(features) for s, features in encode(config(**fields))[0].items()}
        assert counted, name
        counted.clear()
        second = {s: read(features) for s, features in encode(config(**fields))[0].items()}
        assert not counted, name
        assert first == second


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 8},
        {"truncate": "tail"},
        {"section_separator": "x"},
        {"id_column": "text"},
        {"text_column": "other"},
        {"text_pair_column": "other"},
        {"policies": GlobalsConfig(first_k=2)},
        {"policies": GlobalsConfig(regex="T")},
        {"kind": "bert"},
        {"problem": "regression"},
        {"label_column": "other"},
        {"rows": [{"text": "another", "other": "1", "label": "0"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_changed_is_made_anew(write, config, encode, counted, change):
    rows = [{"text": f"Text {i} " * 4, "other": str(i % 2), "label": str(i % 2)} for i in range(6)]
    file = write("a.jsonl", rows)
    encode(config(path=file), kind="roberta")
    counted.clear()
    change = dict(change)
    how = {"kind": "roberta"} | {
        name: change.pop(name) for name in ("policies", "kind", "problem") if name in change
    }
    if "rows" in change:
        write("a.jsonl", change.pop("rows") + rows)
    splits, _ = encode(config(path=file, **change), **how)
    assert len(counted) == len(splits["train"])


def test_another_process_finds_the_features(write, config, encode, tmp_path):
    """The cache serves the next run: nothing in its key belongs to one process."""
    for label in "ab":
        place = tmp_path / "texts" / label / "1.txt"
        place.parent.mkdir(parents=True)
        place.write_text(f"text of {label}")
    configs = [
        config(path=write("a.csv", ROWS), dev_fraction=0.2),
        config(path=str(tmp_path / "texts")),
    ]
    made = {data.path: len(encode(data)[0]["train"]) for data in configs}
    program = f"""
from longspan.config import DataConfig, GlobalsConfig, ClassificationConfig
from longspan.data.features import encode_split
from longspan.data.sources import load_splits
from longspan.encoding import DocumentEncoder
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.tasks.classification import Classification

def never(*arguments):
    raise SystemExit("tokenised again")

DocumentEncoder.encode = never
tokenizer = load_tokenizer("embedded:sotu")
for data in {configs!r}:
    encoder = DocumentEncoder(
        tokenizer.backend_tokenizer,
        cls_id=tokenizer.cls_token_id,
        sep_id=tokenizer.sep_token_id,
        max_length=data.max_length,
        truncate=data.truncate,
        policies=GlobalsConfig(),
    )
    table = load_splits(data, stratify=True)["train"]
    task = Classification(ClassificationConfig(), ["a", "b"])
    features = encode_split(
        table, "train", data=data, policies=GlobalsConfig(), encoder=encoder, task=task
    )
    print(len(features))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [int(line) for line in done.stdout.split()] == list(made.values()) == [8, 2]


def test_labels_are_kept_as_json(write, config, encode):
    """Arrow has no one type for an index, a list of numbers and a number."""
    splits, _ = encode(config(path=write("a.csv", ROWS)))
    assert [json.loads(cell) for cell in splits["train"].table["label"]] == [0, 1] * 5
