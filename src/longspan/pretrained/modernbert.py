"""ModernBERT (Warner et al. 2024): alternating local and full layers, each with its rotary base."""

from typing import Any

from longspan.pretrained.family import Family, require


def architecture(config: Any) -> dict[str, Any]:
    require("modernbert", config, hidden_activation="gelu")
    full = [kind == "full_attention" for kind in config.layer_types]
    bases = {kind: config.rope_parameters[kind]["rope_theta"] for kind in set(config.layer_types)}
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        # their local_attention counts both sides
        "window": tuple(None if is_full else config.local_attention // 2 for is_full in full),
        "positions": "rotary",
        "rope_theta": tuple(float(bases[kind]) for kind in config.layer_types),
        "norm": "layernorm",
        "norm_position": "pre",
        "norm_eps": config.norm_eps,
        "norm_bias": config.norm_bias,
        "embedding_norm": True,
        "first_norm": False,
        "mlp": "geglu",
        "mlp_bias": config.mlp_bias,
        "attention_bias": config.attention_bias,
        "hidden_dropout": config.mlp_dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }


FAMILY = Family(
    model_type="modernbert",
    prefix="model.",
    architecture=architecture,
    weights={
        "token_embedding.weight": ("embeddings.tok_embeddings.weight",),
        "embedding_norm.*": ("embeddings.norm.*",),
        "layers.{i}.attention_norm.*": ("layers.{i}.attn_norm.*",),
        "layers.{i}.attention.qkv.*": ("layers.{i}.attn.Wqkv.*",),
        "layers.{i}.attention.out.*": ("layers.{i}.attn.Wo.*",),
        "layers.{i}.mlp_norm.*": ("layers.{i}.mlp_norm.*",),
        "layers.{i}.mlp.up.*": ("layers.{i}.mlp.Wi.*",),
        "layers.{i}.mlp.down.*": ("layers.{i}.mlp.Wo.*",),
        "final_norm.*": ("final_norm.*",),
    },
    heads={
        "classification": {
            "dense.*": ("head.dense.*",),
            "norm.*": ("head.norm.*",),
            "out.*": ("classifier.*",),
        },
        "qa": {
            "dense.*": ("head.dense.*",),
            "norm.*": ("head.norm.*",),
            "out.*": ("classifier.*",),
        },
        "mlm": {
            "dense.*": ("head.dense.*",),
            "norm.*": ("head.norm.*",),
            "bias": ("decoder.bias",),
        },
    },
    ignored=("head.", "decoder.", "classifier."),
    head={
        "classification": {"head_activation": "gelu", "head_norm": True, "head_bias": False},
        "qa": {"head_activation": "gelu", "head_norm": True, "head_bias": False},
        "mlm": {"head_bias": False},
    },
)
