"""What a family of published encoders is to us: a config and a weight map, as data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

from longspan.config import ModelConfig
from longspan.errors import UserError

# Our parameter name to theirs; several of theirs are laid one below the other in ours. `{i}` is
# the layer, and `.*` stands for both `.weight` and `.bias`.
WeightMap = Mapping[str, tuple[str, ...]]
SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        model_type: as in the folder's `config.json`.
        prefix: that a model with a task head puts before the encoder's weights.
        architecture: their config to the fields of `ModelConfig` that it decides.
        weights: our encoder parameters to theirs.
        heads: task name to our head's parameters to theirs, without the prefix.
        ignored: beginnings of their names that no encoder needs (poolers, heads, buffers).
        positions_after_padding: whether position 0 is the row behind the padding token's index,
            as in RoBERTa's table.
        head: task name to the fields of its config that their head needs.
    """

    model_type: str
    prefix: str
    architecture: Callable[[Any], dict[str, Any]]
    weights: WeightMap
    heads: Mapping[str, WeightMap]
    ignored: tuple[str, ...]
    positions_after_padding: bool = False
    head: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def unused_positions(self, config: Any) -> int:
        """Rows of their position table before position 0."""
        return config.pad_token_id + 1 if self.positions_after_padding else 0


def expand(weights: WeightMap, layers: Sequence[int]) -> dict[str, tuple[str, ...]]:
    """The map for one model: layers numbered, `.*` spelled out as `.weight` and `.bias`.

    Args:
        weights: the family's map.
        layers: for each of our layers, the number of theirs that it comes from.
    """
    expanded: dict[str, tuple[str, ...]] = {}
    for ours, theirs in weights.items():
        places = enumerate(layers) if "{i}" in ours else [(0, 0)]
        for (place, layer), suffix in product(places, SUFFIXES if ours.endswith(".*") else ("",)):
            parts = tuple(_fill(name, layer, suffix) for name in theirs)
            expanded[_fill(ours, place, suffix)] = parts
    return expanded


def _fill(template: str, layer: int, suffix: str) -> str:
    return template.replace("{i}", str(layer)).removesuffix(".*") + suffix


def gather_weights(
    expanded: Mapping[str, tuple[str, ...]], theirs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors from theirs, and the names of theirs that are missing."""
    missing = [name for parts in expanded.values() for name in parts if name not in theirs]
    found = {
        ours: torch.cat([theirs[name] for name in parts])
        for ours, parts in expanded.items()
        if all(name in theirs for name in parts)
    }
    return found, missing


def scatter_weights(
    expanded: Mapping[str, tuple[str, ...]], ours: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, Tensor]:
    """Their tensors from ours: the inverse of `gather_weights`."""
    query, key_value = (n * config.head_size for n in (config.num_heads, config.kv_heads))
    theirs: dict[str, Tensor] = {}
    for name, parts in expanded.items():
        sizes = [query, key_value, key_value] if len(parts) == 3 else [len(ours[name])]
        pieces = ours[name].split(sizes)
        theirs |= {part: piece.clone() for part, piece in zip(parts, pieces, strict=True)}
    return theirs


def require(family: str, config: Any, **expected: Any) -> None:
    """Refuse a variant of the family that our encoder does not have.

    Raises:
        UserError: naming the field of their config, its value and what is supported.
    """
    for name, value in expected.items():
        given = getattr(config, name, value)
        if given != value:
            raise UserError(
                f"model.pretrained: {family} with {name}={given!r} is not supported, only {value!r}"
            )


# Parameters of ours that all families of BERT's shape name alike but for the beginning.
BERT_LAYER: WeightMap = {
    "token_embedding.weight": ("embeddings.word_embeddings.weight",),
    "token_type_embedding.weight": ("embeddings.token_type_embeddings.weight",),
    "position_embedding.weight": ("embeddings.position_embeddings.weight",),
    "embedding_norm.*": ("embeddings.LayerNorm.*",),
    "layers.{i}.attention.qkv.*": tuple(
        f"encoder.layer.{{i}}.attention.self.{part}.*" for part in ("query", "key", "value")
    ),
    "layers.{i}.attention.out.*": ("encoder.layer.{i}.attention.output.dense.*",),
    "layers.{i}.attention_norm.*": ("encoder.layer.{i}.attention.output.LayerNorm.*",),
    "layers.{i}.mlp.up.*": ("encoder.layer.{i}.intermediate.dense.*",),
    "layers.{i}.mlp.down.*": ("encoder.layer.{i}.output.dense.*",),
    "layers.{i}.mlp_norm.*": ("encoder.layer.{i}.output.LayerNorm.*",),
}


def post_norm_architecture(config: Any, unused_positions: int = 0) -> dict[str, Any]:
    """The fields of BERT (Devlin et al. 2019) and of the families that keep its shape."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "window": None,
        "positions": "learned",
        "max_positions": config.max_position_embeddings - unused_positions,
        "type_vocab_size": config.type_vocab_size,
        "norm": "layernorm",
        "norm_position": "post",
        "norm_eps": config.layer_norm_eps,
        "embedding_norm": True,
        "mlp": "gelu",
        "hidden_dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "initializer_range": config.initializer_range,
    }
