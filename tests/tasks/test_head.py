"""Heads that read few tokens say what they would say of all hidden states."""

import numpy as np
import pytest
import torch
from torch import nn

from longspan.batch import Feature, pack
from longspan.config import ClassificationConfig, ModelConfig
from longspan.model.encoder import Encoder
from longspan.tasks.classification import ClassificationHead
from longspan.tasks.head import FewRows, logits_of
from longspan.tasks.masked_lm import IGNORED, MaskedLMHead

MODEL = ModelConfig(vocab_size=30, hidden_size=16, num_heads=2, num_layers=2, window=3)


def batch_of(lengths, labelled):
    generator = np.random.default_rng(0)
    features = []
    for length in lengths:
        labels = np.where(np.arange(length) % 3 == 1, 5, IGNORED)
        ids = generator.integers(30, size=length)
        features.append(Feature("x", ids, np.array([0]), label=labels if labelled else None))
    return pack(features)


def mlm_head(encoder):
    return MaskedLMHead(MODEL, encoder.token_embedding, has_bias=True)


def class_head(pooling):
    config = ClassificationConfig(pooling=pooling)
    return lambda encoder: ClassificationHead(MODEL.hidden_size, 3, config)


@torch.no_grad()
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("make_head", [mlm_head, class_head("cls"), class_head("mean")])
def test_logits_are_those_of_all_hidden_states(make_head, labelled):
    torch.manual_seed(0)
    encoder = Encoder(MODEL).eval()
    head, batch = make_head(encoder).eval(), batch_of([1, 12, 5], labelled)
    assert isinstance(head, FewRows)
    torch.testing.assert_close(logits_of(encoder, head, batch), head(encoder(batch), batch))


def test_the_rows_that_heads_read():
    batch, encoder = batch_of([4, 1, 5], labelled=True), Encoder(MODEL)
    assert mlm_head(encoder).rows(batch).tolist() == [1, 6, 9]
    assert mlm_head(encoder).rows(batch_of([4], labelled=False)) is None
    assert class_head("cls")(encoder).rows(batch).tolist() == [0, 4, 5]
    assert class_head("mean")(encoder).rows(batch) is None


def test_a_head_of_any_kind_may_read_everything():
    class Sum(nn.Module):
        def forward(self, hidden, batch):
            return hidden.sum(dim=1)

    batch, encoder = batch_of([4, 2], labelled=False), Encoder(MODEL).eval()
    assert logits_of(encoder, Sum(), batch).shape == (6,)
