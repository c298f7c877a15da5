"""Inference of documents too long to hold more of than their hidden states.

Layer by layer over chunks, in place: beside the hidden states (T, C) there is one chunk, and what
one chunk needs of the others. What it needs are the rows within the window on either side, as they
were before this layer, and the document's global tokens. The rows on the left are overwritten by
then, so the last W of them are kept aside; a second (T, C) for the layer's output would be simpler
by those lines and would double the memory of a long document.

A chunk with these rows around it is a document of its own to `attend`, where every key that its
tokens see stands once: a global token within the window among its neighbours, one outside of it
before the first row or behind the last. So every backend serves, and nothing is attended twice.
Rows of global tokens see all chunks, in a softmax that runs through them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from longspan.attention import AttentionPlan, Pattern, attend
from longspan.attention.running import RunningAttention
from longspan.batch import PackedBatch
from longspan.model.encoder import Encoder
from longspan.model.layers import Block
from longspan.model.positions import RotaryTable


@torch.no_grad()
def encode_in_chunks(encoder: Encoder, batch: PackedBatch, chunk_tokens: int) -> Tensor:
    """What `encoder(batch)` returns, with memory for one chunk beside it.

    Documents of up to `chunk_tokens` go through the encoder as they are, together as far as they
    fit. Chunks of longer ones are no shorter than a layer's window, and hold no fewer tokens than
    the document has global ones: what is read beside a chunk is to cost no more than the chunk.
    So a layer of full attention is one chunk, and a document is one where a pattern's keys cannot
    be told from a chunk's surroundings (`reads_in_chunks`).

    Args:
        encoder: in evaluation mode.
        batch: T tokens.
        chunk_tokens: 1 or more.

    Returns:
        hidden states (T, C).
    """
    assert not encoder.training, "dropout would differ between the chunks that share a row"
    if batch.num_tokens <= chunk_tokens:
        return encoder(batch)
    hidden = encoder.token_embedding.weight.new_empty(batch.num_tokens, encoder.config.hidden_size)
    bounds: list[int] = batch.cu_seqlens.tolist()
    for first, last in together(bounds, chunk_tokens):
        documents = batch.documents(first, last)
        x = hidden[bounds[first] : bounds[last]]
        if documents.num_tokens <= chunk_tokens or not all(map(reads_in_chunks, encoder.patterns)):
            x.copy_(encoder(documents))
        else:
            encode_document(encoder, documents, x, chunk_tokens)
    return hidden


def reads_in_chunks(pattern: Pattern) -> bool:
    """Whether a chunk, the rows around it, sinks and global tokens hold all that it sees."""
    return pattern == Pattern(pattern.window, pattern.causal, pattern.sinks)


def together(bounds: list[int], most: int) -> Iterator[tuple[int, int]]:
    """[first, last) of consecutive documents of at most so many tokens; longer ones alone."""
    first = 0
    for last in range(1, len(bounds)):
        if last == len(bounds) - 1 or bounds[last + 1] - bounds[first] > most:
            yield first, last
            first = last


def encode_document(encoder: Encoder, document: PackedBatch, x: Tensor, chunk_tokens: int) -> None:
    """Write the hidden states of one document into x (L, C)."""
    position = torch.arange(len(x), device=x.device)  # (L,)
    tokens = (document.input_ids, document.token_type_ids, position)
    for rows, *chunk in zip(*(of_all.split(chunk_tokens) for of_all in (x, *tokens)), strict=True):
        rows.copy_(encoder.embed(*chunk))
    config = encoder.config
    for block, pattern, theta in zip(
        encoder.layers, encoder.patterns, config.rope_thetas, strict=True
    ):
        assert isinstance(block, Block)
        LayerInChunks(encoder, block, pattern, theta, document.global_mask).run(x, chunk_tokens)
    for rows in x.split(chunk_tokens):
        rows.copy_(encoder.final_norm(rows))


@dataclass(frozen=True)
class LayerInChunks:
    """One layer over one document of L tokens.

    Attributes:
        encoder: whose rotary angles it takes.
        block: of the layer.
        pattern: one that `reads_in_chunks`.
        theta: rotary base.
        global_mask: (L,) bool.
    """

    encoder: Encoder
    block: Block
    pattern: Pattern
    theta: float
    global_mask: Tensor

    def run(self, x: Tensor, chunk_tokens: int) -> None:
        """From the layer below (L, C) to this layer, in place."""
        length, attention = len(x), self.block.attention
        global_index = self.global_mask.nonzero().squeeze(1)  # (G,)
        global_rows = x[global_index]  # (G, C), as they are below this layer, to its end
        q_GHE, _, _ = attention.project_for_globals(*self._read(global_rows, global_index))
        whole = RunningAttention(q_GHE, attention.num_kv_heads)
        # all see them, wherever they stand; sinks come first in the document, and in every chunk
        is_sink = torch.arange(length, device=x.device) < self.pattern.sinks
        shared_index = (self.global_mask | is_sink).nonzero().squeeze(1)
        shared_rows = x[shared_index]

        window = length if self.pattern.window is None else self.pattern.window
        size = max(chunk_tokens, window, len(shared_index))
        kept = x[:0]  # rows before the chunk that its windows reach, as they were
        for start in range(0, length, size):
            stop = min(start + size, length)
            ahead = 0 if self.pattern.causal else window
            first, end = start - len(kept), min(stop + ahead, length)
            left, right = shared_index < first, shared_index >= end  # out of reach
            rows = torch.cat([shared_rows[left], kept, x[start:end], shared_rows[right]])
            near = torch.arange(first, end, device=x.device)
            position = torch.cat([shared_index[left], near, shared_index[right]])
            own_start = int(left.sum()) + len(kept)
            own = slice(own_start, own_start + stop - start)
            kept = rows[own.stop - min(window, stop) : own.stop].clone()
            x[start:stop] = self._chunk(rows, position, own, whole)
        if len(global_index):
            attended = attention.out(whole.result().flatten(1))
            x[global_index] = self.block.after_attention(global_rows, attended).to(x.dtype)

    def _chunk(self, rows: Tensor, position: Tensor, own: slice, whole: RunningAttention) -> Tensor:
        """A chunk's own rows after this layer, of which those of global tokens mean nothing.

        Args:
            rows: (N, C), its own and all that they see.
            position: (N,) places of the rows in the document.
            own: which they are.
            whole: shown the keys of the chunk.
        """
        attention = self.block.attention
        q_NHE, k_NKE, v_NKE = attention.project(*self._read(rows, position))
        k, v = k_NKE[own], v_NKE[own]
        if attention.global_qkv is not None and self.global_mask.any():
            _, k, v = attention.project_for_globals(*self._read(rows[own], position[own]))
        whole.see(k, v)
        cu_seqlens = torch.tensor([0, len(rows)], dtype=torch.int32, device=rows.device)
        plan = AttentionPlan(cu_seqlens, self.global_mask[position], self.pattern)
        out_NHE = attend(q_NHE, k_NKE, v_NKE, plan, backend=attention.backend)
        return self.block.after_attention(rows[own], attention.out(out_NHE[own].flatten(1)))

    def _read(self, rows: Tensor, position: Tensor) -> tuple[Tensor, RotaryTable | None]:
        """What queries, keys and values are made of: normalised rows, and their angles."""
        return self.block.before_attention(rows), self.encoder.rotary(position, self.theta)
