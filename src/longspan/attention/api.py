"""`attend`: one function, one meaning, many backends."""

import logging
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from longspan.attention import block_lists, blocked, flex, native, reference
from longspan.attention.pattern import Pattern
from longspan.attention.plan import AttentionPlan

Backend = Literal["auto", "reference", "blocked", "native", "flex"]
GlobalProjections = tuple[Tensor, Tensor, Tensor]

# compute local rows and global rows apart, of as many key heads as query heads
_IN_TWO_PARTS: dict[str, ModuleType] = {"reference": reference, "blocked": blocked}
_BACKENDS = (*_IN_TWO_PARTS, "native", "flex")

log = logging.getLogger(__name__)
_announced: set[str] = set()


def attend(
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    plan: AttentionPlan,
    *,
    global_qkv: GlobalProjections | None = None,
    backend: Backend = "auto",
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Hybrid attention over a packed batch.

    Local rows take one softmax over the keys in their window and the global keys of their
    document, each once. Global rows take one softmax over all keys of their document; with
    `global_qkv` they use those projections and overwrite the local result, as Longformer does
    (Beltagy et al. 2020, section 3.1).

    Args:
        q_THE: (T, H, E) queries of the packed batch.
        k_TKE, v_TKE: (T, K, E) keys and values; K divides H (grouped-query attention).
        plan: documents, global tokens and pattern of the batch.
        global_qkv: q (G, H, E) for the tokens of `plan.global_index`, k and v (T, K, E).
        backend: who computes it; "auto" chooses and says once which and why.
        dropout_p: dropout on the probabilities; 0 outside training.
        scale: factor on the scores; None = 1 / sqrt(E).

    Returns:
        (T, H, E), in the dtype of `q_THE`.

    Raises:
        ValueError: shapes that do not fit, or a backend that does not exist or cannot serve.
    """
    _check_shapes(q_THE, k_TKE, v_TKE, plan, global_qkv)
    tensors = (q_THE, k_TKE, v_TKE, *(global_qkv or ()))
    chosen = _choose(backend, tensors, plan, dropout_p)
    factor = q_THE.shape[-1] ** -0.5 if scale is None else scale
    at_once = chosen == "blocked" and block_lists.serves(plan.pattern)
    if plan.pattern.differs_by_head and not at_once:
        return _head_by_head(chosen, tensors, plan, dropout_p, factor)
    return _serve(chosen, q_THE, k_TKE, v_TKE, plan, global_qkv, dropout_p, factor)


def _head_by_head(
    chosen: Backend,
    tensors: tuple[Tensor, ...],
    plan: AttentionPlan,
    dropout_p: float,
    scale: float,
) -> Tensor:
    """A call for every group of heads that have one pattern."""
    num_heads, num_kv_heads = tensors[0].shape[1], tensors[1].shape[1]
    groups = plan.by_head(num_heads)
    shared = num_heads // num_kv_heads
    if any((heads.stop - heads.start) % shared for heads, _ in groups):  # they part a key's heads
        tensors, shared = tuple(repeat_heads(x, num_heads) for x in tensors), 1
    parts = []
    for heads, own in groups:
        of_keys = slice(heads.start // shared, heads.stop // shared)
        chosen_heads = (heads, of_keys, of_keys, heads, of_keys, of_keys)
        q, k, v, *of_globals = (x[:, h] for x, h in zip(tensors, chosen_heads))
        global_qkv = (of_globals[0], of_globals[1], of_globals[2]) if of_globals else None
        parts.append(_serve(chosen, q, k, v, own, global_qkv, dropout_p, scale))
    return torch.cat(parts, dim=1)


def _serve(
    chosen: Backend,
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    plan: AttentionPlan,
    global_qkv: GlobalProjections | None,
    dropout_p: float,
    factor: float,
) -> Tensor:
    """By the chosen backend, of a pattern that is the same for all heads."""
    if chosen == "native":
        return native.attention(q_THE, k_TKE, v_TKE, global_qkv, plan, factor)
    given = (q_THE, k_TKE, v_TKE, *(global_qkv or ()))
    q, k, v, *rest = (x.to(native.dtype_of(q_THE)) for x in given)
    of_globals = (rest[0], rest[1], rest[2]) if rest else None
    if chosen == "flex":
        return flex.attention(q, k, v, of_globals, plan, factor)
    serve = _IN_TWO_PARTS[chosen]
    with native.without_autocast(q):
        return _in_two_parts(serve, q, k, v, plan, of_globals, dropout_p, factor)


def _in_two_parts(
    serve: ModuleType,
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    plan: AttentionPlan,
    global_qkv: GlobalProjections | None,
    dropout_p: float,
    scale: float,
) -> Tensor:
    """Local rows, then global rows over them."""
    num_heads = q_THE.shape[1]
    k_THE, v_THE = repeat_heads(k_TKE, num_heads), repeat_heads(v_TKE, num_heads)
    out_THE = serve.local_attention(q_THE, k_THE, v_THE, plan, dropout_p, scale)
    if not len(plan.global_index) or (global_qkv is None and plan.is_full):
        return out_THE
    if global_qkv is None:
        q_GHE = q_THE.index_select(0, plan.global_index)
    else:
        q_GHE = global_qkv[0]
        k_THE, v_THE = (repeat_heads(x, num_heads) for x in global_qkv[1:])
    out_GHE = serve.global_rows(q_GHE, k_THE, v_THE, plan, dropout_p, scale)
    return out_THE.index_copy(0, plan.global_index, out_GHE)


def repeat_heads(x_TKE: Tensor, num_heads: int) -> Tensor:
    """(T, K, E) to (T, H, E): each key/value head serves H / K query heads in a row."""
    num_kv_heads = x_TKE.shape[1]
    if num_kv_heads == num_heads:
        return x_TKE
    return x_TKE.repeat_interleave(num_heads // num_kv_heads, dim=1)


def auto_backend(
    dtype: torch.dtype, device: str, head_size: int, pattern: Pattern, dropout_p: float
) -> tuple[Backend, str]:
    """Which backend `auto` takes for such a call, and why.

    Asked for the first time on a machine, it compiles the kernel.

    Args:
        dtype: to compute in: autocast's where that is on, else that of the queries.
        device: type of it, as "cpu".
        head_size: E.
        pattern: of the plan.
        dropout_p: on the probabilities.
    """
    if device == "cuda":
        refusal = flex.refusal(dtype, device, head_size, dropout_p, needs_gradient=True)
        if refusal is None:
            return "flex", "FlexAttention's fused kernel, compiled for this GPU"
        return "blocked", f"plain PyTorch; not flex: {refusal}"
    refusal = native.refusal(dtype, device, pattern, dropout_p)
    # no case is left to `blocked` for speed: a call costs native no more than it costs
    # PyTorch's operators, at one token, at a hundred, and where short documents see all of
    # themselves (`benchmarks/attention.py --tokens 16 128 --windows 16 512`)
    if refusal is None:
        return "native", "the fused kernel for this processor"
    return "blocked", f"plain PyTorch; not native: {refusal}"


def refusal(
    backend: Backend,
    dtype: torch.dtype,
    device: str,
    head_size: int,
    pattern: Pattern,
    dropout_p: float,
    needs_gradient: bool,
) -> str | None:
    """Why a backend that is asked for by name cannot serve such a call; None if it can.

    Args:
        backend: of those that exist; `auto` and plain PyTorch serve every call.
        dtype, device, head_size, pattern, dropout_p: as of `auto_backend`.
        needs_gradient: whether anybody will ask for the gradient.
    """
    if backend == "native":
        return native.refusal(dtype, device, pattern, dropout_p)
    if backend == "flex":
        return flex.refusal(dtype, device, head_size, dropout_p, needs_gradient)
    return None


def _choose(
    backend: Backend, tensors: tuple[Tensor, ...], plan: AttentionPlan, dropout_p: float
) -> Backend:
    q_THE = tensors[0]
    dtype, device, head_size = native.dtype_of(q_THE), q_THE.device.type, q_THE.shape[-1]
    rest = (plan.pattern, dropout_p)
    if backend == "auto":
        return _announce(*auto_backend(dtype, device, head_size, *rest))
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    reason = refusal(backend, dtype, device, head_size, *rest, needs_gradient)
    if reason is not None:
        raise ValueError(
            f"attention backend {backend} cannot serve this call: {reason}; or use blocked"
        )
    if backend not in _BACKENDS:
        raise ValueError(
            f"attention backend {backend!r} does not exist; use auto or one of "
            f"{', '.join(_BACKENDS)}"
        )
    return backend


def _announce(backend: Backend, reason: str) -> Backend:
    """Say once what `auto` chose."""
    if backend not in _announced:
        _announced.add(backend)
        log.info("attention backend: %s (%s)", backend, reason)
    return backend


def _check_shapes(
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    plan: AttentionPlan,
    global_qkv: GlobalProjections | None,
) -> None:
    if q_THE.ndim != 3:
        raise ValueError(f"q {tuple(q_THE.shape)} must be (T, H, E): packed, without padding")
    num_tokens, num_heads, head_size = q_THE.shape
    if num_tokens != plan.num_tokens:
        raise ValueError(f"q holds {num_tokens} tokens, the plan {plan.num_tokens}")
    keys = [k_TKE, v_TKE, *(global_qkv[1:] if global_qkv else ())]
    for x in keys:
        if x.shape != (num_tokens, *k_TKE.shape[1:2], head_size):
            raise ValueError(
                f"keys and values {[tuple(x.shape) for x in keys]} must all be "
                f"(T={num_tokens}, K, E={head_size})"
            )
    if num_heads % k_TKE.shape[1]:
        raise ValueError(f"{k_TKE.shape[1]} key/value heads do not divide {num_heads} heads")
    if global_qkv and global_qkv[0].shape != (len(plan.global_index), num_heads, head_size):
        raise ValueError(
            f"global queries {tuple(global_qkv[0].shape)} must be "
            f"(G={len(plan.global_index)}, H={num_heads}, E={head_size})"
        )
