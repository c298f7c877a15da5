"""Answer cells to character spans of the document, and those to tokens of its slices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longspan.errors import UserError


@dataclass(frozen=True)
class GoldAnswers:
    """What a row says about its answers.

    Attributes:
        texts: all that count as right, in the row's order, each once; none = unanswerable.
        spans: [start, end) characters where they stand in the document, each once.
        repaired: answers whose `answer_start` missed them.
        dropped: answers that do not occur in the document.
    """

    texts: list[str]
    spans: list[tuple[int, int]]
    repaired: int = 0
    dropped: int = 0


def gold_answers(cell: Any, document: str, where: str) -> GoldAnswers:
    """Read an answers cell.

    Args:
        cell: {"text": [...], "answer_start": [...]} or a list of such single answers, as SQuAD
            has it; or a list of texts, which stand wherever they occur; None = unanswerable.
            "aliases" beside "text" are right too, but are not looked for; "references" are what
            is right in place of both, where the text that stands there is a part of it.
        document: what `answer_start` counts characters of.
        where: split and row, for messages.

    Raises:
        UserError: a cell of another shape, an empty answer, a start outside the document.
    """
    texts, starts = _texts_and_starts(cell, where)
    spans: dict[tuple[int, int], None] = {}
    repaired = dropped = 0
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: the answer {text!r} is no text; mend it, or leave it out")
        if start is None:
            found = occurrences(text, document)
        else:
            if isinstance(start, bool) or not isinstance(start, int):
                raise UserError(f"{where}: answer_start={start!r} is no whole number; mend the row")
            if not 0 <= start < max(1, len(document)):
                raise UserError(
                    f"{where}: answer_start={start} is outside the document's {len(document)} "
                    "characters; mend the row"
                )
            nearest = _nearest(text, document, start)
            repaired += nearest not in (None, start)
            found = [] if nearest is None else [(nearest, nearest + len(text))]
        dropped += not found
        spans |= dict.fromkeys(found)
    aliases = (cell.get("aliases") or []) if isinstance(cell, dict) else []
    references = cell.get("references") if isinstance(cell, dict) else None
    dropped += bool((aliases or references) and not texts)  # the one answer that they all name
    right = [*texts, *aliases] if references is None else references
    return GoldAnswers(list(dict.fromkeys(right)), list(spans), repaired, dropped)


def _texts_and_starts(cell: Any, where: str) -> tuple[list[Any], list[Any]]:
    if cell is None:
        return [], []
    if isinstance(cell, list) and cell and all(isinstance(answer, dict) for answer in cell):
        return [a.get("text") for a in cell], [a.get("answer_start") for a in cell]
    if isinstance(cell, list):
        return cell, [None] * len(cell)
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        texts, starts = cell["text"], cell.get("answer_start")
        if starts is None:
            return texts, [None] * len(texts)
        if isinstance(starts, list) and len(starts) == len(texts):
            return texts, starts
        raise UserError(f"{where}: {len(texts)} texts, but answer_start={starts}; mend the row")
    raise UserError(
        f"{where}={str(cell)[:60]!r} are no answers; give {{text: [...], answer_start: [...]}} or "
        "a list of texts"
    )


def _nearest(text: str, document: str, start: int) -> int | None:
    """Start of the occurrence of `text` that is nearest to `start`; the earlier one in a tie."""
    if document.startswith(text, start):
        return start
    before = document.rfind(text, 0, start + len(text))
    after = document.find(text, start)
    found = [place for place in (before, after) if place >= 0]
    return min(found, key=lambda place: abs(place - start)) if found else None


def occurrences(text: str, document: str) -> list[tuple[int, int]]:
    """Where a text stands as words of their own; anywhere, where it never does (scripts without
    spaces)."""
    places = [match.start() for match in re.finditer(re.escape(text), document)]
    spans = [(place, place + len(text)) for place in places]
    whole = [
        (start, end)
        for start, end in spans
        if not (start and document[start - 1].isalnum() and text[0].isalnum())
        and not (end < len(document) and document[end].isalnum() and text[-1].isalnum())
    ]
    return whole or spans


def token_spans(
    spans: Sequence[tuple[int, int]], offsets: np.ndarray, reach: Sequence[int]
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Character spans as first and last tokens of one slice.

    Args:
        spans: [start, end) characters of the whole document.
        offsets: (L, 2) of the slice's tokens, (0, 0) outside the document.
        reach: characters of the document of which the slice holds every token.

    Returns:
        the [first, last] tokens of those that the slice holds whole, and those that it holds in
        part.
    """
    inside = (offsets[:, 1] > offsets[:, 0]).nonzero()[0]  # (N,)
    if not len(inside):
        return [], []
    starts, ends = offsets[inside].T
    found: dict[tuple[int, int], None] = {}
    cut = []
    for start, end in spans:
        touched = ((starts < end) & (ends > start)).nonzero()[0]
        if not len(touched):
            continue
        if reach[0] <= start and end <= reach[1]:
            found[int(inside[touched[0]]), int(inside[touched[-1]])] = None
        else:
            cut.append((start, end))
    return [list(span) for span in found], cut
