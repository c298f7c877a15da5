"""The best span against every span."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.qa_decoding import NUM_BEST, best_spans
from longspan.tasks.qa_loss import segment_logsumexp


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(1, 12))
def test_the_best_span_is_the_best_of_all(seed: int, length: int, max_length: int) -> None:
    random = np.random.default_rng(seed)
    start, end = random.normal(size=(2, length)) * 3
    chosen = np.sort(random.choice(length, random.integers(1, length + 1), replace=False))
    legal = {(a, b): start[a] + end[b] for a in chosen for b in chosen if a <= b < a + max_length}
    found = best_spans(start, end, chosen, length, max_length)
    assert all(legal[first, last] == pytest.approx(score) for first, last, score in found)
    expected = sorted(legal.values(), reverse=True)[:NUM_BEST]
    assert [score for _, _, score in found] == pytest.approx(expected)


@given(st.integers(0, 2**32), st.integers(1, 5))
def test_few_starts_and_ends_give_a_legal_span(seed: int, top_k: int) -> None:
    start, end = np.random.default_rng(seed).normal(size=(2, 40)) * 3
    start[30] = end[3] = 50.0  # the best start lies behind the best end
    found = best_spans(start, end, np.arange(1, 40), top_k, 5)
    assert found
    assert all(1 <= first <= last < first + 5 for first, last, _ in found)


def test_segment_logsumexp_is_torchs_document_by_document() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 2, generator=generator, requires_grad=True)
    document = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    chosen = torch.rand(9, 2, generator=generator) < 0.6
    chosen[3] = False  # nothing of document 1
    result = segment_logsumexp(scores * 50, chosen, document, 3)
    for d in (0, 2):
        for s in range(2):
            own = (scores[:, s] * 50)[(document == d) & chosen[:, s]]
            torch.testing.assert_close(result[d, s], own.logsumexp(0))
    assert result[1].tolist() == [0, 0]
    result.sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[3].any()
