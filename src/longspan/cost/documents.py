"""The documents that a cost is counted for: their lengths and where their global tokens stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from longspan.attention import AttentionPlan, Pattern
from longspan.config import Config, GlobalsConfig, PatternConfig, QAConfig

QUESTION_TOKENS = 16  # assumed of a question where no data is read


@dataclass(frozen=True)
class Documents:
    """Documents of a data set, or one that stands for all.

    Attributes:
        lengths: tokens of each.
        positions: its global tokens, ascending.
        are_read: from the data; false where they are assumed.
    """

    lengths: Sequence[int]
    positions: Sequence[np.ndarray]
    are_read: bool = True

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def mean_length(self) -> float:
        return float(np.mean(self.lengths))

    @cached_property
    def mean_globals(self) -> float:
        return float(np.mean([len(p) for p in self.positions]))

    def mean_pairs(self, pattern: Pattern) -> float:
        """(query, key) pairs of a document in a layer of this pattern, a head."""
        return AttentionPlan(*self.packed(len(self)), pattern).num_pairs / len(self)

    def packed(self, count: int) -> tuple[Tensor, Tensor]:
        """`cu_seqlens` (D+1,) and `global_mask` (T,) of the first documents, laid end to end."""
        lengths = self.lengths[:count]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
        global_mask = torch.zeros(sum(lengths), dtype=torch.bool)
        for start, chosen in zip(cu_seqlens.tolist(), self.positions, strict=False):
            global_mask[torch.from_numpy(np.asarray(chosen, np.int64)) + start] = True
        return cu_seqlens.to(torch.int32), global_mask

    def with_edges(self, pattern: PatternConfig) -> "Documents":
        """With the tokens that the pattern makes global by their place."""
        if not pattern.global_edges:
            return self
        edges = pattern.global_edges * pattern.block
        positions = []
        for length, chosen in zip(self.lengths, self.positions, strict=True):
            last = (-(-length // pattern.block) - pattern.global_edges) * pattern.block
            place = np.arange(length)
            positions.append(np.union1d(chosen, place[(place < edges) | (place >= last)]))
        return Documents(self.lengths, positions, self.are_read)

    def filling(self, tokens: int) -> "Documents":
        """Whole documents, in turn and over again, of about so many tokens and one at least."""
        rows: list[int] = []
        total = 0
        while not rows or total + self.lengths[len(rows) % len(self)] <= tokens:
            total += self.lengths[len(rows) % len(self)]
            rows.append(len(rows) % len(self))
        lengths, positions = [self.lengths[r] for r in rows], [self.positions[r] for r in rows]
        return Documents(lengths, positions, self.are_read)

    def beginnings(self, part: int) -> "Documents":
        """The first 1/part of each document, of one token at least."""
        lengths = [max(1, length // part) for length in self.lengths]
        kept = [p[p < length] for p, length in zip(self.positions, lengths, strict=True)]
        return Documents(lengths, kept, self.are_read)


def assumed_documents(config: Config) -> Documents:
    """One document of `data.max_length` tokens, for data that is not read.

    Global tokens that only a text can tell (`globals.regex`, `globals.column`) are left out.
    """
    length, policies = config.data.max_length, config.globals
    chosen = set(range(int(policies.cls)))
    chosen |= set(range(policies.first_k))
    if policies.every_k:
        chosen |= set(range(0, length, policies.every_k))
    if policies.question:
        most = QUESTION_TOKENS
        if isinstance(config.task, QAConfig):
            most = min(most, config.task.max_question_length)
        chosen |= set(range(1, most + 1))
    if policies.separators:
        chosen.add(length - 1)
    inside = sorted(position for position in chosen if position < length)
    documents = Documents([length], [np.array(inside, np.int64)], are_read=False)
    return documents.with_edges(config.model.pattern)


def depends_on_text(policies: GlobalsConfig) -> bool:
    """Whether some global tokens are unknown without the documents."""
    return policies.regex is not None or policies.column is not None
