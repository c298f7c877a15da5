"""A document that is put together from parts, and where its parts and its answers stand in it."""

from collections.abc import Iterable, Sequence
from typing import Any

from datasets import List, Value

Span = list[int]  # [start, end) characters of the document

SPANS = List(List(Value("int64")))
ANSWERS = {
    "text": List(Value("string")),  # as it stands in the document …
    "answer_start": List(Value("int64")),  # … here
    "aliases": List(Value("string")),  # right too, wherever they stand, if they do
}
QUESTION_COLUMNS = {
    "id": Value("string"),
    "question": Value("string"),
    "text": Value("string"),
    "answers": ANSWERS,
}


class DocumentBuilder:
    """Text that grows part by part.

    Attributes:
        length: characters so far.
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self.length = 0

    def add(self, part: str) -> Span:
        """Append a part, and return where it stands without the white space around it."""
        start = self.length + len(part) - len(part.lstrip())
        self._parts.append(part)
        self.length += len(part)
        return [start, max(start, start + len(part.strip()))]

    @property
    def text(self) -> str:
        return "".join(self._parts)


def records(cell: Any) -> list[dict[str, Any]]:
    """A list of records, which Arrow tables also hold as one record of lists."""
    if isinstance(cell, dict):
        columns = list(cell)
        return [dict(zip(columns, row, strict=True)) for row in zip(*cell.values(), strict=True)]
    return list(cell or [])


def find_answers(answers: Iterable[str], text: str, within: Sequence[Span] = ()) -> list[Span]:
    """Where one of the answers stands as words of its own, in upper or lower case.

    Args:
        answers: any of them is right.
        text: the document.
        within: where to look first; elsewhere only if they stand in none of these.

    Returns:
        ascending places, without those that lie inside another.
    """
    lowered = _lower(text)
    found = {place for answer in set(answers) if answer.strip() for place in _find(answer, lowered)}
    chosen = [p for p in found if any(start <= p[0] and p[1] <= end for start, end in within)]
    kept: list[Span] = []
    for start, end in sorted(chosen or found, key=lambda place: (place[0], -place[1])):
        if not kept or end > kept[-1][1]:
            kept.append([start, end])
    return kept


def answers_cell(answers: Iterable[str], text: str, spans: Sequence[Span]) -> dict[str, list[Any]]:
    """What `data.answers_column` holds: the spans with what stands there, and all right answers."""
    return {
        "text": [text[start:end] for start, end in spans],
        "answer_start": [start for start, _ in spans],
        "aliases": list(answers),
    }


def _find(answer: str, lowered: str) -> Iterable[tuple[int, int]]:
    wanted = _lower(answer.strip())
    start = lowered.find(wanted)
    while start >= 0:
        end = start + len(wanted)
        inside_a_word = (start and lowered[start - 1].isalnum() and wanted[0].isalnum()) or (
            end < len(lowered) and lowered[end].isalnum() and wanted[-1].isalnum()
        )
        if not inside_a_word:
            yield start, end
        start = lowered.find(wanted, start + 1)


def _lower(text: str) -> str:
    """Lower case, as many characters as before: "İ", which would become two, stays."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
