"""BigBird (Zaheer et al. 2020): BERT whose windows and global tokens are blocks, some drawn."""

from typing import Any

from longspan.pretrained.family import BERT_LAYER, Family, post_norm_architecture, require

MLPS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def architecture(config: Any) -> dict[str, Any]:
    require("big_bird", config, use_bias=True, rescale_embeddings=False,
            is_decoder=False, add_cross_attention=False)  # fmt: skip
    if config.hidden_act not in MLPS:
        require("big_bird", config, hidden_act="gelu_new")
    fields = post_norm_architecture(config) | {"mlp": MLPS[config.hidden_act]}
    if config.attention_type == "original_full":
        return fields
    # the number of blocks on each side, and at each end, is fixed in theirs
    pattern = {
        "block": config.block_size,
        "global_edges": 1,
        "random_blocks": config.num_random_blocks,
    }
    return fields | {"window": 1, "pattern": pattern}


FAMILY = Family(
    model_type="big_bird",
    prefix="bert.",
    architecture=architecture,
    weights=BERT_LAYER,
    heads={},  # theirs have other activations than ours
    ignored=("pooler.", "cls.", "classifier.", "qa_classifier.", "embeddings.position_ids"),
)
