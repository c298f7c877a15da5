"""Answer cells of all shapes, repaired and dropped answers, and the tokens that they become."""

import numpy as np
import pytest

from longspan.errors import UserError
from longspan.tasks.qa_answers import gold_answers, occurrences, token_spans

DOCUMENT = "Ann lives in Paris, and Paris is where Bob lives."
FIRST, SECOND = (13, 18), (24, 29)


@pytest.mark.parametrize(
    "cell",
    [
        {"text": ["Paris"], "answer_start": [13]},
        [{"text": "Paris", "answer_start": 13}],
        {"text": ["Paris", "Paris"], "answer_start": [13, 13]},  # annotators who agree
    ],
)
def test_squads_shapes(cell: object) -> None:
    gold = gold_answers(cell, DOCUMENT, "here")
    assert (gold.texts, gold.spans, gold.repaired, gold.dropped) == (["Paris"], [FIRST], 0, 0)


@pytest.mark.parametrize("cell", [["Paris"], {"text": ["Paris"]}, [{"text": "Paris"}]])
def test_answers_without_a_place_stand_wherever_they_occur(cell: object) -> None:
    assert gold_answers(cell, DOCUMENT, "here").spans == [FIRST, SECOND]


@pytest.mark.parametrize("cell", [None, [], {"text": [], "answer_start": []}])
def test_unanswerable(cell: object) -> None:
    gold = gold_answers(cell, DOCUMENT, "here")
    assert (gold.texts, gold.spans) == ([], [])


@pytest.mark.parametrize(
    ("start", "span"), [(11, FIRST), (16, FIRST), (21, SECOND), (26, SECOND), (48, SECOND)]
)
def test_a_start_that_misses_is_repaired_to_the_nearest(start: int, span: tuple[int, int]) -> None:
    gold = gold_answers({"text": ["Paris"], "answer_start": [start]}, DOCUMENT, "here")
    assert (gold.spans, gold.repaired, gold.dropped) == ([span], 1, 0)


@pytest.mark.parametrize(
    ("cell", "texts", "spans", "dropped"),
    [
        ({"text": ["Paris"], "answer_start": [13]}, ["Paris", "Lutetia"], [FIRST], 0),
        ({"text": ["Lutetia"]}, ["Lutetia"], [], 1),
        ({"text": []}, ["Lutetia"], [], 1),  # no alias of the answer stands in the document
    ],
)
def test_aliases_are_right_but_not_looked_for(cell, texts, spans, dropped) -> None:
    gold = gold_answers(cell | {"aliases": ["Lutetia"]}, DOCUMENT, "here")
    assert (gold.texts, gold.spans, gold.dropped) == (texts, spans, dropped)
    assert gold_answers({"text": [], "aliases": []}, DOCUMENT, "here").dropped == 0


def test_references_are_what_is_right_in_place_of_the_texts() -> None:
    cell = {"text": ["Paris"], "answer_start": [13], "references": ["Paris, Rome"]}
    gold = gold_answers(cell, DOCUMENT, "here")
    assert (gold.texts, gold.spans, gold.dropped) == (["Paris, Rome"], [FIRST], 0)
    nowhere = gold_answers({"text": [], "references": ["Yes"]}, DOCUMENT, "here")
    assert (nowhere.texts, nowhere.spans, nowhere.dropped) == (["Yes"], [], 1)
    nothing = gold_answers({"text": [], "references": []}, DOCUMENT, "here")
    assert (nothing.texts, nothing.dropped) == ([], 0)


def test_an_answer_that_does_not_occur_is_dropped_but_stays_gold() -> None:
    gold = gold_answers({"text": ["Rome", "Paris"], "answer_start": [3, 13]}, DOCUMENT, "here")
    assert (gold.texts, gold.spans, gold.dropped) == (["Rome", "Paris"], [FIRST], 1)


@pytest.mark.parametrize(
    ("cell", "what"),
    [
        ({"text": ["Paris"], "answer_start": [-1]}, "answer_start=-1 is outside"),
        ({"text": ["Paris"], "answer_start": [49]}, "answer_start=49 is outside .* 49 characters"),
        ({"text": ["Paris"], "answer_start": [1.5]}, "answer_start=1.5 is no whole number"),
        ({"text": ["Paris"], "answer_start": [1, 2]}, r"1 texts, but answer_start=\[1, 2\]"),
        ({"text": ["  "], "answer_start": [1]}, "'  ' is no text"),
        ([3], "3 is no text"),
        ("Paris", "'Paris' are no answers"),
    ],
)
def test_what_cannot_be_read_is_named(cell: object, what: str) -> None:
    with pytest.raises(UserError, match=f"answers of train row 7.*{what}"):
        gold_answers(cell, DOCUMENT, "answers of train row 7")


def test_occurrences_are_words_of_their_own_where_they_ever_are() -> None:
    assert occurrences("art", "art is part of art.") == [(0, 3), (15, 18)]
    assert occurrences("art", "the party") == [(5, 8)]
    assert occurrences("京", "東京都") == [(1, 2)]
    assert occurrences("a.b", "aXb a.b") == [(4, 7)]


def test_a_slice_holds_an_answer_whole_in_part_or_not_at_all() -> None:
    # two special tokens, then the tokens of characters 10 … 20
    offsets = np.array([[0, 0], [0, 0], [10, 13], [14, 17], [17, 20]], np.int32)
    reach = [9, 21]
    assert token_spans([(10, 13)], offsets, reach) == ([[2, 2]], [])
    assert token_spans([(11, 18), (15, 16)], offsets, reach) == ([[2, 4], [3, 3]], [])
    assert token_spans([(5, 12), (19, 30)], offsets, reach) == ([], [(5, 12), (19, 30)])
    assert token_spans([(0, 5), (30, 31)], offsets, reach) == ([], [])
    assert token_spans([(9, 13)], offsets, reach) == ([[2, 2]], [])  # white space before it
    assert token_spans([(10, 13)], offsets[:2], reach) == ([], [])
