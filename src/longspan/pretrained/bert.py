"""BERT (Devlin et al. 2019), and MiniLM and others that are BERTs by their config."""

from typing import Any

from longspan.pretrained.family import BERT_LAYER, Family, post_norm_architecture, require


def architecture(config: Any) -> dict[str, Any]:
    require("bert", config, hidden_act="gelu", position_embedding_type="absolute",
            is_decoder=False, add_cross_attention=False)  # fmt: skip
    return post_norm_architecture(config)


FAMILY = Family(
    model_type="bert",
    prefix="bert.",
    architecture=architecture,
    weights=BERT_LAYER,
    heads={
        "classification": {"dense.*": ("bert.pooler.dense.*",), "out.*": ("classifier.*",)},
        "qa": {"out.*": ("qa_outputs.*",)},
        "mlm": {
            "dense.*": ("cls.predictions.transform.dense.*",),
            "norm.*": ("cls.predictions.transform.LayerNorm.*",),
            "bias": ("cls.predictions.bias",),
        },
    },
    ignored=("pooler.", "cls.", "classifier.", "qa_outputs.", "embeddings.position_ids"),
)
