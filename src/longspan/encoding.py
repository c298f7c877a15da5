"""Text to tokens: truncation, special tokens and global tokens, with offsets into the text."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding, Tokenizer

from longspan.batch import Feature
from longspan.config import GlobalsConfig
from longspan.document import PAIR, SPECIAL, TEXT, Document, SpecialTokens, encodings_of, with_marks
from longspan.errors import UserError
from longspan.globals import global_positions

Truncation = Literal["head", "tail", "head+tail"]


class DocumentEncoder:
    """Turns texts into features of at most `max_length` tokens.

    Args:
        tokenizer: a fast tokenizer's backend; its own truncation and padding are ignored.
        cls_id, sep_id: ids of its special tokens; None where it has none.
        max_length: tokens of a document, special tokens included.
        truncate: which part of a text that is too long is kept.
        policies: which tokens are global.
        stride: tokens that consecutive slices of a text share.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        cls_id: int | None,
        sep_id: int | None,
        max_length: int,
        truncate: Truncation,
        policies: GlobalsConfig,
        stride: int = 0,
    ) -> None:
        self.tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.cls_id, self.sep_id = cls_id, sep_id
        self.max_length, self.policies, self.stride = max_length, policies, stride
        self.truncate: Truncation = truncate
        self.single = SpecialTokens.of(self.tokenizer, pair=False)
        self.double = SpecialTokens.of(self.tokenizer, pair=True)
        self._check_room(self.single)

    def encode(
        self,
        ids: Sequence[str],
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        global_columns: Sequence[Any] | None = None,
    ) -> list[Feature]:
        """Features without labels, in the order of the texts."""
        if pairs is not None:
            self._check_room(self.double)
        encodings = encodings_of(self.tokenizer, texts)
        pair_encodings = repeat(None) if pairs is None else encodings_of(self.tokenizer, pairs)
        columns = global_columns if global_columns is not None else [None] * len(texts)
        return [self._feature(*row) for row in zip(ids, texts, encodings, pair_encodings, columns)]

    def encode_pieces(
        self, ids: Sequence[str], texts: Sequence[str], global_columns: Sequence[Any] | None = None
    ) -> list[list[Feature]]:
        """Every text whole, as consecutive pieces of at most `max_length` tokens.

        Returns:
            the pieces of each text, with `words` and `characters`; at least one, named
            `<id>` where it is the only one and `<id>#<number>` otherwise.
        """
        encodings = encodings_of(self.tokenizer, texts)
        columns = global_columns if global_columns is not None else [None] * len(texts)
        return [self._pieces(*row) for row in zip(ids, texts, encodings, columns)]

    def _pieces(self, id: str, text: str, encoding: Encoding, column: Any) -> list[Feature]:
        room = self.max_length - len(self.single)
        words = np.array([-1 if w is None else w for w in encoding.word_ids], np.int32)
        offsets = text_offsets(text, encoding)
        ends = offsets[:, 1]
        characters = np.diff(np.maximum.accumulate(ends), prepend=0)
        starts = range(0, max(1, len(encoding)), room)
        pieces = []
        for number, start in enumerate(starts):
            kept = np.arange(start, min(start + room, len(encoding)))
            document = self._lay_out(text, encoding, offsets, kept)
            feature = self._with_globals(
                id if len(starts) == 1 else f"{id}#{number}", document, column
            )
            in_text = document.segment == TEXT
            pieces.append(
                replace(
                    feature,
                    tokens_cut=0,
                    words=_spread(words[kept], in_text, -1),
                    characters=_spread(characters[kept], in_text, 0),
                )
            )
        return pieces

    def encode_slices(
        self,
        ids: Sequence[str],
        questions: Sequence[str],
        texts: Sequence[str],
        global_columns: Sequence[Any] | None = None,
        *,
        max_question_length: int,
        truncate: bool = False,
    ) -> list[list[Feature]]:
        """Every text with its question before it, in slices that share `stride` tokens of it.

        Args:
            ids, questions, texts, global_columns: a question each.
            max_question_length: tokens of a question; the rest is cut.
            truncate: one slice, of the part of the text that `self.truncate` keeps.

        Returns:
            the slices of each question, named as pieces are, with `offsets` and in `details` the
            `reach`: the characters from the token before the slice to the token behind it.

        Raises:
            UserError: a question or text without tokens, or no room for a text.
        """
        encodings, asked = (
            encodings_of(self.tokenizer, texts),
            encodings_of(self.tokenizer, questions),
        )
        columns = global_columns if global_columns is not None else [None] * len(texts)
        rows = zip(ids, texts, encodings, asked, columns, strict=True)
        return [self._slices(*row, max_question_length, truncate) for row in rows]

    def _slices(
        self,
        id: str,
        text: str,
        encoding: Encoding,
        question: Encoding,
        column: Any,
        max_question_length: int,
        truncate: bool,
    ) -> list[Feature]:
        for what, tokens in (("question", question), ("document", encoding)):
            if not len(tokens):
                raise UserError(f"question {id}: its {what} has no tokens; mend or drop the row")
        num_question = min(len(question), max_question_length)
        room = self.max_length - len(self.double) - num_question
        if room <= (0 if truncate else self.stride):
            raise UserError(
                f"data.max_length={self.max_length} leaves {max(0, room)} tokens of the document "
                f"beside a question of {num_question}, too few for data.stride={self.stride}; "
                "raise it, or lower task.max_question_length or data.stride"
            )
        if truncate:
            parts = [kept(len(encoding), room, self.truncate)]
        else:
            starts = range(0, max(1, len(encoding) - self.stride), room - self.stride)
            parts = [np.arange(start, min(start + room, len(encoding))) for start in starts]
        offsets = text_offsets(text, encoding)
        slices = []
        counts = {"questions_cut": int(len(question) > num_question)}
        for number, part in enumerate(parts):
            document = self._lay_out(
                text, encoding, offsets, part, question, num_question, pair_first=True
            )
            name = id if len(parts) == 1 else f"{id}#{number}"
            feature = self._with_globals(name, document, column)
            cut = len(encoding) - len(part) if truncate else 0
            before = int(offsets[part[0] - 1, 1]) if part[0] else 0
            after = int(offsets[part[-1] + 1, 0]) if part[-1] + 1 < len(offsets) else len(text)
            slices.append(
                replace(
                    feature,
                    tokens_cut=cut,
                    offsets=document.offsets,
                    details={"reach": [before, after]},
                    counts=counts if number == 0 else None,
                )
            )
        return slices

    def _feature(
        self, id: str, text: str, encoding: Encoding, pair: Encoding | None, column: Any
    ) -> Feature:
        return self._with_globals(id, self.document(text, encoding, pair), column)

    def _with_globals(self, id: str, document: Document, column: Any) -> Feature:
        if not len(document.input_ids):
            raise UserError(
                f"document {id} has no tokens and data.tokenizer adds none; drop the row, or use "
                "a tokenizer with special tokens"
            )
        try:
            positions = global_positions(
                self.policies, document, cls_id=self.cls_id, sep_id=self.sep_id, column=column
            )
        except UserError as error:
            raise UserError(f"document {id}: {error}") from error
        return Feature(
            id=id,
            input_ids=document.input_ids,
            global_positions=positions,
            tokens_cut=document.tokens_cut,
            is_empty=not document.text.strip(),
            token_type_ids=document.token_type_ids,
        )

    def document(self, text: str, encoding: Encoding, pair: Encoding | None) -> Document:
        """Cut what is too long and lay the special tokens around the rest."""
        room = self.max_length - len(self.single if pair is None else self.double)
        # the text is what gets cut; its pair keeps all it needs up to half of the room
        num_pair = 0 if pair is None else min(len(pair), max(room // 2, room - len(encoding)))
        keep_text = kept(len(encoding), room - num_pair, self.truncate)
        offsets = text_offsets(text, encoding)
        return self._lay_out(text, encoding, offsets, keep_text, pair, num_pair)

    def _lay_out(
        self,
        text: str,
        encoding: Encoding,
        offsets: np.ndarray,
        keep_text: np.ndarray,
        pair: Encoding | None = None,
        num_pair: int = 0,
        pair_first: bool = False,
    ) -> Document:
        """The chosen tokens of the text and the first of the pair, among the special tokens."""
        special = self.single if pair is None else self.double
        ids = np.array(encoding.ids, np.int32)
        pair_ids = [] if pair is None else pair.ids[:num_pair]
        first, second = (ids[keep_text], TEXT), (pair_ids, PAIR)
        if pair_first:
            first, second = second, first
        parts = [
            (special.before, SPECIAL),
            first,
            (special.between, SPECIAL),
            second,
            (special.after, SPECIAL),
        ]
        segment = np.concatenate([np.full(len(part), kind, np.int8) for part, kind in parts])
        text_index = np.full(len(segment), -1, np.int32)
        text_index[segment == TEXT] = keep_text
        all_offsets = np.zeros((len(segment), 2), np.int32)
        all_offsets[segment == TEXT] = offsets[keep_text]
        given = len(encoding) + (0 if pair is None else len(pair))
        return Document(
            input_ids=np.concatenate([np.asarray(part, np.int32) for part, _ in parts]),
            segment=segment,
            token_type_ids=np.concatenate(
                [np.full(len(p), kind, np.int8) for (p, _), kind in zip(parts, special.types)]
            ),
            text_index=text_index,
            offsets=all_offsets,
            text=text,
            tokens_cut=given - len(keep_text) - num_pair,
            num_text_tokens=len(encoding),
        )

    def _check_room(self, special: SpecialTokens) -> None:
        if self.max_length <= len(special):
            raise UserError(
                f"data.max_length={self.max_length} leaves no room beside the tokenizer's "
                f"{len(special)} special tokens; raise it"
            )


def _spread(values: np.ndarray, places: np.ndarray, elsewhere: int) -> np.ndarray:
    """(L,) int32 with the values at the places that are True."""
    spread = np.full(len(places), elsewhere, np.int32)
    spread[places] = values
    return spread


def text_offsets(text: str, encoding: Encoding) -> np.ndarray:
    """(L, 2) int32 [start, end) characters of the tokens in the text."""
    return with_marks(text, np.array(encoding.offsets, np.int32).reshape(-1, 2))


def kept(length: int, room: int, truncate: Truncation) -> np.ndarray:
    """Which of `length` tokens stay where `room` of them fit, ascending."""
    everything = np.arange(length)
    if length <= room:
        return everything
    if truncate == "head":
        return everything[:room]
    if truncate == "tail":
        return everything[length - room :]
    head = -(-room // 2)
    return np.concatenate([everything[:head], everything[length - (room - head) :]])
