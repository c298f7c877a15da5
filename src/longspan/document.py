"""A tokenised document, before it is a feature: tokens with their place in the text."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from longspan.errors import UserError

SPECIAL, TEXT, PAIR = -1, 0, 1  # values of `Document.segment`
PROBES = 100  # entries of a vocabulary that are tried
CHARACTERS_AT_ONCE = 2**21  # a tokenizer takes some 150 bytes for each
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class RawDocument:
    """A row of a source, before it is tokenised.

    Attributes:
        id: unique in its split.
        text: the document.
        pair: a second text, or the question, where there is one.
        global_cell: its cell of `globals.column`, where there is one.
        label: its label cell, where labels are read.
        where: split and row, to name the label cell in an error; None where labels are not read.
        cells: what else its task reads of the row, by what it is to the task.
    """

    id: str
    text: str
    pair: str | None = None
    global_cell: Any = None
    label: Any = None
    where: str | None = None
    cells: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Document:
    """L tokens as the model reads them, after truncation.

    Attributes:
        input_ids: (L,) int32 token ids, special tokens included.
        segment: (L,) int8, SPECIAL, TEXT or PAIR.
        token_type_ids: (L,) int8, segments as the tokenizer numbers them.
        text_index: (L,) int32, which token of the whole, uncut text this is; -1 elsewhere.
        offsets: (L, 2) int32, [start, end) characters in `text`; (0, 0) outside the text.
        text: the text, uncut.
        tokens_cut: tokens of text and pair that truncation took away.
        num_text_tokens: tokens of the whole, uncut text.
    """

    input_ids: np.ndarray
    segment: np.ndarray
    token_type_ids: np.ndarray
    text_index: np.ndarray
    offsets: np.ndarray
    text: str
    tokens_cut: int
    num_text_tokens: int


@dataclass(frozen=True)
class SpecialTokens:
    """Where a tokenizer puts its special tokens around a text, or around a text and its pair.

    Attributes:
        before, between, after: ids of the tokens there.
        types: token types of before, text, between, pair and after.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, pair: bool) -> Self:
        """Read off the tokenizer's own template by encoding a probe.

        Raises:
            UserError: a tokenizer of which no text becomes a token.
        """
        probe = _probe(tokenizer)
        encoding = tokenizer.encode(probe, probe if pair else None)
        sequence = encoding.sequence_ids  # None for special tokens, else 0 or 1
        ordinary = [i for i, s in enumerate(sequence) if s is not None]
        first, last = ordinary[0], ordinary[-1]
        inner = [i for i in range(first, last) if sequence[i] is None]
        ids, types = encoding.ids, [*encoding.type_ids, 0]
        places = (0, first, inner[0] if inner else first, last, last + 1)
        return cls(
            ids[:first],
            [ids[i] for i in inner],
            ids[last + 1 :],
            tuple(types[min(place, len(ids))] for place in places),
        )

    def __len__(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def encodings_of(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[Encoding]:
    """The tokens of each text, none of them special; of long texts, a few are held at once.

    A code point that is half of a surrogate pair is no character, and read as U+FFFD.

    Raises:
        UserError: a text that the tokenizer has no tokens for.
    """
    together: list[str] = []
    characters = 0
    for text in texts:
        if together and characters + len(text) > CHARACTERS_AT_ONCE:
            yield from _encoded(tokenizer, together)
            together, characters = [], 0
        together.append(SURROGATE.sub("\ufffd", text))
        characters += len(text)
    yield from _encoded(tokenizer, together)


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[Encoding]:
    try:
        return tokenizer.encode_batch(texts, add_special_tokens=False)
    except Exception as error:
        if type(error) is not Exception:  # `tokenizers` has no type of its own
            raise
        raise UserError(
            f"data.tokenizer cannot read a text ({error}); give it an unk_token, or choose another"
        ) from error


def _probe(tokenizer: Tokenizer) -> str:
    """A text that has tokens: a letter, or else what stands in the vocabulary."""
    for probe in ("a", *islice(tokenizer.get_vocab(), PROBES)):
        try:
            if len(tokenizer.encode(probe, add_special_tokens=False)):
                return probe
        except Exception as error:
            if type(error) is not Exception:  # `tokenizers` has no type of its own
                raise
    raise UserError(
        "data.tokenizer makes no tokens of any text; choose another, or mend its normalizer, "
        "pre_tokenizer and unk_token"
    )


def with_marks(text: str, offsets: np.ndarray) -> np.ndarray:
    """Offsets in which a mark belongs to the tokens of the character that it stands on.

    A normaliser that composes characters (NFC) or strips accents leaves the mark behind the
    letter in no token: of "e" + U+0301 the tokens would cover the "e" alone.

    Args:
        text: as the tokenizer got it.
        offsets: (L, 2) [start, end) characters of its tokens.

    Returns:
        (L, 2), the same where every mark is in a token.
    """
    if text.isascii() or not len(offsets):
        return offsets
    bounds = np.zeros(len(text) + 1, np.int64)
    np.add.at(bounds, offsets[:, 0], 1)
    np.subtract.at(bounds, offsets[:, 1], 1)
    outside = (bounds.cumsum()[:-1] == 0).nonzero()[0]
    stop = np.arange(len(text) + 1, dtype=offsets.dtype)  # where a token that ends here shall end
    for place in outside[::-1].tolist():
        if _continues_a_character(text[place]):
            stop[place] = stop[place + 1]
    start, end = offsets[:, 0], offsets[:, 1]
    return np.stack([start, np.where(start < end, stop[end], end)], axis=1)


def _continues_a_character(character: str) -> bool:
    """Marks, and the vowels and final consonants of a decomposed Korean syllable."""
    return unicodedata.category(character).startswith("M") or "\u1160" <= character <= "\u11ff"
