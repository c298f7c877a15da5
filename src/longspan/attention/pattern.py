"""Who sees whom: the one rule that the oracle and every backend follow."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """The attention pattern of one layer.

    Within a document, token i sees token j iff i or j is global or |i - j| <= window
    (Longformer, Beltagy et al. 2020, section 3.1). Documents never see each other.

    Attributes:
        window: one-sided reach W in tokens, so 2W + 1 keys; None = every token of the document.
    """

    window: int | None

    def __post_init__(self) -> None:
        if self.window is not None and self.window < 0:
            raise ValueError(f"window={self.window} is negative; use 0 or more, or None for full")

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether a local query sees a local key of the same document, by distance alone.

        Args:
            query, key: positions, of shapes that broadcast.

        Returns:
            bool, of the broadcast shape.
        """
        if self.window is None:
            return torch.ones_like(query - key, dtype=torch.bool)
        # by comparing, not by subtracting: the matrices that arise hold one byte a pair, not eight
        return (key >= query - self.window) & (key <= query + self.window)

    def dense_mask(self, cu_seqlens: Tensor, global_mask: Tensor) -> Tensor:
        """The whole pattern as a matrix; for the oracle and for pictures only.

        Args:
            cu_seqlens: (D+1,) bounds of the documents.
            global_mask: (T,) bool.

        Returns:
            (T, T) bool, row = query, True where the query sees the key.
        """
        positions = torch.arange(len(global_mask), device=global_mask.device)  # (T,)
        document = torch.bucketize(positions, cu_seqlens[1:], right=True)  # (T,)
        same_document = document[:, None] == document[None, :]
        local = self.sees(positions[:, None], positions[None, :])
        return same_document & (local | global_mask[:, None] | global_mask[None, :])

    def num_pairs(self, cu_seqlens: Tensor, global_mask: Tensor) -> int:
        """How many (query, key) pairs the pattern holds: True entries of `dense_mask`.

        Counted in O(T) from running sums of the global tokens.

        Args:
            cu_seqlens: (D+1,) bounds of the documents.
            global_mask: (T,) bool.
        """
        start, stop = document_bounds(cu_seqlens)
        positions = torch.arange(len(global_mask), device=global_mask.device)
        globals_before = torch.cat(
            [global_mask.new_zeros(1, dtype=torch.int64), global_mask.cumsum(0)]
        )  # (T+1,)
        first, last = start, stop
        if self.window is not None:
            first = torch.maximum(start, positions - self.window)
            last = torch.minimum(stop, positions + self.window + 1)
        inside = globals_before[last] - globals_before[first]
        all_globals = globals_before[stop] - globals_before[start]
        local_rows = (last - first) + all_globals - inside
        return int(torch.where(global_mask, stop - start, local_rows).sum())


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
