"""TriviaQA's columns (`mandarjoshi/trivia_qa`): the evidence of a question as one document."""

from collections.abc import Iterator, Mapping
from typing import Any

from datasets import List, Value

from longspan.data.formats.document import (
    QUESTION_COLUMNS,
    SPANS,
    DocumentBuilder,
    answers_cell,
    find_answers,
    records,
)

READS = ("question_id", "question", "entity_pages", "answer")
COLUMNS = QUESTION_COLUMNS | {"titles": List(Value("string")), "section_spans": SPANS}


def questions(row: Mapping[str, Any], separator: str) -> Iterator[dict[str, Any]]:
    """One question: Wikipedia pages, then search results, and wherever an alias stands in them.

    That an alias stands somewhere does not mean that the question is answered there: TriviaQA is
    supervised at a distance (Joshi et al. 2017, section 3).
    """
    pages = [(page["title"], page["wiki_context"]) for page in records(row["entity_pages"])]
    found = records(row.get("search_results"))
    pages += [(page["title"], page["search_context"]) for page in found]
    document, titles, spans = DocumentBuilder(), [], []
    for title, text in pages:
        if not (text or "").strip():
            continue
        document.add(separator if spans else "")
        spans.append(document.add(text))
        titles.append(title)
    aliases = _aliases(row["answer"])
    yield {
        "id": row["question_id"],
        "question": row["question"],
        "text": document.text,
        "answers": answers_cell(aliases, document.text, find_answers(aliases, document.text)),
        "titles": titles,
        "section_spans": spans,
    }


def _aliases(answer: Mapping[str, Any]) -> list[str]:
    """The answer and all its other names, each once whatever its case."""
    texts = [answer.get("value"), *(answer.get("aliases") or [])]
    # of these the official scorer knows; most are others in lower case
    texts += answer.get("normalized_aliases") or []
    named: dict[str, str] = {}
    for text in texts:
        if text and text != "<unk>":  # the published test set's
            named.setdefault(text.lower(), text)
    return list(named.values())
