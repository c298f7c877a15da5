"""The fused CPU kernel: scores never leave the processor's cache, forward or backward.

What it computes and how it divides the work is said in `csrc/`; here it is made known to PyTorch.
"""

import functools
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from longspan.attention import native_build, pointwise
from longspan.attention.kernel_rows import KernelRows
from longspan.attention.pattern import Pattern
from longspan.attention.plan import AttentionPlan
from longspan.attention.single_rows import fill_globals

GlobalProjections = tuple[Tensor, Tensor, Tensor]


def attention(
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    global_qkv: GlobalProjections | None,
    plan: AttentionPlan,
    scale: float,
) -> Tensor:
    """All rows of the batch, local and global. Returns (T, H, E)."""
    _load()
    dtype = dtype_of(q_THE)
    tensors = [x.to(dtype) for x in (q_THE, k_TKE, v_TKE, *(global_qkv or ()))]
    if not plan.pattern.is_plain:
        return _of_pattern(tensors, plan, scale)
    return _kernel(tensors, plan.cu_seqlens, plan.global_index, plan.pattern, scale)


def _kernel(
    tensors: list[Tensor], cu_seqlens: Tensor, global_index: Tensor, pattern: Pattern, scale: float
) -> Tensor:
    """Of windows and global tokens."""
    projections = tensors[3:] or (None, None, None)
    bounds = (cu_seqlens, global_index, pattern.window, pattern.causal)
    return torch.ops.longspan.attention(*tensors[:3], *projections, *bounds, scale)[0]


def _of_pattern(tensors: list[Tensor], plan: AttentionPlan, scale: float) -> Tensor:
    """Of causal windows, sinks and dilation: the kernel over rows laid out for it, then the rest."""
    q_THE, k_TKE, v_TKE = tensors[:3]
    rows = plan.kernel_rows
    laid_out = [rows.lay_out(x) for x in (q_THE, k_TKE, v_TKE)]
    out_THE = rows.back(_kernel(laid_out, rows.cu_seqlens, rows.shared_index, plan.pattern, scale))
    out_THE = rows.fill_sinks(out_THE, q_THE, k_TKE, v_TKE, scale)
    return fill_globals(out_THE, tensors, plan.layout, scale)


def refusal(dtype: torch.dtype, device: str, pattern: Pattern, dropout_p: float) -> str | None:
    """Why this backend cannot serve such a call and what would help; None if it can.

    Args:
        dtype: to compute in (`dtype_of`).
        device: type of it, as "cpu".
        pattern: of the plan.
        dropout_p: on the probabilities.
    """
    if device != "cpu":
        return f"it runs on the CPU, not on {device}"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"it computes in float32 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    if dropout_p > 0:
        return f"it has no dropout (dropout_p={dropout_p:g}); set it to 0"
    if not KernelRows.serve(pattern):
        return (
            f"it knows windows, causal ones too, sinks, dilation and global tokens, not {pattern}"
        )
    return unavailable()


def computes(x: Tensor) -> bool:
    """Whether the kernels beside attention can serve such numbers."""
    return computes_in(x.device.type, x.dtype)


def computes_in(device: str, dtype: torch.dtype) -> bool:
    """Likewise, of a device's type and a dtype."""
    return device == "cpu" and dtype in (torch.float32, torch.bfloat16) and unavailable() is None


def dtype_of(x: Tensor) -> torch.dtype:
    """What to compute in: under autocast what autocast says, as PyTorch's own attention does."""
    kind = x.device.type
    has_autocast = torch.amp.is_autocast_available(kind)  # `meta` has none
    if has_autocast and torch.is_autocast_enabled(kind) and x.is_floating_point():
        return torch.get_autocast_dtype(kind)
    return x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Where products of float32 are float32: autocast would round scores before the softmax."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


@functools.cache
def unavailable() -> str | None:
    """Why there is no kernel on this machine; None if there is, and it is loaded."""
    try:
        _load()
    except (native_build.CannotBuildError, OSError) as error:
        return f"the kernel cannot be had: {error}"
    return None


@functools.cache
def _load() -> None:
    """Load the operators into this process and give them gradients."""
    torch.ops.load_library(native_build.library())
    torch.library.register_fake("longspan::attention", _fake)
    torch.library.register_fake("longspan::attention_backward", _fake_backward)
    torch.library.register_autograd("longspan::attention", _backward, setup_context=_save)
    pointwise.register()


def _save(ctx, inputs, output) -> None:
    *tensors, cu_seqlens, global_index, ctx.window, ctx.causal, ctx.scale = inputs
    ctx.set_materialize_grads(False)  # of the log-sum-exps, which nobody uses
    ctx.save_for_backward(*tensors, *output, cu_seqlens, global_index)


def _backward(ctx, out_gradient, *_):
    gradients = [None] * 6
    if out_gradient is not None:
        saved = ctx.saved_tensors
        together, *of_globals = torch.ops.longspan.attention_backward(
            out_gradient, *saved, ctx.window, ctx.causal, ctx.scale
        )
        num_heads, num_kv_heads = (x.shape[1] for x in saved[:2])
        found = [*together.split([num_heads, num_kv_heads, num_kv_heads], dim=1), *of_globals]
        gradients = [x if needed else None for x, needed in zip(found, ctx.needs_input_grad)]
    return *gradients, None, None, None, None, None


def _fake(q, k, v, global_q, global_k, global_v, cu_seqlens, global_index, window, causal, scale):
    num_tokens, num_heads, _ = q.shape
    lse = q.new_empty(num_heads, num_tokens, dtype=torch.float32)
    global_lse = q.new_empty(num_heads, len(global_index), dtype=torch.float32)
    return q.new_empty(q.shape), lse, global_lse


def _fake_backward(out_gradient, q, k, v, global_q, global_k, global_v, *_):
    def like(x):
        return q.new_empty(0) if x is None else x.new_empty(x.shape)

    together = q.new_empty(q.shape[0], q.shape[1] + 2 * k.shape[1], q.shape[2])
    return together, like(global_q), like(global_k), like(global_v)
