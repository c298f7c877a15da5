"""Sinks and dilation for a kernel that knows windows and global tokens.

A document with dilation d is d documents, one for each residue, whose windows have no gaps. What
all tokens see, its global tokens and sinks, are global tokens of each of them: of the one where
they belong, and as copies, first of all, in the others. Rows of what is global are then wrong in
each, and are computed apart: those of sinks see no more than others do, those of global tokens the
whole document, perhaps in projections of their own.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention.key_tables import Layout
from longspan.attention.pattern import Pattern, document_bounds
from longspan.attention.single_rows import attention_of_rows


class KernelRows:
    """A batch laid out anew.

    Args:
        layout: of a pattern that `serve` knows.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout, self.pattern = layout, layout.pattern
        assert isinstance(self.pattern.dilation, int)
        self._order: Tensor | None = None  # (R,) tokens, where that is not the batch itself
        if self.pattern.dilation == 1:
            self.cu_seqlens = layout.cu_seqlens
            self.shared_index = layout.shared.nonzero().squeeze(1)
        else:
            # in larger steps, too, a token of the longest document sees itself and no other
            longest = int(layout.cu_seqlens.diff().max())
            self._part_residues(min(self.pattern.dilation, longest))

    @staticmethod
    def serve(pattern: Pattern) -> bool:
        """Whether there is such a layout."""
        known = Pattern(pattern.window, pattern.causal, pattern.sinks, pattern.dilation)
        return pattern == known

    def _part_residues(self, dilation: int) -> None:
        layout = self.layout
        document = torch.bucketize(layout.token, layout.cu_seqlens[1:], right=True)
        residue = layout.position % dilation
        shared = layout.shared.nonzero().squeeze(1)  # (S,)
        # every shared token once for each residue, of which one is its own
        copies = shared.repeat_interleave(dilation)
        target = torch.arange(dilation, device=shared.device).repeat(len(shared))
        foreign = target != residue[copies]
        copies, target = copies[foreign], target[foreign]
        tokens = torch.cat([copies, layout.token])
        number = torch.cat([document[copies] * dilation + target, document * dilation + residue])
        order = number.argsort(stable=True)  # copies stand before the tokens of their residue
        self._order = tokens[order]
        _, sizes = number[order].unique_consecutive(return_counts=True)
        self.cu_seqlens = F.pad(sizes.cumsum(0), (1, 0)).int()
        self.shared_index = layout.shared[self._order].nonzero().squeeze(1)
        is_own = order >= len(copies)
        self._place = torch.empty_like(layout.token)
        self._place[self._order[is_own]] = is_own.nonzero().squeeze(1)

    def lay_out(self, x_THE: Tensor) -> Tensor:
        """(T, …) to (R, …)."""
        return x_THE if self._order is None else x_THE.index_select(0, self._order)

    def back(self, x_RHE: Tensor) -> Tensor:
        """(R, …) to (T, …)."""
        return x_RHE if self._order is None else x_RHE.index_select(0, self._place)

    @cached_property
    def _sinks(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sinks that are not global (S,), keys (M,) that any of them sees, and the mask (S, M)."""
        layout, pattern = self.layout, self.pattern
        is_sink = (layout.position < pattern.sinks) & ~layout.global_mask
        rows = is_sink.nonzero().squeeze(1)
        assert isinstance(pattern.dilation, int)
        keys = layout.token
        if pattern.window is not None:
            reach = pattern.sinks + pattern.window * pattern.dilation
            keys = (layout.shared | (layout.position < reach)).nonzero().squeeze(1)
        start, stop = document_bounds(layout.cu_seqlens)
        key = keys[None]
        same = (start[rows][:, None] <= key) & (key < stop[rows][:, None])
        place, of_rows = layout.position[keys][None], layout.position[rows][:, None]
        mask = (pattern.near(of_rows, place) | layout.shared[keys]) & same
        return rows, keys, mask & (place <= of_rows) if pattern.causal else mask

    def fill_sinks(
        self, out_THE: Tensor, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, scale: float
    ) -> Tensor:
        """With the rows of sinks, which the kernel took for global ones."""
        if not self.pattern.sinks:
            return out_THE
        rows, keys, mask = self._sinks
        if not len(rows):
            return out_THE
        given = ((q_THE, rows), (k_TKE, keys), (v_TKE, keys))
        q, k, v = (x.index_select(0, index) for x, index in given)
        return out_THE.index_copy(0, rows, attention_of_rows(q, k, v, mask, scale))
