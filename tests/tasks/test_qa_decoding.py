"""The best span against every span, and whole batches against a loop over all of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.batch import pack
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


LONG = 12  # tokens of the longest answer below


def slow_answers(feature, logits, config):
    """(log-probability, first, last) of every span that may be an answer, best first."""
    inside = [i for i, (_, end) in enumerate(feature.offsets.tolist()) if end]
    allowed = inside if config.answerability == "head" else [0, *inside]
    log_p = [
        {i: float(logits[i, side] - logits[allowed, side].logsumexp(0)) for i in inside}
        for side in (0, 1)
    ]
    spans = []
    for first in inside:
        for last in inside:
            if first <= last < first + config.max_answer_length:
                spans.append((log_p[0][first] + log_p[1][last], first, last))
    return sorted(spans, reverse=True)


@pytest.mark.parametrize("answerability", ["null_score", "head"])
@pytest.mark.parametrize("seed", range(5))
def test_a_batch_is_decoded_as_one_span_after_another(make_slices, seed, answerability):
    options = {"answerability": answerability, "max_answer_length": LONG, "top_k": 99}
    qa, slices = make_slices(answers=["w9"], stride=seed, length=15 + 5 * seed, **options)
    batch = pack(slices)
    torch.manual_seed(seed)
    logits = torch.randn(batch.num_tokens, 3) * 4
    logits = logits if answerability == "head" else logits[:, :2]
    own = logits.split(batch.cu_seqlens.diff().tolist())
    for feature, x, found in zip(slices, own, qa.decode(logits, batch), strict=True):
        expected = slow_answers(feature, x, qa.config)[:NUM_BEST]
        sure = float(x[0, 2].sigmoid().log()) if answerability == "head" else 0.0
        assert [a.score for a in found.answers] == pytest.approx(
            [score + sure for score, _, _ in expected], abs=1e-4
        )
        places = [(int(feature.offsets[a, 0]), int(feature.offsets[b, 1])) for _, a, b in expected]
        assert [(a.start, a.end) for a in found.answers] == places
        if answerability == "head":
            assert found.answerable == pytest.approx(float(x[0, 2]))
        else:
            allowed = [0, *feature.offsets[:, 1].nonzero()[0].tolist()]
            assert found.null == pytest.approx(x[allowed].log_softmax(0)[0].tolist(), abs=1e-4)


@pytest.mark.parametrize("answerability", ["null_score", "head"])
def test_a_document_of_one_slice_is_the_same_in_both_normalisations(make_slices, answerability):
    found = []
    for normalisation in ("slice", "document"):
        options = {"answerability": answerability, "normalisation": normalisation}
        qa, slices = make_slices(answers=["w9"], length=64, **options)
        batch = pack(slices)
        torch.manual_seed(0)
        logits = torch.randn(batch.num_tokens, 3 if answerability == "head" else 2) * 4
        (prediction,) = qa.merge(qa.decode(logits, batch))
        found.append(prediction.to_dict())
    probabilities = [[c.pop("probability") for c in p["nbest"]] for p in found]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=1e-4)
    for name in ("probability", "null_score_difference", "loss"):
        assert found[0].pop(name) == pytest.approx(found[1].pop(name), rel=1e-4)
    assert found[0] == found[1]
