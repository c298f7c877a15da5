"""Files of questions with any part of them changed: read whole, or one line says what is wrong."""

import copy
import json
import os

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
TEXT = "Ann lives in Paris. Paris is a town. It rains."
ANSWERS = {"text": ["Paris"], "answer_start": [13]}
PLAIN = {"id": "1", "question": "Where?", "text": TEXT, "answers": ANSWERS}
SQUAD = {"context": TEXT, "qas": [
    {"id": "1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 13}]},
    {"id": "2", "question": "Why?", "answers": [], "is_impossible": True}]}  # fmt: skip
HOTPOT = {
    "id": "1", "question": "Where is Ann?", "answer": "Paris", "type": "bridge", "level": "easy",
    "supporting_facts": {"title": ["Ann"], "sent_id": [0]},
    "context": {"title": ["Ann", "Paris"], "sentences": [["Ann lives in Paris."], ["A town."]]},
}  # fmt: skip
ANSWER = {"unanswerable": False, "extractive_spans": ["Paris"], "yes_no": None,
          "free_form_answer": "", "evidence": [TEXT]}  # fmt: skip
QASPER = {
    "id": "1", "title": "Ann", "abstract": TEXT,
    "full_text": {"section_name": ["One"], "paragraphs": [[TEXT]]},
    "qas": {"question": ["Where?"], "question_id": ["q"], "answers": [{"answer": [ANSWER]}]},
}  # fmt: skip
TRIVIA = {
    "question_id": "1", "question": "Where?",
    "entity_pages": {"title": ["Ann"], "wiki_context": [TEXT]},
    "search_results": {"title": ["Ann"], "search_context": [TEXT]},
    "answer": {"value": "Paris", "aliases": ["Paris"], "normalized_aliases": ["paris"]},
}  # fmt: skip
WIKIHOP = {"id": "1", "query": "town ann", "supports": [TEXT], "candidates": ["paris", "rome"],
           "answer": "paris"}  # fmt: skip
CHOICE = {"id": "1", "question": "Where?", "text": TEXT, "candidates": ["Paris", "Rome"],
          "answer": "Paris"}  # fmt: skip
PARAGRAPHS = [{"title": "Ann", "text": TEXT, "is_supporting": True}, {"title": "B", "text": "A."}]
MUSIQUE = {"id": "1", "question": "Where?", "answer": "Paris", "paragraphs": PARAGRAPHS}
MULTIHOP = {"task.name": "multihop", "data.text_column": "context", "data.answers_column": "answer"}
ASKED = {  # a right row, and the fields that read it
    "plain": (PLAIN, {"task.name": "qa"}),
    "document": (PLAIN, {"task.name": "qa", "task.normalisation": "document", "data.stride": 2}),
    "truncated": (PLAIN, {"task.name": "qa", "task.long_documents": "truncate"}),
    "hotpot": (HOTPOT, MULTIHOP | {"data.format": "hotpot_qa"}),
    "without a format": (HOTPOT, MULTIHOP),
    "spans of hotpot": (HOTPOT, {"task.name": "qa", "data.format": "hotpot_qa"}),
    "musique": (MUSIQUE, MULTIHOP | {"data.format": "hotpot_qa"}),
    "qasper": (QASPER, {"task.name": "qa", "data.format": "qasper"}),
    "trivia": (TRIVIA, {"task.name": "qa", "data.format": "trivia_qa"}),
    "wikihop": (WIKIHOP, {"task.name": "choice", "data.format": "wikihop",
                          "data.answers_column": "answer"}),
    "choice": (CHOICE, {"task.name": "choice", "data.answers_column": "answer"}),
    "mlm of a format": (TRIVIA, {"task.name": "mlm", "data.format": "trivia_qa"}),
    "streamed": (QASPER, {"task.name": "mlm", "data.format": "qasper", "data.streaming": True,
                          "data.held_out": 0,
                          "trainer.max_steps": 1}),
}  # fmt: skip
ODD = ("", " ", "x", "Paris", "\0", "\ud800", "e\u0301", "yes", "A", "İ" * 3, "w " * 2000)

scalars = st.none() | st.booleans() | st.sampled_from((0, 1, -1, 12, 2**31, 2**63 - 1, 2**64, 0.5))
anything = st.recursive(
    scalars | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("text", "title", "a")), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(tree):
    """(container, key) of every value in a tree of JSON."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def changed(draw, tree, most=3):
    """A copy of a tree of JSON with a few of its values replaced, dropped or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(0, most))):
        found = list(places(tree))
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(("replace", "drop", "wrap", "double"))):
            case "replace":
                container[key] = draw(anything)
            case "drop":
                del container[key]
            case "wrap":
                container[key] = [container[key]]
            case "double" if isinstance(container, list):
                container.insert(key, copy.deepcopy(container[key]))
    return tree


@pytest.fixture(scope="module")
def read_questions(read):
    def read_questions(path, fields):
        room = {"data.max_length": 64, "data.tokens_per_batch": 64, "data.text_column": "text"}
        limits = {} if fields["task.name"] == "mlm" else {"task.max_question_length": 8}
        return read(path, room | limits | fields)

    return read_questions


@settings(FUZZ)
@given(kind=st.sampled_from(list(ASKED)), data=st.data())
def test_rows_of_questions(verdict, read_questions, says_where, new_folder, kind, data):
    row, fields = ASKED[kind]
    rows = data.draw(st.lists(changed(row), min_size=1, max_size=3))
    for number, one in enumerate(rows):
        if isinstance(one.get("id"), str):
            one["id"] += str(number)
    path = new_folder() / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    note(path.read_text()[:600])
    _, line = verdict(read_questions, path, fields)
    assert line is None or says_where(line, path)


@settings(FUZZ)
@given(changed({"version": "v2.0", "data": [{"title": "Ann", "paragraphs": [SQUAD, SQUAD]}]}))
def test_squad(verdict, read_questions, says_where, new_folder, tree):
    path = new_folder() / "a.json"
    path.write_text(json.dumps(tree))
    note(path.read_text()[:600])
    _, line = verdict(read_questions, path, {"task.name": "qa"})
    assert line is None or says_where(line, path)


@pytest.mark.parametrize("kind", list(ASKED))
def test_the_right_rows_are_read(verdict, read_questions, new_folder, kind):
    """Else there would be nothing to fuzz."""
    row, fields = ASKED[kind]
    path = new_folder() / "a.jsonl"
    path.write_text(json.dumps(row))
    prepared, line = verdict(read_questions, path, fields)
    assert line is None
    assert prepared.stream is not None or len(prepared.splits["train"])
