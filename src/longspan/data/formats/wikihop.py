"""WikiHop's columns (`community-datasets/qangaroo`): a relation, documents, candidate answers."""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import List, Value

from longspan.data.formats.document import (
    QUESTION_COLUMNS,
    SPANS,
    DocumentBuilder,
    answers_cell,
    find_answers,
)
from longspan.errors import UserError

READS = ("id", "query", "supports", "candidates", "answer")
COLUMNS = QUESTION_COLUMNS | {
    "answer": Value("string"),
    "candidates": List(Value("string")),
    "label": Value("int64"),  # which candidate is the answer
    "section_spans": SPANS,
}


def questions(row: Mapping[str, Any], separator: str) -> Iterator[dict[str, Any]]:
    """One question, `place_of_birth jan hus` as "place of birth jan hus", over all documents."""
    relation, *subject = row["query"].split(" ")
    document, spans = DocumentBuilder(), []
    for support in row["supports"]:
        document.add(separator if spans else "")
        spans.append(document.add(support))
    answer, candidates = row["answer"], list(row["candidates"])
    if answer not in candidates:
        raise UserError(f"its answer {answer!r} is none of its candidates")
    found = find_answers([answer], document.text)
    yield {
        "id": row["id"],
        "question": " ".join([relation.replace("_", " "), *subject]),
        "text": document.text,
        "answers": answers_cell([answer], document.text, found),
        "answer": answer,
        "candidates": candidates,
        "label": candidates.index(answer),
        "section_spans": spans,
    }
