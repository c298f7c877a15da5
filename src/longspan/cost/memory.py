"""Bytes that a training step holds at its peak, by the kind of tensor.

The peak lies where the forward pass ends: everything that backward will read is alive, and the
gradients of the step before are still there (Lightning clears them after the loss). What each
operation saves was read off `torch.autograd.graph.saved_tensors_hooks`, as tests do again.
"""

from dataclasses import asdict, dataclass
from functools import cached_property

from longspan.attention import AttentionPlan, Pattern
from longspan.config import Config, MaskedLMConfig, ModelConfig
from longspan.cost.documents import Documents
from longspan.cost.flops import guessed_tokens

FULL = 4  # bytes of a float32
AUTO_BACKEND = "blocked"  # what `attend` chooses; a test holds the two together
PLANNED_TOKENS = 16_384  # block tables are read off a plan of so many tokens and grow in step


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step.

    Attributes:
        process: what it held before the model was built; 0 on a GPU.
        weights: float32, and the copies that autocast makes of matrices.
        gradients: of what trains.
        optimizer: AdamW's two moments.
        activations: saved for backward, attention's own apart.
        attention: what attention saves beside its inputs: gathered keys and values, masks,
            probabilities, whatever the backend keeps.
        logits: with what the loss derives from them.
        workspace: what backward needs beside, for a moment.
    """

    process: float
    weights: float
    gradients: float
    optimizer: float
    activations: float
    attention: float
    logits: float
    workspace: float

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
        half: whether autocast multiplies in bfloat16 or float16.
        on_gpu: dropout keeps a byte a value there, a float on CPUs.
        process: bytes before the model is built.
    """

    config: Config
    documents: Documents
    parameters: int
    trained: int
    half: bool = False
    on_gpu: bool = False
    process: float = 0.0

    def at(self, tokens: float) -> Memory:
        """Of a batch of so many tokens."""
        model = self.config.model
        logits = self._logits(tokens)
        return Memory(
            process=self.process,
            weights=FULL * self.parameters + self._casts(),
            gradients=FULL * self.trained,
            optimizer=2 * FULL * self.trained,
            activations=tokens * self._activations,
            attention=tokens * sum(self._attention(tokens)),
            logits=logits,
            # four (T, C): gradients on their way down and what they are computed from
            workspace=max(0.0, 4 * FULL * tokens * model.hidden_size - logits),
        )

    @property
    def small(self) -> int:
        """Bytes of what goes into and comes out of matrix products."""
        return 2 if self.half else FULL

    @property
    def _layers(self) -> int:
        """Layers that backward runs through."""
        return self.config.model.num_layers - self.config.optim.freeze_layers

    @cached_property
    def _activations(self) -> float:
        """Bytes a token, attention's own apart."""
        model, size = self.config.model, self.config.model.hidden_size
        block = self._block()
        # sum of the embeddings, after its dropout, after the last layer, after the last norm;
        # token ids and types
        ends = size * (3 * FULL + self._dropout(FULL)) + 16
        if model.positions == "rotary":
            ends += FULL * model.head_size * len(set(model.rope_thetas))
        if model.gradient_checkpointing:  # every block's input, and one block's inside at a time
            return ends + self._layers * FULL * size + block
        return ends + self._layers * block

    def _block(self) -> float:
        """Bytes a token that one block saves outside attention."""
        model, size = self.config.model, self.config.model.hidden_size
        norms = 2 * FULL * size * (2 if model.norm == "rmsnorm" else 1)
        linear_inputs = 2 * self.small * size
        mlp = self.small * model.mlp_size * (2 if model.mlp == "gelu" else 4)
        return norms + linear_inputs + mlp + 2 * self._dropout(self.small) * size

    def _dropout(self, bytes_a_value: int) -> int:
        if not self.config.model.hidden_dropout:
            return 0
        return 1 if self.on_gpu else bytes_a_value

    def _attention(self, tokens: float) -> list[float]:
        """Bytes a token that attention saves, by layer; then its tables, by distinct window."""
        model = self.config.model
        backend = model.attention_backend
        backend = AUTO_BACKEND if backend == "auto" else backend
        windows = model.windows[self.config.optim.freeze_layers :]
        if backend == "reference":
            layers = [self._inputs_and_output() + self._probabilities(tokens) for _ in windows]
            return layers[:1] if model.gradient_checkpointing else layers
        cuts = {window: self._blocks(window) for window in set(model.windows)}
        layers = [self._of_blocks(cuts[window]) for window in windows]
        if model.gradient_checkpointing:
            layers = [max(layers, default=0.0)]
        return layers + [cut.tables(self.small) for cut in cuts.values() if cut is not None]

    def _inputs_and_output(self) -> float:
        """Queries, keys and values as attention gets them, and its output, bytes a token."""
        model = self.config.model
        queries = model.num_heads * model.head_size
        keys = model.kv_heads * model.head_size
        projected = queries + 2 * keys
        if model.kv_heads < model.num_heads:  # repeated for every query head
            projected += 2 * queries
        elif model.positions == "rotary":  # what is turned is a copy; values stay where they are
            projected += queries + keys
        statistics = FULL * model.num_heads
        return self.small * (projected + 2 * queries) + statistics

    def _of_blocks(self, cut: "Blocks | None") -> float:
        """Of one layer of the backend `blocked`; without a cut, of its full attention."""
        if cut is None:
            return self._inputs_and_output()
        model = self.config.model
        width = model.num_heads * model.head_size
        own = self.small * width * (2 + 2 * cut.keys_per_query) + FULL * model.num_heads
        if not self.documents.mean_globals:
            return own
        # global rows keep the ungathered keys and values, and the output before they overwrite it
        queries_and_output = self.small * width * 2 + FULL * model.num_heads
        return own + self._inputs_and_output() - queries_and_output + self.small * width

    def _blocks(self, window: int | None) -> "Blocks | None":
        """How the backend `blocked` cuts these documents; None where it need not."""
        sample = self.documents.filling(PLANNED_TOKENS)
        plan = AttentionPlan(*sample.packed(len(sample)), Pattern(window))
        if plan.is_full:
            return None
        table = plan.block_table
        return Blocks(
            table.key_index.numel() / plan.num_tokens, table.mask.numel() / plan.num_tokens
        )

    def _probabilities(self, tokens: float) -> float:
        """Of the backend `reference`: scores of all pairs, saved once and twice in backward."""
        return 3 * FULL * self.config.model.num_heads * tokens

    def _logits(self, tokens: float) -> float:
        if not isinstance(self.config.task, MaskedLMConfig):
            return 0.0  # few numbers a token at most
        assert self.config.model.vocab_size is not None
        values = guessed_tokens(self.config.task, tokens) * self.config.model.vocab_size
        # float32 log-probabilities, their gradient and that of the logits
        return 3 * FULL * values

    def _casts(self) -> float:
        """Copies of the matrices in autocast's type, alive from forward to backward."""
        if not self.half:
            return 0.0
        model = self.config.model
        values = model.num_layers * block_matrices(model)
        if isinstance(self.config.task, MaskedLMConfig):
            values += (model.vocab_size or 0) * model.hidden_size
        return 2 * values


@dataclass(frozen=True)
class Blocks:
    """How densely the backend `blocked` fills memory.

    Attributes:
        keys_per_query: keys gathered, for each query of the batch.
        pairs_per_query: places of the mask, likewise.
    """

    keys_per_query: float
    pairs_per_query: float

    def tables(self, small: int) -> float:
        """Bytes a token of key indices, boolean mask and the bias added to the scores."""
        return 8 * self.keys_per_query + (1 + small) * self.pairs_per_query


def block_matrices(model: ModelConfig) -> int:
    """Values in the matrices of one block."""
    width = model.num_heads * model.head_size
    qkv = model.hidden_size * (width + 2 * model.kv_heads * model.head_size)
    if model.global_projections == "separate":
        qkv *= 2
    products = 2 if model.mlp == "gelu" else 3
    return qkv + width * model.hidden_size + products * model.hidden_size * model.mlp_size
