"""Block-sparse patterns: for every block of queries the blocks of keys that it sees, of all heads.

What is near and what was drawn are whole blocks (BigBird, Zaheer et al. 2020, appendix D), so that
all queries of a block see the same keys, and a key is gathered in a row with the others of its
block. Keys that all see stand in blocks of their own behind those of the batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention.key_tables import Layout
from longspan.attention.pattern import Pattern

# what is smaller, or sees more blocks, is read faster in blocks of 64 queries that share their keys
# (`key_tables`), whatever the blocks of the pattern
SMALLEST_BLOCK, LARGEST_WINDOW = 8, 4


@dataclass(frozen=True)
class BlockLists:
    """M blocks of B tokens, each of one document, and which C of them the first N see.

    Attributes:
        tokens: (M, B) int64, N blocks of queries and keys, then those of keys that all see; a
            place that the document's end leaves empty holds any token.
        chosen: (H, N, C) int64 blocks; H is 1 where heads do not differ.
        mask: (H, N, B or 1, C * B) bool, which tokens of those a query sees.
        place: (T,) int64, where a token stands among the N * B queries.
    """

    tokens: Tensor
    chosen: Tensor
    mask: Tensor
    place: Tensor


def serves(pattern: Pattern) -> bool:
    """Whether a pattern is one of blocks, and reading it so pays."""
    return (
        pattern.block >= SMALLEST_BLOCK
        and pattern.window is not None
        and pattern.window <= LARGEST_WINDOW
        and not pattern.stride
    )


def block_lists(layout: Layout, num_heads: int) -> BlockLists:
    """The lists of a batch.

    Args:
        layout: of a pattern that `serves` knows; its heads may differ.
        num_heads: H.
    """
    pattern, device = layout.pattern, layout.token.device
    lengths = layout.cu_seqlens.diff().long()  # (D,)
    document = torch.arange(len(lengths), device=device).repeat_interleave(lengths)  # (T,)
    counts = (lengths + pattern.block - 1) // pattern.block  # (D,) blocks of each document
    before = counts.cumsum(0) - counts
    num_blocks = int(counts.sum())  # N
    size = min(pattern.block, int(lengths.max()))  # B
    place = (before[document] + layout.position // pattern.block) * size
    place = place + layout.position % pattern.block

    shared = layout.shared.nonzero().squeeze(1)
    of_all = document[shared].bincount(minlength=len(lengths))  # (D,)
    extra = -(-int(of_all.max()) // size)  # blocks of each document's shared keys
    rank = torch.arange(len(shared), device=device) - (of_all.cumsum(0) - of_all)[document[shared]]
    place_shared = (num_blocks + document[shared] * extra) * size + rank

    own = torch.arange(len(lengths), device=device).repeat_interleave(counts)  # (N,) documents
    number = torch.arange(num_blocks, device=device) - before[own]  # (N,) in the document
    first = layout.cu_seqlens[own] + number * pattern.block
    empty = first.new_zeros(len(lengths) * extra)
    tokens = torch.cat([first, empty])[:, None].repeat(1, size)  # a query that is none sees a key
    tokens.view(-1)[place] = layout.token
    tokens.view(-1)[place_shared] = shared
    usable = torch.zeros_like(tokens, dtype=torch.bool)
    usable.view(-1)[place] = ~layout.shared
    usable.view(-1)[place_shared] = True

    chosen, is_chosen = _chosen(pattern, num_heads, number, counts, own)
    behind = num_blocks - before[own] + own * extra
    behind = behind[:, None] + torch.arange(extra, device=device)  # likewise from the document's
    chosen = torch.cat([chosen, behind.expand(len(chosen), -1, -1)], dim=2)
    is_chosen = torch.cat([is_chosen, torch.ones_like(chosen[..., :extra]).bool()], dim=2)
    chosen = torch.where(is_chosen, chosen + before[own][:, None], 0)
    mask = (usable[chosen] & is_chosen[..., None]).flatten(2)[:, :, None]
    if pattern.causal:
        keys = tokens[chosen].flatten(2)[:, :, None]
        mask = mask & (keys <= tokens[:num_blocks, :, None])
    return BlockLists(tokens, chosen, mask, place)


def _chosen(
    pattern: Pattern, num_heads: int, number: Tensor, counts: Tensor, own: Tensor
) -> tuple[Tensor, Tensor]:
    """Near blocks and drawn ones, (H, N, C) counted in the document, and whether there is one."""
    window = pattern.window
    assert window is not None
    ahead = 0 if pattern.causal else window
    near = number[:, None] + torch.arange(-window, ahead + 1, device=number.device)
    exists = (near >= 0) & (near < counts[own][:, None])
    if not pattern.random_blocks:
        return near[None], exists[None]
    heads = [of_head for _, of_head in pattern.by_head(num_heads)]
    width = min(pattern.random_blocks, int(counts.max()))  # R
    drawn_of = {n: _drawn(heads, n, width) for n in set(counts.tolist())}
    drawn = torch.cat([drawn_of[n] for n in counts.tolist()], dim=1).to(number.device)  # (H, N, R)
    is_far = (drawn >= 0) & ((drawn - number[:, None]).abs() > window)
    again = (drawn[..., None] == drawn[..., None, :]).tril(-1).any(-1)  # a table may repeat itself
    shape = (len(drawn), -1, -1)
    return (
        torch.cat([near.expand(shape), drawn], dim=2),
        torch.cat([exists.expand(shape), is_far & ~again], dim=2),
    )


def _drawn(heads: list[Pattern], num_blocks: int, width: int) -> Tensor:
    """(H, N, width) of a document, -1 where there are fewer."""
    drawn = torch.stack([pattern.drawn(num_blocks) for pattern in heads])
    return F.pad(drawn, (0, width - drawn.shape[2]), value=-1)
