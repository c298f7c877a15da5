"""The oracle: dense, slow and obvious. Every backend is held against it."""

import torch
from torch import Tensor

from longspan.attention.plan import AttentionPlan


def local_attention(
    q_THE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: AttentionPlan, dropout_p: float, scale: float
) -> Tensor:
    """Softmax attention of every token under the plan's dense mask. Shapes (T, H, E)."""
    mask_TT = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    return _softmax_attention(q_THE, k_THE, v_THE, mask_TT, dropout_p, scale)


def global_rows(
    q_GHE: Tensor, k_THE: Tensor, v_THE: Tensor, plan: AttentionPlan, dropout_p: float, scale: float
) -> Tensor:
    """Attention of the G global tokens over their whole documents. Returns (G, H, E)."""
    mask_TT = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    return _softmax_attention(q_GHE, k_THE, v_THE, mask_TT[plan.global_index], dropout_p, scale)


def _softmax_attention(
    q_QHE: Tensor, k_THE: Tensor, v_THE: Tensor, mask_QT: Tensor, dropout_p: float, scale: float
) -> Tensor:
    wide = torch.float64 if q_QHE.dtype == torch.float64 else torch.float32
    scores_HQT = torch.einsum("qhe,the->hqt", q_QHE.to(wide), k_THE.to(wide)) * scale
    probabilities_HQT = scores_HQT.masked_fill(~mask_QT, float("-inf")).softmax(dim=-1)
    probabilities_HQT = torch.dropout(probabilities_HQT, dropout_p, train=dropout_p > 0)
    return torch.einsum("hqt,the->qhe", probabilities_HQT, v_THE.to(wide)).to(q_QHE.dtype)
