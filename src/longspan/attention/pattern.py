"""Who sees whom: the one rule that the oracle and every backend follow."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longspan.attention.contradictions import RandomTable, contradictions

FURTHEST = 2**30  # tokens from one to another: no document is longer, and places may be int32


@dataclass(frozen=True)
class Pattern:
    """The attention pattern of one layer.

    Within a document, whose tokens and blocks are counted from 0, token i sees token j iff

    - i or j is global (Longformer, Beltagy et al. 2020, section 3.1), or
    - j is *near*: within the window, or
    - j is seen by all: one of the sinks or of the summaries, or
    - j is on the stride, or in a block that was drawn for i's block,

    and, where the pattern is causal, j <= i. Each key counts once. Documents never see each other.

    Attributes:
        window: one-sided reach W, so 2W + 1 keys; None = every token. In blocks where `block` is
            more than 1: i's own block, W on its left and W on its right.
        causal: nothing on the right is seen. There are no global tokens then: they see both ways.
        sinks: the first tokens of a document, seen by all, which see no more than others do
            (StreamingLLM, Xiao et al. 2024, section 3.2).
        dilation: d, near is j with |i - j| <= W * d and i - j divisible by d; a tuple has one
            number for each group of heads, of H / len(dilation) heads (Longformer, section 3.1).
        block: tokens of a block; the last one of a document may be shorter.
        global_edges: the first and the last so many blocks of a document are global (BigBird-ITC,
            Zaheer et al. 2020, appendix D; the last ones are in its authors' code only).
        random_blocks: drawn for each block and head, of those that it does not see anyway (there).
        random_seed: whatever decides the draw: a run's seed, then the layer; `by_head` adds the
            head. So training, evaluation and a loaded model have the same blocks.
        random_table: blocks by head and block, (H, N, r), instead of a draw.
        stride: l, token i sees j if i - j is divisible by l (Sparse Transformer "strided", Child
            et al. 2019, section 4.3, A^(2)); 0 = none.
        summaries: c, the last c tokens of every block are seen by all ("fixed", there).
    """

    window: int | None
    causal: bool = False
    sinks: int = 0
    dilation: int | tuple[int, ...] = 1
    block: int = 1
    global_edges: int = 0
    random_blocks: int = 0
    random_seed: tuple[int, ...] = (0,)
    random_table: RandomTable | None = None
    stride: int = 0
    summaries: int = 0

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise ValueError(f"window={self.window} is negative; use 0 or more, or None for full")
        for problem in contradictions(**vars(self)):
            raise ValueError(problem)

    @classmethod
    def of_layers(cls, layers: Iterable[Mapping[str, Any]]) -> tuple["Pattern", ...]:
        """From the arguments of each layer's pattern (`ModelConfig.layer_patterns`)."""
        return tuple(cls(**arguments) for arguments in layers)

    @cached_property
    def is_plain(self) -> bool:
        """Whether there is nothing but a window."""
        return self == Pattern(self.window)

    @cached_property
    def differs_by_head(self) -> bool:
        has_groups = isinstance(self.dilation, tuple)
        draws = self.random_blocks > 0 and self.window is not None
        return has_groups or (draws and (self.random_table is None or len(self.random_table) > 1))

    def __str__(self) -> str:
        """The fields that say something: `window=64, causal=True`."""
        plain = vars(Pattern(self.window))
        said = {name: x for name, x in vars(self).items() if name in plain and x != plain[name]}
        table = {"random_table": "given"} if said.pop("random_table", None) else {}
        fields = {"window": self.window} | said | table
        return ", ".join(f"{name}={value}" for name, value in fields.items())

    def covers(self, length: int) -> bool:
        """Whether the window alone shows every token of such a document all of it."""
        if self.causal:
            return length == 1
        if self.window is None:
            return True
        return self.dilation == 1 and self.window * self.block >= length - 1

    @property
    def window_keys(self) -> int | None:
        """Keys of a window that no edge of the document cuts; None = as many as there are."""
        if self.window is None:
            return None
        return ((1 if self.causal else 2) * self.window + 1) * self.block

    @property
    def window_reach(self) -> int | None:
        """Tokens from one to the furthest on its left that a window of tokens shows; None = any."""
        assert self.block == 1, "of blocks it depends on the token"
        if self.window is None:
            return None
        groups = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,)
        return self.window * max(groups)

    @property
    def is_windowed(self) -> bool:
        """Whether there are but windows of tokens, with gaps or without, one-sided or not, sinks."""
        return self == Pattern(self.window, self.causal, self.sinks, self.dilation)

    def by_head(self, num_heads: int) -> Iterator[tuple[slice, "Pattern"]]:
        """Heads that follow each other and have one pattern, with that pattern.

        Raises:
            ValueError: heads that cannot be divided into the groups of `dilation`, or a table of
                another number of heads.
        """
        if not self.differs_by_head:
            yield slice(0, num_heads), self
            return
        groups = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,)
        if num_heads % len(groups):
            raise ValueError(f"dilation={groups} has groups that do not divide {num_heads} heads")
        if self.random_table is not None and len(self.random_table) not in (1, num_heads):
            raise ValueError(
                f"random_table is of {len(self.random_table)} heads, the call of {num_heads}"
            )
        size = num_heads // len(groups)
        draws = self.random_blocks > 0 and self.window is not None
        step = 1 if draws else size
        for head in range(0, num_heads, step):
            yield (
                slice(head, head + step),
                replace(
                    self,
                    dilation=groups[head // size],
                    random_seed=(*self.random_seed, head) if draws else self.random_seed,
                    random_table=self._table_of(head),
                    random_blocks=self.random_blocks,
                ),
            )

    def _table_of(self, head: int) -> RandomTable | None:
        if self.random_table is None or len(self.random_table) == 1:
            return self.random_table
        return (self.random_table[head],)

    # --- one head: what follows is of patterns that do not differ by head -----------------------

    def near(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a query has a key within its window, which may lie on its right all the same.

        Args:
            query, key: places in one document, of shapes that broadcast.

        Returns:
            bool, of the broadcast shape.
        """
        assert isinstance(self.dilation, int)
        if self.window is None:
            return torch.ones_like(query - key, dtype=torch.bool)
        if self.block > 1:
            query, key = query // self.block, key // self.block
        reach = min(self.window * self.dilation, FURTHEST)
        # by comparing, not by subtracting: the matrices that arise hold one byte a pair, not eight
        within = (key >= query - reach) & (key <= query + reach)
        return within if self.dilation == 1 else within & (self._residue(query, key, self.dilation))

    def seen_by_all(self, key: Tensor) -> Tensor:
        """Whether keys at these places of their document are sinks or summaries."""
        seen = key < self.sinks
        return seen | (key % self.block >= self.block - self.summaries) if self.summaries else seen

    def on_stride(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a key is a multiple of the stride away."""
        if not self.stride:
            return torch.zeros_like(query - key, dtype=torch.bool)
        return self._residue(query, key, self.stride)

    @staticmethod
    def _residue(query: Tensor, key: Tensor, divisor: int) -> Tensor:
        return query % divisor == key % divisor

    def drawn_blocks(self, num_blocks: int) -> list[list[int]]:
        """The random blocks of every block of a document of so many.

        Raises:
            ValueError: a document of more blocks than the table has.
        """
        return [[block for block in row if block >= 0] for row in self.drawn(num_blocks).tolist()]

    def drawn(self, num_blocks: int) -> Tensor:
        """Likewise (N, R) int64, at most `random_blocks`, with -1 where there are fewer."""
        if not self.random_blocks or self.window is None:
            return torch.full((num_blocks, 0), -1)
        if self.random_table is None:
            return torch.from_numpy(_draw(self, num_blocks)).long()
        (rows,) = self.random_table
        if num_blocks > len(rows):
            raise ValueError(
                f"random_table has {len(rows)} blocks, a document {num_blocks} of block="
                f"{self.block}; give a longer table, or random_blocks without one"
            )
        table = torch.tensor(rows[:num_blocks])
        return table.where(table < num_blocks, -1)  # not a shorter document's

    def mask(self, length: int) -> Tensor:
        """(N, N) bool: who sees whom in a document of N tokens without global ones."""
        place = torch.arange(length)
        query, key = place[:, None], place[None, :]
        seen = self.near(query, key) | self.seen_by_all(key) | self.on_stride(query, key)
        if self.random_blocks and self.window is not None:
            num_blocks = -(-length // self.block)
            drawn = torch.zeros(num_blocks, num_blocks, dtype=torch.bool)
            for row, blocks in enumerate(self.drawn_blocks(num_blocks)):
                drawn[row, blocks] = True
            seen |= drawn[query // self.block, key // self.block]
        return seen & (key <= query) if self.causal else seen

    def dense_mask(self, cu_seqlens: Tensor, global_mask: Tensor) -> Tensor:
        """The whole pattern as a matrix; for the oracle and for pictures only.

        Args:
            cu_seqlens: (D+1,) bounds of the documents.
            global_mask: (T,) bool.

        Returns:
            (T, T) bool, row = query, True where the query sees the key.
        """
        is_global = self.with_edges(cu_seqlens, global_mask)
        seen = torch.block_diag(*(self.mask(n) for n in cu_seqlens.diff().tolist())).bool()
        same_document = torch.block_diag(*(torch.ones(n, n) for n in cu_seqlens.diff().tolist()))
        seen = seen.to(global_mask.device)
        every = is_global[:, None] | is_global[None, :]
        return seen | (every & same_document.to(global_mask.device).bool())

    def with_edges(self, cu_seqlens: Tensor, global_mask: Tensor) -> Tensor:
        """(T,) bool: the given global tokens, and those at the edges of documents."""
        if not self.global_edges:
            return global_mask
        start, stop = document_bounds(cu_seqlens)
        place = torch.arange(len(global_mask), device=global_mask.device) - start
        num_blocks = (stop - start + self.block - 1) // self.block
        block = place // self.block
        at_edge = (block < self.global_edges) | (block >= num_blocks - self.global_edges)
        return global_mask | at_edge


@lru_cache(maxsize=2**14)  # of each layer, head and number of blocks
def _draw(pattern: Pattern, num_blocks: int) -> np.ndarray:
    """(N, R) int32, of every block a row of others, without repetition.

    Of those that are not within the window or at a global edge; to the left where the pattern is
    causal. Where there are fewer, all of them, and -1.
    """
    assert pattern.window is not None
    # its stream is frozen, unlike that of numpy's newer generators (NEP 19)
    random = np.random.RandomState([*pattern.random_seed, num_blocks])
    block, edges = np.arange(num_blocks), pattern.global_edges
    inner = (block >= edges) & (block < num_blocks - edges)
    reach = pattern.window if pattern.block > 1 else pattern.window * _as_int(pattern.dilation)
    rows = np.full((num_blocks, min(pattern.random_blocks, num_blocks)), -1, np.int32)
    for row in range(num_blocks):
        far = inner & (abs(block - row) > reach)
        if pattern.causal:
            far &= block < row
        drawn = np.sort(random.permutation(block[far])[: pattern.random_blocks])
        rows[row, : len(drawn)] = drawn
    return rows


def _as_int(dilation: int | tuple[int, ...]) -> int:
    assert isinstance(dilation, int), "of one head"
    return dilation


def document_bounds(cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """First and one-past-last token of the document that each token belongs to.

    Args:
        cu_seqlens: (D+1,) bounds of the documents.

    Returns:
        start, stop: (T,) int64 each.
    """
    bounds = cu_seqlens.long()
    lengths = bounds.diff()  # (D,)
    return bounds[:-1].repeat_interleave(lengths), bounds[1:].repeat_interleave(lengths)
