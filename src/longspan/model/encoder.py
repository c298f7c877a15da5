"""The encoder: token embeddings, L times the one block, hidden states."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longspan.attention import AttentionPlan, Pattern
from longspan.batch import PackedBatch
from longspan.config import ModelConfig
from longspan.errors import UserError
from longspan.model.dropout import Dropout
from longspan.model.layers import Block, make_norm
from longspan.model.positions import RotaryTable, position_ids, rotary_table
from longspan.model.streaming import LayerStream


class Encoder(nn.Module):
    """A hybrid encoder over packed batches.

    Args:
        config: with `vocab_size`, and `max_positions` where positions are learned.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None, "the tokenizer's size is filled in before this"
        self.config = config
        self.patterns = Pattern.of_layers(config.layer_patterns)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = None
        if config.positions == "learned":
            assert config.max_positions is not None, "filled in from data.max_length before this"
            self.position_embedding = nn.Embedding(config.max_positions, config.hidden_size)
        self.token_type_embedding = None
        if config.type_vocab_size:
            self.token_type_embedding = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.embedding_norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        if not config.first_norm:
            self.layers[0].attention_norm = nn.Identity()
        # a post-norm stack ends in a norm already
        self.final_norm = make_norm(config) if config.norm_position == "pre" else nn.Identity()
        initialise(self)

    def forward(self, batch: PackedBatch, rows: Tensor | None = None) -> Tensor:
        """Hidden states (T, C) of a packed batch, or (R, C) of some of its tokens.

        Args:
            batch: of T tokens.
            rows: (R,) int64, ascending, the tokens whose hidden states are wanted: the last layer
                computes no others. None = all.
        """
        position = position_ids(batch.cu_seqlens)  # (T,)
        x = self.embed(batch.input_ids, batch.token_type_ids, position)
        patterns = self.patterns
        plans = {
            pattern: AttentionPlan(batch.cu_seqlens, batch.global_mask, pattern)
            for pattern in set(patterns)
        }
        thetas = self.config.rope_thetas
        rotary = {theta: self.rotary(position, theta) for theta in set(thetas)}
        wanted = [None] * (len(patterns) - 1) + [rows]
        for layer, pattern, theta, kept in zip(self.layers, patterns, thetas, wanted, strict=True):
            arguments = (x, plans[pattern], rotary[theta], kept)
            if self.config.gradient_checkpointing and self.training:
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
        return self.final_norm(x)

    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Hidden states of one document that comes in chunks, equal to those of one pass.

        Each layer keeps the keys and values of its window and its sinks and forgets the rest, so
        that memory does not grow with the document. Chunks may be of any length, each of another.

        Args:
            chunks: token ids (n,) int64 of type 0, in order; n may be 0.

        Returns:
            hidden states (n, C) of each chunk, without gradients.

        Raises:
            UserError: a pattern that does not forget, an encoder in training, or, while reading, a
                document longer than the table of learned positions.
        """
        if self.training:
            raise UserError("a document is streamed without dropout; call eval() on the encoder")
        layers = [LayerStream(*each) for each in zip(self.layers, self.patterns, strict=True)]
        return self._stream(chunks, layers)

    @torch.no_grad()
    def _stream(self, chunks: Iterable[Tensor], layers: list[LayerStream]) -> Iterator[Tensor]:
        thetas, most, start = self.config.rope_thetas, self.config.max_positions, 0
        for input_ids in chunks:
            stop = start + len(input_ids)
            if self.position_embedding is not None and most is not None and stop > most:
                raise UserError(
                    f"a streamed document has more than model.max_positions={most} tokens; "
                    "set model.max_positions higher, or model.positions=rotary"
                )
            position = torch.arange(start, stop, device=input_ids.device)  # (n,)
            x = self.embed(input_ids, torch.zeros_like(input_ids), position)
            rotary = {theta: self.rotary(position, theta) for theta in set(thetas)}
            for layer, theta in zip(layers, thetas, strict=True):
                x = layer.read(x, start, rotary[theta])
            start = stop
            yield self.final_norm(x)

    def embed(self, input_ids: Tensor, token_type_ids: Tensor, position: Tensor) -> Tensor:
        """What the first layer reads, (T, C), of tokens (T,), row by row."""
        x = self.token_embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(position)
        if self.token_type_embedding is not None:
            if self.token_type_embedding.num_embeddings == 1:  # RoBERTa's, whatever the tokenizer
                token_type_ids = torch.zeros_like(token_type_ids)
            x = x + self.token_type_embedding(token_type_ids)
        return self.dropout(self.embedding_norm(x))

    def rotary(self, position: Tensor, theta: float) -> RotaryTable | None:
        """The angles of tokens at these places (T,) of their documents; None without rotary."""
        if self.config.positions != "rotary":
            return None
        return rotary_table(position, self.config.head_size, theta)


def initialise(encoder: Encoder) -> None:
    """Every parameter of the encoder, in one place.

    Matrices and embeddings from N(0, initializer_range²); the two projections that write into
    the residual stream are smaller by sqrt(2 * layers), so that its variance does not grow with
    depth (GPT-2, Radford et al. 2019, section 2.3); norms at one, biases at zero.
    """
    std = encoder.config.initializer_range
    into_residual = std / math.sqrt(2 * encoder.config.num_layers)
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
        elif name.endswith(("attention.out.weight", "mlp.down.weight")):
            nn.init.normal_(parameter, std=into_residual)
        else:
            nn.init.normal_(parameter, std=std)
