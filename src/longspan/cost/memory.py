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
# Tensors below this size come from glibc's heap, whose holes are not given back (mallopt(3): the
# greatest that the dynamic M_MMAP_THRESHOLD becomes); larger ones are mapped one by one. Of the
# heap's tensors this share was found in holes after some steps, and none with
# MALLOC_MMAP_THRESHOLD_=262144 in the environment.
HEAP_TENSOR = 2**25
HOLES = 0.75
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
        half: whether autocast multiplies in bfloat16 or float16.
        on_gpu: dropout keeps a byte a value there, a float on CPUs.
        process: bytes before the model is built.
        from_heap: whether glibc serves small tensors: on Linux without a GPU.
    """

    config: Config
    documents: Documents
    parameters: int
    trained: int
    half: bool = False
    on_gpu: bool = False
    process: float = 0.0
    from_heap: bool = False

    def at(self, tokens: float) -> Memory:
        """Of a batch of so many tokens."""
        model = self.config.model
        logits = self._logits(tokens)
        return Memory(
            process=self.process,
            weights=FULL * self.parameters + self._casts(),
            gradients=FULL * self.trained,
            optimizer=2 * FULL * self.trained,
            activations=tokens * sum(self._activations),
            attention=tokens * sum(self._attention(tokens)),
            logits=logits,
            # four (T, C): gradients on their way down and what they are computed from
            workspace=max(0.0, 4 * FULL * tokens * model.hidden_size - logits),
            heap=HOLES * tokens * sum(self._in_heap(tokens)) if self.from_heap else 0.0,
        )

    def _in_heap(self, tokens: float) -> list[float]:
        """Bytes a token of the tensors that are small enough for glibc's heap."""
        tensors = [*self._activations, *self._attention(tokens)]
        return [size for size in tensors if tokens * size < HEAP_TENSOR]

    @property
    def small(self) -> int:
        """Bytes of what goes into and comes out of matrix products."""
        return 2 if self.half else FULL

    @property
    def _layers(self) -> int:
        """Layers that backward runs through."""
        return self.config.model.num_layers - self.config.optim.freeze_layers

    @cached_property
    def _activations(self) -> list[float]:
        """Bytes a token of every tensor, attention's own apart."""
        model, size = self.config.model, self.config.model.hidden_size
        block = self._block()
        # sum of the embeddings, after its dropout, after the last layer, after the last norm;
        # token ids and types
        ends = [FULL * size] * 3 + [self._dropout(FULL) * size, 8.0, 8.0]
        if model.positions == "rotary":
            ends += [FULL * model.head_size / 2] * 2 * len(set(model.rope_thetas))
        if model.gradient_checkpointing:  # every block's input, and one block's inside at a time
            return ends + self._layers * [float(FULL * size)] + block
        return ends + self._layers * block

    def _block(self) -> list[float]:
        """Bytes a token of what one block saves outside attention."""
        model, size = self.config.model, self.config.model.hidden_size
        norms = [FULL * size] * (4 if model.norm == "rmsnorm" else 2)
        linear_inputs = [self.small * size] * 2
        mlp = [self.small * model.mlp_size] * 2  # after and before the second product
        if model.mlp != "gelu":  # both halves of the first in one, and one half activated
            mlp = [2 * mlp[0], *mlp]
        dropout = [self._dropout(self.small) * size] * 2
        return [float(x) for x in (*norms, *linear_inputs, *mlp, *dropout)]

    def _dropout(self, bytes_a_value: int) -> int:
        if not self.config.model.hidden_dropout:
            return 0
        return 1 if self.on_gpu else bytes_a_value

    def _attention(self, tokens: float) -> list[float]:
        """Bytes a token of every tensor that attention saves, tables of distinct windows last."""
        model = self.config.model
        backend = model.attention_backend
        backend = AUTO_BACKEND if backend == "auto" else backend
        windows = model.windows[self.config.optim.freeze_layers :]
        if backend == "reference":
            one = self._inputs_and_output() + self._probabilities(tokens)
            return one * (1 if model.gradient_checkpointing else len(windows))
        layers = [self._of_blocks(self._cuts[window]) for window in windows]
        if model.gradient_checkpointing:
            layers = [max(layers, key=sum, default=[])]
        tables = [cut.tables(self.small) for cut in self._cuts.values() if cut is not None]
        return [size for tensors in [*layers, *tables] for size in tensors]

    def _inputs_and_output(self) -> list[float]:
        """Queries, keys and values as attention gets them, and its output, bytes a token."""
        model = self.config.model
        queries = model.num_heads * model.head_size
        keys = model.kv_heads * model.head_size
        tensors = [queries + 2 * keys, queries, queries]  # the output also as the next layer's
        if model.kv_heads < model.num_heads:  # repeated for every query head
            tensors += [queries, queries]
        elif model.positions == "rotary":  # what is turned is a copy; values stay where they are
            tensors.append(queries + keys)
        return [float(self.small * x) for x in tensors] + [float(FULL * model.num_heads)]

    def _of_blocks(self, cut: "Blocks | None") -> list[float]:
        """Of one layer of the backend `blocked`; without a cut, of its full attention."""
        if cut is None:
            return self._inputs_and_output()
        model = self.config.model
        width = model.num_heads * model.head_size
        gathered = [self.small * width * cut.keys_per_query] * 2
        if not self.documents.mean_globals:
            query_and_output = [float(self.small * width)] * 2
            return gathered + query_and_output + [float(FULL * model.num_heads)]
        # global rows keep the ungathered keys and values, and the output before they overwrite it
        return gathered + self._inputs_and_output() + [float(self.small * width)]

    @cached_property
    def _cuts(self) -> "dict[int | None, Blocks | None]":
        return {window: self._blocks(window) for window in set(self.config.model.windows)}

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

    def _probabilities(self, tokens: float) -> list[float]:
        """Of the backend `reference`: scores of all pairs, saved once and twice in backward."""
        return [FULL * self.config.model.num_heads * tokens] * 3

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

    def tables(self, small: int) -> list[float]:
        """Bytes a token of key indices, boolean mask and the bias added to the scores."""
        return [8 * self.keys_per_query, self.pairs_per_query, small * self.pairs_per_query]


def block_matrices(model: ModelConfig) -> int:
    """Values in the matrices of one block."""
    width = model.num_heads * model.head_size
    qkv = model.hidden_size * (width + 2 * model.kv_heads * model.head_size)
    if model.global_projections == "separate":
        qkv *= 2
    products = 2 if model.mlp == "gelu" else 3
    return qkv + width * model.hidden_size + products * model.hidden_size * model.mlp_size
