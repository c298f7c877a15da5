"""What the tests of data share: little files, and the way from them to features."""

import csv
import json

import pytest
from datasets import Dataset
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from longspan.compose.configuration import placed
from longspan.config import ClassificationConfig, Config, DataConfig, GlobalsConfig
from longspan.data.features import encode_split
from longspan.data.rows import check_columns, class_names
from longspan.data.sources import load_splits
from longspan.tasks.classification import Classification
from longspan.typed import from_dict


@pytest.fixture
def write(tmp_path):
    """Write rows (dictionaries) or raw bytes to a file, the format by its suffix."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        elif path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".jsonl":
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        elif path.suffix == ".parquet":
            Dataset.from_list(rows).to_parquet(str(path))
        return str(path)

    return write


@pytest.fixture
def config(tmp_path):
    """A `DataConfig` with a cache of the test's own and, unless said, without cut splits."""

    def config(**fields):
        defaults = {
            "cache_dir": str(tmp_path / "cache"),
            "max_length": 32,
            "tokens_per_batch": 64,
            "dev_fraction": 0.0,
            "test_fraction": 0.0,
        }
        return DataConfig(**(defaults | fields))

    return config


@pytest.fixture
def composed(conf, tmp_path):
    """The typed config of a command line, with a tokenizer that needs no download."""

    def composed(*overrides):
        cache = f"data.cache_dir={tmp_path / 'cache'}"
        with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
            found = compose("train", [*overrides, cache, "data.tokenizer=embedded:sotu", "name=x"])
        return from_dict(Config, placed(OmegaConf.to_container(found, resolve=True), []))

    return composed


@pytest.fixture
def question_sets():
    """The ready configs of questions; test_question_sets.py tests them."""
    return {"squad_v2", "cuad", "trivia_qa", "hotpot_qa", "qasper", "wikihop"}


@pytest.fixture
def encode(make_encoder):
    """From a config to the features of every split, and the task, as `prepare` does it."""

    def encode(data, problem="single_label", policies=None, kind="embedded", tables=None, **task):
        policies = policies or GlobalsConfig()
        tables = tables or load_splits(data, stratify=problem == "single_label")
        encoder = make_encoder(kind, data.max_length, data.truncate, policies)
        column, train = data.label_column, tables["train"]
        for split, table in tables.items():
            check_columns(table, split, data, policies, labelled=True)
        classification = Classification.from_training_labels(
            ClassificationConfig(problem=problem, **task),
            train[column][:],
            class_names(train, column),
            column,
        )
        splits = {
            split: encode_split(
                table, split, data=data, policies=policies, encoder=encoder, task=classification
            )
            for split, table in tables.items()
        }
        return splits, classification

    return encode
