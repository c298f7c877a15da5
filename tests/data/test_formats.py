"""The columns of published sets of questions as question, document, answers: row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.data.formats import hotpot_qa, qasper, trivia_qa, wikihop
from longspan.data.formats.document import DocumentBuilder, find_answers, records
from longspan.errors import UserError
from longspan.tasks.qa_answers import gold_answers


def parts(text, spans):
    return [text[start:end] for start, end in spans]


def found(row):
    """What stands in the document where the row says that its answers are."""
    answers = row["answers"]
    places = zip(answers["text"], answers["answer_start"], strict=True)
    assert all(row["text"][start : start + len(text)] == text for text, start in places)
    return answers["text"]


# --- documents and answers ----------------------------------------------------------------------


@given(st.lists(st.text(st.sampled_from("ab \n\u00a0é"), max_size=5), max_size=8))
def test_a_part_stands_where_it_was_put(given_parts) -> None:
    document = DocumentBuilder()
    spans = [document.add(part) for part in given_parts]
    assert document.text == "".join(given_parts)
    assert document.length == len(document.text)
    assert parts(document.text, spans) == [part.strip() for part in given_parts]


@pytest.mark.parametrize(
    ("answers", "within", "expected"),
    [
        (["paris"], [], ["Paris", "PARIS"]),  # in any case, but not inside Parisian
        (["Paris", "Paris, Texas"], [], ["Paris, Texas", "PARIS"]),  # the longer one holds it
        (["Paris"], [[30, 99]], ["PARIS"]),
        (["Paris"], [[13, 20]], ["Paris", "PARIS"]),  # none there: anywhere
        (["Rome", " "], [], []),
        (["a", "A"], [], ["A"]),
        ([" Texas "], [], ["Texas"]),
    ],
)
def test_answers_are_found_as_words_in_any_case(answers, within, expected) -> None:
    text = "Paris, Texas. A Parisian is not from PARIS."
    assert parts(text, find_answers(answers, text, within)) == expected


def test_letters_that_change_their_number_with_their_case_shift_nothing() -> None:
    text = "İİİ İzmir ß İZMIR izmir"
    assert parts(text, find_answers(["İzmir"], text)) == ["İzmir", "İZMIR"]
    assert parts("STRASSE Straße", find_answers(["straße"], "STRASSE Straße")) == ["Straße"]


WORDS = st.lists(st.sampled_from(["a", "A", "b", "ab", "İ", "."]), min_size=1, max_size=3)


@given(st.lists(WORDS.map(" ".join), max_size=3), st.lists(WORDS.map(" ".join), max_size=8))
def test_no_occurrence_is_missed(answers, text) -> None:
    """Every place tried one by one."""
    text = " ".join(text)

    def is_answer(start, end):
        before, behind = text[max(0, start - 1) : start], text[end : end + 1]
        lowered = {"".join(c.lower() if c != "İ" else c for c in a) for a in answers}
        part = "".join(c.lower() if c != "İ" else c for c in text[start:end])
        opens, closes = (
            not x.isalnum() or y == "." for x, y in ((before, part[0]), (behind, part[-1]))
        )
        return part in lowered and opens and closes

    ends = [(s, e) for s in range(len(text)) for e in range(s + 1, len(text) + 1)]
    every = [(s, e) for s, e in ends if is_answer(s, e)]
    longest = [
        [s, e]
        for s, e in every
        if not any((a, b) != (s, e) and a <= s and e <= b for a, b in every)
    ]
    assert find_answers(answers, text) == longest


ANY_TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from("ab İßΣς e\u0301\u200d👩👧🏽אבשلام\u064b\u200f\x00\u00a0\n東京ﬁ"),
    ),
    min_size=1,
    max_size=40,
)


@given(text=ANY_TEXT, data=st.data())
def test_offsets_are_exact_in_any_script(text, data) -> None:
    """What a format says of its answers needs no repair, whatever the characters."""
    start = data.draw(st.integers(0, len(text) - 1))
    answer = text[start : data.draw(st.integers(start + 1, len(text)))]
    sentences = {"title": ["T", "U"], "sentences": [["x", text], [text]]}
    (row,) = hotpot_qa.questions(HOTPOT | {"answer": answer, "context": sentences}, "\n\n")
    assert parts(row["text"], row["sentence_spans"]) == ["x", text.strip(), text.strip()]
    gold = gold_answers(row["answers"], row["text"], "here")
    assert gold.repaired == 0
    alone = f" {answer.strip()} "
    if answer.strip() and alone.strip().lower() not in ("yes", "no"):
        (row,) = hotpot_qa.questions(
            HOTPOT | {"answer": answer, "context": {"title": ["T"], "sentences": [[alone]]}}, "\n"
        )
        assert answer.strip() in found(row)


def test_records_are_read_in_both_of_arrows_forms() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert records(rows) == records({"a": [1, 2], "b": ["x", "y"]}) == rows
    assert records(None) == records({"a": [], "b": []}) == []
    with pytest.raises(ValueError, match="zip"):
        records({"a": [1], "b": []})


# --- TriviaQA -----------------------------------------------------------------------------------

TRIVIA = {
    "question_id": "tc_1",
    "question": "Which American was the first to win the Nobel Prize for Literature?",
    "question_source": "http://www.triviacountry.com/",
    "entity_pages": {
        "title": ["Sinclair Lewis", "Empty", "Main Street"],
        "wiki_context": ["Harry Sinclair Lewis was a novelist.", " ", "By SINCLAIR LEWIS."],
    },
    "search_results": {"title": ["Web"], "search_context": ["sinclair  lewis; Lewis"]},
    "answer": {
        "value": "Sinclair Lewis",
        "aliases": ["(Harry) Sinclair Lewis", "Harry Sinclair Lewis", "Lewis, Sinclair"],
        "normalized_aliases": ["harry sinclair lewis", "lewis sinclair", "sinclair lewis"],
    },
}


def test_trivia_qa() -> None:
    (row,) = trivia_qa.questions(TRIVIA, " | ")
    assert set(row) == set(trivia_qa.COLUMNS)
    assert row["id"] == "tc_1"
    assert row["titles"] == ["Sinclair Lewis", "Main Street", "Web"]
    sections = [
        "Harry Sinclair Lewis was a novelist.",
        "By SINCLAIR LEWIS.",
        "sinclair  lewis; Lewis",
    ]
    assert row["text"] == " | ".join(sections)
    assert parts(row["text"], row["section_spans"]) == sections
    assert found(row) == ["Harry Sinclair Lewis", "SINCLAIR LEWIS"]  # the longest alias there
    assert row["answers"]["aliases"] == [
        "Sinclair Lewis",
        "(Harry) Sinclair Lewis",
        "Harry Sinclair Lewis",
        "Lewis, Sinclair",
        "lewis sinclair",
    ]


def test_trivia_qa_without_evidence_or_with_a_secret_answer() -> None:
    bare = {k: v for k, v in TRIVIA.items() if k != "search_results"}
    secret = bare | {"answer": {"value": "<unk>", "aliases": [], "normalized_aliases": []}}
    (row,) = trivia_qa.questions(secret, "\n")
    assert row["answers"] == {"text": [], "answer_start": [], "aliases": []}
    (row,) = trivia_qa.questions(bare | {"entity_pages": {"title": [], "wiki_context": []}}, "\n")
    assert (row["text"], row["answers"]["text"]) == ("", [])


# --- HotpotQA -----------------------------------------------------------------------------------

HOTPOT = {
    "id": "5a8b",
    "question": "Were Scott Derrickson and Ed Wood of the same nationality?",
    "answer": "American",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": {"title": ["Ed Wood", "Scott", "Ed Wood"], "sent_id": [1, 0, 7]},
    "context": {
        "title": ["Film", "Scott", "Ed Wood"],
        "sentences": [
            ["An American film."],
            ["Scott is American.", " He directs.", ""],
            ["Ed was a man.", "  He was American too."],
        ],
    },
}


def test_hotpot_qa() -> None:
    (row,) = hotpot_qa.questions(HOTPOT, "\n\n")
    assert set(row) == set(hotpot_qa.COLUMNS)
    text = row["text"]
    assert text == (
        "Film\nAn American film.\n\nScott\nScott is American. He directs.\n\n"
        "Ed Wood\nEd was a man.  He was American too."
    )
    assert parts(text, row["title_spans"]) == row["titles"] == ["Film", "Scott", "Ed Wood"]
    sentences = ["An American film.", "Scott is American.", "He directs.", ""]
    sentences += ["Ed was a man.", "He was American too."]
    assert parts(text, row["sentence_spans"]) == sentences
    assert row["sentences"] == {
        "title": ["Film", "Scott", "Scott", "Scott", "Ed Wood", "Ed Wood"],
        "sent_id": [0, 0, 1, 2, 0, 1],
    }
    assert row["context"] == HOTPOT["context"]  # as it was, for tasks that read it so
    assert row["supporting_facts"] == HOTPOT["supporting_facts"]  # even those that are not there
    assert found(row) == ["American", "American"]  # in the supporting sentences alone
    assert min(row["answers"]["answer_start"]) > text.index("Scott")
    assert (row["answer"], row["answer_type"]) == ("American", "span")
    assert (row["type"], row["level"]) == ("comparison", "hard")
    # every title, and the beginning of every sentence with text
    globals_ = ["Film", "A", "Scott", "S", "H", "Ed Wood", "E", "H"]
    assert parts(text, row["global_spans"]) == globals_


@pytest.mark.parametrize("answer", ["yes", "No"])
def test_hotpot_qas_closed_answers_have_no_place(answer: str) -> None:
    context = {"title": ["T"], "sentences": [["Yes or no?"]]}
    (row,) = hotpot_qa.questions(HOTPOT | {"answer": answer, "context": context}, "\n")
    assert found(row) == []
    assert row["answers"]["aliases"] == [answer]
    assert row["answer_type"] == answer.lower()


def test_hotpot_qas_answer_may_be_a_title() -> None:
    (row,) = hotpot_qa.questions(HOTPOT | {"answer": "Ed Wood"}, "\n")
    assert found(row) == ["Ed Wood"]


def test_paragraphs_without_sentences() -> None:
    row = {"id": "1", "question": "Who?", "answer": "Ann"}
    paragraphs = [
        {"title": "Bob", "text": "Bob and Ann.", "is_supporting": False},
        {"title": "Ann", "text": "It was Ann.", "is_supporting": True},
    ]
    (read,) = hotpot_qa.questions(row | {"paragraphs": paragraphs}, "\n\n")
    assert read["text"] == "Bob\nBob and Ann.\n\nAnn\nIt was Ann."
    assert read["supporting_facts"] == {"title": ["Ann"], "sent_id": [0]}
    assert read["answers"]["answer_start"] == [18, 29]
    assert read["type"] is None


# --- WikiHop ------------------------------------------------------------------------------------

WIKIHOP = {
    "query": "place_of_birth gregorio di cecco",
    "supports": ["Gregorio was born in Siena .", "Siena is in Tuscany ."],
    "candidates": ["lucca", "siena"],
    "answer": "siena",
    "id": "WH_train_1",
}


def test_wikihop() -> None:
    (row,) = wikihop.questions(WIKIHOP, "\n\n")
    assert set(row) == set(wikihop.COLUMNS)
    assert row["question"] == "place of birth gregorio di cecco"
    assert row["text"] == "\n\n".join(WIKIHOP["supports"])
    assert parts(row["text"], row["section_spans"]) == WIKIHOP["supports"]
    assert found(row) == ["Siena", "Siena"]
    assert (row["candidates"], row["label"], row["answer"]) == (["lucca", "siena"], 1, "siena")


def test_wikihops_answer_is_a_candidate() -> None:
    with pytest.raises(UserError, match="'rome' is none of its candidates"):
        list(wikihop.questions(WIKIHOP | {"answer": "rome"}, "\n"))


# --- Qasper -------------------------------------------------------------------------------------


def answer(**fields):
    nothing = {
        "unanswerable": False,
        "extractive_spans": [],
        "yes_no": None,
        "free_form_answer": "",
        "evidence": [],
        "highlighted_evidence": [],
    }
    return nothing | fields


QASPER = {
    "id": "1912.01214",
    "title": "Pivot models",
    "abstract": "We use BERT.",
    "full_text": {
        "section_name": ["Introduction", "Introduction ::: Data", None],
        "paragraphs": [
            ["BERT is large.", "So is GPT."],
            ["Europarl and MultiUN.", ""],
            ["The end."],
        ],
    },
    "qas": {
        "question": ["Which data?", "Which model?", "Is it large?", "Who paid?"],
        "question_id": ["q1", "q2", "q3", "q4"],
        "answers": [
            {
                "answer": [
                    answer(
                        extractive_spans=["Europarl", "MultiUN"], evidence=["Europarl and MultiUN."]
                    ),
                    answer(unanswerable=True),
                ],
                "annotation_id": ["a", "b"],
                "worker_id": ["c", "d"],
            },
            {
                "answer": [
                    answer(
                        extractive_spans=["BERT"], evidence=["BERT is large.", "FLOAT SELECTED"]
                    ),
                    answer(free_form_answer="A large one", evidence=["BERT is large."]),
                ],
                "annotation_id": ["a", "b"],
                "worker_id": ["c", "d"],
            },
            {"answer": [answer(yes_no=True)], "annotation_id": ["a"], "worker_id": ["c"]},
            {"answer": [answer(unanswerable=True)], "annotation_id": ["a"], "worker_id": ["c"]},
        ],
    },
}


def test_qasper() -> None:
    rows = list(qasper.questions(QASPER, "\n\n"))
    assert [row["id"] for row in rows] == ["q1", "q2", "q3", "q4"]
    assert all(set(row) == set(qasper.COLUMNS) for row in rows)
    text = rows[0]["text"]
    assert text == (
        "Pivot models\n\nWe use BERT.\n\nIntroduction\nBERT is large.\nSo is GPT.\n\n"
        "Introduction ::: Data\nEuroparl and MultiUN.\n\n\nThe end."
    )
    assert parts(text, rows[0]["section_spans"]) == [
        "Pivot models",
        "We use BERT.",
        "Introduction\nBERT is large.\nSo is GPT.",
        "Introduction ::: Data\nEuroparl and MultiUN.\n",
        "The end.",
    ]
    assert rows[0]["section_names"] == ["", "", "Introduction", "Introduction ::: Data", ""]
    assert found(rows[0]) == ["Europarl", "MultiUN"]
    # one annotator's whole answer, and that the other one found none
    assert rows[0]["answers"]["references"] == ["Europarl, MultiUN", "Unanswerable"]
    assert found(rows[1]) == ["BERT"]  # in the evidence, not in the abstract
    assert rows[1]["answers"]["answer_start"] == [text.index("BERT is large")]
    assert rows[1]["answers"]["references"] == ["BERT", "A large one"]
    assert parts(text, rows[1]["evidence_spans"]) == ["BERT is large."]  # figures are not there
    assert (found(rows[2]), rows[2]["answers"]["references"]) == ([], ["Yes"])
    assert (found(rows[3]), rows[3]["answers"]["references"]) == ([], [])


def test_qasper_as_lists_of_records() -> None:
    """As its own files have it, and `datasets` where it reads them from json."""
    as_lists = QASPER | {
        "full_text": records(QASPER["full_text"]),
        "qas": [asked | {"answers": records(asked["answers"])} for asked in records(QASPER["qas"])],
    }
    assert list(qasper.questions(as_lists, "\n")) == list(qasper.questions(QASPER, "\n"))
