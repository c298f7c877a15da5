"""Where a token stands in its own document, and rotary embeddings of that."""

import torch
from torch import Tensor

from longspan.attention.pattern import document_bounds

RotaryTable = tuple[Tensor, Tensor]


def position_ids(cu_seqlens: Tensor) -> Tensor:
    """(D+1,) document bounds to (T,) int64 positions that restart at 0 in every document."""
    start, _ = document_bounds(cu_seqlens)
    return torch.arange(len(start), device=start.device) - start


def rotary_table(position: Tensor, head_size: int, theta: float) -> RotaryTable:
    """Cosine and sine of each token's angles (RoFormer, Su et al. 2021, section 3.2.2).

    Args:
        position: (T,) positions within the document.
        head_size: E, even.
        theta: base; coordinate pair i turns by position * theta^(-2i / E).

    Returns:
        cos, sin: (T, 1, E / 2) float32 each.
    """
    exponent = torch.arange(0, head_size, 2, device=position.device) / head_size  # (E/2,)
    angle = (position[:, None] * theta**-exponent)[:, None, :]  # (T, 1, E/2)
    return angle.cos(), angle.sin()


def rotate(x_THE: Tensor, table: RotaryTable) -> Tensor:
    """Turn coordinate i with coordinate i + E/2, as GPT-NeoX and Hugging Face lay them out."""
    cos, sin = table
    first, second = x_THE.float().chunk(2, dim=-1)  # (T, H, E/2)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_THE.dtype)
