"""Exact match and F1, case by case, as SQuAD's official evaluation script (2.0) counts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from longspan.tasks.qa_metrics import (
    best_threshold,
    best_thresholds,
    exact_match,
    f1,
    normalize,
    score,
    squad,
)


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Eiffel Tower", "eiffel tower"),
        ("  a  cat, an   owl & the dog!", "cat owl dog"),
        ("U.S.A.", "usa"),  # punctuation goes without leaving a space
        ("theatre", "theatre"),  # an article is a word of its own
        ("the-cat", "thecat"),  # punctuation goes before articles
        ("“quoted”", "“quoted”"),  # only ASCII punctuation goes
        ("The", ""),
        ("!?", ""),
        ("Ünïcode\u00a0Straße", "ünïcode straße"),
    ],
)
def test_answers_are_normalised_in_the_official_order(answer: str, normal: str) -> None:
    assert normalize(answer) == normal


@pytest.mark.parametrize(
    ("predicted", "gold", "exact", "overlap"),
    [
        ("Denver Broncos", "the Denver Broncos.", 1, 1),
        ("Denver", "Denver Broncos", 0, 2 / 3),
        ("the Broncos of Denver", "Denver Broncos", 0, 0.8),  # the order does not count
        ("cat cat", "cat", 0, 2 / 3),  # repeated words count as often as both have them
        ("dog", "cat", 0, 0),
        ("", "cat", 0, 0),
        ("the", "cat", 0, 0),  # nothing is left of it
        ("", "the", 1, 1),  # nothing is left of either
    ],
)
def test_one_pair(predicted: str, gold: str, exact: float, overlap: float) -> None:
    assert exact_match(predicted, gold) == exact
    assert f1(predicted, gold) == pytest.approx(overlap)


def test_the_best_gold_answer_counts_for_each_metric() -> None:
    assert score("Denver Broncos", ["Broncos", "Denver Broncos team"]) == (0, pytest.approx(0.8))
    assert score("Broncos", ["Denver Broncos", "broncos!"]) == (1, 1)


@pytest.mark.parametrize("gold", [[], ["the"], ["", "!"]])
def test_without_a_gold_answer_nothing_is_right(gold: list[str]) -> None:
    assert score("", gold) == (1, 1)
    assert score("cat", gold) == (0, 0)


def test_a_gold_answer_that_normalises_to_nothing_is_left_out_beside_others() -> None:
    assert score("", ["the", "cat"]) == (0, 0)


def test_means_overall_and_with_and_without_an_answer() -> None:
    measured = squad(["Denver", "", "cat", ""], [["Denver Broncos"], [], [], ["dog"]])
    assert measured == {
        "exact_match": 0.25,
        "f1": pytest.approx((2 / 3 + 1 + 0 + 0) / 4),
        "has_answer_exact_match": 0.0,
        "has_answer_f1": pytest.approx(1 / 3),
        "no_answer_exact_match": 0.5,
        "no_answer_f1": 0.5,
    }


def test_there_is_no_division_where_all_questions_are_of_one_kind() -> None:
    assert squad(["cat"], [["cat"]]) == {"exact_match": 1.0, "f1": 1.0}


def test_the_best_threshold_answers_the_sure_questions() -> None:
    measured = best_thresholds(
        ["Denver", "cat", "dog", "bird"],
        [["Denver Broncos"], [], ["dog"], []],  # 2 of 4 are right without any answer
        [-5.0, 3.0, -1.0, 1.0],
    )
    assert measured == {
        "best_exact": 3 / 4,  # Denver and dog answered: 2 + 0 + 1
        "best_exact_thresh": -1.0,
        "best_f1": pytest.approx((2 + 2 / 3 + 1) / 4),
        "best_f1_thresh": -1.0,
    }


def test_the_lowest_of_equal_thresholds_counts() -> None:
    assert best_threshold([1.0, 0.0, 1.0, -1.0, 1.0], [1, 2, 3, 4, 5]) == (2.0, 3)


def test_where_no_answer_is_worth_its_risk_the_threshold_lies_below_all() -> None:
    measured = best_thresholds(["cat", "dog"], [[], ["bird"]], [0.5, 0.7])
    assert measured["best_exact"] == 0.5
    assert measured["best_exact_thresh"] < 0.5


GAIN = st.sampled_from([-1.0, 0.0, 0.5, 1.0])


@given(st.lists(st.tuples(GAIN, st.integers(-50, 50)), min_size=1, unique_by=lambda row: row[1]))
def test_no_threshold_is_better(rows) -> None:
    """All thresholds tried one by one."""
    gains, differences = [row[0] for row in rows], [float(row[1]) for row in rows]

    def total(threshold):
        return sum(g for g, d in zip(gains, differences, strict=True) if d <= threshold)

    highest, threshold = best_threshold(gains, differences)
    assert highest == total(threshold) == max(map(total, [*differences, -99.0]))
    assert not [d for d in differences if d < threshold and total(d) == highest]


WORDS = st.lists(
    st.sampled_from(["the", "The", "an", "cat", "Cat.", "d'or", "ü", "U.S.", "–", "7"])
)
ANSWERS = WORDS.map(" ".join)


@given(st.lists(st.tuples(ANSWERS, st.lists(ANSWERS, min_size=1, max_size=3)), min_size=1))
def test_answers_count_as_torchmetrics_counts_them(questions: list[tuple[str, list[str]]]) -> None:
    # SQuAD 1.1, where every question has an answer, and so has every gold text a word that counts
    questions = [(p, [text for text in gold if normalize(text)]) for p, gold in questions]
    questions = [(p, gold) for p, gold in questions if gold and normalize(p)]
    if not questions:
        return
    predicted, gold = zip(*questions, strict=True)
    ids = [str(number) for number in range(len(questions))]
    theirs = torchmetrics_squad(
        [{"prediction_text": p, "id": i} for p, i in zip(predicted, ids, strict=True)],
        [
            {"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": i}
            for texts, i in zip(gold, ids, strict=True)
        ],
    )
    ours = squad(list(predicted), list(gold))
    assert 100 * ours["exact_match"] == pytest.approx(float(theirs["exact_match"]), abs=1e-3)
    assert 100 * ours["f1"] == pytest.approx(float(theirs["f1"]), abs=1e-3)
