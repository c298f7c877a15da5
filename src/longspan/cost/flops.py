"""Floating point operations: two for each multiplication of a matrix product and its addition.

Only matrix products count; norms, activations and softmax are below a percent of them in
operations (their time is memory's). Nothing that a backend computes and masks away counts.
"""

from collections import Counter
from dataclasses import dataclass

from longspan.attention import Pattern
from longspan.config import (
    ChoiceConfig,
    ClassificationConfig,
    Config,
    MaskedLMConfig,
    ModelConfig,
    MultiHopConfig,
)
from longspan.cost.documents import Documents
from longspan.cost.rows import Rows

# forward once, backward twice: one product for the input's gradient, one for the weight's
# (or, in attention, one for each of the two factors)
FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Flops:
    """Operations by the part of the model that they belong to.

    Attributes:
        projections: to queries, keys and values, and out of attention.
        mlp: both projections of every MLP, the gate's included.
        attention: scores, and the values' weighted sum, of the pairs that the pattern holds.
        head: of the task.
    """

    projections: float
    mlp: float
    attention: float
    head: float

    @property
    def linear(self) -> float:
        """Of the blocks' linear layers."""
        return self.projections + self.mlp

    @property
    def total(self) -> float:
        return self.linear + self.attention + self.head


def projection_flops(model: ModelConfig, tokens: float, rows: float | None = None) -> float:
    """Of one layer's projections to queries, keys and values, and out of `rows`; None = of all."""
    heads = model.num_heads + 2 * model.kv_heads
    into = 2 * tokens * model.hidden_size * heads * model.head_size
    return into + _width_flops(model, tokens if rows is None else rows)


def _width_flops(model: ModelConfig, rows: float) -> float:
    """Of one product between hidden states and queries, or as wide as those."""
    return 2 * rows * model.num_heads * model.head_size * model.hidden_size


def absorbed_flops(
    model: ModelConfig, tokens: float, rows: float, pairs: float
) -> tuple[float, float]:
    """Projections, and attention, of rows that are computed from hidden states.

    Args:
        model: its sizes; where positions are rotary, keys of all tokens are projected.
        tokens: of the document.
        rows: of those that see all of it.
        pairs: of such a row and a token.
    """
    is_rotary = model.positions == "rotary"
    keys = 2 * tokens * model.hidden_size * model.kv_heads * model.head_size
    projections = 2 * _width_flops(model, rows) + (keys if is_rotary else _width_flops(model, rows))
    scores = model.head_size if is_rotary else model.hidden_size
    return projections, 2 * model.num_heads * pairs * (scores + model.hidden_size)


def mlp_flops(model: ModelConfig, tokens: float) -> float:
    """Of one layer's MLP: two products, three where it is gated."""
    products = 3 if model.mlp_is_gated else 2
    return 2 * products * tokens * model.hidden_size * model.mlp_size


def attention_flops(model: ModelConfig, pairs: float) -> float:
    """Of one layer's scores and weighted sum, over (query, key) pairs (`AttentionPlan.num_pairs`)."""
    return 2 * 2 * model.num_heads * model.head_size * pairs


def head_flops(config: Config, tokens: float, documents: float, num_labels: int) -> float:
    """Of the task's head."""
    size, task = config.model.hidden_size, config.task
    if isinstance(task, ClassificationConfig):
        return 2 * documents * size * (size + num_labels)
    if isinstance(task, MaskedLMConfig):
        assert config.model.vocab_size is not None
        return 2 * guessed_tokens(task, tokens) * size * (size + config.model.vocab_size)
    if isinstance(task, MultiHopConfig):
        return 2 * tokens * size * (size + 7)
    if isinstance(task, ChoiceConfig):
        return 2 * tokens * size  # at most: candidates' tokens alone are scored
    return 2 * tokens * size * (2 + (size if task.head_activation else 0))


def guessed_tokens(task: MaskedLMConfig, tokens: float) -> float:
    """How many logits over the vocabulary a batch has."""
    return task.masked_share * tokens


def document_flops(config: Config, documents: Documents, num_labels: int = 2) -> Flops:
    """One forward pass over the mean document.

    Args:
        config: with `model.vocab_size`.
        documents: whose mean is taken.
        num_labels: of a classification.
    """
    model, tokens = config.model, documents.mean_length
    patterns = Pattern.of_layers(model.layer_patterns)
    pairs = {pattern: documents.mean_pairs(pattern) for pattern in set(patterns)}
    layers = [
        layer_flops(config, documents, pairs[pattern], is_last=layer == model.num_layers - 1)
        for layer, pattern in enumerate(patterns)
    ]
    return Flops(
        projections=sum(layer.projections for layer in layers),
        mlp=sum(layer.mlp for layer in layers),
        attention=sum(layer.attention for layer in layers),
        head=head_flops(config, tokens, 1, num_labels),
    )


def pairs_per_token(config: Config, documents: Documents) -> float:
    """(query, key) pairs of a head, the mean of all layers and of these documents' tokens."""
    patterns = Pattern.of_layers(config.model.layer_patterns)
    counts = Counter(patterns)
    pairs = sum(count * documents.mean_pairs(pattern) for pattern, count in counts.items())
    return pairs / len(patterns) / documents.mean_length


def layer_flops(config: Config, documents: Documents, pairs: float, is_last: bool) -> Flops:
    """One layer's forward pass over the mean document.

    Args:
        config: of the run.
        documents: whose mean is taken.
        pairs: that the layer's pattern holds.
        is_last: it computes what the head reads.
    """
    model, tokens, rows = config.model, documents.mean_length, Rows(config, documents)
    if is_last and rows.read_alone:
        projections, attention = absorbed_flops(model, tokens, 1, tokens)
        out = _width_flops(model, 1)
        return Flops(projections + out, mlp_flops(model, 1), attention, head=0)
    kept = rows.read if is_last else tokens
    projections, attention = projection_flops(model, tokens, kept), attention_flops(model, pairs)
    if config.trains_global_projections and documents.mean_globals > 0:
        if rows.globals_absorbed:
            own, of_globals = absorbed_flops(
                model, tokens, documents.mean_globals, rows.global_pairs
            )
            attention += of_globals - attention_flops(model, rows.global_pairs)
        else:
            keys = 2 * tokens * model.hidden_size * model.kv_heads * model.head_size
            own = 2 * keys + _width_flops(model, documents.mean_globals)
        projections += own
    return Flops(projections, mlp_flops(model, kept), attention, head=0)


def training_flops(config: Config, forward: Flops) -> Flops:
    """Forward and backward, from the forward pass alone.

    `model.gradient_checkpointing` runs the blocks forward once more. Frozen layers and adapters
    count as if everything trained.
    """
    blocks = FORWARD_AND_BACKWARD + config.model.gradient_checkpointing
    return Flops(
        projections=blocks * forward.projections,
        mlp=blocks * forward.mlp,
        attention=blocks * forward.attention,
        head=FORWARD_AND_BACKWARD * forward.head,
    )
