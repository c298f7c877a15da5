"""Cells of multi-hop questions: paragraphs to one text, supporting facts and answers to gold."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, zip_longest
from typing import Any

import numpy as np

from longspan.errors import UserError
from longspan.tasks.hotpot_metrics import Fact
from longspan.tasks.qa_answers import occurrences

TYPES = ("span", "yes", "no")  # of an answer
BETWEEN = "\n\n"  # paragraphs

Span = tuple[int, int]


@dataclass(frozen=True)
class Paragraph:
    """One of the paragraphs that a question is asked about.

    Attributes:
        title: may be empty.
        sentences: as the row has them.
        is_supporting: whether it holds a supporting fact; None where the paragraph does not say.
    """

    title: str
    sentences: tuple[str, ...]
    is_supporting: bool | None = None


@dataclass(frozen=True)
class Passage:
    """All paragraphs as one text: title, line break, sentences; an empty line between paragraphs.

    Attributes:
        text: what the model reads.
        paragraphs: [start, end) characters of each.
        titles: of each paragraph's title, without white space around it.
        sentences: of each paragraph's sentences, likewise.
    """

    text: str
    paragraphs: tuple[Span, ...]
    titles: tuple[Span, ...]
    sentences: tuple[tuple[Span, ...], ...]

    def places(
        self, offsets: np.ndarray, reach: Sequence[int]
    ) -> tuple[list[list[int]], list[list[int]]]:
        """First tokens of the titles and sentences whose beginning a slice holds.

        Args:
            offsets: (L, 2) characters of the slice's tokens, (0, 0) outside the passage.
            reach: characters from the token before the slice to the token behind it.

        Returns:
            [token, paragraph] of titles, and [token, paragraph, number] of sentences.
        """
        inside = (offsets[:, 1] > offsets[:, 0]).nonzero()[0]  # (N,)
        # a token may begin before the one that it follows ends: the ends alone ascend
        ends = np.maximum.accumulate(offsets[inside, 1])

        def first_token(span: Span) -> int | None:
            start, end = span
            if start == end or start < reach[0]:
                return None
            found = int(np.searchsorted(ends, start, side="right"))
            if found == len(inside) or offsets[inside[found], 0] >= end:
                return None
            return int(inside[found])

        titles = [[t, p] for p, s in enumerate(self.titles) if (t := first_token(s)) is not None]
        sentences = [
            [token, paragraph, number]
            for paragraph, spans in enumerate(self.sentences)
            for number, span in enumerate(spans)
            if (token := first_token(span)) is not None
        ]
        return titles, sentences


@dataclass(frozen=True)
class Gold:
    """What a row says is right.

    Attributes:
        answer: as it says it.
        type: place in `TYPES`.
        starts: characters of the passage where the answer stands in a supporting paragraph, or
            anywhere where it stands in none; empty for yes and no.
        facts: (title, number of the sentence).
    """

    answer: str
    type: int
    starts: tuple[int, ...]
    facts: tuple[Fact, ...]


def read_paragraphs(cell: Any, where: str) -> list[Paragraph]:
    """Read a cell of paragraphs.

    Args:
        cell: HotpotQA's {"title": [...], "sentences": [[...], ...]} as on the hub, or its own
            [[title, [sentence, ...]], ...]; or a list of {"title", "sentences"}, or "text" for a
            paragraph that is not cut into sentences, and maybe "is_supporting".
        where: the row, for messages.

    Raises:
        UserError: a cell of another shape, or without a paragraph.
    """
    if isinstance(cell, dict) and {"title", "sentences"} <= cell.keys():
        titles, sentences = cell["title"], cell["sentences"]
        if isinstance(titles, list) and isinstance(sentences, list):
            if len(titles) != len(sentences):
                raise UserError(
                    f"{where}: {len(titles)} titles for {len(sentences)} lists of sentences; mend "
                    "the row"
                )
            cell = [list(pair) for pair in zip(titles, sentences, strict=True)]
    if not isinstance(cell, list) or not cell:
        raise _no_paragraphs(where, cell)
    return [_paragraph(entry, where) for entry in cell]


def _paragraph(entry: Any, where: str) -> Paragraph:
    if isinstance(entry, list | tuple) and len(entry) == 2:
        entry = {"title": entry[0], "sentences": entry[1]}
    if not isinstance(entry, dict):
        raise _no_paragraphs(where, entry)
    title, sentences = entry.get("title") or "", entry.get("sentences")
    if sentences is None and isinstance(entry.get("text"), str):
        sentences = [entry["text"]]
    if not isinstance(title, str) or not isinstance(sentences, list):
        raise _no_paragraphs(where, entry)
    if not all(isinstance(sentence, str) for sentence in sentences):
        raise _no_paragraphs(where, entry)
    supporting = entry.get("is_supporting")
    return Paragraph(title, tuple(sentences), None if supporting is None else bool(supporting))


def _no_paragraphs(where: str, cell: Any) -> UserError:
    return UserError(
        f"{where}: {str(cell)[:60]!r} are no paragraphs; give a list of {{title, sentences}}, or "
        "{title: [...], sentences: [[...]]}"
    )


def lay_out(paragraphs: Sequence[Paragraph]) -> Passage:
    """Join paragraphs; sentences keep the white space that they bring, or get a space."""
    text = ""
    bounds: list[Span] = []
    titles: list[Span] = []
    sentences: list[tuple[Span, ...]] = []
    for paragraph in paragraphs:
        text += BETWEEN if text else ""
        start = len(text)
        text += f"{paragraph.title}\n" if paragraph.title else ""
        titles.append(_trimmed(text, start, start + len(paragraph.title)))
        spaced = [
            " " + sentence if number and sentence[:1].strip() else sentence
            for number, sentence in enumerate(paragraph.sentences)
        ]
        stops = list(accumulate(map(len, spaced), initial=len(text)))
        text += "".join(spaced)
        sentences.append(tuple(_trimmed(text, *pair) for pair in pairwise(stops)))
        bounds.append((start, len(text)))
    return Passage(text, tuple(bounds), tuple(titles), tuple(sentences))


def _trimmed(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    first = start + len(part) - len(part.lstrip())
    return first, first + len(part.strip())


def read_gold(
    answer: Any, facts: Any, paragraphs: Sequence[Paragraph], passage: Passage, where: str
) -> Gold:
    """Answer and facts of a row.

    Args:
        answer: a text, of which yes and no mean themselves.
        facts: {"title": [...], "sent_id": [...]} as on the hub, a list of such records, or
            [[title, sent_id], ...]; None: all sentences of the paragraphs with `is_supporting`.
        paragraphs, passage: of the row.
        where: split and row, for messages.

    Raises:
        UserError: no answer, no facts, or cells of another shape.
    """
    if not isinstance(answer, str) or not answer.strip():
        raise UserError(
            f"{where}: the answer {str(answer)[:60]!r} is no text; give every row one, or name its "
            "column in data.answers_column"
        )
    known = _facts(facts, paragraphs, where)
    closed = answer.strip().lower()
    if closed in TYPES[1:]:
        return Gold(answer, TYPES.index(closed), (), known)
    supporting = {title for title, _ in known}
    inside = [
        span
        for paragraph, span in zip(paragraphs, passage.paragraphs, strict=True)
        if paragraph.title in supporting
    ]
    found = occurrences(answer.strip(), passage.text)
    best = [s for s in found if any(a <= s[0] and s[1] <= b for a, b in inside)] or found
    return Gold(answer, 0, tuple(start for start, _ in best), known)


def _facts(cell: Any, paragraphs: Sequence[Paragraph], where: str) -> tuple[Fact, ...]:
    if cell is None:
        if all(paragraph.is_supporting is None for paragraph in paragraphs):
            raise UserError(
                f"{where}: no supporting facts; name their column in data.facts_column, or give "
                "every paragraph is_supporting"
            )
        chosen = [paragraph for paragraph in paragraphs if paragraph.is_supporting]
        return tuple((p.title, number) for p in chosen for number in range(len(p.sentences)))
    pairs: Any = cell
    if isinstance(cell, dict):
        titles, numbers = cell.get("title"), cell.get("sent_id")
        pairs = None
        if isinstance(titles, list) and isinstance(numbers, list):
            pairs = list(zip_longest(titles, numbers))
    elif isinstance(cell, list):
        pairs = [[f.get("title"), f.get("sent_id")] if isinstance(f, dict) else f for f in cell]
    if not isinstance(pairs, list) or not all(map(_is_fact, pairs)):
        raise UserError(
            f"{where}: {str(cell)[:60]!r} are no supporting facts; give {{title: [...], sent_id: "
            "[...]}"
        )
    return tuple(dict.fromkeys((title, number) for title, number in pairs))


def _is_fact(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    return isinstance(pair[0], str) and isinstance(pair[1], int) and not isinstance(pair[1], bool)


def facts_without_sentence(facts: Collection[Fact], paragraphs: Sequence[Paragraph]) -> int:
    """How many facts name no sentence of the row; a few of HotpotQA do not."""
    known = {
        (paragraph.title, number)
        for paragraph in paragraphs
        for number, sentence in enumerate(paragraph.sentences)
        if sentence.strip()
    }
    return len(set(facts) - known)
