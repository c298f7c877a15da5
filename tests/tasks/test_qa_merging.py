"""Slices merged to one question: the best answer, no answer, and probabilities that add up."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.qa_decoding import NUM_BEST, Answer, Prediction, SlicePrediction
from longspan.tasks.qa_merging import Decision, decide, merge_slices


def piece(
    number: int, answers: str | dict[str, float], null: float, question: str = "q", score: float = 0
) -> SlicePrediction:
    """A slice of ten characters for each answer, whose own sums are 1."""
    given = {answers: score} if isinstance(answers, str) else answers
    about = {"id": question, "question": "Who?", "answers": ["Ann"], "length": 50}
    spans = tuple(
        Answer(text, number * 10 + i, number * 10 + i + len(text), score)
        for i, (text, score) in enumerate(given.items())
        if text
    )
    half = (null / 2, null / 2)
    return SlicePrediction(
        f"{question}#{number}", about, spans, half, (0.0, 0.0), None, 0, loss=float(number)
    )


def merge(
    slices: list[SlicePrediction], threshold: float | None = 0.0, temperature: float = 1.0
) -> list[Prediction]:
    return [decide(m, Decision(threshold, temperature)) for m in merge_slices(slices)]


def test_the_best_slice_answers() -> None:
    (merged,) = merge([piece(0, "Bob", -0.1, score=-5.0), piece(1, "Ann", -3.0, score=-0.5)])
    assert (merged.predicted, merged.start, merged.end) == ("Ann", 10, 13)
    assert merged.null_score_difference == pytest.approx(-2.5)
    assert merged.loss == 0.5
    every = math.exp(-5.0) + math.exp(-0.5) + math.exp(-3.0)
    assert merged.probability == pytest.approx(math.exp(-0.5) / every)
    assert [c["text"] for c in merged.nbest] == ["Ann", "", "Bob"]


def test_an_answer_that_two_slices_hold_counts_once() -> None:
    one, other = piece(1, "Ann", -3.0, score=-0.5), piece(1, "Ann", -3.0, score=-0.7)
    assert merge([one, other]) == [replace(merge([one])[0], loss=1.0)]


def test_no_answer_where_every_slice_says_so() -> None:
    slices = [piece(0, "Bob", -0.1, score=-5.0), piece(1, "Ann", -0.2, score=-4.0)]
    (merged,) = merge(slices)
    assert (merged.predicted, merged.start, merged.end, merged.best) == ("", None, None, "Ann")
    assert merge(slices, threshold=4.0)[0].predicted == "Ann"
    always = merge(slices, threshold=None)[0]
    assert always.predicted == "Ann"
    assert "" not in [c["text"] for c in always.nbest]
    assert merged.gold == ["Ann"]


def test_questions_are_kept_apart_and_in_order() -> None:
    slices = [
        piece(1, "x", -9, "b", -1),
        piece(0, "y", -9, "a", -1),
        piece(0, "z", -9, "b", -2),
    ]
    assert [(p.id, p.predicted) for p in merge(slices)] == [("a", "y"), ("b", "x")]


def test_a_slice_without_tokens_of_the_document_has_no_answer() -> None:
    for threshold in (None, 0.0, 1e9):
        (merged,) = merge([piece(0, "", -1.0)], threshold)
        assert (merged.predicted, merged.probability) == ("", 1.0)
        assert math.isfinite(merged.null_score_difference)


SLICES = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-30, 0), max_size=8),
        st.floats(-30, 0),
    ),
    min_size=1,
    max_size=4,
)


@given(SLICES, st.one_of(st.none(), st.floats(-5, 5)), st.floats(0.2, 5))
def test_the_prediction_is_the_most_probable_of_candidates_that_add_up_to_one(
    given_slices: list[tuple[dict[str, float], float]], threshold: float | None, temperature: float
) -> None:
    slices = [piece(i, *content) for i, content in enumerate(given_slices)]
    (merged,) = merge(slices, threshold, temperature)
    assert sum(c["probability"] for c in merged.nbest) == pytest.approx(1)
    assert merged.probability == pytest.approx(merged.nbest[0]["probability"])
    assert len(merged.nbest) <= NUM_BEST + 1
    places = [c["start"] for c in merged.nbest]
    assert len(set(places)) == len(places)
    # what is decided does not depend on how sure one is
    assert merged.predicted == merge(slices, threshold)[0].predicted
    assert (merged.predicted == "") == (
        not any(content for content, _ in given_slices)
        or (threshold is not None and merged.null_score_difference > threshold)
    )
    json.dumps(merged.to_dict(), allow_nan=False)


@given(SLICES)
def test_a_hot_model_is_less_sure(given_slices: list[tuple[dict[str, float], float]]) -> None:
    slices = [piece(i, *content) for i, content in enumerate(given_slices)]
    sure = [merge(slices, temperature=t)[0].probability for t in (0.3, 1.0, 3.0)]
    assert sure[0] >= sure[1] - 1e-9 >= sure[2] - 2e-9


def test_a_document_is_normalised_over_all_of_its_slices() -> None:
    """Scores of two slices as one softmax over both gives them, whatever each sums to."""
    random = np.random.default_rng(0)
    logits = [random.normal(size=(n, 2)) * 3 for n in (6, 9)]  # token 0 of each: no answer
    whole = np.logaddexp.reduce(np.concatenate(logits), axis=0)
    about = {"id": "q", "question": "Who?", "answers": None, "length": 15}
    slices = []
    for number, own in enumerate(logits):
        sums = np.logaddexp.reduce(own, axis=0)
        score = own - sums
        answer = Answer(f"a{number}", number, number + 2, score[2, 0] + score[3, 1])
        null = (score[0, 0], score[0, 1])
        slices.append(
            SlicePrediction(f"q#{number}", about, (answer,), null, tuple(sums), None, 0, None)
        )
    (merged,) = merge_slices(slices, "document")
    expected = {f"a{i}": own[2, 0] + own[3, 1] - whole.sum() for i, own in enumerate(logits)}
    assert {a.text: a.score for a in merged.answers} == pytest.approx(expected)
    null = np.logaddexp.reduce([own[0] for own in logits], axis=0) - whole
    assert merged.null_score == pytest.approx(null.sum())
    assert merged.null_score_difference == pytest.approx(null.sum() - max(expected.values()))


def test_a_head_decides_by_its_most_certain_slice() -> None:
    slices = [
        replace(piece(i, "Ann", -99.0, score=s), answerable=z)
        for i, (s, z) in enumerate([(-1.0, -2.0), (-3.0, 1.5)])
    ]
    (merged,) = merge(slices)
    assert merged.null_score_difference == -1.5
    assert merged.predicted == "Ann"
    none = next(c["probability"] for c in merged.nbest if not c["text"])
    assert none == pytest.approx(1 / (1 + math.exp(1.5)))
    (silent,) = merge([replace(p, answerable=-0.5) for p in slices])
    assert (silent.predicted, silent.null_score_difference) == ("", 0.5)
