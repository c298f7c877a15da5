"""Which tokens compete and which are right: written out token by token, for every option."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from longspan.batch import pack
from longspan.tasks.qa_loss import units

ANSWERS = [["w12", "w5 w6"], ["w18 w19"], [], ["w99"]]  # the last does not occur


def slow_span_loss(slices, logits, with_null):
    """Mean over start and end of minus the log-probability of the gold tokens of some slices."""
    places = [(s, i) for s, f in enumerate(slices) for i in range(len(f.input_ids))]
    held = [any(f.label[1:]) for f in slices]
    nats = []
    for side, bit in enumerate((1, 2)):
        allowed = [(s, i) for s, i in places if slices[s].offsets[i, 1] or (with_null and i == 0)]
        gold = [(s, i) for s, i in places if slices[s].label[i] & bit]
        if any(held):
            gold = [(s, i) for s, i in gold if i]
        gold = [place for place in gold if place in allowed]
        if not gold:
            return 0.0
        probability = torch.stack([logits[s][i, side] for s, i in allowed]).softmax(0)
        nats.append(-sum(probability[allowed.index(place)] for place in gold).log())
    return float(sum(nats) / 2)


@pytest.mark.parametrize(
    ("answers", "normalisation", "answerability"),
    [*product(ANSWERS, ("slice", "document"), ("null_score", "head"))],
)
def test_the_loss_token_by_token(make_slices, answers, normalisation, answerability):
    options = {"normalisation": normalisation, "answerability": answerability}
    qa, slices = make_slices(answers=answers, stride=2, **options)
    batch = pack(slices)
    torch.manual_seed(0)
    logits = torch.randn(batch.num_tokens, 3 if answerability == "head" else 2) * 3
    logits.requires_grad_()
    losses = qa.loss(logits, batch)
    own = logits.detach().split(batch.cu_seqlens.diff().tolist())
    with_null = answerability == "null_score"
    if normalisation == "document":
        expected = [slow_span_loss(slices, own, with_null) / len(slices)] * len(slices)
    else:
        expected = [slow_span_loss([s], [x], with_null) for s, x in zip(slices, own, strict=True)]
    if answerability == "head" and answers != ["w99"]:
        share = len(slices) if normalisation == "document" else 1
        for i, (feature, x) in enumerate(zip(slices, own, strict=True)):
            target = torch.tensor(float(any(feature.label[1:])))
            expected[i] += float(binary_cross_entropy_with_logits(x[0, 2], target)) / share
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)
    losses.sum().backward()
    outside = torch.from_numpy(np.concatenate([s.offsets[:, 1] == 0 for s in slices]))
    if with_null:
        outside[batch.cu_seqlens[:-1].long()] = False
    assert not logits.grad[outside, :2].any()  # the question and special tokens are no answers


def test_slices_share_a_softmax_where_they_follow_one_another(make_slices):
    qa, a = make_slices(answers=["w5"], stride=2, normalisation="document")
    _, b = make_slices(answers=["w5"], stride=2)
    b = [_renamed(feature, "other") for feature in b]
    assert len(a) == len(b) == 3
    mixed = pack([*a, b[0], b[2]])  # the rest of the other question is in another batch
    assert units(mixed, qa.config).tolist() == [0, 0, 0, 1, 2]
    together, alone = pack([*a, *b]), pack(a)
    assert units(together, qa.config).tolist() == [0, 0, 0, 1, 1, 1]
    logits = torch.randn(together.num_tokens, 2)
    both = qa.loss(logits, together)
    assert both[:3].tolist() == pytest.approx(qa.loss(logits[: alone.num_tokens], alone).tolist())
    qa, _ = make_slices()
    assert units(together, qa.config).tolist() == [0, 1, 2, 3, 4, 5]


def _renamed(feature, name):
    return replace(feature, details=feature.details | {"id": name})
