"""SQuAD's JSON as a table."""

import json

import pytest

from longspan.data.sources import load_splits
from longspan.errors import UserError

PARAGRAPH = {
    "context": "Ann lives in Paris.",
    "qas": [
        {"id": "1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 13}]},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ],
}


def squad(*paragraphs):
    return {"version": "v2.0", "data": [{"title": "Ann", "paragraphs": list(paragraphs)}]}


def test_one_row_a_question(write, config):
    table = load_splits(
        config(files={"train": write("a.json", squad(PARAGRAPH, PARAGRAPH))}), False
    )
    assert table["train"].column_names == ["id", "title", "question", "text", "answers"]
    assert table["train"][:2] == {
        "id": ["1", "2"],
        "title": ["Ann", "Ann"],
        "question": ["Where?", "Why?"],
        "text": ["Ann lives in Paris."] * 2,
        "answers": [
            {"text": ["Paris"], "answer_start": [13]},
            {"text": [], "answer_start": []},
        ],
    }
    assert len(table["train"]) == 4


def test_columns_are_named_as_configured(write, config):
    file = write("a.json", squad(PARAGRAPH))
    data = config(
        files={"train": file}, text_column="context", question_column="q", answers_column="a"
    )
    assert load_splits(data, False)["train"].column_names == ["id", "title", "q", "context", "a"]


def test_a_file_that_has_changed_is_read_anew(write, config):
    data = config(files={"train": write("a.json", squad(PARAGRAPH))})
    assert len(load_splits(data, False)["train"]) == 2
    write("a.json", squad(PARAGRAPH, PARAGRAPH))
    assert len(load_splits(data, False)["train"]) == 4


def test_other_json_is_a_table_as_before(write, config):
    file = write("a.json", [{"text": "x", "label": "y"}])
    assert load_splits(config(files={"train": file}), False)["train"].column_names == [
        "text",
        "label",
    ]


@pytest.mark.parametrize(
    ("paragraph", "place"),
    [
        ({"qas": []}, r"paragraphs\[1\] has no 'context'"),
        ({"context": "x"}, r"paragraphs\[1\] has no 'qas'"),
        ({"context": "x", "qas": [{"id": "1"}]}, r"qas\[0\] has no 'question'"),
        ({"context": "x", "qas": [{"question": "Who?"}]}, r"qas\[0\] has no 'id'"),
        (
            {"context": "x", "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "x"}]}]},
            r"qas\[0\] has no 'answer_start'",
        ),
    ],
)
def test_what_is_missing_is_named(write, config, paragraph, place):
    file = write("a.json", squad(PARAGRAPH, json.loads(json.dumps(paragraph))))
    with pytest.raises(UserError, match=place) as caught:
        load_splits(config(files={"train": file}), False)
    assert "\n" not in str(caught.value)
