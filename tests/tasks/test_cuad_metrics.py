"""CUAD's figures, case by case, as its official evaluation script counts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc

from longspan.tasks.cuad_metrics import CONFIDENCES, cuad, jaccard, words


def nbest(*rows):
    return [{"text": text, "probability": probability} for text, probability in rows]


@pytest.mark.parametrize(
    ("ours", "theirs", "overlap"),
    [
        ("the State of Ohio", "State of Ohio.", 3 / 4),  # articles are words here
        ("Ohio, Ohio; OHIO:", "ohio", 1),  # sets of words, without four marks
        ("and/or", "or", 1 / 2),  # a stroke parts words
        ("“Agreement”", "Agreement", 0),  # other marks stay
        ("a b", "b a", 1),
        (".", ".", 0),  # without any word; the official scorer divides by zero
    ],
)
def test_spans_are_compared_as_sets_of_words(ours: str, theirs: str, overlap: float) -> None:
    assert jaccard(words(ours), words(theirs)) == pytest.approx(overlap)


def test_the_confidences_are_the_scorers() -> None:
    assert len(CONFIDENCES) == 101
    assert CONFIDENCES[[0, -3, -2, -1]] == pytest.approx([0.99, 0.01, 0.001, 0])


def test_a_curve_by_hand() -> None:
    measured = cuad(
        ["x__Governing Law", "x__Insurance"],
        [
            nbest(("laws of Ohio", 0.7), ("", 0.2), ("one year", 0.105)),
            nbest(("all insurance", 0.5)),
        ],
        [["the laws of Ohio", "one year only"], []],
    )
    # recall 1/2 at precision 1 (confidence below 0.7), still 1/2 at precision 1/2 (below 0.5),
    # then 1 at 2/3; 1/2 counts as 2/3 too, as that precision is there at more recall
    assert measured == pytest.approx(
        {
            "aupr": 0.5 * 1 + 0.5 * 2 / 3,
            "precision_at_80_recall": 2 / 3,
            "precision_at_90_recall": 2 / 3,
        }
    )


def test_a_confidence_has_to_be_exceeded() -> None:
    one = cuad(["x"], [nbest(("all insurance", 0.0))], [["all insurance"]])
    assert one["aupr"] == 0.0
    assert cuad(["x"], [nbest(("all insurance", 1e-9))], [["all insurance"]])["aupr"] == 1.0


def test_recall_that_is_never_reached_has_no_precision() -> None:
    measured = cuad(["x"], [nbest(("one two", 0.9))], [["one two", "three four"]])
    assert measured["aupr"] == 0.5
    assert measured["precision_at_80_recall"] == 0.0


def test_parties_are_found_inside_longer_spans() -> None:
    predicted = [nbest(("by and between Acme Corporation and its many affiliates", 0.9))]
    assert cuad(["x__Parties"], predicted, [["Acme Corporation"]])["aupr"] == 1.0
    assert cuad(["x__Insurance"], predicted, [["Acme Corporation"]])["aupr"] == 0.0


def test_a_text_that_is_listed_twice_has_its_last_confidence() -> None:
    rows = nbest(("one two", 0.9), ("one two", 0.05)), nbest(("three", 0.5))
    measured = cuad(["x", "y"], rows, [["one two"], []])
    assert measured["precision_at_80_recall"] == 0.5  # "three" is the surer one


@pytest.mark.parametrize(
    ("predicted", "gold"), [([nbest(("", 1.0))], [["x"]]), ([nbest(("x", 1.0))], [[]])]
)
def test_nothing_predicted_or_nothing_to_find(predicted, gold) -> None:
    assert set(cuad(["q"], predicted, gold).values()) == {0.0}


def oracle(questions, predicted, gold) -> dict[str, float]:
    """The official rules once more: every confidence on its own, every pair compared anew."""

    def plain(text):
        for mark in ".,;:":
            text = text.replace(mark, "")
        return set(text.lower().replace("/", " ").split())

    def same(question, span, text):
        union = plain(span) | plain(text)
        alike = bool(union) and len(plain(span) & plain(text)) >= len(union) / 2
        return alike or ("Parties" in question and span in text)

    points = [(0.0, 1.0)]
    for confidence in CONFIDENCES:
        found = missed = wrong = 0
        for question, rows, spans in zip(questions, predicted, gold, strict=True):
            last = {row["text"]: row["probability"] for row in rows}
            texts = [t for t, p in last.items() if t and p > confidence]
            hits = [any(same(question, span, t) for t in texts) for span in spans]
            found, missed = found + sum(hits), missed + len(hits) - sum(hits)
            wrong += sum(not any(same(question, span, t) for span in spans) for t in texts)
        if not found + missed:
            return dict.fromkeys(("aupr", "precision_at_80_recall", "precision_at_90_recall"), 0.0)
        precision = found / (found + wrong) if found + wrong else 0.0
        points.append((found / (found + missed), precision))
    if not found + wrong:
        points = [(recall, 0.0) for recall, _ in points]
    recalls = [recall for recall, _ in points]
    best = [max(precision for _, precision in points[i:]) for i in range(len(points))]

    def at(least):
        return next((p for r, p in zip(recalls, best, strict=True) if r >= least), 0.0)

    return {
        "aupr": auc(recalls, best),
        "precision_at_80_recall": at(0.8),
        "precision_at_90_recall": at(0.9),
    }


SPAN = st.lists(
    st.sampled_from(["Ohio", "law", "of.", "a/b", "OHIO,", "x"]), min_size=1, max_size=4
)
SPANS = st.lists(SPAN.map(" ".join), max_size=3)
PROBABILITY = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.001, 0.01, 0.5, 0.99]))
ROWS = st.lists(st.tuples(st.one_of(SPAN.map(" ".join), st.just("")), PROBABILITY), max_size=5)
QUESTION = st.tuples(st.sampled_from(["x__Parties", "x__Law"]), ROWS, SPANS)


@given(st.lists(QUESTION, min_size=1, max_size=4))
def test_as_counted_one_by_one(rows) -> None:
    questions, predicted, gold = zip(*rows, strict=True)
    predicted = [nbest(*row) for row in predicted]
    expected = oracle(questions, predicted, gold)
    assert cuad(questions, predicted, gold) == pytest.approx(expected)
