"""Which tokens influence which, asked of a network: where the gradient at the input is not zero."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from longspan.batch import Feature, pack
from longspan.config import ModelConfig
from longspan.model.encoder import Encoder

SIZE = 8  # of the hidden states: who sees whom does not depend on it


def influencing_by_gradient(
    model: ModelConfig, length: int, positions: np.ndarray, token: int
) -> np.ndarray:
    """The tokens that influence one token's output, at the input of every layer.

    The encoder has the schedule, the norms and the MLP of `model`, random weights and few
    dimensions. It runs in float64, where the product of many small attention weights along the
    only path through all layers is not yet zero.

    Args:
        model: windows, layers, global projections.
        length: N, of the document.
        positions: its global tokens.
        token: whose output is looked at.

    Returns:
        (layers + 1, N) bool: row l for the input of layer l; the last row is the output, where
        the token stands alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(small(model)).double().eval()
        direction = torch.randn(SIZE, dtype=torch.float64)
    inputs: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        arguments[0].retain_grad()
        inputs.append(arguments[0])

    for layer in encoder.layers:
        layer.register_forward_pre_hook(keep)
    ids = np.arange(length, dtype=np.int32) % SIZE
    document = Feature("document", ids, np.asarray(positions, np.int64))
    out = encoder(pack([document]))  # (N, C)
    (out[token] @ direction).backward()
    rows = [(x.grad != 0).any(dim=1) for x in inputs if x.grad is not None]
    rows.append(torch.arange(length) == token)
    return torch.stack(rows).numpy()


def small(model: ModelConfig) -> ModelConfig:
    """The same schedule in a few dimensions, with weights that let much through."""
    return replace(
        model,
        pretrained=None,
        vocab_size=SIZE,
        hidden_size=SIZE,
        num_heads=1,
        num_kv_heads=None,
        head_dim=None,
        intermediate_size=SIZE,
        window=model.windows,
        full_attention_every=0,
        pattern=replace(model.pattern, window_growth=1.0),
        positions="none",
        rope_theta=10_000.0,
        rope_theta_full=None,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        initializer_range=SIZE**-0.5,
        gradient_checkpointing=False,
        attention_backend="blocked",  # plain PyTorch: it takes float64
    )
