"""Qasper's columns (`allenai/qasper`): a paper a row, with all its questions."""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import List, Value

from longspan.data.formats.document import (
    QUESTION_COLUMNS,
    SPANS,
    DocumentBuilder,
    Span,
    find_answers,
    records,
)

UNANSWERABLE = "Unanswerable"  # of an annotator, as `task.scoring=qasper` knows it
READS = ("id", "title", "abstract", "full_text", "qas")
COLUMNS = QUESTION_COLUMNS | {
    "answers": {
        "text": List(Value("string")),  # the extracts, as they stand in the document …
        "answer_start": List(Value("int64")),  # … here
        "references": List(Value("string")),  # what annotators say, which alone is right
    },
    "paper": Value("string"),  # the paper's id
    "section_names": List(Value("string")),
    "section_spans": SPANS,
    "evidence_spans": SPANS,  # paragraphs that annotators answered from
}


def questions(row: Mapping[str, Any], separator: str) -> Iterator[dict[str, Any]]:
    """One question each, over title, abstract and sections, with their names on lines before them.

    What annotators wrote in words of their own, and yes and no, count as right but have no place
    in the paper. A question has no answer where no annotator found one.
    """
    document = DocumentBuilder()
    sections = [(None, [row["title"]]), (None, [row["abstract"]])]
    sections += [(s["section_name"], s["paragraphs"]) for s in records(row["full_text"])]
    names: list[str] = []
    section_spans: list[Span] = []
    paragraph_spans: dict[str, Span] = {}
    for name, paragraphs in sections:
        document.add(separator if names else "")
        start = document.length
        document.add(f"{name}\n" if name else "")
        for number, paragraph in enumerate(paragraphs or []):
            document.add("\n" if number else "")
            paragraph_spans.setdefault(paragraph, document.add(paragraph or ""))
        section_spans.append([start, document.length])
        names.append(name or "")
    text = document.text
    for asked in records(row["qas"]):
        given = [a["answer"] for a in records(asked["answers"])]
        evidence = [e for answer in given for e in answer.get("evidence") or []]
        evidence_spans = [
            paragraph_spans[e] for e in dict.fromkeys(evidence) if e in paragraph_spans
        ]
        extracts = [s for answer in given for s in answer.get("extractive_spans") or []]
        found = find_answers(extracts, text, evidence_spans)
        yield {
            "id": asked["question_id"],
            "question": asked["question"],
            "text": text,
            "answers": {
                "text": [text[start:end] for start, end in found],
                "answer_start": [start for start, _ in found],
                "references": _right_answers(given),
            },
            "paper": row["id"],
            "section_names": names,
            "section_spans": section_spans,
            "evidence_spans": sorted(evidence_spans),
        }


def _right_answers(given: list[Mapping[str, Any]]) -> list[str]:
    """One text an annotator, as Qasper's scorer reads it: several extracts are one answer.

    None where all found the question unanswerable; where some did, theirs is a text too.
    """
    texts: list[str] = []
    for answer in given:
        if answer.get("unanswerable"):
            texts.append(UNANSWERABLE)
        elif answer.get("extractive_spans"):
            texts.append(", ".join(answer["extractive_spans"]))
        elif (answer.get("free_form_answer") or "").strip():
            texts.append(answer["free_form_answer"].strip())
        elif answer.get("yes_no") is not None:
            texts.append("Yes" if answer["yes_no"] else "No")
    return [] if set(texts) == {UNANSWERABLE} else list(dict.fromkeys(texts))
