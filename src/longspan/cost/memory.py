"""Bytes that a training step holds at its peak, by the kind of tensor.

The peak lies where the forward pass ends: everything that backward will read is alive, and the
gradients of the step before are still there (Lightning clears them after the loss). What each
operation saves was read off `torch.autograd.graph.saved_tensors_hooks`, as tests do again.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from longspan.attention import native
from longspan.config import Config, MaskedLMConfig, ModelConfig
from longspan.cost.attention_memory import FULL, AttentionMemory
from longspan.cost.documents import Documents
from longspan.cost.flops import guessed_tokens
from longspan.cost.rows import Rows

# Tensors come from glibc's heap, which keeps its pages (`heap.keep_pages`), and those of holes.
# Beside the tensors, holes of half to three quarters of their size were found after some steps, and
# of more than all of it with gradient checkpointing, whose tensors come and go.
HOLES = 0.9


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step.

    Attributes:
        process: what it held before the model was built; 0 on a GPU.
        weights: float32, and the copies that autocast makes of matrices.
        gradients: of what trains.
        optimizer: AdamW's two moments.
        activations: saved for backward, attention's own apart.
        attention: what attention saves, by its backend: queries, keys, values and output;
            gathered keys, masks, probabilities.
        logits: with what the loss derives from them.
        workspace: what backward needs beside, for a moment.
        heap: holes between tensors that glibc's allocator keeps.
    """

    process: float
    weights: float
    gradients: float
    optimizer: float
    activations: float
    attention: float
    logits: float
    workspace: float
    heap: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class TrainingMemory:
    """How memory grows with the tokens of a batch.

    Attributes:
        config: with `model.vocab_size`.
        documents: that fill the batch.
        parameters: of the whole model.
        trained: those among them that train.
        autocast: type of matrix products; None = float32.
        on_gpu: dropout keeps a byte a value there, a float on CPUs.
        process: bytes before the model is built.
        from_heap: whether glibc serves tensors: on Linux without a GPU.
    """

    config: Config
    documents: Documents
    parameters: int
    trained: int
    autocast: torch.dtype | None = None
    on_gpu: bool = False
    process: float = 0.0
    from_heap: bool = False

    def at(self, tokens: float) -> Memory:
        """Of a batch of so many tokens."""
        model = self.config.model
        logits = self._logits(tokens)
        tensors = [*self._activations, *self._attention.at(tokens)]  # bytes a token
        return Memory(
            process=self.process,
            weights=FULL * self.parameters + self._casts(),
            gradients=FULL * self.trained,
            optimizer=2 * FULL * self.trained,
            activations=tokens * sum(self._activations),
            attention=tokens * sum(self._attention.at(tokens)),
            logits=logits,
            # four (T, C): gradients on their way down and what they are computed from
            workspace=max(0.0, 4 * FULL * tokens * model.hidden_size - logits),
            heap=HOLES * tokens * sum(tensors) if self.from_heap else 0.0,
        )

    @property
    def small(self) -> int:
        """Bytes of what goes into and comes out of matrix products."""
        return FULL if self.autocast is None else self.autocast.itemsize

    @property
    def _layers(self) -> int:
        """Layers that backward runs through."""
        return self.config.model.num_layers - self.config.optim.freeze_layers

    @cached_property
    def _activations(self) -> list[float]:
        """Bytes a token of every tensor, attention's own apart."""
        model, size = self.config.model, self.config.model.hidden_size
        read = self._read
        # sum of the embeddings, after the last layer, after the last norm; token ids and types
        ends = [FULL * size, FULL * size * read, FULL * size * read, 8.0, 8.0]
        ends.append(self._dropout(FULL) * size)
        if model.positions == "rotary":
            ends += [FULL * model.head_size / 2] * 2 * len(set(model.rope_thetas))
        if model.gradient_checkpointing:  # every block's input, and one block's inside at a time
            inside = self._block(1.0 if self._layers > 1 else read)
            return ends + self._layers * [float(FULL * size)] + inside
        last = self._block(read) if self._layers else []
        return ends + max(0, self._layers - 1) * self._block(1.0) + last

    @property
    def _read(self) -> float:
        """Share of the tokens whose hidden states the head reads."""
        rows = Rows(self.config, self.documents)
        return rows.read / self.documents.mean_length

    def _block(self, kept: float) -> list[float]:
        """Bytes a token of what one block saves outside attention.

        Args:
            kept: share of the tokens that it computes beyond keys and values.
        """
        model, size = self.config.model, self.config.model.hidden_size
        norm = FULL * size * (2 if model.norm == "rmsnorm" else 1)
        mlp = [self.small * model.mlp_size] * 2  # after and before the second product
        if model.mlp_is_gated:  # both halves of the first in one, and one half activated
            mlp = [2 * mlp[0], *mlp]
        own = [norm, self.small * size, *mlp, *[self._dropout(self.small) * size] * 2]
        if kept < 1 and not self._read_alone:
            own.append(self.small * size)  # the rows of attention's output
        return [float(norm), float(self.small * size), *(kept * x for x in own)]

    @property
    def _read_alone(self) -> bool:
        return Rows(self.config, self.documents).read_alone

    def _dropout(self, bytes_a_value: int) -> int:
        if not self.config.model.hidden_dropout:
            return 0
        if self.on_gpu:
            return 1
        dtype = self.autocast if self.autocast and bytes_a_value < FULL else torch.float32
        # the kernel draws the same numbers again
        return 0 if native.computes_in("cpu", dtype) else bytes_a_value

    @cached_property
    def _attention(self) -> AttentionMemory:
        dtype = self.autocast or torch.float32
        return AttentionMemory(self.config, self.documents, dtype, self.on_gpu)

    def _logits(self, tokens: float) -> float:
        if not isinstance(self.config.task, MaskedLMConfig):
            return 0.0  # few numbers a token at most
        assert self.config.model.vocab_size is not None
        values = guessed_tokens(self.config.task, tokens) * self.config.model.vocab_size
        # float32 log-probabilities, their gradient and that of the logits
        return 3 * FULL * values

    def _casts(self) -> float:
        """Copies of the matrices in autocast's type, alive from forward to backward."""
        if self.autocast is None:
            return 0.0
        model = self.config.model
        values = model.num_layers * block_matrices(model)
        if isinstance(self.config.task, MaskedLMConfig):
            values += (model.vocab_size or 0) * model.hidden_size
        return 2 * values


def block_matrices(model: ModelConfig) -> int:
    """Values in the matrices of one block."""
    width = model.num_heads * model.head_size
    qkv = model.hidden_size * (width + 2 * model.kv_heads * model.head_size)
    if model.global_projections == "separate":
        qkv *= 2
    products = 3 if model.mlp_is_gated else 2
    return qkv + width * model.hidden_size + products * model.hidden_size * model.mlp_size
