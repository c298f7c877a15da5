"""Whether the attention backend that a model asks for by name can train it."""

import torch

from longspan.attention import Pattern, refusal
from longspan.config import ModelConfig


def training_refusal(model: ModelConfig, dtype: torch.dtype, device: str) -> str | None:
    """Why it cannot, and what would help; None if it can.

    Args:
        model: backend, pattern, heads and dropout.
        dtype: to compute in.
        device: type of it, as "cpu".
    """
    for pattern in Pattern.of_layers(model.layer_patterns):
        call = (dtype, device, model.head_size, pattern, model.attention_dropout)
        reason = refusal(model.attention_backend, *call, needs_gradient=True)
        if reason is not None:
            return reason
    return None
