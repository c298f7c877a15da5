"""Plain PyTorch in O(T * W): blocks of queries over gathered keys. Runs anywhere.

The batch is cut into blocks of consecutive tokens without regard to document bounds, so that
short documents cost no padding; the mask of the plan's block table keeps documents apart.
Where every token sees its whole document there is nothing to cut: one call a document.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
