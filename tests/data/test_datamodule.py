"""Features to loaders: the batches that a run reads."""

import json
from dataclasses import replace
from itertools import chain, groupby
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features

from longspan.batch import Feature
from longspan.config import ClassificationConfig, Config, DataConfig, QAConfig, TrainerConfig
from longspan.data.datamodule import Batches, DocumentData
from longspan.data.features import FEATURE_COLUMNS, FeatureSet
from longspan.tasks.classification import Classification

TOKENS = 64


@pytest.fixture
def feature_set():
    def make(split, documents, seed=0):
        generator = np.random.default_rng(seed)
        lengths = generator.integers(3, TOKENS, documents).tolist()
        features = [
            Feature(
                id=f"{split}-{i}",
                input_ids=generator.integers(0, 99, length),
                global_positions=np.array([0, length - 1]),
                label=i % 2,
                tokens_cut=i % 3,
                is_empty=i == 4,
                token_type_ids=np.arange(length) % 2,
            )
            for i, length in enumerate(lengths)
        ]
        rows = {name: [getattr(f, name) for f in features] for name in FEATURE_COLUMNS}
        rows["label"] = [json.dumps(f.label) for f in features]
        return FeatureSet(split, Dataset.from_dict(rows, Features(FEATURE_COLUMNS)), lengths)

    return make


TASK = Classification(ClassificationConfig(), ["a", "b"])


@pytest.fixture
def data_of(feature_set):
    def make(num_workers=0, world_size=1, rank=0, epoch=0, **trainer):
        config = Config(
            data=DataConfig(max_length=TOKENS, tokens_per_batch=150, num_workers=num_workers),
            trainer=TrainerConfig(**trainer),
        )
        data = DocumentData(
            config,
            {"train": feature_set("train", 40), "dev": feature_set("dev", 9)},
            TASK,
        )
        data.trainer = SimpleNamespace(
            current_epoch=epoch,
            world_size=world_size,
            global_rank=rank,
            fit_loop=SimpleNamespace(restarting=False),
        )
        return data

    return make


def content(batch):
    return (
        batch.input_ids.tolist(),
        batch.cu_seqlens.tolist(),
        batch.global_mask.tolist(),
        batch.token_type_ids.tolist(),
        batch.labels.tolist(),
        [f.id for f in batch.features],
        batch.step_weight,
    )


def test_a_batch_holds_the_rows_of_its_spec(data_of):
    data = data_of()
    features = data.splits["train"]
    (specs,) = data.batches_of_epoch(0, world_size=1)
    batches = Batches(features, specs, TASK, key=(0,))
    assert len(batches) == len(specs)
    for place in (len(specs) - 1, 0):  # any of them, in any order
        batch, rows = batches[place], specs[place].rows
        assert [f.id for f in batch.features] == [f"train-{row}" for row in rows]
        for name in ("input_ids", "token_type_ids"):
            cells = (features.table[row][name] for row in rows)
            assert getattr(batch, name).tolist() == list(chain.from_iterable(cells))
        assert batch.labels.tolist() == [row % 2 for row in rows]
        assert batch.cu_seqlens.diff().tolist() == [features.lengths[row] for row in rows]
        assert [f.tokens_cut for f in batch.features] == [row % 3 for row in rows]
        assert [f.is_empty for f in batch.features] == [row == 4 for row in rows]
        assert batch.step_weight == specs[place].step_weight
        assert batch.num_tokens <= 150


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")
def test_workers_give_the_same_batches(data_of):
    read = {
        workers: [content(batch) for batch in data_of(num_workers=workers).train_dataloader()]
        for workers in (0, 2)
    }
    assert read[0] == read[2]
    assert len(read[0]) > 3


def test_every_epoch_is_packed_anew(data_of):
    epochs = [[content(b) for b in data_of(epoch=epoch).train_dataloader()] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert sorted(name for b in epochs[0] for name in b[5]) == sorted(
        name for b in epochs[1] for name in b[5]
    )


def test_overfitting_sees_the_same_batches_every_epoch(data_of):
    epochs = [
        [content(b) for b in data_of(epoch=epoch, overfit_batches=1).train_dataloader()]
        for epoch in (0, 1)
    ]
    assert epochs[0] == epochs[1]


@pytest.mark.parametrize("loader", ["train", "dev"])
def test_ranks_read_different_documents_and_together_all(data_of, loader):
    names = []
    for rank in range(3):
        data = data_of(world_size=3, rank=rank)
        read = data.train_dataloader() if loader == "train" else data.val_dataloader()
        names.append([f.id for batch in read for f in batch.features])
    assert sorted(chain.from_iterable(names)) == sorted(data.splits[loader].table["id"])


def test_without_a_dev_split_there_is_nothing_to_validate_on(data_of):
    data = data_of()
    del data.splits["dev"]
    assert data.val_dataloader() == []


@pytest.mark.parametrize("world_size", [1, 2])
def test_steps_of_the_whole_training(data_of, world_size):
    def steps(**trainer):
        data = data_of(max_epochs=3, **trainer)
        per_epoch = [len(data.batches_of_epoch(e, world_size)[0]) for e in range(3)]
        return data.num_steps(world_size), per_epoch

    total, batches = steps()
    assert total == sum(batches)
    total, batches = steps(accumulate_grad_batches=2)
    assert total == sum(-(-n // 2) for n in batches)
    assert steps(limit_train_batches=2)[0] == 6
    assert steps(limit_train_batches=2, accumulate_grad_batches=2)[0] == 3
    total, batches = steps(limit_train_batches=0.5)
    assert total == sum(n // 2 for n in batches)
    assert steps(max_steps=4)[0] == 4
    assert steps(overfit_batches=1)[0] == 3


def test_packing_is_reported(data_of, caplog):
    data = data_of()
    with caplog.at_level("INFO", logger="longspan"):
        efficiency = data.report_packing()
    (specs,) = data.batches_of_epoch(0, world_size=1)
    assert efficiency == pytest.approx(sum(data.splits["train"].lengths) / (150 * len(specs)))
    assert f"{len(specs)} batches an epoch of at most 150 tokens" in caplog.text


def test_seed_decides_the_batches(data_of):
    data, other = data_of(), data_of()
    other.config = replace(other.config, seed=1)
    assert data.batches_of_epoch(0, 1) == data_of().batches_of_epoch(0, 1)
    assert data.batches_of_epoch(0, 1) != other.batches_of_epoch(0, 1)


def test_tensors_are_what_the_model_reads(data_of):
    batch = next(iter(data_of().train_dataloader()))
    assert batch.input_ids.dtype == torch.int64
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.global_mask.dtype == torch.bool


SLICES = [1, 3, 2, 5, 1, 4, 2, 2]  # of each document


@pytest.fixture
def sliced(feature_set):
    """Data of question answering whose documents are several features each."""

    def make(budget, normalisation="document"):
        features = feature_set("train", sum(SLICES))
        rows = [row for row, slices in enumerate(SLICES) for _ in range(slices)]
        table = features.table.add_column("row", rows)
        config = Config(
            data=DataConfig(max_length=TOKENS, tokens_per_batch=budget),
            task=QAConfig(normalisation=normalisation),
        )
        features = FeatureSet("train", table, features.lengths)
        task = SimpleNamespace(weight=lambda length: 1.0)
        return DocumentData(config, {"train": features}, task), rows

    return make


def test_slices_of_a_document_share_a_batch_where_it_is_normalised_over(sliced):
    data, rows = sliced(budget=400)
    for epoch in (0, 1):
        (specs,) = data.batches_of_epoch(epoch, world_size=1)
        assert sorted(row for spec in specs for row in spec.rows) == list(range(sum(SLICES)))
        for spec in specs:
            held = [rows[row] for row in spec.rows]
            assert all(held.count(document) == SLICES[document] for document in held)
            assert spec.weight == len(set(held))  # a document counts once
            # in order and side by side, as the loss takes them
            assert [document for document, _ in groupby(held)] == list(dict.fromkeys(held))
    assert data.batches_of_epoch(0, 1) == data.batches_of_epoch(0, 1)
    assert data.batches_of_epoch(0, 1) != data.batches_of_epoch(1, 1)


@pytest.mark.parametrize("normalisation", ["slice", "document"])
def test_an_epoch_reads_what_is_drawn_for_it(sliced, normalisation, caplog):
    data, _ = sliced(budget=400, normalisation=normalisation)
    asked = []

    def draw(labels, key):
        asked.append((len(labels), key))
        return range(key[1] % 2, len(labels), 2)

    data.draw = draw
    for epoch in (0, 1):
        (specs,) = data.batches_of_epoch(epoch, world_size=1)
        assert sorted(row for spec in specs for row in spec.rows) == list(
            range(epoch, sum(SLICES), 2)
        )
    assert asked == [(sum(SLICES), (0, 0)), (sum(SLICES), (0, 1))]
    with caplog.at_level("INFO", logger="longspan"):
        data.report_packing()
    assert f"an epoch reads {sum(SLICES) // 2} of {sum(SLICES)} pieces" in caplog.text


def test_a_document_that_a_batch_does_not_hold_is_parted_and_named(sliced, caplog):
    data, rows = sliced(budget=80)
    (specs,) = data.batches_of_epoch(0, world_size=1)
    lengths = data.splits["train"].lengths
    assert max(sum(lengths[row] for row in spec.rows) for spec in specs) <= 80
    tokens = [sum(n for n, row in zip(lengths, rows, strict=True) if row == i) for i in range(8)]
    data.report_packing()
    parted = sum(total > 80 for total in tokens)
    assert f"train: {parted} of 8 documents have more slices than data.tokens_per_batch=80" in (
        caplog.text
    )
    assert f"{max(tokens)} would hold all" in caplog.text

    caplog.clear()
    sliced(budget=400)[0].report_packing()
    sliced(budget=80, normalisation="slice")[0].report_packing()
    assert "have more slices" not in caplog.text
