"""The kernels beside attention: rotary positions in place, and dropout that keeps no mask.

Call them where `native.computes` says that they serve.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 2**16  # dropout tells probabilities apart to one in so many


def register() -> None:
    """Give the operators gradients, once they are loaded."""
    torch.library.register_fake("longspan::rotate_", lambda x, cos, sin, sign: None)
    torch.library.register_fake("longspan::drop", lambda x, seed, threshold: torch.empty_like(x))
    torch.library.register_autograd("longspan::drop", _drop_backward, setup_context=_keep_seed)


def drop(x: Tensor, p: float) -> Tensor:
    """Dropout of a share p of the numbers, of PyTorch's random numbers; p to one in 65,536."""
    seed = int(torch.randint(-(2**63), 2**63 - 1, ()))
    threshold = min(round(p * STEPS), STEPS - 1)
    return torch.ops.longspan.drop(x, seed, threshold)


def _keep_seed(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.seed, ctx.threshold = inputs


def _drop_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.longspan.drop(gradient, ctx.seed, ctx.threshold), None, None


def split_heads(
    projected_TAE: Tensor, sizes: list[int], table: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one fused projection as views of it, rotated in place.

    The projection must be nobody else's: a linear layer keeps its input for the backward pass, and
    not its output. Gradients that come back side by side, as the attention kernel makes them, are
    turned back in place and go on to the projection without a copy.

    Args:
        projected_TAE: (T, H + 2K, E).
        sizes: [H, K, K].
        table: cosines and sines (T, 1, E / 2) in float32, where queries and keys are rotated.

    Returns:
        (T, H, E), (T, K, E), (T, K, E).
    """
    cos, sin = table or (None, None)
    return _SplitHeads.apply(projected_TAE, sizes, cos, sin)


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, sizes: list[int], cos: Any, sin: Any) -> Any:
        ctx.sizes = sizes
        ctx.save_for_backward(cos, sin)
        heads = projected.detach()
        if cos is not None:
            torch.ops.longspan.rotate_(heads[:, : sizes[0] + sizes[1]], cos, sin, 1.0)
        return heads.split(sizes, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        together = joined(gradients)
        if cos is not None:
            turned = ctx.sizes[0] + ctx.sizes[1]
            torch.ops.longspan.rotate_(together[:, :turned], cos, sin, -1.0)
        return together, None, None, None


def joined(parts: tuple[Tensor, ...]) -> Tensor:
    """(T, *, E) tensors side by side: one view where they are parts of one, else a copy."""
    first = parts[0]
    width = sum(x.shape[1] for x in parts)
    size = first.shape[2]
    place = first.storage_offset()
    for x in parts:
        same = x.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or x.stride() != (width * size, size, 1) or x.storage_offset() != place:
            return torch.cat(parts, dim=1)
        place += x.shape[1] * size
    return first.as_strided((len(first), width, size), first.stride())
