"""HotpotQA's columns (`hotpotqa/hotpot_qa`): paragraphs, their sentences, the supporting ones.

Paragraphs that come without sentences (a list of `title`, `text` and `is_supporting` in a column
`paragraphs`) are read as one sentence each.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import List, Value

from longspan.data.formats.document import (
    QUESTION_COLUMNS,
    SPANS,
    DocumentBuilder,
    Span,
    answers_cell,
    find_answers,
    records,
)

READS = ("id", "question", "answer")
FACTS = {"title": List(Value("string")), "sent_id": List(Value("int64"))}
COLUMNS = QUESTION_COLUMNS | {
    "answer": Value("string"),
    "answer_type": Value("string"),  # span, yes or no
    "type": Value("string"),  # bridge or comparison
    "level": Value("string"),
    "context": {"title": List(Value("string")), "sentences": List(List(Value("string")))},
    "titles": List(Value("string")),
    "title_spans": SPANS,
    "sentences": FACTS,  # the name of each sentence of the document, in its order …
    "sentence_spans": SPANS,  # … and where it stands
    "supporting_facts": FACTS,  # the sentences that answer the question, by name
    "global_spans": SPANS,  # for globals.column: titles, and how sentences begin
}


def questions(row: Mapping[str, Any], separator: str) -> Iterator[dict[str, Any]]:
    """One question over all its paragraphs, each with its title on a line before it."""
    paragraphs, facts = _paragraphs(row)
    document = DocumentBuilder()
    title_spans: list[Span] = []
    sentence_spans: list[Span] = []
    names: list[tuple[str, int]] = []
    for title, sentences in paragraphs:
        document.add(separator if title_spans else "")
        title_spans.append(document.add(title))
        document.add("\n")
        names += [(title, number) for number in range(len(sentences))]
        sentence_spans += [document.add(sentence) for sentence in sentences]
    answer = (row["answer"] or "").strip()
    is_closed = answer.lower() in ("yes", "no")
    wanted = [] if is_closed else [answer]
    supporting = set(facts)
    within = [
        span
        for title, span in zip([p[0] for p in paragraphs], title_spans, strict=True)
        if any(title == fact[0] for fact in facts)
    ]
    within += [s for s, name in zip(sentence_spans, names, strict=True) if name in supporting]
    spans = find_answers(wanted, document.text, within)
    begins = [[start, start + 1] for start, end in sentence_spans if end > start]
    yield {
        "id": row["id"],
        "question": row["question"],
        "text": document.text,
        "answers": answers_cell([answer] if answer else [], document.text, spans),
        "answer": answer,
        "answer_type": answer.lower() if is_closed else "span",
        "type": row.get("type"),
        "level": row.get("level"),
        "context": {
            "title": [title for title, _ in paragraphs],
            "sentences": [sentences for _, sentences in paragraphs],
        },
        "titles": [title for title, _ in paragraphs],
        "title_spans": title_spans,
        "sentences": _by_column(names),
        "sentence_spans": sentence_spans,
        "supporting_facts": _by_column(facts),
        "global_spans": sorted([span for span in title_spans if span[1] > span[0]] + begins),
    }


def _paragraphs(
    row: Mapping[str, Any],
) -> tuple[list[tuple[str, list[str]]], list[tuple[str, int]]]:
    """(title, sentences) of each, and the supporting sentences by (title, number)."""
    if row.get("paragraphs") is not None:
        given = records(row["paragraphs"])
        facts = [(p["title"], 0) for p in given if p.get("is_supporting")]
        return [(p["title"], [p["text"]]) for p in given], facts
    facts = [(fact["title"], fact["sent_id"]) for fact in records(row.get("supporting_facts"))]
    return [(p["title"], list(p["sentences"])) for p in records(row["context"])], facts


def _by_column(facts: list[tuple[str, int]]) -> dict[str, list[Any]]:
    return {"title": [title for title, _ in facts], "sent_id": [number for _, number in facts]}
