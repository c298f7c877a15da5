"""The best span against every span, and slices merged to one answer a question."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.qa_decoding import (
    NUM_BEST,
    Answer,
    SlicePrediction,
    best_spans,
    merge,
    segment_logsumexp,
)


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


def piece(
    number: int, text: str, score: float, null: float, question: str = "q"
) -> SlicePrediction:
    about = {"id": question, "question": "Who?", "answers": ["Ann"], "depth": 0.2, "length": 50}
    answer = Answer(text, number * 10, number * 10 + len(text), score)
    answers = (answer,) if text else ()
    return SlicePrediction(f"{question}#{number}", about, answers, null, 0, loss=float(number))


def test_the_best_slice_answers() -> None:
    (merged,) = merge([piece(0, "Bob", -5.0, -0.1), piece(1, "Ann", -0.5, -3.0)], threshold=0.0)
    assert (merged.predicted, merged.start, merged.end) == ("Ann", 10, 13)
    assert merged.null_score_difference == pytest.approx(-2.5)
    assert merged.loss == 0.5
    every = math.exp(-5.0) + math.exp(-0.5) + math.exp(-3.0)
    assert merged.probability == pytest.approx(math.exp(-0.5) / every)


def test_an_answer_that_two_slices_hold_counts_once() -> None:
    one, other = piece(1, "Ann", -0.5, -3.0), piece(1, "Ann", -0.7, -3.0)
    assert merge([one, other], threshold=0.0) == [replace(merge([one], threshold=0.0)[0], loss=1.0)]


def test_no_answer_where_every_slice_says_so() -> None:
    slices = [piece(0, "Bob", -5.0, -0.1), piece(1, "Ann", -4.0, -0.2)]
    (merged,) = merge(slices, threshold=0.0)
    assert (merged.predicted, merged.start, merged.end, merged.best) == ("", None, None, "Ann")
    assert merge(slices, threshold=4.0)[0].predicted == "Ann"
    assert merge(slices, threshold=None)[0].predicted == "Ann"
    assert merged.gold == ["Ann"]


def test_the_best_answers_are_listed_with_their_probabilities() -> None:
    pieces = [piece(0, "Bob", -2.0, -1.0), piece(1, "Ann", -0.5, -3.0), piece(2, "", 0.0, -2.5)]
    (merged,) = merge(pieces, threshold=0.0)
    assert [(row["text"], row["start"], row["end"]) for row in merged.nbest] == [
        ("Ann", 10, 13),
        ("Bob", 0, 3),
        ("", None, None),
    ]
    probabilities = [row["probability"] for row in merged.nbest]
    assert probabilities[0] == merged.probability
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0)
    assert merged.depth == 0.2
    (always,) = merge(pieces, threshold=None)  # having none is no choice
    assert [row["text"] for row in always.nbest] == ["Ann", "Bob"]


def test_questions_are_kept_apart_and_in_order() -> None:
    slices = [piece(1, "x", -1, -9, "b"), piece(0, "y", -1, -9, "a"), piece(0, "z", -2, -9, "b")]
    assert [(p.id, p.predicted) for p in merge(slices, 0.0)] == [("a", "y"), ("b", "x")]


def test_a_slice_without_tokens_of_the_document_has_no_answer() -> None:
    (merged,) = merge([piece(0, "", -math.inf, -1.0)], threshold=None)
    assert merged.predicted == ""
    assert math.isfinite(merged.null_score_difference)
