"""Global policies: which tokens of a document attend to, and are attended by, all of it."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from longspan.attention import AttentionPlan, Pattern
from longspan.config import GlobalsConfig
from longspan.document import PAIR, SPECIAL, TEXT, Document
from longspan.errors import UserError

log = logging.getLogger(__name__)


def global_positions(
    config: GlobalsConfig,
    document: Document,
    *,
    cls_id: int | None,
    sep_id: int | None,
    column: Sequence[Any] | None = None,
) -> np.ndarray:
    """Union of all policies that are switched on.

    Args:
        config: the policies.
        document: L tokens.
        cls_id, sep_id: ids of the special tokens; None where the tokenizer has none.
        column: this document's cell of `globals.column`.

    Returns:
        (G,) int32 places in the document, ascending.

    Raises:
        UserError: a policy that this tokenizer or this cell cannot serve.
    """
    chosen = np.zeros(len(document.input_ids), dtype=bool)
    if config.cls:
        chosen |= _special(document, cls_id, "globals.cls", "[CLS]")
    if config.separators:
        chosen |= _special(document, sep_id, "globals.separators", "[SEP]")
    if config.question:
        chosen |= document.segment == PAIR
    in_text = document.segment == TEXT
    if config.first_k:
        chosen |= in_text & (document.text_index < config.first_k)
    if config.every_k:
        every = min(config.every_k, np.iinfo(np.int32).max)  # of what places are counted in
        chosen |= in_text & (document.text_index % every == 0)
    if config.regex is not None:
        matches = re.finditer(config.regex, document.text, re.MULTILINE)
        chosen |= overlapping(document, [match.span() for match in matches])
    if column is not None:
        chosen |= _from_column(document, column)
    return chosen.nonzero()[0].astype(np.int32)


def overlapping(document: Document, spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """(L,) bool: text tokens that share at least one character with one of the [start, end) spans."""
    covered = np.zeros(len(document.text) + 1, dtype=np.int64)
    for start, end in spans:
        if end > start:
            covered[start] += 1
            covered[min(end, len(document.text))] -= 1
    characters = np.concatenate([[0], (covered.cumsum() > 0).cumsum()])  # covered before i
    start, end = document.offsets[:, 0], document.offsets[:, 1]
    return (document.segment == TEXT) & (characters[end] > characters[start])


def _special(document: Document, token_id: int | None, policy: str, token: str) -> np.ndarray:
    chosen = document.segment == SPECIAL
    chosen &= document.input_ids == token_id
    if not chosen.any():
        raise UserError(f"{policy}=true, but the tokenizer adds no {token} token; set it to false")
    return chosen


def _from_column(document: Document, column: Sequence[Any]) -> np.ndarray:
    try:
        values = np.asarray(column)
    except ValueError:  # lists of different lengths
        values = np.asarray(str(column))
    if values.size == 0 and values.ndim:
        return np.zeros(len(document.input_ids), dtype=bool)
    if values.dtype.kind not in "biu":
        raise UserError(
            f"globals.column: {str(column)[:60]!r} is no list of whole numbers; give [start, end) "
            f"character spans or one 0/1 for each of the text's {document.num_text_tokens} tokens"
        )
    if values.ndim == 2 and values.shape[1] == 2:
        if (
            values.min() < 0
            or values.max() > len(document.text)
            or (values[:, 1] < values[:, 0]).any()
        ):
            raise UserError(
                f"globals.column: {values.tolist()[:3]} are not [start, end) characters of a text "
                f"of {len(document.text)} characters; mend the column"
            )
        return overlapping(document, [(int(start), int(end)) for start, end in values])
    if values.ndim == 1 and len(values) == document.num_text_tokens:
        in_text = document.segment == TEXT
        return in_text & values.astype(bool)[document.text_index]
    raise UserError(
        f"globals.column: a cell of shape {values.shape} is neither [start, end) character spans "
        f"nor one 0/1 for each of the text's {document.num_text_tokens} tokens; mend the column"
    )


@dataclass(frozen=True)
class GlobalsCost:
    """Global tokens of a set of documents, and the attention they add.

    Attributes:
        mean, maximum: global tokens a document.
        pairs_share: part of all (query, key) pairs, over all layers, that the globals add.
    """

    mean: float
    maximum: int
    pairs_share: float

    def __str__(self) -> str:
        return (
            f"global tokens a document: mean {self.mean:.1f}, max {self.maximum}; "
            f"they are {self.pairs_share:.1%} of the attention pairs"
        )


def globals_cost(
    lengths: Sequence[int], positions: Sequence[np.ndarray], layers: Sequence[Mapping[str, Any]]
) -> GlobalsCost:
    """What the chosen global tokens cost in layers of the given patterns.

    Args:
        lengths: tokens of each document.
        positions: its global tokens.
        layers: what their patterns are made of (`ModelConfig.layer_patterns`).
    """
    patterns = Pattern.of_layers(layers)
    with_globals = without = 0
    for length, chosen in zip(lengths, positions, strict=True):
        cu_seqlens = torch.tensor([0, length])
        mask = torch.zeros(length, dtype=torch.bool)
        none = mask.clone()
        mask[torch.from_numpy(np.asarray(chosen, dtype=np.int64))] = True
        for pattern in patterns:
            with_globals += AttentionPlan(cu_seqlens, mask, pattern).num_pairs
            without += AttentionPlan(cu_seqlens, none, pattern).num_pairs
    counts = [len(chosen) for chosen in positions]
    return GlobalsCost(float(np.mean(counts)), max(counts), 1 - without / with_globals)


def warn_if_many(cost: GlobalsCost, layers: Sequence[Mapping[str, Any]]) -> None:
    """Say so where a document has more global tokens than a window holds.

    Args:
        cost: of the documents.
        layers: what their patterns are made of (`ModelConfig.layer_patterns`).
    """
    windows = [pattern.window_keys for pattern in Pattern.of_layers(layers)]
    keys = [number for number in windows if number is not None]
    if keys and cost.maximum > min(keys):
        log.warning(
            "a document has %d global tokens, more than the %d keys of the smallest window: "
            "choose fewer (globals.*) or a larger model.window",
            cost.maximum,
            min(keys),
        )
