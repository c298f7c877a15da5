"""One layer over a document that is read chunk by chunk, with a rolling buffer of its keys.

Where a token sees no more than so many tokens on its left and the first ones of its document, the
rest is forgotten: memory does not grow with the document. Mistral calls it a rolling buffer cache
(Jiang et al. 2023, section 2), and StreamingLLM keeps the sinks beside it (Xiao et al. 2024,
section 3.2). Keys are kept as they were rotated, by their position in the document.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from longspan.attention import Pattern
from longspan.attention.single_rows import attention_of_rows
from longspan.errors import UserError
from longspan.model.layers import Block
from longspan.model.positions import RotaryTable

FEWEST_QUERIES = 64  # that are asked at once, however short the window


def refusal(pattern: Pattern) -> str | None:
    """Which field keeps a layer of this pattern from being streamed, and what would help."""
    if not pattern.causal:
        return "model.pattern.causal=false: what is yet to come is seen; set it to true"
    if pattern.window is None:
        return "model.window=null: all keys would have to be kept; set a window for every layer"
    if not pattern.is_windowed:
        return f"{pattern}: keys are seen from anywhere; use windows, dilation and sinks alone"
    return None


class LayerStream:
    """What one layer keeps of a document: W keys and values, and those of the sinks.

    With gaps between the keys of a window, W is the window times the largest dilation.

    Args:
        block: of the layer, in evaluation mode.
        pattern: of the layer.

    Raises:
        UserError: a pattern that does not forget.
    """

    def __init__(self, block: nn.Module, pattern: Pattern) -> None:
        reason = refusal(pattern)
        if reason is not None:
            raise UserError(f"a document cannot be streamed with {reason}")
        assert isinstance(block, Block)
        assert pattern.window_reach is not None
        self.block, self.attention, self.pattern = block, block.attention, pattern
        self.size = pattern.window_reach  # W
        self.kept: list[Tensor] = []  # keys and values (sinks + W, K, E), sinks first

    def read(self, x: Tensor, start: int, rotary: RotaryTable | None) -> Tensor:
        """The next n tokens of the document, from the layer below (n, C) to this one's (n, C).

        Args:
            x: as they leave the layer below.
            start: tokens that were read before.
            rotary: their angles.
        """
        q_nHE, k_nKE, v_nKE = self.attention.project(self.block.before_attention(x), rotary)
        if not self.kept:
            slots = self.pattern.sinks + self.size
            # what was never written is masked, but 0 * nan is nan
            self.kept = [y.new_zeros(slots, *y.shape[1:]) for y in (k_nKE, v_nKE)]
        out: list[Tensor] = []
        # more queries at once than a window has keys would mostly ask what is masked
        pieces = (y.split(max(self.size, FEWEST_QUERIES)) for y in (q_nHE, k_nKE, v_nKE))
        for q, k, v in zip(*pieces, strict=True):
            out.append(self._attend(q, k, v, start))
            self._keep(k, v, start)
            start += len(q)
        attended = self.attention.out(torch.cat(out).flatten(1))
        return self.block.after_attention(x, attended)

    def _attend(self, q_nHE: Tensor, k_nKE: Tensor, v_nKE: Tensor, start: int) -> Tensor:
        """(n, H, E), over what is kept and these tokens themselves."""
        query = torch.arange(start, start + len(q_nHE), device=q_nHE.device)  # (n,)
        key = torch.cat([self._positions(start, query.device), query])  # (S,), -1 = none
        keys, values = (torch.cat(pair) for pair in zip(self.kept, (k_nKE, v_nKE), strict=True))
        mask_HnS = torch.cat(list(self._masks(query[:, None], key[None], q_nHE.shape[1])))
        return attention_of_rows(q_nHE, keys, values, mask_HnS, q_nHE.shape[-1] ** -0.5)

    def _masks(self, query: Tensor, key: Tensor, num_heads: int) -> Iterator[Tensor]:
        """(heads, n, S) of heads that follow each other."""
        known = (key >= 0) & (key <= query)
        for heads, pattern in self.pattern.by_head(num_heads):
            seen = known & (pattern.near(query, key) | pattern.seen_by_all(key))
            yield seen.expand(heads.stop - heads.start, -1, -1)

    def _positions(self, start: int, device: torch.device) -> Tensor:
        """(sinks + W,) the position of every kept key when `start` tokens were read; -1 = none.

        Slot s has the last position below `start` that is s modulo W. A sink is kept apart, and
        counts as none in the buffer: each key is seen once.
        """
        sink = torch.arange(self.pattern.sinks, device=device)
        slot = torch.arange(self.size, device=device)
        last = start - 1 - (start - 1 - slot) % self.size if self.size else slot
        none = torch.tensor(-1, device=device)
        return torch.cat([sink.where(sink < start, none), last.where(last >= len(sink), none)])

    def _keep(self, k_nKE: Tensor, v_nKE: Tensor, start: int) -> None:
        """Put these tokens in the places of those that no later one sees."""
        sinks, stop = self.pattern.sinks, start + len(k_nKE)
        position = torch.arange(start, stop, device=k_nKE.device)
        newest = position[max(0, len(position) - self.size) :] if self.size else position[:0]
        slot = sinks + newest % max(self.size, 1)
        for kept, new in zip(self.kept, (k_nKE, v_nKE), strict=True):
            if start < sinks:
                kept[start : min(stop, sinks)] = new[: sinks - start]
            kept[slot] = new[newest - start]
