"""A pattern as FlexAttention reads it where rows see no few intervals: a rule for two tokens.

The rule is arithmetic on a table of a few numbers a token, so that a kernel asks it of the pairs in
blocks that are seen in part. Which blocks those are is found by asking it of all pairs, some rows
at a time: O(T²) in time, once a batch and pattern, in memory the (T / 128)² of the tables.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention.key_tables import Layout
from longspan.attention.pattern import Pattern
from longspan.attention.sparse_blocks import BLOCK, as_table

Rule = Callable[[Tensor, Tensor], Tensor]
START, POSITION, SHARED, DRAWN = range(4)  # columns; the last and all behind it hold drawn blocks


def token_table(layout: Layout) -> Tensor:
    """(R, 3 + random_blocks) int32, for rows and keys alike, in whole blocks.

    First token of its document, place in it, whether all of the document see it, and the blocks
    that were drawn for its block, -1 where there are fewer. Padding is a document a token. There
    are two blocks at least, so that no call is a special case that would be compiled anew.
    """
    num_tokens, pattern = len(layout.token), layout.pattern
    padding = max(2, -(-num_tokens // BLOCK)) * BLOCK - num_tokens
    rows: list[list[int]] = []
    for length in layout.cu_seqlens.diff().tolist():
        drawn = pattern.drawn_blocks(-(-length // pattern.block))
        filled = [row + [-1] * (pattern.random_blocks - len(row)) for row in drawn]
        rows += [filled[place // pattern.block] for place in range(length)]
    drawn_blocks = torch.tensor(rows, device=layout.token.device).view(num_tokens, -1)
    columns = torch.stack([layout.bounds[0], layout.position, layout.shared.long()], dim=1)
    table = F.pad(torch.cat([columns, drawn_blocks], dim=1), (0, 0, 0, padding))
    table[num_tokens:, START] = torch.arange(num_tokens, num_tokens + padding)
    return table.int()


def rule(table: Tensor, pattern: Pattern) -> Rule:
    """Whether a local row sees a key; rows of global tokens are computed apart."""

    def sees(query: Tensor, key: Tensor) -> Tensor:
        here, there = table[query, POSITION], table[key, POSITION]
        seen = pattern.near(here, there) | (table[key, SHARED] > 0)
        if pattern.stride:
            seen = seen | pattern.on_stride(here, there)
        if pattern.window is not None:
            for i in range(pattern.random_blocks):
                seen = seen | (table[query, DRAWN + i] == there // pattern.block)
        if pattern.causal:
            seen = seen & (there <= here)
        return seen & (table[query, START] == table[key, START])

    return sees


def block_tables(table: Tensor, pattern: Pattern) -> tuple[Tensor, ...]:
    """In the order of `BlockMask`, as `SparseBlocks.tables`."""
    sees = rule(table, pattern)
    token = torch.arange(len(table), device=table.device)
    touched, full = [], []
    for rows in token.split(BLOCK):
        pairs = sees(rows[:, None], token[None]).view(BLOCK, -1, BLOCK)
        touched.append(pairs.any(2).any(0))
        full.append(pairs.all(2).all(0))
    whole = torch.stack(full)
    masked = torch.stack(touched) & ~whole
    chosen = (masked, whole, masked.T.contiguous(), whole.T.contiguous())
    return tuple(x for blocks in chosen for x in as_table(blocks))
