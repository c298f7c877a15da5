"""Rows that a kernel leaves out: a few queries, by PyTorch's own attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.attention.key_tables import Layout


def attention_of_rows(
    q_QHE: Tensor, k_LKE: Tensor, v_LKE: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Q queries over L keys, of K key heads, under a mask (Q, L). Returns (Q, H, E)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q_QHE, k_LKE, v_LKE))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=grouped)
    return out[0].transpose(0, 1)


def fill_globals(
    out_THE: Tensor, tensors: Sequence[Tensor], layout: Layout, scale: float
) -> Tensor:
    """With the rows of global tokens, over the whole of their documents.

    Args:
        out_THE: where they stand for nothing.
        tensors: q, k, v, and where global tokens have projections of their own, those.
        layout: of the batch.
        scale: of the scores.
    """
    index = layout.global_mask.nonzero().squeeze(1)
    if not len(index):
        return out_THE
    q, k, v = (tensors[0].index_select(0, index), *tensors[1:3])
    if len(tensors) > 3:
        q, k, v = tensors[3:]
    lengths = layout.cu_seqlens.diff().tolist()
    counts = [int(x.sum()) for x in layout.global_mask.split(lengths)]
    documents = zip(q.split(counts), k.split(lengths), v.split(lengths), strict=True)
    rows = [attention_of_rows(*document, None, scale) for document in documents if len(document[0])]
    return out_THE.index_copy(0, index, torch.cat(rows))
