"""DistilBERT (Sanh et al. 2019): BERT without token types, under names of its own."""

from typing import Any

from longspan.pretrained.family import Family, require


def architecture(config: Any) -> dict[str, Any]:
    require("distilbert", config, activation="gelu")
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_layers": config.n_layers,
        "num_heads": config.n_heads,
        "intermediate_size": config.hidden_dim,
        "window": None,
        "positions": "learned",
        "max_positions": config.max_position_embeddings,
        "type_vocab_size": 0,
        "norm": "layernorm",
        "norm_position": "post",
        "norm_eps": 1e-12,  # a constant of their code, not of their config
        "embedding_norm": True,
        "mlp": "gelu",
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
    }


FAMILY = Family(
    model_type="distilbert",
    prefix="distilbert.",
    architecture=architecture,
    weights={
        "token_embedding.weight": ("embeddings.word_embeddings.weight",),
        "position_embedding.weight": ("embeddings.position_embeddings.weight",),
        "embedding_norm.*": ("embeddings.LayerNorm.*",),
        "layers.{i}.attention.qkv.*": tuple(
            f"transformer.layer.{{i}}.attention.{part}_lin.*" for part in "qkv"
        ),
        "layers.{i}.attention.out.*": ("transformer.layer.{i}.attention.out_lin.*",),
        "layers.{i}.attention_norm.*": ("transformer.layer.{i}.sa_layer_norm.*",),
        "layers.{i}.mlp.up.*": ("transformer.layer.{i}.ffn.lin1.*",),
        "layers.{i}.mlp.down.*": ("transformer.layer.{i}.ffn.lin2.*",),
        "layers.{i}.mlp_norm.*": ("transformer.layer.{i}.output_layer_norm.*",),
    },
    heads={
        "classification": {"dense.*": ("pre_classifier.*",), "out.*": ("classifier.*",)},
        "qa": {"out.*": ("qa_outputs.*",)},
        "mlm": {
            "dense.*": ("vocab_transform.*",),
            "norm.*": ("vocab_layer_norm.*",),
            "bias": ("vocab_projector.bias",),
        },
    },
    ignored=("vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
    head={"classification": {"head_activation": "relu"}},
)
