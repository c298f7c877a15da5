"""The truncation ledger: what was lost, by what, and the exact match that is left within reach."""

import logging

import pytest

from longspan.errors import UserError
from longspan.tasks.qa_ledger import report_losses

HEAD = {"long_documents": "truncate"}  # w4 … w12 of w4 … w23 are read


def counts_of(make_slices, **arguments):
    _, slices = make_slices(**arguments)
    assert all(piece.counts is None for piece in slices[1:])  # a question counts once
    return slices[0].counts


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["w5"], {"answerable": 1}),
        (["w20"], {"answerable": 1, "answerable_lost": 1, "unreachable": 1}),
        (["w20", "w5"], {"answerable": 1}),  # one of several is enough
        (["w99"], {"answerable": 1, "answerable_lost": 1, "answerable_absent": 1, "unreachable": 1,
                   "answers_dropped": 1}),
        # what is right to the scorer stands there, though not as the row has it
        (["The W5!"], {"answerable": 1, "answerable_lost": 1, "answerable_absent": 1,
                     "answers_dropped": 1}),
        ([], {}),
    ],
)  # fmt: skip
def test_what_truncation_takes(make_slices, answers, expected):
    found = counts_of(make_slices, answers=answers, **HEAD)
    assert {name: n for name, n in found.items() if n} == {"questions": 1} | expected


def test_an_answer_that_is_cut_away_may_stand_elsewhere(make_slices):
    text = "w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w4"
    cell = {"text": ["w4"], "answer_start": [text.rindex("w4")]}
    found = counts_of(make_slices, text=text, answers=cell, **HEAD)
    assert (found["answerable_lost"], found["unreachable"]) == (1, 0)


def test_whoever_may_say_nothing_is_never_out_of_reach(make_slices):
    cell = {"text": [], "references": ["Yes", "Unanswerable"]}  # as Qasper's annotators disagree
    found = counts_of(make_slices, answers=cell, **HEAD)
    assert (found["answerable_lost"], found["unreachable"]) == (1, 0)


def test_an_answer_that_every_border_cuts(make_slices):
    # slices of nine tokens without a stride: 4 … 12, 13 … 21, 22 … 23
    found = counts_of(make_slices, answers=["w12 w13"])
    assert (found["answerable_lost"], found["answers_at_a_border"]) == (1, 1)
    assert found["unreachable"] == 1
    # nor is one counted that another slice holds whole
    found = counts_of(make_slices, answers=["w12 w13"], stride=2)
    assert (found["answerable_lost"], found["answers_at_a_border"]) == (0, 0)


def test_answers_that_decoding_never_gives(make_slices):
    two = {"answers": ["w5 w6", "w5 w6 w7"], "length": 64}
    assert counts_of(make_slices, max_answer_length=1, **two)["answers_too_long"] == 1
    assert counts_of(make_slices, max_answer_length=2, **two)["answers_too_long"] == 0


def test_the_ledger_as_it_is_told(caplog):
    counts = {"questions": 8, "answerable": 6, "answerable_lost": 3, "answerable_absent": 1,
              "unreachable": 2, "answers_at_a_border": 3, "answers_too_long": 1}  # fmt: skip
    with caplog.at_level(logging.INFO):
        assert report_losses("dev", counts) == {"highest_exact_match": 0.75}
    said = "\n".join(caplog.messages)
    assert "dev: 6 of 8 questions have an answer" in said
    assert "took it from 2, and 1 have one that does not occur" in said
    assert "no exact match above 75.0%" in said
    assert (
        "dev: 3 answers cut by a slice border that no slice holds whole; raise data.stride" in said
    )
    assert "dev: 1 questions with gold answers of more than task.max_answer_length" in said


def test_training_without_an_answerable_question_is_refused():
    counts = {"questions": 3, "answerable": 2, "answerable_lost": 2, "answerable_absent": 1}
    counts |= {"unreachable": 2}
    with pytest.raises(UserError, match=r"no question of the train split.*data\.answers_column"):
        report_losses("train", counts)
    assert report_losses("dev", counts)["highest_exact_match"] == pytest.approx(1 / 3)
    assert report_losses("dev", {"questions": 3}) == {}
