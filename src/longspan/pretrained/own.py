"""Our own model folders as pretrained encoders: what one run learned, another starts from."""

from dataclasses import asdict
from typing import Any

from longspan.config import ModelConfig
from longspan.pretrained.family import Family
from longspan.typed import from_dict

# what belongs to a run, not to the architecture that it trained
OF_THE_RUN = ("pretrained", "keep_layers", "gradient_checkpointing", "attention_backend")


def architecture(config: Any) -> dict[str, Any]:
    """The fields of the run's `ModelConfig`, with windows and rotary bases layer by layer."""
    model = from_dict(ModelConfig, config.config["model"])
    fields = {name: x for name, x in asdict(model).items() if name not in OF_THE_RUN}
    if model.positions == "rotary":
        fields |= {"rope_theta": model.rope_thetas, "rope_theta_full": None}
    fields["pattern"] |= {"window_growth": 1.0}  # it is in the windows
    is_dense = all(window is None for window in model.windows)
    return fields | {"window": None if is_dense else model.windows, "full_attention_every": 0}


_LAYER = ("attention_norm", "attention.qkv", "attention.global_qkv", "attention.out",
          "mlp_norm", "mlp.up", "mlp.down")  # fmt: skip
_NAMES = [
    "token_embedding.weight",
    "token_type_embedding.weight",
    "position_embedding.weight",
    "embedding_norm.*",
    *(f"layers.{{i}}.{name}.*" for name in _LAYER),
    "final_norm.*",
]

FAMILY = Family(
    model_type="longspan",
    prefix="encoder.",
    architecture=architecture,
    weights={name: (name,) for name in _NAMES},
    heads={
        "classification": {name: (f"head.{name}",) for name in ("dense.*", "norm.*", "out.*")},
        "qa": {name: (f"head.{name}",) for name in ("dense.*", "norm.*", "out.*", "answerable.*")},
        "mlm": {name: (f"head.{name}",) for name in ("dense.*", "norm.*", "bias")},
    },
    ignored=("head.",),
)
