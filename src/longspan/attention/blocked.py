"""Plain PyTorch in O(T * W): blocks of queries over gathered keys. Runs anywhere.

The batch is cut into blocks of consecutive tokens without regard to document bounds, so that
short documents cost no padding; the mask of the plan's block table keeps documents apart.
Where every token sees its whole document there is nothing to cut: one call a document. Patterns
that are more than a window are computed by their key tables, part by part, in one softmax.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention import block_lists
from longspan.attention.block_lists import BlockLists
from longspan.attention.key_tables import KeyTable
from longspan.attention.plan import AttentionPlan


def local_attention(
    q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: AttentionPlan, dropout_p: float, scale: float
) -> Tensor:
    """Windows and global keys in one softmax. Shapes (T, H, E)."""
    if plan.is_full:
        documents = zip(
            q_THE.split(plan.lengths), k_THE.split(plan.lengths), v_THE.split(plan.lengths)
        )
        return torch.cat([_attention(q, k, v, dropout_p, scale) for q, k, v in documents])
    if block_lists.serves(plan.pattern):
        lists = plan.block_lists(q_THE.shape[1])
        return _by_blocks(q_THE, k_THE, v_THE, lists, dropout_p, scale)
    if not plan.pattern.is_plain:
        return _by_tables(q_THE, k_THE, v_THE, plan.key_tables, dropout_p, scale)
    table = plan.block_table
    num_blocks, block_size = table.num_blocks, table.block_size
    num_tokens, num_heads, head_size = q_THE.shape
    unfilled = num_blocks * block_size - num_tokens
    q_NBHE = F.pad(q_THE, (0, 0, 0, 0, 0, unfilled)).view(num_blocks, block_size, num_heads, -1)
    out_NHBE = F.scaled_dot_product_attention(
        q_NBHE.transpose(1, 2),
        _gather(k_THE, table.key_index),
        _gather(v_THE, table.key_index),
        attn_mask=plan.block_bias(q_THE.dtype),
        dropout_p=dropout_p,
        scale=scale,
    )
    return out_NHBE.transpose(1, 2).reshape(-1, num_heads, head_size)[:num_tokens]


def global_rows(
    q_GHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: AttentionPlan, dropout_p: float, scale: float
) -> Tensor:
    """Attention of the G global tokens over their whole documents. Returns (G, H, E)."""
    # split gives views whose gradients are concatenated once; slices would each fill a (T, H, E)
    documents = zip(
        q_GHE.split(plan.num_globals), k_THE.split(plan.lengths), v_THE.split(plan.lengths)
    )
    return torch.cat([_attention(q, k, v, dropout_p, scale) for q, k, v in documents if len(q)])


def _by_blocks(
    q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, lists: BlockLists, dropout_p: float, scale: float
) -> Tensor:
    """Every block of queries over the blocks of keys that its head chose. (T, H, E)."""
    num_heads, (num_chosen, size) = q_THE.shape[1], (lists.chosen.shape[2], lists.tokens.shape[1])
    # in blocks so small PyTorch's own attention is several times slower in bfloat16 on a CPU
    is_slow = q_THE.device.type == "cpu" and q_THE.dtype == torch.bfloat16
    dtype = torch.float32 if is_slow else q_THE.dtype
    num_queries, num_blocks = lists.chosen.shape[1], len(lists.tokens)
    q_HNBE = _in_blocks(q_THE.to(dtype), lists.tokens[:num_queries])
    of_head = torch.arange(num_heads, device=q_THE.device)[:, None, None] * num_blocks
    index = (lists.chosen + of_head).flatten()
    keys, values = (
        _in_blocks(x.to(dtype), lists.tokens)  # (H, M, B, E)
        .flatten(2)
        .flatten(0, 1)
        .index_select(0, index)
        .view(num_heads, num_queries, num_chosen * size, -1)
        for x in (k_THE, v_THE)
    )
    out_HNBE = F.scaled_dot_product_attention(
        q_HNBE, keys, values, attn_mask=lists.mask, dropout_p=dropout_p, scale=scale
    )
    out = out_HNBE.flatten(1, 2).transpose(0, 1).index_select(0, lists.place)
    return out.to(q_THE.dtype)


def _in_blocks(x_THE: Tensor, tokens_MB: Tensor) -> Tensor:
    """(T, H, E) to (H, M, B, E), contiguous."""
    x = x_THE.index_select(0, tokens_MB.flatten()).transpose(0, 1).contiguous()
    return x.unflatten(1, tokens_MB.shape)


def _by_tables(
    q_THE: Tensor,
    k_THE: Tensor,
    v_THE: Tensor,
    tables: list[KeyTable],
    dropout_p: float,
    scale: float,
) -> Tensor:
    """One softmax over the keys of all parts; every token sees one in the first. (T, H, E)."""
    if len(tables) == 1:
        (table,) = tables
        parts = zip((q_THE, k_THE, v_THE), (table.query_index, table.key_index, table.key_index))
        q, k, v = (_gather(x, index) for x, index in parts)
        mask = table.mask[:, None]
        out = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout_p, scale=scale)
        return _back(out, table)
    wide = torch.float64 if q_THE.dtype == torch.float64 else torch.float32
    scores = []  # (N, H, B, S) of each part
    for table in tables:
        q, k = _gather(q_THE, table.query_index).to(wide), _gather(k_THE, table.key_index).to(wide)
        scores.append((q @ k.mT * scale).masked_fill(~table.mask[:, None], float("-inf")))
    maxima = [_back(x.detach().amax(-1, keepdim=True), t) for x, t in zip(scores, tables)]
    largest = torch.stack(maxima).amax(0)  # (T, H, 1)
    weighted, total = torch.zeros_like(q_THE, dtype=wide), torch.zeros_like(largest)
    for x, table in zip(scores, tables):
        weights = (x - _gather(largest, table.query_index)).exp()
        total = total + _back(weights.sum(-1, keepdim=True), table)
        weights = torch.dropout(weights, dropout_p, train=dropout_p > 0)
        weighted = weighted + _back(weights @ _gather(v_THE, table.key_index).to(wide), table)
    return (weighted / total).to(q_THE.dtype)


def _back(x_NHBE: Tensor, table: KeyTable) -> Tensor:
    """(N, H, B, E) of a part to (T, H, E)."""
    return x_NHBE.transpose(1, 2).flatten(0, 1).index_select(0, table.place)


def _gather(x_THE: Tensor, index_NS: Tensor) -> Tensor:
    """(T, H, E) and (N, S) to (N, H, S, E), as a view of (N, S, H, E)."""
    gathered = x_THE.index_select(0, index_NS.flatten())
    return gathered.view(*index_NS.shape, *x_THE.shape[1:]).transpose(1, 2)


def _attention(
    q_QHE: Tensor, k_LHE: Tensor, v_LHE: Tensor, dropout_p: float, scale: float
) -> Tensor:
    """Every query over every key of one document. Returns (Q, H, E)."""
    q_HQE, k_HLE, v_HLE = (x.transpose(0, 1).unsqueeze(0) for x in (q_QHE, k_LHE, v_LHE))
    out = F.scaled_dot_product_attention(q_HQE, k_HLE, v_HLE, dropout_p=dropout_p, scale=scale)
    return out.squeeze(0).transpose(0, 1)
