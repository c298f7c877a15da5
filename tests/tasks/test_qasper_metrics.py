"""Qasper's answer F1, case by case, as its official evaluation script counts it."""

import re
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.tasks.qasper_metrics import qasper, score


@pytest.mark.parametrize(
    ("predicted", "annotators", "exact", "overlap"),
    [
        ("the Europarl corpus", ["Europarl corpus", "MultiUN"], 1, 1),
        ("Europarl", ["Europarl, MultiUN"], 0, 2 / 3),  # several extracts are one answer
        ("", [], 1, 1),  # all say that there is none
        ("Europarl", [], 0, 0),
        ("", ["Europarl"], 0, 0),
        ("", ["Europarl", "Unanswerable"], 1, 1),  # one of them does
        ("yes", ["Yes"], 1, 1),
        ("", ["It is unanswerable"], 0, 1 / 2),  # only a text like others
        ("the", ["A"], 1, 0),  # equal, yet without a word in common
    ],
)
def test_the_annotator_who_suits_best_counts(predicted, annotators, exact, overlap) -> None:
    assert score(predicted, annotators) == pytest.approx((exact, overlap))


def test_means() -> None:
    measured = qasper(["", "Europarl"], [[], ["Europarl, MultiUN"]])
    assert measured == pytest.approx({"exact_match": 0.5, "f1": (1 + 2 / 3) / 2})


def official_f1(prediction: str, reference: str) -> float:
    """`token_f1_score`, step by step."""

    def tokens(text: str) -> list[str]:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    ours, theirs = tokens(prediction), tokens(reference)
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


TEXTS = st.lists(st.sampled_from(["a", "the", "x", "X.", "y", "unanswerable", ","]), max_size=4)


@given(TEXTS.map(" ".join), st.lists(TEXTS.map(" ".join), max_size=3))
def test_f1_is_the_official_one(predicted: str, annotators: list[str]) -> None:
    said, references = predicted or "Unanswerable", annotators or ["Unanswerable"]
    expected = max(official_f1(said, reference) for reference in references)
    assert score(predicted, annotators)[1] == pytest.approx(expected)
