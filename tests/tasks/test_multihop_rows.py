"""Multi-hop rows: paragraphs in every form to one text, facts and answers to what is right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.errors import UserError
from longspan.tasks.multihop_rows import (
    Paragraph,
    facts_without_sentence,
    lay_out,
    read_gold,
    read_paragraphs,
)

WHERE = "answer of train row 0"
PARAGRAPHS = [
    Paragraph("Ann", ("Ann sings.", " She is Bob's sister.")),
    Paragraph("Bob", ("Bob lives in Rome.", " Rome is old.")),
    Paragraph("Rome", ("Rome is a city.",)),
]


@pytest.mark.parametrize(
    "cell",
    [
        {
            "title": [p.title for p in PARAGRAPHS],
            "sentences": [list(p.sentences) for p in PARAGRAPHS],
        },
        [[p.title, list(p.sentences)] for p in PARAGRAPHS],
        [{"title": p.title, "sentences": list(p.sentences)} for p in PARAGRAPHS],
    ],
    ids=["hub", "official", "records"],
)
def test_paragraphs_are_read_in_every_form(cell):
    assert read_paragraphs(cell, WHERE) == PARAGRAPHS


def test_a_paragraph_without_sentences_is_one():
    (paragraph,) = read_paragraphs([{"title": None, "text": "A. B.", "is_supporting": 1}], WHERE)
    assert paragraph == Paragraph("", ("A. B.",), True)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (None, "'None' are no paragraphs; give a list"),
        ([], "are no paragraphs"),
        ("A text.", "'A text.' are no paragraphs"),
        (["A text."], "are no paragraphs"),
        ([{"title": "a"}], "are no paragraphs"),
        ([{"title": "a", "sentences": [1]}], "are no paragraphs"),
        ([{"title": 3, "sentences": []}], "are no paragraphs"),
        ({"title": ["a", "b"], "sentences": [[]]}, "2 titles for 1 lists of sentences"),
    ],
)
def test_what_are_no_paragraphs_is_one_line(cell, message):
    with pytest.raises(UserError, match=message) as error:
        read_paragraphs(cell, WHERE)
    assert str(error.value).startswith(WHERE)
    assert "\n" not in str(error.value)


def test_the_passage_holds_titles_and_sentences_where_it_says():
    passage = lay_out(PARAGRAPHS)
    assert passage.text == (
        "Ann\nAnn sings. She is Bob's sister.\n\nBob\nBob lives in Rome. Rome is old.\n\n"
        "Rome\nRome is a city."
    )
    assert [passage.text[a:b] for a, b in passage.titles] == ["Ann", "Bob", "Rome"]
    for spans, paragraph in zip(passage.sentences, PARAGRAPHS, strict=True):
        assert [passage.text[a:b] for a, b in spans] == [s.strip() for s in paragraph.sentences]


TEXTS = st.text(st.sampled_from("aé b\u0301\u200f\u05d0\U0001f600\n\t\u0000漢. "), max_size=6)


@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), max_size=4))
def test_spans_are_exact_on_any_text(rows):
    paragraphs = [Paragraph(title, tuple(sentences)) for title, sentences in rows]
    passage = lay_out(paragraphs)
    for paragraph, whole, title, spans in zip(
        paragraphs, passage.paragraphs, passage.titles, passage.sentences, strict=True
    ):
        assert passage.text[slice(*title)] == paragraph.title.strip()
        found = [passage.text[a:b] for a, b in spans]
        assert found == [sentence.strip() for sentence in paragraph.sentences]
        assert all(whole[0] <= a <= b <= whole[1] for a, b in (title, *spans))


def test_sentences_without_space_between_them_get_one():
    assert lay_out([Paragraph("", ("A.", "B.", "\tC."))]).text == "A. B.\tC."


@given(
    st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), min_size=1, max_size=4),
    st.integers(0, 20),
    st.integers(1, 20),
)
def test_first_tokens_are_those_that_a_search_over_all_tokens_finds(make_encoder, rows, at, size):
    passage = lay_out([Paragraph(title, tuple(sentences)) for title, sentences in rows])
    encoder = make_encoder()
    encoding = encoder.tokenizer.encode(passage.text, add_special_tokens=False)
    offsets = np.array(encoding.offsets).reshape(-1, 2)
    part = offsets[at : at + size]
    if not len(part):
        return
    reach = [
        int(offsets[at - 1, 1]) if at else 0,
        int(offsets[at + size, 0]) if at + size < len(offsets) else len(passage.text),
    ]

    def searched(span):
        start, end = span
        touching = [i for i, (a, b) in enumerate(part) if a < end and b > start and a < b]
        return touching[0] if touching and reach[0] <= start < end else None

    titles, sentences = passage.places(part, reach)
    expected = [(searched(span), p) for p, span in enumerate(passage.titles)]
    assert [tuple(place) for place in titles] == [e for e in expected if e[0] is not None]
    expected = [
        (searched(span), p, n)
        for p, spans in enumerate(passage.sentences)
        for n, span in enumerate(spans)
    ]
    assert [tuple(place) for place in sentences] == [e for e in expected if e[0] is not None]


def gold(answer, facts=None, paragraphs=PARAGRAPHS):
    return read_gold(answer, facts, paragraphs, lay_out(paragraphs), WHERE)


def test_an_answer_counts_where_it_stands_in_a_supporting_paragraph():
    passage = lay_out(PARAGRAPHS).text
    facts = {"title": ["Ann", "Bob"], "sent_id": [1, 0]}
    inside = gold("Rome", facts)
    assert inside.facts == (("Ann", 1), ("Bob", 0))
    assert inside.starts == (passage.index("Rome."), passage.index("Rome is old"))
    assert gold("city", facts).starts == (passage.index("city"),)  # in no supporting paragraph
    assert gold("Paris", facts).starts == ()
    assert gold(" Rome ", facts).starts == inside.starts
    assert gold("Rom", facts).starts  # part of a word, where it is never a word of its own


@pytest.mark.parametrize(
    ("answer", "kind"), [("yes", 1), ("No ", 2), ("Rome", 0), ("yes it is", 0)]
)
def test_yes_and_no_are_types(answer, kind):
    found = gold(answer, [["Bob", 0]])
    assert found.type == kind
    assert found.answer == answer


def test_facts_in_every_form():
    expected = (("Bob", 0), ("Ann", 1))
    assert gold("Rome", [["Bob", 0], ["Ann", 1], ["Bob", 0]]).facts == expected
    assert gold("Rome", {"title": ["Bob", "Ann"], "sent_id": [0, 1]}).facts == expected
    records = [{"title": "Bob", "sent_id": 0}, {"title": "Ann", "sent_id": 1}]
    assert gold("Rome", records).facts == expected
    marked = [Paragraph("Ann", ("a", "b"), False), Paragraph("Bob", ("c", "d"), True)]
    assert gold("c", None, marked).facts == (("Bob", 0), ("Bob", 1))


def test_facts_that_name_no_sentence_are_counted():
    facts = (("Ann", 0), ("Ann", 2), ("Eve", 0), ("Ann", 2))
    assert facts_without_sentence(facts, PARAGRAPHS) == 2


@pytest.mark.parametrize(
    ("answer", "facts", "message"),
    [
        (None, [], "the answer 'None' is no text"),
        ("  ", [], "the answer '  ' is no text"),
        (3, [], "the answer '3' is no text"),
        ("Rome", None, r"no supporting facts; name their column in data\.facts_column"),
        ("Rome", "Bob", "'Bob' are no supporting facts"),
        ("Rome", {"title": ["Bob"], "sent_id": []}, "are no supporting facts"),
        ("Rome", {"title": ["Bob"]}, "are no supporting facts"),
        ("Rome", [["Bob", "0"]], "are no supporting facts"),
        ("Rome", [["Bob", True]], "are no supporting facts"),
        ("Rome", [{"title": "Bob"}], "are no supporting facts"),
    ],
)
def test_bad_answers_and_facts_are_one_line(answer, facts, message):
    with pytest.raises(UserError, match=message) as error:
        gold(answer, facts)
    assert str(error.value).startswith(WHERE)
    assert "\n" not in str(error.value)
