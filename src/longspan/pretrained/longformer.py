"""Longformer (Beltagy et al. 2020): RoBERTa with windows and separate global projections."""

from typing import Any

from longspan.errors import UserError
from longspan.pretrained.family import BERT_LAYER, Family, post_norm_architecture, require
from longspan.pretrained.roberta import FAMILY as ROBERTA


def architecture(config: Any) -> dict[str, Any]:
    # the last two are fields of the original repository, which `transformers` passes over
    require("longformer", config, hidden_act="gelu", autoregressive=False,
            attention_dilation=[1] * config.num_hidden_layers)  # fmt: skip
    total = config.attention_window  # both sides together, for each layer or for all
    windows = total if isinstance(total, list) else [total] * config.num_hidden_layers
    if any(window % 2 for window in windows):
        raise UserError(f"model.pretrained: longformer with attention_window={total} is odd")
    return post_norm_architecture(config, config.pad_token_id + 1) | {
        "window": tuple(window // 2 for window in windows),
        "global_projections": "separate",
    }


FAMILY = Family(
    model_type="longformer",
    prefix="longformer.",
    architecture=architecture,
    weights={
        **BERT_LAYER,
        "layers.{i}.attention.global_qkv.*": tuple(
            f"encoder.layer.{{i}}.attention.self.{part}_global.*"
            for part in ("query", "key", "value")
        ),
    },
    heads=ROBERTA.heads,
    ignored=ROBERTA.ignored,
    positions_after_padding=True,
)
