"""Floating point operations: two for each multiplication of a matrix product and its addition.

Only matrix products count; norms, activations and softmax are below a percent of them in
operations (their time is memory's). Nothing that a backend computes and masks away counts.
"""

from dataclasses import dataclass

from longspan.config import (
    ChoiceConfig,
    ClassificationConfig,
    Config,
    MaskedLMConfig,
    ModelConfig,
    MultiHopConfig,
)
from longspan.cost.documents import Documents

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


def projection_flops(model: ModelConfig, tokens: float, separate_globals: bool = False) -> float:
    """Of one layer's four projections; `separate_globals` adds those of global tokens' own."""
    heads = model.num_heads + 2 * model.kv_heads
    into = 2 * tokens * model.hidden_size * heads * model.head_size
    out = 2 * tokens * model.num_heads * model.head_size * model.hidden_size
    return into * (2 if separate_globals else 1) + out


def mlp_flops(model: ModelConfig, tokens: float) -> float:
    """Of one layer's MLP: two products, three where it is gated."""
    products = 2 if model.mlp == "gelu" else 3
    return 2 * products * tokens * model.hidden_size * model.mlp_size


def attention_flops(model: ModelConfig, pairs: float) -> float:
    """Of one layer's scores and weighted sum, over (query, key) pairs (`Pattern.num_pairs`)."""
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
    separate = config.trains_global_projections and documents.mean_globals > 0
    pairs = {window: documents.mean_pairs(window) for window in set(model.windows)}
    return Flops(
        projections=model.num_layers * projection_flops(model, tokens, separate),
        mlp=model.num_layers * mlp_flops(model, tokens),
        attention=sum(attention_flops(model, pairs[window]) for window in model.windows),
        head=head_flops(config, tokens, 1, num_labels),
    )


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
