"""FlexAttention (Dong et al. 2024): local and global rows in one compiled call, for CUDA.

On the CPU PyTorch computes its forward only.
"""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from longspan.attention.pattern import Pattern
from longspan.attention.plan import AttentionPlan
from longspan.attention.single_rows import fill_globals
from longspan.attention.sparse_blocks import BLOCK, SparseBlocks
from longspan.attention.token_rules import rule

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PROGRAMS = 64  # of a process: one for every number and size of heads, dtype, and mode of gradients
HEAD_SIZES = (16, 256)  # PyTorch's CUDA kernels take no less, and have settings for no more


def attention(
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    global_qkv: Sequence[Tensor] | None,
    plan: AttentionPlan,
    scale: float,
) -> Tensor:
    """All rows of the batch, local and global. Returns (T, H, E)."""
    if not plan.pattern.is_plain:
        return _by_rule(q_THE, k_TKE, v_TKE, global_qkv, plan, scale)
    blocks = plan.sparse_blocks(global_qkv is not None)
    queries, keys, values = [q_THE], [k_TKE], [v_TKE]
    if len(plan.global_index):
        keys.append(k_TKE.index_select(0, plan.global_index))
        values.append(v_TKE.index_select(0, plan.global_index))
        if global_qkv is None:
            queries.append(q_THE.index_select(0, plan.global_index))
        else:
            for parts, x in zip((queries, keys, values), global_qkv):
                parts.append(x)
    q, k, v = (_laid_out(x) for x in (queries, keys, values))
    out_RHE = _attend_blocks(q, k, v, blocks, scale)
    out_THE, out_GHE, _ = out_RHE.split(
        [plan.num_tokens, len(plan.global_index), len(out_RHE) - blocks.num_rows]
    )
    return out_THE.index_copy(0, plan.global_index, out_GHE)


def refusal(
    dtype: torch.dtype,
    device: str,
    head_size: int,
    dropout_p: float,
    needs_gradient: bool,
) -> str | None:
    """Why this backend cannot serve such a call and what would help; None if it can.

    Args:
        dtype: to compute in.
        device: type of it, as "cuda".
        head_size: E.
        dropout_p: on the probabilities.
        needs_gradient: whether anybody will ask for the gradient.
    """
    if device not in ("cuda", "cpu"):
        return f"it runs on CUDA, not on {device}"
    if device == "cpu" and needs_gradient:
        return "it has no backward on the CPU; train with native or blocked, or on CUDA"
    if dtype not in DTYPES:
        names = ", ".join(str(x).removeprefix("torch.") for x in DTYPES)
        return f"it computes in {names}, not in {str(dtype).removeprefix('torch.')}"
    if device == "cuda" and not HEAD_SIZES[0] <= head_size <= HEAD_SIZES[1]:
        return f"it takes heads of {HEAD_SIZES[0]} … {HEAD_SIZES[1]} numbers, not of {head_size}"
    if dropout_p > 0:
        return f"it has no dropout (dropout_p={dropout_p:g}); set it to 0"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "its CUDA kernels are compiled by Triton, which is not installed: pip install triton"
    return None


def _by_rule(
    q_THE: Tensor,
    k_TKE: Tensor,
    v_TKE: Tensor,
    global_qkv: Sequence[Tensor] | None,
    plan: AttentionPlan,
    scale: float,
) -> Tensor:
    """Of a pattern that is no mere window: a program of its own, whatever the lengths."""
    table, blocks = plan.token_tables
    padding = (0, 0, 0, 0, 0, len(table) - plan.num_tokens)
    given = [F.pad(x, padding).transpose(0, 1)[None] for x in (q_THE, k_TKE, v_TKE)]
    if not torch.is_grad_enabled():
        given = [x.detach() for x in given]
    # what decides the program; the blocks of a draw are in the table
    kind = replace(plan.pattern, random_seed=(0,), random_table=None)
    out = _run(_compiled_rule(kind, scale), given, table, blocks)
    out_THE = out[0].transpose(0, 1)[: plan.num_tokens]
    return fill_globals(out_THE, (q_THE, k_TKE, v_TKE, *(global_qkv or ())), plan.layout, scale)


def _run(program: Any, given: Sequence[Tensor], table: Tensor, blocks: Any) -> Tensor:
    """A compiled program on (1, H, R, E) queries, keys and values of any number of rows.

    Sizes that never change are no variables of the program, and sizes that happen to be equal in
    the first batch are not the same variable: else a later batch would be compiled anew.
    """
    from torch._dynamo import config, mark_static  # takes two seconds
    from torch.fx.experimental import _config as shapes

    for x in given:
        mark_static(x, [1, 3])
    mark_static(table, [1])
    duck = shapes.patch(use_duck_shape=False)  # pyright: ignore[reportAttributeAccessIssue]
    with duck, config.patch(recompile_limit=PROGRAMS):
        return program(*given, table, blocks)


@functools.cache
def _compiled_rule(pattern: Pattern, scale: float) -> Any:
    """The rule of `token_rules` in a program; for the name of `intervals` see `_compiled`."""

    def call(query: Tensor, key: Tensor, value: Tensor, intervals: Tensor, tables: Any) -> Any:
        sees_tokens = rule(intervals, pattern)

        def sees(b: Tensor, h: Tensor, row: Tensor, place: Tensor) -> Tensor:
            return sees_tokens(row, place)

        sizes = (query.shape[2], key.shape[2])
        mask = BlockMask(sizes, *tables, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)
        grouped = query.shape[1] != key.shape[1]
        return flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)

    return torch.compile(call, dynamic=True, fullgraph=True)


def _laid_out(parts: list[Tensor]) -> Tensor:
    """(…, H, E) parts, one behind the other, as (1, H, R, E).

    Filled up beyond one block, so that no call is a special case that would be compiled anew.
    """
    x = torch.cat(parts)
    x = F.pad(x, (0, 0, 0, 0, 0, max(0, BLOCK + 1 - len(x))))
    return x.transpose(0, 1)[None]


def _attend_blocks(
    query: Tensor, key: Tensor, value: Tensor, blocks: SparseBlocks, scale: float
) -> Tensor:
    """(1, H, R, E) queries, (1, K, S, E) keys and values as they were filled up, to (R, H, E)."""
    if not torch.is_grad_enabled():
        # on the CPU PyTorch refuses whatever could have a gradient, wanted or not
        query, key, value = (x.detach() for x in (query, key, value))
    intervals = F.pad(
        blocks.bounds, (0, 0, 0, query.shape[2] - blocks.num_rows)
    )  # they see nothing
    out = _run(_compiled(scale), (query, key, value), intervals, blocks.tables)
    return out[0].transpose(0, 1)


@functools.cache
def _compiled(scale: float) -> Any:
    """One program for all lengths: sizes are arguments of it, and so are the tables.

    `intervals` cannot have any name: PyTorch 2.13 calls its length in C++ after a hash of that, and
    mistakes `ks1…` and `ks2…` for names of its own.
    """

    def call(query: Tensor, key: Tensor, value: Tensor, intervals: Tensor, tables: Any) -> Any:
        def sees(b: Tensor, h: Tensor, row: Tensor, place: Tensor) -> Tensor:
            window = (intervals[row, 0] <= place) & (place < intervals[row, 1])
            left = (intervals[row, 2] <= place) & (place < intervals[row, 3])
            right = (intervals[row, 4] <= place) & (place < intervals[row, 5])
            return window | left | right

        sizes = (query.shape[2], key.shape[2])
        mask = BlockMask(sizes, *tables, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=sees)
        grouped = query.shape[1] != key.shape[1]
        return flex_attention(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)

    return torch.compile(call, dynamic=True, fullgraph=True)
