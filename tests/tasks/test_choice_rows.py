"""Rows of multiple choice: which candidate an answer means, and which tokens each candidate has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.document import RawDocument
from longspan.errors import UserError
from longspan.tasks.choice_rows import answer_index, ask, read_candidates

WHERE = "answer of train row 0"
CITIES = ["Rome", "Oslo", "B", "rome wasn't built"]


@pytest.mark.parametrize(
    ("cell", "index"),
    [
        ("Oslo", 1),
        (" oslo\n", 1),
        ("ROME", 0),
        (0, 0),
        (3, 3),
        ("B", 2),  # a candidate reads so: it is no letter
        ("D", 3),
        ("b", 2),
    ],
)
def test_an_answer_is_a_text_a_number_or_a_letter(cell, index):
    assert answer_index(cell, CITIES, 0, WHERE) == index


def test_numbers_may_start_at_one():
    assert [answer_index(n, CITIES, 1, WHERE) for n in (1, 4)] == [0, 3]


def test_of_candidates_that_are_alike_the_first_is_meant():
    assert answer_index("a", ["b", "a", "a"], 0, WHERE) == 1


@pytest.mark.parametrize(
    ("cell", "first", "message"),
    [
        (4, 0, "=4 is not a number from 0 to 3"),
        (0, 1, "=0 is not a number from 1 to 4"),
        (-1, 0, "=-1 is not a number"),
        ("Paris", 0, "'Paris' means none of the 4 candidates"),
        ("E", 0, "'E' means none"),
        ("d", 0, "'d' means none"),  # letters are capitals
        (None, 0, "'None' means none"),
        (True, 0, "'True' means none"),
        (1.0, 0, "'1.0' means none"),
        ("", 0, "'' means none"),
    ],
)
def test_what_means_no_candidate_is_one_line(cell, first, message):
    with pytest.raises(UserError, match=message) as error:
        answer_index(cell, CITIES, first, WHERE)
    assert str(error.value).startswith(WHERE)
    assert "\n" not in str(error.value)


def test_an_answer_that_several_candidates_fold_to_is_none():
    with pytest.raises(UserError, match="'OSLO' means none"):
        answer_index("OSLO", ["Oslo", "oslo"], 0, WHERE)
    assert answer_index("oslo", ["Oslo", "oslo"], 0, WHERE) == 1


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, r"'None' are no candidates; give a list of texts \(data\.candidates_column\)"),
        ("a, b", "are no candidates"),
        ([], "0 candidates leave no choice"),
        (["a"], "1 candidates leave no choice"),
        (["a", " "], "the candidate ' ' is no text"),
        (["a", None], "the candidate None is no text"),
        (["a", 3], "the candidate 3 is no text"),
    ],
)
def test_bad_candidates_are_one_line(cell, message):
    with pytest.raises(UserError, match=message) as error:
        read_candidates(RawDocument("q", "text", "why", cells={"candidates": cell}))
    assert "\n" not in str(error.value)


TEXTS = st.text(
    st.sampled_from("ab é\u0301\u200f\u05d0\U0001f600\n漢.[SEP]"), min_size=1, max_size=8
)


@given(TEXTS, st.lists(TEXTS.filter(str.strip), min_size=1, max_size=5))
def test_every_candidate_has_its_separator_and_its_own_tokens(make_encoder, question, candidates):
    encoder = make_encoder("embedded")
    asked = ask(question, candidates, encoder, 64, 64, WHERE)
    encoding = encoder.tokenizer.encode(asked.text, add_special_tokens=False)
    end = len(encoding)
    for (first, last), candidate in zip(reversed(asked.places), reversed(candidates), strict=True):
        assert last == end  # they follow one another, to the end
        assert encoding.ids[first] == encoder.sep_id
        text = asked.text[encoding.offsets[first][1] : encoding.offsets[last - 1][1]]
        # marks at its end may be in no token
        assert candidate.strip().startswith(text.strip())
        end = first
    assert not asked.question_cut
    assert not asked.candidates_cut


def test_a_tokenizer_without_separator_reads_the_candidates_alone(make_encoder):
    encoder = make_encoder("plain")
    asked = ask("w1 w2", ["w3 w4", "w5"], encoder, 9, 9, WHERE)
    assert asked.text.split() == ["w1", "w2", "w3", "w4", "w5"]
    assert asked.places == [[2, 4], [4, 5]]


def test_long_questions_and_candidates_are_cut_and_counted(make_encoder):
    asked = ask("w1 w2 w3", ["w4 w5 w6", "w7", "w8 w9"], make_encoder("bert"), 2, 1, WHERE)
    assert asked.text == "w1 w2</s> w4</s> w7</s> w8"
    assert (asked.question_cut, asked.candidates_cut) == (True, 2)
    assert asked.places == [[2, 4], [4, 6], [6, 8]]
