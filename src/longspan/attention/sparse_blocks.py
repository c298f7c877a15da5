"""The pattern as FlexAttention reads it: intervals of keys a row, and which blocks those touch.

Whom a token sees never is more than three intervals, if the keys of global tokens are laid out
once more behind all others:

    keys     all T tokens | the G global tokens again | all T again, in the global projections
    queries  all T tokens | the G global tokens again

A local row sees its window, and the global tokens of its document left and right of that. The
rows behind, of global tokens, see one interval, their document; what they give overwrites the
tokens' own rows, which therefore see nothing. So scattered global tokens fill few blocks, and no
block is computed because one of its 128 rows sees everything.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention.pattern import document_bounds

BLOCK = 128  # queries and keys of a block; FlexAttention's kernels divide it


@dataclass(frozen=True)
class SparseBlocks:
    """R rows see S keys; N blocks of rows, M blocks of keys.

    Attributes:
        bounds: (R, 6) int32, row r sees key s iff bounds[r, i] <= s < bounds[r, i + 1] for
            i = 0, 2 or 4.
        num_keys: S.
        tables: int32, in the order of `BlockMask`: how many blocks of keys a block of rows reads
            with a mask (1, 1, N), and which, those first (1, 1, N, M); likewise of blocks that
            need no mask; then both once more the other way round, for the backward: how many
            blocks of rows read a block of keys (1, 1, M), and which (1, 1, M, N).
    """

    bounds: Tensor
    num_keys: int
    tables: tuple[Tensor, ...]

    @property
    def num_rows(self) -> int:
        return len(self.bounds)


def build_sparse_blocks(
    cu_seqlens: Tensor,
    global_mask: Tensor,
    window: int | None,
    *,
    separate: bool,
    block_size: int = BLOCK,
) -> SparseBlocks:
    """Intervals of every row, and tables of blocks.

    The tables hold (T / block_size)² numbers: at 131,072 tokens four megabytes each.

    Args:
        cu_seqlens: (D+1,) bounds of the documents.
        global_mask: (T,) bool.
        window: one-sided reach; None = the whole document.
        separate: whether global rows have keys of their own.
        block_size: queries and keys of a block.
    """
    first, last = key_intervals(cu_seqlens, global_mask, window, separate=separate)
    num_rows, num_tokens = first.shape[1], len(global_mask)
    num_globals = num_rows - num_tokens
    num_keys = num_tokens + num_globals + num_tokens * (separate and num_globals > 0)
    num_row_blocks = max(2, -(-num_rows // block_size))  # never 1: `flex` says why
    num_key_blocks = max(2, -(-num_keys // block_size))

    # what fills up the last block repeats the last row
    row = torch.arange(num_row_blocks * block_size, device=first.device)
    row = row.clamp(max=num_rows - 1).view(num_row_blocks, block_size)
    firsts, lasts = first[:, row], last[:, row]  # (3, N, B)
    sees_nothing = firsts >= lasts
    start = firsts.masked_fill(sees_nothing, num_keys).amin(2)[..., None]  # (3, N, 1)
    stop = lasts.masked_fill(sees_nothing, 0).amax(2)[..., None]
    block = torch.arange(num_key_blocks, device=first.device) * block_size  # (M,)
    touched = ((start < block + block_size) & (block < stop)).any(0)  # (N, M)
    no_mask_from, no_mask_to = firsts.amax(2)[..., None], lasts.amin(2)[..., None]
    full = ((no_mask_from <= block) & (block + block_size <= no_mask_to)).any(0)
    masked = touched & ~full
    tables = [as_table(x) for x in (masked, full, masked.T.contiguous(), full.T.contiguous())]
    bounds = torch.stack([first, last], dim=-1).permute(1, 0, 2).reshape(num_rows, 6)
    return SparseBlocks(bounds, num_keys, tuple(x for pair in tables for x in pair))


def key_intervals(
    cu_seqlens: Tensor, global_mask: Tensor, window: int | None, *, separate: bool
) -> tuple[Tensor, Tensor]:
    """First and one-past-last keys (3, T + G) int32 of every row; arguments as above."""
    start, stop = document_bounds(cu_seqlens)  # (T,)
    num_tokens = len(global_mask)
    position = torch.arange(num_tokens, device=global_mask.device)
    first, last = start, stop
    if window is not None:
        first = torch.maximum(start, position - window)
        last = torch.minimum(stop, position + window + 1)
    zero = global_mask.new_zeros(1, dtype=torch.int64)
    before = num_tokens + torch.cat([zero, global_mask.cumsum(0)])  # (T+1,) their second places
    firsts = torch.stack([first, before[start], before[last]])
    lasts = torch.stack([last, before[first], before[stop]])
    lasts = lasts.where(~global_mask, firsts)

    index = global_mask.nonzero().squeeze(1)  # (G,)
    offset = num_tokens + len(index) if separate else 0
    nothing = torch.zeros_like(index)
    whole = [torch.stack([x[index] + offset, nothing, nothing]) for x in (start, stop)]
    firsts, lasts = torch.cat([firsts, whole[0]], dim=1), torch.cat([lasts, whole[1]], dim=1)
    return firsts.int(), lasts.int()


def as_table(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many of each row of (N, M) are chosen, and the columns of all, those first."""
    order = chosen.byte().argsort(dim=1, descending=True, stable=True)
    return chosen.sum(1).int()[None, None], order.int()[None, None]
