"""Tables of keys for patterns that are more than a window: every pair once, in a few parts.

Each part has an order of its own for the queries and a list of keys, both chosen so that what a
query sees is one interval of the list:

    near          queries and keys by document and residue of the dilation: gaps close up
    seen by all   global tokens, sinks and summaries, document by document
    stride        queries and keys by document and residue of the stride
    random        for every block of queries its drawn blocks, one after the other

A pair that several parts could hold is left to the first of them. Queries are cut into blocks that
share the keys between the first and the last one that any of them sees, so that what is computed
is O(T * pairs a token), whatever the pattern.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from longspan.attention.pattern import Pattern, document_bounds

LARGEST_BLOCK, SMALLEST_BLOCK = 256, 64  # queries; as `plan.py` cuts windows


@dataclass(frozen=True)
class KeyTable:
    """One part: N blocks of B queries, and the S keys that each may need.

    Attributes:
        query_index: (N, B) int64; the last block is filled up with repetitions.
        key_index: (N, S) int64.
        mask: (N, B, S) bool, True where the query sees the key. A query may see nothing here.
        place: (T,) int64, where a token stands among the N * B queries.
    """

    query_index: Tensor
    key_index: Tensor
    mask: Tensor
    place: Tensor


@dataclass(frozen=True)
class Layout:
    """A batch as its tokens see each other under a pattern that is the same for all heads.

    Attributes:
        cu_seqlens: (D+1,).
        global_mask: (T,) bool, global edges included.
        pattern: of one head.
    """

    cu_seqlens: Tensor
    global_mask: Tensor
    pattern: Pattern
    bounds: tuple[Tensor, Tensor] = field(init=False)  # (T,) each: of every token's document

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", document_bounds(self.cu_seqlens))

    @cached_property
    def token(self) -> Tensor:
        return torch.arange(len(self.global_mask), device=self.global_mask.device)

    @cached_property
    def position(self) -> Tensor:
        """(T,) places in the document."""
        return self.token - self.bounds[0]

    @cached_property
    def shared(self) -> Tensor:
        """(T,) bool: keys that all tokens of the document see."""
        return self.global_mask | self.pattern.seen_by_all(self.position)

    def tables(self, block_size: int | None = None) -> list[KeyTable]:
        """All parts that hold any pair; the first is never missing.

        Args:
            block_size: queries of a block; None = as many as the part has keys, within limits.
        """
        return [part for part in self._parts(block_size) if part is not None]

    def _parts(self, block_size: int | None) -> Iterator[KeyTable | None]:
        pattern = self.pattern
        yield self._near(block_size)
        if pattern.window is None:  # nothing is left over
            return
        yield self._seen_by_all(block_size)
        if pattern.stride:
            yield self._stride(block_size)
        if pattern.random_blocks:
            yield self._random(block_size)

    def _near(self, block_size: int | None) -> KeyTable | None:
        pattern = self.pattern
        assert isinstance(pattern.dilation, int)
        start, stop = self.bounds
        order, first, last = self._by_residue(pattern.dilation)
        place = self.token
        if pattern.window is not None and pattern.block > 1:  # dilation is 1: order = token
            block = self.position // pattern.block
            first = start + (block - pattern.window).clamp(min=0) * pattern.block
            last = torch.minimum(stop, start + (block + pattern.window + 1) * pattern.block)
        elif pattern.window is not None:
            first = torch.maximum(first, place - pattern.window)
            last = torch.minimum(last, place + pattern.window + 1)
        if pattern.causal:
            last = place + 1
        return self._cut(order, order, first, last, block_size)

    def _seen_by_all(self, block_size: int | None) -> KeyTable | None:
        keys = self.shared.nonzero().squeeze(1)
        if not len(keys):
            return None
        zero = self.shared.new_zeros(1, dtype=torch.int64)
        before = torch.cat([zero, self.shared.cumsum(0)])  # (T+1,)
        start, stop = self.bounds
        last = before[self.token + 1] if self.pattern.causal else before[stop]
        return self._cut(self.token, keys, before[start], last, block_size, self._is_far)

    def _stride(self, block_size: int | None) -> KeyTable | None:
        order, first, last = self._by_residue(self.pattern.stride)
        if self.pattern.causal:
            last = self.token + 1
        return self._cut(order, order, first, last, block_size, self._is_not_shared)

    def _random(self, block_size: int | None) -> KeyTable | None:
        pattern, size = self.pattern, self.pattern.block
        keys: list[Tensor] = []
        first, last, count = [], [], 0
        for start, stop in zip(*(x.tolist() for x in (self.cu_seqlens[:-1], self.cu_seqlens[1:]))):
            rows = pattern.drawn_blocks(-(-(stop - start) // size))
            for block, drawn in enumerate(rows):
                begins = [start + size * chosen for chosen in drawn]
                lists = [torch.arange(b, min(b + size, stop)) for b in begins]
                queries = min(size, stop - start - block * size)
                keys += lists
                first += [count] * queries
                count += sum(map(len, lists))
                last += [count] * queries
        if not count:
            return None
        device = self.token.device
        tables = [torch.cat(keys), torch.tensor(first), torch.tensor(last)]
        key_order, begin, end = (x.to(device) for x in tables)
        return self._cut(self.token, key_order, begin, end, block_size, self._is_left_to_chance)

    def _is_far(self, query: Tensor, key: Tensor) -> Tensor:
        """Of tokens of one document: not near."""
        return ~self.pattern.near(self.position[query], self.position[key])

    def _is_not_shared(self, query: Tensor, key: Tensor) -> Tensor:
        return self._is_far(query, key) & ~self.shared[key]

    def _is_left_to_chance(self, query: Tensor, key: Tensor) -> Tensor:
        on_stride = self.pattern.on_stride(self.position[query], self.position[key])
        seen_before = on_stride | (key > query) if self.pattern.causal else on_stride
        return self._is_not_shared(query, key) & ~seen_before

    def _by_residue(self, divisor: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens by document and residue, and by their place there the bounds of such a class."""
        if divisor == 1:
            return self.token, *self.bounds
        number = self.bounds[0] * divisor + self.position % divisor  # grows with the document
        order = number.argsort(stable=True)
        _, sizes = number[order].unique_consecutive(return_counts=True)
        bounds = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        return order, *document_bounds(bounds)

    def _cut(self, order, keys, first, last, block_size, chosen=None) -> KeyTable | None:
        """A table of queries in some order, (T,), each of which sees keys[first:last] if chosen.

        Args:
            order: tokens.
            keys: (M,) tokens.
            first, last: (T,) by place in the order.
            block_size: queries of a block.
            chosen: of a query and a key, tokens of one document, whether it sees it here.
        """
        num_tokens = len(order)
        if block_size is None:
            block_size = _block_size(int((last - first).max()))
        block_size = min(block_size, num_tokens)
        num_blocks = -(-num_tokens // block_size)
        row = torch.arange(num_blocks * block_size, device=order.device)
        row = row.clamp(max=num_tokens - 1).view(num_blocks, block_size)  # (N, B)
        firsts, lasts = first[row], last[row]
        is_empty = firsts >= lasts
        start = firsts.masked_fill(is_empty, len(keys)).amin(1)
        stop = lasts.masked_fill(is_empty, 0).amax(1)
        width = int((stop - start).max())
        if width <= 0:
            return None
        place = start[:, None] + torch.arange(width, device=order.device)  # (N, S)
        key_index = keys[place.clamp(max=len(keys) - 1)]
        mask = (place[:, None] >= firsts[..., None]) & (place[:, None] < lasts[..., None])
        if chosen is not None:
            mask &= chosen(order[row][..., None], key_index[:, None])
        where = torch.empty_like(order)
        where[order] = torch.arange(num_tokens, device=order.device)
        return KeyTable(order[row], key_index, mask, where)


def _block_size(keys: int) -> int:
    """Queries of a block: about half as many as each sees, as with windows."""
    return min(max(SMALLEST_BLOCK, 1 << max(keys // 2 - 1, 0).bit_length()), LARGEST_BLOCK)
