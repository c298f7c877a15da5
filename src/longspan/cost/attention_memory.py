"""Bytes that attention saves for backward, by the backend that computes it.

Read off `torch.autograd.graph.saved_tensors_hooks`, as tests do again.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from longspan.attention import AttentionPlan, Pattern, auto_backend
from longspan.config import Config
from longspan.config.model import Window
from longspan.cost.documents import Documents

FULL = 4  # bytes of a float32
PLANNED_TOKENS = 16_384  # block tables are read off a plan of so many tokens and grow in step


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


@dataclass(frozen=True)
class AttentionMemory:
    """What the layers of a model save inside `attend`, its inputs and its output included.

    Attributes:
        config: of the run.
        documents: that fill the batch.
        dtype: of queries, keys and values: autocast's, or float32.
        on_gpu: where it runs; the CPU's PyTorch has no fused attention with dropout.
    """

    config: Config
    documents: Documents
    dtype: torch.dtype
    on_gpu: bool

    def at(self, tokens: float) -> list[float]:
        """Bytes a token of every tensor in a batch of so many; block tables last."""
        model = self.config.model
        layers = [
            self._of_layer(window, tokens)
            for window in model.windows[self.config.optim.freeze_layers :]
        ]
        if model.gradient_checkpointing:  # one layer's at a time
            layers = [max(layers, key=sum, default=[])]
        tables = [cut.tables(self._small) for cut in self._cuts.values() if cut is not None]
        return [size for tensors in [*layers, *tables] for size in tensors]

    def backend(self, window: Window) -> str:
        """Who computes a layer."""
        model = self.config.model
        if model.attention_backend != "auto":
            return model.attention_backend
        device = "cuda" if self.on_gpu else "cpu"
        return auto_backend(self.dtype, device, Pattern(window), model.attention_dropout)[0]

    def _of_layer(self, window: Window, tokens: float) -> list[float]:
        backend = self.backend(window)
        if backend == "native":
            return [*self._projections(), self._small * self._width, self._sums, *self._separate()]
        if backend == "reference":  # scores of all pairs, saved once and twice in backward
            return [*self._unfused(), *[FULL * self.config.model.num_heads * tokens] * 3]
        cut = self._cuts[window]
        if self.config.model.attention_dropout and not self.on_gpu:
            return self._with_dropout(cut)
        if cut is None:
            return [*self._unfused(), *self._separate(repeated=True)]
        return self._of_blocks(cut)

    @property
    def _small(self) -> int:
        return self.dtype.itemsize

    @property
    def _width(self) -> int:
        """Values a token of queries or of the output."""
        return self.config.model.num_heads * self.config.model.head_size

    @property
    def _sums(self) -> float:
        """Log-sum-exps of the scores."""
        return float(FULL * self.config.model.num_heads)

    def _projections(self, repeated: bool = False) -> list[float]:
        """Queries, keys and values as one product makes them, and what becomes of them.

        Args:
            repeated: whether keys and values are, for every query head (`repeat_heads`).
        """
        model = self.config.model
        keys = model.kv_heads * model.head_size
        tensors = [self._width + 2 * keys]
        if repeated and model.kv_heads < model.num_heads:
            tensors += [self._width, self._width]
        elif model.positions == "rotary":  # what is turned is a copy; values stay where they are
            tensors.append(self._width + keys)
        return [float(self._small * x) for x in tensors]

    def _separate(self, repeated: bool = False) -> list[float]:
        """Likewise of the global tokens' own projections."""
        return self._projections(repeated) if self._are_separate else []

    @property
    def _are_separate(self) -> bool:
        return self.config.trains_global_projections and self.documents.mean_globals > 0

    def _unfused(self) -> list[float]:
        """Inputs and output of PyTorch's attention; the output also as the next layer's input."""
        outputs = [float(self._small * self._width)] * 2
        return [*self._projections(repeated=True), *outputs, self._sums]

    def _of_blocks(self, cut: Blocks) -> list[float]:
        """Of one layer of the backend `blocked`."""
        gathered = [self._small * self._width * cut.keys_per_query] * 2
        output = float(self._small * self._width)
        if not self.documents.mean_globals:
            return [*gathered, output, output, self._sums]  # the first is the queries'
        # global rows keep the ungathered keys and values, their own or the shared ones, and the
        # output before they overwrite it
        return [*gathered, *self._unfused(), output]

    def _with_dropout(self, cut: Blocks | None) -> list[float]:
        """Likewise on a CPU with dropout, where PyTorch computes step by step and in float32."""
        keys, pairs = 1.0, self.documents.mean_pairs(None) / self.documents.mean_length
        if cut is not None:
            keys, pairs = cut.keys_per_query, cut.pairs_per_query + self.documents.mean_globals
        width = float(FULL * self._width)
        # probabilities before dropout, its noise, and probabilities after it
        probabilities = [FULL * self.config.model.num_heads * pairs] * 3
        tensors = [
            *probabilities,
            keys * width,
            keys * width,
            width,
            float(self._small * self._width),
        ]
        if self._are_separate or (cut is not None and self.documents.mean_globals):
            tensors += [width, width]  # keys and values of global rows
        return tensors

    @cached_property
    def _cuts(self) -> dict[Window, Blocks | None]:
        """Of every window that `blocked` computes."""
        windows = set(self.config.model.windows)
        return {w: self._blocks(w) for w in windows if self.backend(w) == "blocked"}

    def _blocks(self, window: Window) -> Blocks | None:
        """How the backend `blocked` cuts these documents; None where it need not."""
        sample = self.documents.filling(PLANNED_TOKENS)
        plan = AttentionPlan(*sample.packed(len(sample)), Pattern(window))
        if plan.is_full:
            return None
        table = plan.block_table
        return Blocks(
            table.key_index.numel() / plan.num_tokens, table.mask.numel() / plan.num_tokens
        )
