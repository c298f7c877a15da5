"""Masked language modelling: what is hidden, what it costs to guess it, and in which unit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from longspan.batch import Feature, pack
from longspan.config import MaskedLMConfig, ModelConfig
from longspan.model.encoder import Encoder
from longspan.tasks.masked_lm import IGNORED, MaskedLM, Prediction, Vocabulary, mask_tokens

MASK = 4
VOCABULARY = Vocabulary(MASK, np.arange(5, 100))


@st.composite
def documents(draw):
    """Ids and words: special tokens at both ends, words of one to four tokens between."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=40))
    words = [-1, *np.repeat(np.arange(len(sizes)), sizes).tolist(), -1]
    ids = [draw(st.integers(5, 99)) for _ in words]
    return np.array(ids, np.int32), np.array(words, np.int32)


def masked(document, seed=0, share=0.15, whole_words=True):
    generator = np.random.default_rng(seed)
    return mask_tokens(*document, generator, VOCABULARY, share=share, whole_words=whole_words)


@given(documents(), st.integers(0, 99), st.floats(0.01, 0.9), st.booleans())
def test_what_is_hidden(document, seed, share, whole_words):
    ids, words = document
    shown, labels = masked(document, seed, share, whole_words)
    hidden = labels != IGNORED
    candidates = words >= 0
    assert not hidden[~candidates].any()  # special tokens never are
    assert (labels[hidden] == ids[hidden]).all()
    assert (shown[~hidden] == ids[~hidden]).all()
    if not candidates.any():
        return
    sizes = np.bincount(words[candidates])
    wanted = max(1, round(share * candidates.sum()))
    if whole_words:
        for word in range(len(sizes)):
            assert len(set(hidden[words == word].tolist())) == 1
        assert 1 <= hidden.sum() <= max(wanted, sizes.max())
    else:
        assert hidden.sum() == wanted
    again = masked(document, seed, share, whole_words)
    assert (again[0] == shown).all()
    assert (again[1] == labels).all()


def test_eight_of_ten_behind_the_mask_one_behind_another_token_one_as_it_is():
    ids = np.full(20_000, 50, np.int32)
    shown, labels = masked((ids, np.arange(20_000, dtype=np.int32)))
    hidden = labels != IGNORED
    assert hidden.sum() == 3000
    share = np.mean(shown[hidden] == MASK), np.mean(shown[hidden] == 50)
    assert share == pytest.approx((0.8, 0.1 + 0.1 / 95), abs=0.03)
    assert np.isin(shown[hidden], [*range(5, 100), MASK]).all()


def feature(document, name="a"):
    ids, words = document
    return Feature(
        id=name,
        input_ids=ids,
        global_positions=np.array([0]),
        words=words,
        characters=np.where(words >= 0, 3, 0).astype(np.int32),
    )


LONG = (np.arange(5, 65, dtype=np.int32), np.repeat(np.arange(30), 2).astype(np.int32))


def test_the_key_decides_what_is_hidden():
    task = MaskedLM(MaskedLMConfig(), VOCABULARY)
    one, same, other = (
        task.prepare(feature(LONG), key) for key in [(0, 1, 7), (0, 1, 7), (0, 2, 7)]
    )
    assert (one.label == same.label).all()
    assert (one.input_ids == same.input_ids).all()
    assert (one.label != other.label).any()
    assert one.id == "a"


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=100, hidden_size=16, num_heads=2, window=3)
    encoder = Encoder(config).eval()
    task = MaskedLM(MaskedLMConfig(), VOCABULARY)
    head = task.head(config, encoder.token_embedding)
    nn.init.normal_(head.bias)
    return task, encoder, head


def test_the_loss_is_that_of_the_hidden_tokens_document_by_document(model):
    task, encoder, head = model
    features = [task.prepare(feature(LONG, name), (i,)) for i, name in enumerate("abc")]
    batch = pack(features)
    hidden = encoder(batch)
    losses = task.loss(head(hidden, batch), batch)
    everything = head(hidden, replace(batch, labels=None))  # (T, V)
    assert everything.shape == (180, 100)
    scores = F.linear(head.norm(F.gelu(head.dense(hidden))), encoder.token_embedding.weight)
    torch.testing.assert_close(everything, scores + head.bias)
    for i, one in enumerate(features):
        rows = everything[60 * i : 60 * (i + 1)]
        labels = torch.from_numpy(one.label)
        expected = F.cross_entropy(rows, labels, ignore_index=IGNORED, reduction="sum")
        torch.testing.assert_close(losses[i], expected)
    alone = [task.loss(head(encoder(b), b), b) for b in (pack([one]) for one in features)]
    torch.testing.assert_close(losses, torch.cat(alone))


def test_the_decoder_is_the_embedding(model):
    _, encoder, head = model
    assert {name for name, _ in head.named_parameters()} == {
        "dense.weight", "dense.bias", "norm.weight", "norm.bias", "bias",
    }  # fmt: skip
    batch = pack([feature(LONG)])
    before = head(torch.ones(60, 16), batch)
    with torch.no_grad():
        encoder.token_embedding.weight.mul_(2)
    torch.testing.assert_close(
        head(torch.ones(60, 16), batch), 2 * (before - head.bias) + head.bias
    )


def test_a_document_without_words_costs_nothing(model):
    task, encoder, head = model
    empty = feature((np.array([1, 2], np.int32), np.array([-1, -1], np.int32)))
    batch = pack([task.prepare(empty, (0,))])
    loss = task.loss(head(encoder(batch), batch), batch)
    assert loss.tolist() == [0.0]
    loss.sum().backward()  # and breaks nothing
    (prediction,) = task.decode(head(encoder(batch), batch), batch)
    assert (prediction.guessed, prediction.characters) == (0, 0)
    assert task.metrics([prediction]) == {}


def test_predictions_and_metrics_count_tokens_and_characters(model):
    task, encoder, head = model
    batch = pack([task.prepare(feature(LONG, name), (i,)) for i, name in enumerate("ab")])
    logits = head(encoder(batch), batch).detach()
    predictions = task.decode(logits, batch)
    assert [p.id for p in predictions] == ["a", "b"]
    assert [p.guessed for p in predictions] == [8, 8]  # the even number that fits into 9
    assert [p.characters for p in predictions] == [24, 24]
    metrics = task.metrics(predictions)
    assert metrics["loss"] == pytest.approx(float(task.loss(logits, batch).sum()) / 16)
    assert metrics["bits_per_token"] == pytest.approx(metrics["loss"] / math.log(2))
    assert metrics["bits_per_character"] == pytest.approx(metrics["bits_per_token"] / 3)
    labels = batch.labels[batch.labels != IGNORED]
    assert metrics["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    known = Prediction("x", loss=math.log(2) * 6, guessed=3, correct=1, characters=12, length=9)
    assert task.metrics([known]) == pytest.approx(
        {"loss": 2 * math.log(2), "bits_per_token": 2, "bits_per_character": 0.5, "accuracy": 1 / 3}
    )


def test_a_document_weighs_what_is_expected_to_be_guessed_of_it():
    assert MaskedLM(MaskedLMConfig(masked_share=0.2), VOCABULARY).weight(50) == pytest.approx(10)
