"""Mistral (Jiang et al. 2023) and Ministral, read as encoders: causal windows, keys shared by heads.

A decoder without its language-modelling head is an encoder whose tokens see what stands before
them. Where its layers alternate, some see all of that.
"""

from dataclasses import replace
from typing import Any

from longspan.errors import UserError
from longspan.pretrained.family import Family, require


def architecture(config: Any) -> dict[str, Any]:
    require(config.model_type, config, hidden_act="silu", attention_bias=False)
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise UserError(
            f"model.pretrained: {config.model_type} with rope_type={rope['rope_type']!r} is not "
            "supported, only 'default'"
        )
    # theirs counts the token itself
    window = None if config.sliding_window is None else config.sliding_window - 1
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "window": (window,) * config.num_hidden_layers,
        "pattern": {"causal": True},
        "positions": "rotary",
        "rope_theta": float(rope["rope_theta"]),
        "norm": "rmsnorm",
        "norm_position": "pre",
        "norm_eps": config.rms_norm_eps,
        "embedding_norm": False,
        "mlp": "swiglu",
        "mlp_bias": False,
        "attention_bias": False,
        "hidden_dropout": 0.0,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }


def alternating(config: Any) -> dict[str, Any]:
    """Ministral's, some of whose layers see all that stands before."""
    fields = architecture(config)
    kinds = zip(fields["window"], config.layer_types, strict=True)
    return fields | {"window": tuple(w if t == "sliding_attention" else None for w, t in kinds)}


FAMILY = Family(
    model_type="mistral",
    prefix="model.",
    architecture=architecture,
    weights={
        "token_embedding.weight": ("embed_tokens.weight",),
        "layers.{i}.attention_norm.weight": ("layers.{i}.input_layernorm.weight",),
        "layers.{i}.attention.qkv.weight": tuple(
            f"layers.{{i}}.self_attn.{part}_proj.weight" for part in ("q", "k", "v")
        ),
        "layers.{i}.attention.out.weight": ("layers.{i}.self_attn.o_proj.weight",),
        "layers.{i}.mlp_norm.weight": ("layers.{i}.post_attention_layernorm.weight",),
        # what passes the activation comes first in ours
        "layers.{i}.mlp.up.weight": (
            "layers.{i}.mlp.gate_proj.weight",
            "layers.{i}.mlp.up_proj.weight",
        ),
        "layers.{i}.mlp.down.weight": ("layers.{i}.mlp.down_proj.weight",),
        "final_norm.weight": ("norm.weight",),
    },
    heads={},  # theirs read the last token of a document
    ignored=("lm_head.", "score.", "qa_outputs."),
)
MINISTRAL = replace(FAMILY, model_type="ministral", architecture=alternating)
