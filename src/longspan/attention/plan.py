"""Everything about a batch's attention that no weight changes, built once and shared.

One plan serves every layer and head that uses its pattern. Tables that only one backend reads
are built when that backend first asks for them.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from longspan.attention import block_lists
from longspan.attention.block_lists import BlockLists
from longspan.attention.kernel_rows import KernelRows
from longspan.attention.key_tables import KeyTable, Layout
from longspan.attention.pattern import Pattern, document_bounds
from longspan.attention.sparse_blocks import SparseBlocks, build_sparse_blocks
from longspan.attention.token_rules import block_tables, token_table


@dataclass(frozen=True)
class BlockTable:
    """The batch cut into N blocks of B consecutive queries, with the S keys that each may need.

    A block takes its keys from its window and from the global tokens of the documents it
    touches; a key that is both is listed once. The last block is filled up with
    repetitions of the last query, which are thrown away.

    Attributes:
        key_index: (N, S) int64, tokens whose keys the block reads; unused places hold 0.
        mask: (N, B, S) bool, True where the query sees the key.
    """

    key_index: Tensor
    mask: Tensor

    @property
    def num_blocks(self) -> int:
        return self.mask.shape[0]

    @property
    def block_size(self) -> int:
        return self.mask.shape[1]


class AttentionPlan:
    """Document bounds, global tokens and pattern of one packed batch.

    Args:
        cu_seqlens: (D+1,) int32, document bounds; the first is 0, documents hold >= 1 token.
        global_mask: (T,) bool, True for global tokens.
        pattern: who sees whom.

    Attributes:
        global_mask: the given one, with the tokens that the pattern makes global.

    Raises:
        ValueError: shapes or values that describe no packed batch, or global tokens in a causal
            pattern.
    """

    def __init__(self, cu_seqlens: Tensor, global_mask: Tensor, pattern: Pattern) -> None:
        self.cu_seqlens = cu_seqlens
        self.pattern = pattern
        bounds: list[int] = cu_seqlens.tolist()
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(global_mask):
            raise ValueError(
                f"cu_seqlens={bounds[:3]}…{bounds[-1:]} must run from 0 to the batch's "
                f"{len(global_mask)} tokens"
            )
        self.lengths = [stop - start for start, stop in pairwise(bounds)]
        if min(self.lengths) < 1:
            raise ValueError("cu_seqlens names a document without tokens; every one needs >= 1")
        self.global_mask = pattern.with_edges(cu_seqlens, global_mask)
        self.global_index = self.global_mask.nonzero().squeeze(1)  # (G,)
        if pattern.causal and len(self.global_index):
            raise ValueError(
                f"{len(self.global_index)} global tokens see, and are seen, both ways, which a "
                "causal pattern does not allow; use sinks"
            )
        self.num_globals = self.counts(self.global_index)
        self._biases: dict[torch.dtype, Tensor] = {}
        self._sparse_blocks: dict[bool, SparseBlocks] = {}
        self._by_head: dict[int, list[tuple[slice, AttentionPlan]]] = {}
        self._block_lists: dict[int, BlockLists] = {}

    @property
    def num_tokens(self) -> int:
        return len(self.global_mask)

    def counts(self, index: Tensor) -> list[int]:
        """How many of some tokens (R,) each document holds."""
        document = torch.bucketize(index, self.cu_seqlens[1:], right=True)
        return document.bincount(minlength=len(self.lengths)).tolist()

    @cached_property
    def num_pairs(self) -> int:
        """(query, key) pairs that attention computes for this batch, a head: the mean of heads.

        Of random blocks those of the first head.
        """
        if self.pattern.is_plain:
            return _pairs_of_window(self)
        groups = self.pattern.dilation
        parts = list(self.pattern.by_head(len(groups) if isinstance(groups, tuple) else 1))
        return sum(_pairs_of_head(self, pattern) for _, pattern in parts) // len(parts)

    @cached_property
    def is_full(self) -> bool:
        """Whether every token sees its whole document, so that no window needs cutting."""
        return self.pattern.covers(max(self.lengths))

    def by_head(self, num_heads: int) -> list[tuple[slice, "AttentionPlan"]]:
        """Plans of patterns that are the same for all of their heads."""
        if num_heads not in self._by_head:
            self._by_head[num_heads] = [
                (heads, AttentionPlan(self.cu_seqlens, self.global_mask, pattern))
                for heads, pattern in self.pattern.by_head(num_heads)
            ]
        return self._by_head[num_heads]

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.cu_seqlens, self.global_mask, self.pattern)

    @cached_property
    def kernel_rows(self) -> KernelRows:
        """As the kernel of `native` reads a pattern that is no mere window."""
        return KernelRows(self.layout)

    def block_lists(self, num_heads: int) -> BlockLists:
        """Of a pattern of blocks, as `blocked` reads it for all heads at once."""
        if num_heads not in self._block_lists:
            self._block_lists[num_heads] = block_lists.block_lists(self.layout, num_heads)
        return self._block_lists[num_heads]

    @cached_property
    def key_tables(self) -> list[KeyTable]:
        """Of another pattern that is no mere window."""
        return self.layout.tables()

    @cached_property
    def block_table(self) -> BlockTable:
        assert self.pattern.window is not None
        block_size = min(_block_size(self.pattern.window), self.num_tokens)
        return build_block_table(self, block_size)

    def block_bias(self, dtype: torch.dtype) -> Tensor:
        """The block table's mask as what is added to the scores: (N, 1, B, S), 0 or -inf."""
        if dtype not in self._biases:
            mask = self.block_table.mask.unsqueeze(1)
            bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            self._biases[dtype] = bias.masked_fill_(~mask, float("-inf"))
        return self._biases[dtype]

    @cached_property
    def token_tables(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As FlexAttention reads a pattern that is no mere window: for its rule, and its blocks."""
        table = token_table(self.layout)
        return table, block_tables(table, self.pattern)

    def sparse_blocks(self, separate: bool) -> SparseBlocks:
        """As FlexAttention reads the pattern; `separate`: global rows have keys of their own."""
        if separate not in self._sparse_blocks:
            self._sparse_blocks[separate] = build_sparse_blocks(
                self.cu_seqlens, self.global_mask, self.pattern.window, separate=separate
            )
        return self._sparse_blocks[separate]


def build_block_table(plan: AttentionPlan, block_size: int) -> BlockTable:
    """Cut the batch into blocks of `block_size` queries; cost O(T * keys of a block)."""
    window = plan.pattern.window
    assert window is not None
    device = plan.global_mask.device
    num_tokens = plan.num_tokens
    num_blocks = -(-num_tokens // block_size)
    start, stop = document_bounds(plan.cu_seqlens)  # (T,)

    first_query = torch.arange(num_blocks, device=device) * block_size  # (N,)
    last_query = (first_query + block_size - 1).clamp(max=num_tokens - 1)
    # no key lies before the first document a block touches or behind the last
    first_key = torch.maximum(first_query - window, start[first_query])
    last_key = torch.minimum(last_query + window + 1, stop[last_query])
    width = int((last_key - first_key).max())
    near = first_key[:, None] + torch.arange(width, device=device)  # (N, S_near)
    near_used = near < last_key[:, None]

    far, far_used = _far_globals(plan, first_key, last_key, start[first_query], stop[last_query])
    key_index = torch.cat([near, far], dim=1)
    used = torch.cat([near_used, far_used], dim=1)
    key_index = key_index.where(used, 0)  # (N, S)

    # what fills up the last block repeats the last query, so that no row sees nothing
    query = first_query[:, None] + torch.arange(block_size, device=device)  # (N, B)
    query = query.clamp(max=num_tokens - 1)
    same_document = (key_index[:, None, :] >= start[query][:, :, None]) & (
        key_index[:, None, :] < stop[query][:, :, None]
    )
    seen = plan.pattern.near(query[:, :, None], key_index[:, None, :])
    seen |= plan.global_mask[key_index][:, None, :]
    return BlockTable(key_index, used[:, None, :] & same_document & seen)


def _far_globals(
    plan: AttentionPlan, first_key: Tensor, last_key: Tensor, start: Tensor, stop: Tensor
) -> tuple[Tensor, Tensor]:
    """Global tokens of each block's documents that lie outside its window.

    Documents whose tokens are all global contribute none: their rows are global rows, which
    the local part does not compute.

    Args:
        first_key, last_key: (N,) the keys that the window already covers, last one exclusive.
        start, stop: (N,) the tokens of all documents that the block touches.

    Returns:
        index (N, S_far) int64 and used (N, S_far) bool.
    """
    lengths = torch.tensor(plan.lengths, device=plan.global_mask.device)
    all_global = torch.tensor(plan.num_globals, device=lengths.device) == lengths
    needed = plan.global_mask & ~all_global.repeat_interleave(lengths)
    index = needed.nonzero().squeeze(1)  # (G,) ascending
    before = torch.searchsorted(index, torch.stack([start, first_key, last_key, stop]))  # (4, N)
    num_left, num_right = before[1] - before[0], before[3] - before[2]  # (N,)
    num_far = num_left + num_right
    place = torch.arange(int(num_far.max()), device=index.device)  # (S_far,)
    on_left = place < num_left[:, None]
    rank = torch.where(
        on_left, before[0][:, None] + place, (before[2] - num_left)[:, None] + place
    )  # (N, S_far)
    used = place < num_far[:, None]
    if not len(index):
        return rank, used
    return index[rank.clamp(max=len(index) - 1)], used


def _block_size(window: int) -> int:
    """Queries a block: near W, so that a window is read about three times, within [64, 256].

    Smaller blocks drown in overhead, larger ones compute pairs that the mask throws away
    (measured on AVX-512 for W = 16 … 512: `benchmarks/attention.py --block-size`).
    """
    return min(max(64, 1 << max(window - 1, 0).bit_length()), 256)


PAIRS_AT_ONCE = 2**16  # tokens whose tables are made at once


def _pairs_of_window(plan: AttentionPlan) -> int:
    """In O(T), from running sums of the global tokens."""
    global_mask, window = plan.global_mask, plan.pattern.window
    start, stop = document_bounds(plan.cu_seqlens)
    positions = torch.arange(len(global_mask), device=global_mask.device)
    zero = global_mask.new_zeros(1, dtype=torch.int64)
    globals_before = torch.cat([zero, global_mask.cumsum(0)])  # (T+1,)
    first, last = start, stop
    if window is not None:
        first = torch.maximum(start, positions - window)
        last = torch.minimum(stop, positions + window + 1)
    inside = globals_before[last] - globals_before[first]
    all_globals = globals_before[stop] - globals_before[start]
    local_rows = (last - first) + all_globals - inside
    return int(torch.where(global_mask, stop - start, local_rows).sum())


def _pairs_of_head(plan: AttentionPlan, pattern: Pattern) -> int:
    """From the tables of some documents at a time, in O(pairs)."""
    bounds = plan.cu_seqlens.tolist()
    pairs, first = 0, 0
    for last in range(1, len(bounds)):
        if last < len(bounds) - 1 and bounds[last + 1] - bounds[first] <= PAIRS_AT_ONCE:
            continue
        inside = slice(bounds[first], bounds[last])
        is_global = plan.global_mask[inside]
        cu_seqlens = plan.cu_seqlens[first : last + 1] - bounds[first]
        start, stop = document_bounds(cu_seqlens)
        seen = (stop - start) * is_global  # (T,)
        for table in Layout(cu_seqlens, is_global, pattern).tables():
            row = table.mask.sum(2).flatten()[table.place]
            seen = seen + row * ~is_global
        pairs += int(seen.sum())
        first = last
    return pairs
