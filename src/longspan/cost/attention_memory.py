"""Bytes that attention saves for backward, by the backend that computes it.

Read off `torch.autograd.graph.saved_tensors_hooks`, as tests do again.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from longspan.attention import AttentionPlan, Pattern, auto_backend, block_lists, native
from longspan.config import Config
from longspan.cost.documents import Documents
from longspan.cost.rows import Rows

FULL = 4  # bytes of a float32
PLANNED_TOKENS = 16_384  # block tables are read off a plan of so many tokens and grow in step


@dataclass(frozen=True)
class Blocks:
    """How densely the backend `blocked` fills memory.

    Attributes:
        keys_per_query: keys gathered, for each query of the batch.
        pairs_per_query: scores that are computed, likewise.
        parts: tables that a row's softmax goes over.
        masks: different ones of the heads, each with its tables.
        lists: whether whole blocks are gathered (`BlockLists`), of `block` keys, whose mask is
            that of `rows` queries at once.
    """

    keys_per_query: float
    pairs_per_query: float
    parts: int = 1
    masks: int = 1
    lists: bool = False
    block: int = 1
    rows: int = 1

    def tables(self, small: int) -> list[float]:
        """Bytes a token of key indices, boolean mask and, of one part, what is added to scores."""
        mask = self.pairs_per_query / self.rows
        sizes = [8 * self.keys_per_query / self.block, mask, small * mask]
        return [self.masks * size for size in sizes[: 3 if self.parts == 1 else 2]]


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
        trained = list(enumerate(self._patterns))[self.config.optim.freeze_layers :]
        alone = self._rows.read_alone
        layers = [
            self._of_rows_alone()
            if alone and layer == model.num_layers - 1
            else self._of_layer(pattern, tokens)
            for layer, pattern in trained
        ]
        if model.gradient_checkpointing:  # one layer's at a time
            layers = [max(layers, key=sum, default=[])]
        tables = [cut.tables(self._small) for cut in self._cuts.values() if cut is not None]
        return [size for tensors in [*layers, *tables] for size in tensors]

    @cached_property
    def _patterns(self) -> tuple[Pattern, ...]:
        return Pattern.of_layers(self.config.model.layer_patterns)

    def backend(self, pattern: Pattern) -> str:
        """Who computes a layer."""
        model = self.config.model
        if model.attention_backend != "auto":
            return model.attention_backend
        device = "cuda" if self.on_gpu else "cpu"
        return auto_backend(self.dtype, device, model.head_size, pattern, model.attention_dropout)[
            0
        ]

    def _of_rows_alone(self) -> list[float]:
        """Of a last layer that computes the head's rows from hidden states."""
        return [*self._turned(self._keys), *self._probabilities(1.0)]

    def _of_absorbed(self) -> list[float]:
        """Of global rows with projections of their own, computed from hidden states."""
        pairs = self._rows.global_pairs / self.documents.mean_length
        hidden = float(self._small * self.config.model.hidden_size)
        copied = [hidden] if self._small < FULL else []
        # the output with these rows in it is a second one
        return [*copied, *self._turned(self._keys), *self._probabilities(pairs), self._values]

    def _probabilities(self, pairs: float) -> list[float]:
        """In float32, and as the product with hidden states takes them; pairs a token."""
        numbers = self.config.model.num_heads * pairs
        return [FULL * numbers] + ([self._small * numbers] if self._small < FULL else [])

    @property
    def _rows(self) -> Rows:
        return Rows(self.config, self.documents)

    @property
    def _keys(self) -> int:
        """Values a token of keys."""
        return self.config.model.kv_heads * self.config.model.head_size

    def _turned(self, values: int) -> list[float]:
        """Bytes a token of what was rotated, a copy of so many values."""
        return [float(self._small * values)] if self.config.model.positions == "rotary" else []

    def _own(self) -> list[float]:
        """Of global tokens' own keys and values; of everything, where no token needs them."""
        if not self._are_separate:
            return []
        if self._rows.globals_absorbed:
            return self._of_absorbed()
        return [float(2 * self._small * self._keys), *self._turned(self._keys)]

    def _of_layer(self, pattern: Pattern, tokens: float) -> list[float]:
        backend = self.backend(pattern)
        if backend == "native":
            return [*self._projected(), *self._own(), self._values, self._sums]
        if backend == "flex":  # what it is given, laid out anew, and the output twice
            keys = [float(self._small * self._keys)] * 2
            return [self._values, *keys, *self._own(), self._values, self._values, self._sums]
        if backend == "reference":  # scores of all pairs, saved once and twice in backward
            scores = float(FULL * self.config.model.num_heads * tokens)
            return [*self._of_blocks(None), scores, scores, scores]
        if self.config.model.attention_dropout and not self.on_gpu:
            return self._with_dropout(self._cuts[pattern])
        cut = self._cuts[pattern]
        if cut is not None and cut.lists:
            return self._of_lists(cut)
        return self._of_blocks(cut) if cut is None or cut.parts == 1 else self._of_parts(cut)

    @property
    def _small(self) -> int:
        return self.dtype.itemsize

    @property
    def _width(self) -> int:
        """Values a token of queries or of the output."""
        return self.config.model.num_heads * self.config.model.head_size

    @property
    def _values(self) -> float:
        """Bytes a token of them."""
        return float(self._small * self._width)

    @property
    def _sums(self) -> float:
        """Log-sum-exps of the scores."""
        return float(FULL * self.config.model.num_heads)

    @property
    def _are_separate(self) -> bool:
        """Whether global tokens are projected once more."""
        return self.config.trains_global_projections and self.documents.mean_globals > 0

    @property
    def _have_globals(self) -> bool:
        return self.documents.mean_globals > 0 or self.config.model.pattern.global_edges > 0

    def _projected(self) -> list[float]:
        """Queries, keys and values as one product makes them, and copies turned elsewhere."""
        in_place = self.config.model.attention_backend in ("auto", "native")
        in_place &= native.computes_in("cuda" if self.on_gpu else "cpu", self.dtype)
        turned = [] if in_place else self._turned(self._width + self._keys)
        return [float(self._small * (self._width + 2 * self._keys)), *turned]

    def _repeated(self) -> list[float]:
        """Keys and values as `blocked` takes them, of as many heads as the queries."""
        model = self.config.model
        if model.kv_heads == model.num_heads:
            return self._projected()
        return [self._values, self._values]

    def _of_blocks(self, cut: Blocks | None) -> list[float]:
        """Of one layer of the backend `blocked`; without a cut, of its full attention."""
        model = self.config.model
        output = self._values
        if cut is None:
            inputs = self._repeated()
            if model.kv_heads < model.num_heads:  # queries: in what was turned, or in the product
                inputs.append(self._projected()[-1])
            return [*inputs, *self._own(), output, output, self._sums]  # by document, and of all
        gathered = [self._values * cut.keys_per_query] * 2
        queries = self._values
        if not self.documents.mean_globals:
            return [*gathered, queries, output, self._sums]
        # the output before global rows overwrite it
        return [*gathered, queries, output, output, self._sums, *self._of_global_rows()]

    def _of_global_rows(self) -> list[float]:
        """Ungathered keys and values, their own or the shared ones."""
        if not self._are_separate:
            return self._repeated()
        return [*self._repeated(), *self._own()] if self._rows.globals_absorbed else self._own()

    def _of_lists(self, cut: Blocks) -> list[float]:
        """Likewise where whole blocks are gathered, on a CPU in float32."""
        width = self._values if self.on_gpu else float(FULL * self._width)
        gathered = [cut.keys_per_query * width] * 2
        kept = self._of_global_rows() if self._have_globals else []
        return [*gathered, width, width, self._sums, self._values, *kept]

    def _of_parts(self, cut: Blocks) -> list[float]:
        """Of a softmax over several tables, operator by operator and in float32."""
        width = float(FULL * self._width)
        weights = FULL * self.config.model.num_heads * cut.pairs_per_query
        # queries of every part; keys and values; weights; both sides of the division at the end
        parts = [cut.parts * width, cut.keys_per_query * width, cut.keys_per_query * width, weights]
        tensors = [*self._repeated(), *parts, width, width / self.config.model.head_size]
        if self._have_globals:
            tensors += [*self._own(), self._values, self._sums]
        return [*tensors, self._values]

    def _with_dropout(self, cut: Blocks | None) -> list[float]:
        """Likewise on a CPU with dropout, where PyTorch computes step by step and in float32."""
        keys, pairs = 1.0, self.documents.mean_pairs(Pattern(None)) / self.documents.mean_length
        if cut is not None:
            keys, pairs = cut.keys_per_query, cut.pairs_per_query + self.documents.mean_globals
        width = float(FULL * self._width)
        # probabilities before dropout, its noise, and probabilities after it
        probabilities = [FULL * self.config.model.num_heads * pairs] * 3
        tensors = [*probabilities, keys * width, keys * width, width, self._values]
        if self._are_separate or (cut is not None and self.documents.mean_globals):
            tensors += [width, width]  # keys and values of global rows
        return tensors

    @cached_property
    def _cuts(self) -> dict[Pattern, Blocks | None]:
        """Of every pattern that `blocked` computes."""
        patterns = set(self._patterns[:-1] if self._rows.read_alone else self._patterns)
        return {p: self._blocks(p) for p in patterns if self.backend(p) == "blocked"}

    def _blocks(self, pattern: Pattern) -> Blocks | None:
        """How the backend `blocked` cuts these documents; None where it need not."""
        sample = self.documents.filling(PLANNED_TOKENS)
        plan = AttentionPlan(*sample.packed(len(sample)), pattern)
        if plan.is_full:
            return None
        if block_lists.serves(pattern):
            return _of_lists(plan, self.config.model.num_heads)
        if not pattern.is_plain:
            return _mean_of_heads(plan, self.config.model.num_heads)
        table = plan.block_table
        return Blocks(
            table.key_index.numel() / plan.num_tokens, table.mask.numel() / plan.num_tokens
        )


def _mean_of_heads(plan: AttentionPlan, num_heads: int) -> Blocks:
    """Of a pattern that has key tables, perhaps others for each head."""
    of_heads = list(plan.by_head(num_heads))
    tables = [own.key_tables for _, own in of_heads]
    masks, tokens = len(of_heads), plan.num_tokens
    return Blocks(
        sum(t.key_index.numel() for part in tables for t in part) / tokens / masks,
        sum(t.mask.numel() for part in tables for t in part) / tokens / masks,
        max(map(len, tables)),
        masks,
    )


def _of_lists(plan: AttentionPlan, num_heads: int) -> Blocks:
    """Of a pattern of blocks, all heads of which are read at once."""
    lists = plan.block_lists(num_heads)
    num_queries, num_chosen = lists.chosen.shape[1:]
    block = lists.tokens.shape[1]
    keys = num_queries * num_chosen * block / plan.num_tokens
    rows = block // lists.mask.shape[2]
    return Blocks(keys, keys * block, masks=len(lists.mask), lists=True, block=block, rows=rows)
