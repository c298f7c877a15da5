"""Cells of multiple choice: candidates to the tokens before a document, answers to one of them."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding, Tokenizer

from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError


@dataclass(frozen=True)
class Asked:
    """A question with its candidates, as the text that comes before a document.

    Attributes:
        text: question, then every candidate behind a separator.
        places: [first, end) tokens of each candidate, its separator included.
        question_cut: whether the question was cut.
        candidates_cut: how many candidates were.
    """

    text: str
    places: list[list[int]]
    question_cut: bool
    candidates_cut: int


def ask(
    question: str,
    candidates: Sequence[str],
    encoder: DocumentEncoder,
    max_question_length: int,
    max_candidate_length: int,
    where: str,
) -> Asked:
    """Lay out question and candidates.

    Longformer marks candidates of WikiHop by tokens that it adds to the vocabulary (Beltagy et al.
    2020, appendix); here the tokenizer's own separator stands before each, where it has one.

    Args:
        question: what is cut to `max_question_length` tokens.
        candidates: what are cut to `max_candidate_length` tokens each.
        encoder: whose tokenizer and separator.
        where: the row, for messages.

    Raises:
        UserError: a candidate without tokens.
    """
    tokenizer, separator = encoder.tokenizer, "\n"
    if encoder.sep_id is not None:
        separator = f"{tokenizer.id_to_token(encoder.sep_id)} "
    lengths = [max_question_length] + [max_candidate_length] * len(candidates)
    parts = [question, *(candidate.strip() for candidate in candidates)]
    kept = [_cut(tokenizer, part, length) for part, length in zip(parts, lengths, strict=True)]
    text = kept[0]
    spans = []
    for part in kept[1:]:
        start = len(text)
        text += separator + part
        spans.append((start, len(text)))
    encoding = tokenizer.encode(text, add_special_tokens=False)
    places = [_tokens(encoding, span) for span in spans]
    for candidate, (first, end) in zip(candidates, places, strict=True):
        if first == end:
            raise UserError(f"{where}: the candidate {candidate!r} has no tokens; mend the row")
    cut = [part != whole for part, whole in zip(kept, parts, strict=True)]
    return Asked(text, places, cut[0], sum(cut[1:]))


def _cut(tokenizer: Tokenizer, text: str, length: int) -> str:
    """The characters of the first `length` tokens; all of a text that has no more."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return text if len(encoding) <= length else text[: encoding.offsets[length - 1][1]]


def _tokens(encoding: Encoding, span: tuple[int, int]) -> list[int]:
    """[first, end) tokens that share characters with [start, end) characters."""
    inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < span[1] and b > span[0]]
    return [inside[0], inside[-1] + 1] if inside else [0, 0]


def read_candidates(document: RawDocument) -> list[str]:
    """The candidates of a row.

    Raises:
        UserError: no list of two or more texts.
    """
    where = document.where or f"question {document.id}"
    cell = document.cells.get("candidates")
    if not isinstance(cell, list | tuple):
        raise UserError(
            f"{where}: {str(cell)[:60]!r} are no candidates; give a list of texts "
            "(data.candidates_column)"
        )
    if len(cell) < 2:
        raise UserError(f"{where}: {len(cell)} candidates leave no choice; give two or more")
    for candidate in cell:
        if not isinstance(candidate, str) or not candidate.strip():
            raise UserError(f"{where}: the candidate {candidate!r} is no text; mend the row")
    return list(cell)


def answer_index(cell: Any, candidates: Sequence[str], first_number: int, where: str) -> int:
    """Which candidate an answers cell means, from 0 on.

    Args:
        cell: a candidate's text (white space around it and case do not matter where it still means
            one), its number, or, where no candidate reads so, its letter.
        candidates: of the row; the first of several alike is meant.
        first_number: number of the first candidate.
        where: split and row, for messages.

    Raises:
        UserError: none of them, or several.
    """
    if isinstance(cell, int) and not isinstance(cell, bool):
        if first_number <= cell < first_number + len(candidates):
            return cell - first_number
        raise UserError(
            f"{where}={cell} is not a number from {first_number} to "
            f"{first_number + len(candidates) - 1}; mend the row, or set task.first_number"
        )
    if isinstance(cell, str):
        if cell in candidates:
            return candidates.index(cell)
        folded = [candidate.strip().casefold() for candidate in candidates]
        alike = [i for i, text in enumerate(folded) if text == cell.strip().casefold()]
        if len(alike) == 1:
            return alike[0]
        letter = string.ascii_uppercase.find(cell.strip()) if len(cell.strip()) == 1 else -1
        if not alike and 0 <= letter < len(candidates):
            return letter
    raise UserError(
        f"{where}={str(cell)[:60]!r} means none of the {len(candidates)} candidates; give one's "
        "text, number or letter"
    )
