"""Pairs, choices and multi-hop questions from the hub, on the hub's own columns."""

from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from longspan.compose.configuration import placed
from longspan.config import Config
from longspan.training.build import prepare
from longspan.typed import from_dict

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "hotpotqa" / "test.jsonl"
ARTICLE = "The ship is old. It never sailed again after the war. "
STRING = Value("string")
SETS = {
    "tasksource/contract-nli": (
        {"premise": STRING, "hypothesis": STRING,
         "label": ClassLabel(names=["contradiction", "entailment", "neutral"])},
        [{"premise": f"Contract {i}. {ARTICLE}", "hypothesis": f"Clause {i}", "label": i % 3}
         for i in range(12)],
        ("train", "validation", "test"),
    ),
    "emozilla/quality": (
        {"article": STRING, "question": STRING, "options": List(STRING),
         "answer": Value("int64"), "hard": Value("bool")},
        [{"article": f"{i // 2}. {ARTICLE * 3}", "question": f"What is ship {i}?", "hard": False,
          "options": ["old", "new", "lost", "red"], "answer": i % 4} for i in range(12)],
        ("train", "validation"),
    ),
    "hotpotqa/hotpot_qa": (
        {"id": STRING, "question": STRING, "answer": STRING, "type": STRING, "level": STRING,
         "supporting_facts": {"title": List(STRING), "sent_id": List(Value("int32"))},
         "context": {"title": List(STRING), "sentences": List(List(STRING))}},
        [{"id": f"{i}", "question": f"What is {i}?", "answer": "old", "type": "bridge",
          "level": "hard", "supporting_facts": {"title": ["Ship", "Sea"], "sent_id": [0, 1]},
          "context": {"title": ["Ship", "Sea"],
                      "sentences": [["It is old.", " It is big."], ["It is blue.", " Old too."]]}}
         for i in range(12)],
        ("train", "validation"),
    ),
    "community-datasets/qangaroo": (
        {"query": STRING, "supports": List(STRING), "candidates": List(STRING), "answer": STRING,
         "id": STRING},
        [{"query": f"place_of_birth ann {i}", "supports": ["Ann was born in Paris .", "Paris ."],
          "candidates": ["rome", "paris"], "answer": "paris", "id": f"{i}"} for i in range(12)],
        ("train", "validation"),
    ),
}  # fmt: skip


@pytest.fixture
def prepared(conf, monkeypatch, tmp_path):
    """What a command line makes of a hub that holds the sets above."""
    load_dataset = datasets.load_dataset

    def load(path, name=None, *, split, **arguments):
        if path not in SETS:  # a file
            return load_dataset(path, name, split=split, **arguments)
        columns, rows, splits = SETS[path]
        assert split in splits
        file = tmp_path / f"{split}.parquet"
        Dataset.from_list(rows, Features(columns)).to_parquet(str(file))
        return load_dataset("parquet", data_files=str(file), split="train",
                            cache_dir=str(tmp_path / "cache"))  # fmt: skip

    monkeypatch.setattr(datasets, "load_dataset", load)

    def prepared(*overrides):
        with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
            found = compose("train", [*overrides, "globals=question", "name=x"])
        config = from_dict(Config, placed(OmegaConf.to_container(found, resolve=True), []))
        return config, prepare(config)

    return prepared


def test_contract_nli(prepared, tokenizers):
    config, found = prepared("data=contract_nli")
    assert config.data.name == "contractnli_b"
    assert found.task.labels == ["contradiction", "entailment", "neutral"]
    (feature,) = found.splits["test"].read([4])
    assert feature.label == 1
    text = tokenizers["embedded"].decode(feature.input_ids[feature.global_positions].tolist())
    assert text.replace("[CLS]", "").strip() == "Clause 4"


def test_quality(prepared, tokenizers):
    _, found = prepared("data=quality", "task=choice")
    assert {name: len(split) for name, split in found.splits.items()} == {
        "train": 10, "dev": 2, "test": 12  # the two questions of an article stay together
    }  # fmt: skip
    (feature,) = found.splits["test"].read([6])
    assert feature.label == 2
    asked = tokenizers["embedded"].decode(feature.input_ids[feature.global_positions].tolist())
    assert asked == "[CLS]What is ship 6?[SEP] old[SEP] new[SEP] lost[SEP] red"


def test_wikihop(prepared, tokenizers):
    _, found = prepared("data=wikihop", "task=choice", "data.answers_column=answer")
    (feature,) = found.splits["test"].read([5])
    assert (feature.id, feature.label) == ("5", 1)
    asked = tokenizers["embedded"].decode(feature.input_ids[feature.global_positions].tolist())
    assert asked == "[CLS]place of birth ann 5[SEP] rome[SEP] paris"


@pytest.mark.parametrize("format", ["hotpot_qa", "null"])
def test_hotpot_qa(prepared, format):
    """With the columns that `data.format` makes, and with the hub's."""
    columns = ("data.text_column=context", "data.answers_column=answer", f"data.format={format}")
    _, found = prepared("data=hotpot_qa", "task=multihop", *columns)
    (feature,) = found.splits["test"].read([3])
    assert feature.id == "3"
    assert feature.label["sentences"] == [1, 0, 0, 1]
    assert feature.label["titles"] == [1, 1]
    assert len(feature.label["spans"]) == 1  # "Old" is another word
    assert feature.details["gold_facts"] == [["Ship", 0], ["Sea", 1]]


@pytest.mark.skipif(not SHARED.is_file(), reason=f"real data is not here: no {SHARED}")
def test_real_paragraphs(prepared):
    """100 questions of HotpotQA whose paragraphs are not cut into sentences."""
    files = ",".join(f"{split}:{SHARED}" for split in ("train", "dev", "test"))
    columns = ("data.text_column=paragraphs", "data.answers_column=answer")
    _, found = prepared("data=files", f"data.files={{{files}}}", "task=multihop", *columns)
    assert found.facts["test"]["questions"] == 100
    assert found.facts["test"]["highest_exact_match"] == 1.0
    assert found.facts["test"]["facts_without_sentence"] == 0
    slices = found.splits["test"].read(range(100))
    assert all(sum(piece.label["titles"]) == 2 for piece in slices)
    assert all(piece.label["sentences"] == piece.label["titles"] for piece in slices)
    spans = [piece.label["spans"] for piece in slices if piece.label["type"] == 0]
    assert all(isinstance(own, list) and own for own in spans)
