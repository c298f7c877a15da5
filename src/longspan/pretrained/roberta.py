"""RoBERTa (Liu et al. 2019) and XLM-R (Conneau et al. 2020): BERT with positions from 2 on."""

from dataclasses import replace
from typing import Any

from longspan.pretrained.family import BERT_LAYER, Family, post_norm_architecture, require


def architecture(config: Any) -> dict[str, Any]:
    require("roberta", config, hidden_act="gelu", position_embedding_type="absolute",
            is_decoder=False, add_cross_attention=False)  # fmt: skip
    return post_norm_architecture(config, config.pad_token_id + 1)


FAMILY = Family(
    model_type="roberta",
    prefix="roberta.",
    architecture=architecture,
    weights=BERT_LAYER,
    heads={
        "classification": {"dense.*": ("classifier.dense.*",), "out.*": ("classifier.out_proj.*",)},
        "qa": {"out.*": ("qa_outputs.*",)},
        "mlm": {
            "dense.*": ("lm_head.dense.*",),
            "norm.*": ("lm_head.layer_norm.*",),
            "bias": ("lm_head.bias",),
        },
    },
    ignored=("pooler.", "lm_head.", "classifier.", "qa_outputs.", "embeddings.position_ids"),
    positions_after_padding=True,
)
XLM_ROBERTA = replace(FAMILY, model_type="xlm-roberta")
