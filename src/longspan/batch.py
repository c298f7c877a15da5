"""Features and the packed batch they are laid into: the one structure that travels.

There is no padding: the documents of a batch lie end to end in one row of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Feature:
    """One document as the model reads it.

    Attributes:
        id: the document's name in the data set.
        input_ids: (L,) token ids, special tokens included.
        global_positions: (G,) places in `input_ids` that are global, ascending.
        label: class index, list of zeros and ones, or a number; (L,) int64 array where every
            token has one, (L, k) where it has k; None where unknown.
        tokens_cut: tokens that truncation took away.
        is_empty: whether the text held nothing but white space.
        token_type_ids: (L,) segments as the tokenizer numbers them; None = all 0.
        words: (L,) int32, which word of its text a token belongs to, -1 for special tokens; None
            where the task does not ask.
        characters: (L,) int32, characters of the text from the end of the token before to its
            own end; likewise.
        offsets: (L, 2) int32, [start, end) characters in the whole text; (0, 0) outside it;
            likewise.
        details: what decoding needs beside tokens, as JSON has it; likewise.
        counts: what happened to the document on its way here, to be summed and reported; on its
            first feature.
    """

    id: str
    input_ids: np.ndarray
    global_positions: np.ndarray
    label: Any = None
    tokens_cut: int = 0
    is_empty: bool = False
    token_type_ids: np.ndarray | None = None
    words: np.ndarray | None = None
    characters: np.ndarray | None = None
    offsets: np.ndarray | None = None
    details: Any = None
    counts: dict[str, int] | None = None


@dataclass(frozen=True)
class PackedBatch:
    """Documents laid end to end. D documents, T tokens.

    Attributes:
        input_ids: (T,) int64.
        cu_seqlens: (D+1,) int32 bounds of the documents, as in flash-attn's varlen functions.
        token_type_ids: (T,) int64.
        global_mask: (T,) bool.
        labels: (D,) int64, (D, labels) or (D,) float32, (T,) or (T, k) int64; None where unknown.
        features: what the batch was made of, for predictions.
        weight: of its documents together, in the task's measure (`Task.weight`); 0 where a rank
            only keeps step with the others: it counts for nothing.
        step_weight: of all documents of the optimiser step that this batch is part of, over all
            ranks and accumulated batches; the loss is a mean over it.
    """

    input_ids: Tensor
    cu_seqlens: Tensor
    token_type_ids: Tensor
    global_mask: Tensor
    labels: Tensor | None
    features: tuple[Feature, ...]
    weight: float
    step_weight: float

    @property
    def num_documents(self) -> int:
        return len(self.features)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)

    def documents(self, first: int, last: int) -> Self:
        """Documents [first, last) alone, as views; the weights stay those of all."""
        start, stop = self.cu_seqlens[[first, last]].tolist()
        labels = self.labels
        if labels is not None:  # of tokens, or of documents
            of_tokens = len(labels) == self.num_tokens
            labels = labels[start:stop] if of_tokens else labels[first:last]
        return replace(
            self,
            input_ids=self.input_ids[start:stop],
            cu_seqlens=self.cu_seqlens[first : last + 1] - start,
            token_type_ids=self.token_type_ids[start:stop],
            global_mask=self.global_mask[start:stop],
            labels=labels,
            features=self.features[first:last],
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._map(Tensor.pin_memory)

    def _map(self, function: Any) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: function(v) for k, v in tensors.items() if isinstance(v, Tensor)}
        )


def pack(
    features: Sequence[Feature], weight: float | None = None, step_weight: float | None = None
) -> PackedBatch:
    """Lay documents end to end.

    Args:
        features: at least one document of at least one token.
        weight: of these documents; None = their number.
        step_weight: of the optimiser step; None = that of this batch.
    """
    assert features, "a batch holds at least one document"
    weight = float(len(features)) if weight is None else weight
    lengths = [len(f.input_ids) for f in features]
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    global_mask = torch.zeros(sum(lengths), dtype=torch.bool)
    for start, feature in zip(cu_seqlens.tolist(), features, strict=False):
        global_mask[torch.from_numpy(feature.global_positions).long() + start] = True
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate([f.input_ids for f in features])).long(),
        cu_seqlens=cu_seqlens.to(torch.int32),
        token_type_ids=torch.from_numpy(np.concatenate([_token_types(f) for f in features])).long(),
        global_mask=global_mask,
        labels=_stack_labels([f.label for f in features]),
        features=tuple(features),
        weight=weight,
        step_weight=weight if step_weight is None else step_weight,
    )


def _token_types(feature: Feature) -> np.ndarray:
    if feature.token_type_ids is None:
        return np.zeros(len(feature.input_ids), np.int8)
    return feature.token_type_ids


def _stack_labels(labels: list[Any]) -> Tensor | None:
    if any(label is None for label in labels):
        return None
    if isinstance(labels[0], np.ndarray):
        return torch.from_numpy(np.concatenate(labels))
    if all(isinstance(label, int) for label in labels):
        return torch.tensor(labels, dtype=torch.int64)
    return torch.tensor(labels, dtype=torch.float32)
