"""Features laid end to end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.batch import Feature, pack


def feature(ids, chosen=(), label=None, name="x"):
    return Feature(name, np.array(ids, np.int32), np.array(chosen, np.int32), label)


DOCUMENTS = st.lists(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).flatmap(
        lambda ids: st.tuples(
            st.just(ids), st.sets(st.integers(0, len(ids) - 1), max_size=3).map(sorted)
        )
    ),
    min_size=1,
    max_size=6,
)


@given(documents=DOCUMENTS)
def test_documents_lie_end_to_end(documents):
    features = [feature(ids, chosen, label=i) for i, (ids, chosen) in enumerate(documents)]
    batch = pack(features)
    bounds = batch.cu_seqlens.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == batch.num_tokens == sum(len(ids) for ids, _ in documents)
    assert batch.num_documents == len(documents) == len(bounds) - 1
    for (ids, chosen), start, stop in zip(documents, bounds[:-1], bounds[1:], strict=True):
        assert batch.input_ids[start:stop].tolist() == ids
        assert batch.global_mask[start:stop].nonzero().flatten().tolist() == chosen
    assert batch.labels.tolist() == list(range(len(documents)))
    assert batch.features == tuple(features)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    assert (batch.cu_seqlens.dtype, batch.global_mask.dtype) == (torch.int32, torch.bool)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 0], torch.tensor([2, 0])),
        ([[1.0, 0.0], [0.0, 0.0]], torch.tensor([[1.0, 0.0], [0.0, 0.0]])),
        ([0.5, 3.0], torch.tensor([0.5, 3.0])),
        ([1, None], None),
        ([None, None], None),
    ],
)
def test_labels_of_every_problem(labels, expected):
    batch = pack([feature([1], label=label) for label in labels])
    if expected is None:
        assert batch.labels is None
    else:
        torch.testing.assert_close(batch.labels, expected, rtol=0, atol=0)


def test_documents_of_a_step_are_those_of_the_batch_unless_said():
    features = [feature([1, 2]), feature([3])]
    assert pack(features).step_weight == 2
    assert pack(features, step_weight=7).step_weight == 7


def test_a_batch_moves_as_a_whole():
    batch = pack([feature([1, 2], [0], label=1)], step_weight=5)
    moved = batch.to("meta")
    for name in ("input_ids", "cu_seqlens", "token_type_ids", "global_mask", "labels"):
        assert getattr(moved, name).device.type == "meta"
        assert getattr(batch, name).device.type == "cpu"
    assert (moved.features, moved.step_weight) == (batch.features, 5)
    assert pack([feature([1])]).to("cpu").labels is None


def test_token_types_are_those_of_the_documents_or_zero():
    typed = replace(feature([5, 6, 7]), token_type_ids=np.array([0, 1, 1], np.int8))
    batch = pack([feature([1, 2]), typed])
    assert batch.token_type_ids.tolist() == [0, 0, 0, 1, 1]
    assert batch.token_type_ids.dtype == torch.int64


def test_an_empty_batch_is_a_defect():
    with pytest.raises(AssertionError):
        pack([])
