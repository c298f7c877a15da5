"""Rows that see their whole document, without keys and values of all its tokens.

A score is q · (W_k x + b_k). Where a few queries are asked of many tokens it is cheaper to carry
the queries through the matrix, (W_kᵀ q) · x, than the tokens; q · b_k is the same for every key,
and softmax takes no notice of it. Likewise the weighted mean of values W_v x + b_v is the
projection of the weighted mean of x. (DeepSeek-V2, Liu et al. 2024, section 2.1.2, "absorbs" the
projections of its latent vectors in this way.) Rotations by position come between a query and its
key's matrix; there only the values are absorbed.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from longspan.attention import AttentionPlan
from longspan.model.positions import RotaryTable, rotate

Part = tuple[Tensor, Tensor | None]  # weight and bias


def parts_of(linear: nn.Linear, sizes: Sequence[int]) -> list[Part]:
    """A fused projection as several, of these numbers of outputs.

    Their gradients come together in one tensor, as those of slices would not.
    """
    weights = linear.weight.split(list(sizes))
    biases = [None] * len(weights) if linear.bias is None else linear.bias.split(list(sizes))
    return list(zip(weights, biases, strict=True))


def absorbed_rows(
    linear: nn.Linear,
    x: Tensor,
    index: Tensor,
    counts: Sequence[int],
    plan: AttentionPlan,
    rotary: RotaryTable | None,
    num_heads: int,
    head_size: int,
) -> Tensor:
    """Attention of some tokens over all of their documents.

    Args:
        linear: C to queries, keys and values, (H + 2K) * E.
        x: (T, C) what it projects.
        index: (R,) the tokens, ascending.
        counts: how many of them each document has, (D,).
        plan: of the batch.
        rotary: cosines and sines (T, 1, E / 2), where positions are rotary.
        num_heads, head_size: H, E.

    Returns:
        (R, H, E).
    """
    if torch.is_autocast_enabled(x.device.type):  # once, and not before every product
        x = x.to(torch.get_autocast_dtype(x.device.type))
    kv_size = (linear.out_features - num_heads * head_size) // 2
    sizes = (num_heads * head_size, kv_size, kv_size)
    query_part, key_part, (value_weight, value_bias) = parts_of(linear, sizes)
    q_RHE = F.linear(x.index_select(0, index), *query_part).unflatten(1, (-1, head_size))
    q_RHE = q_RHE * head_size**-0.5
    if rotary is None:
        keys_TKA = x.unsqueeze(1)  # every head's queries ask x itself
        asking_RHA = _by_head(q_RHE, key_part[0].unflatten(0, (-1, head_size)))
    else:
        cos, sin = rotary
        keys_TKA = rotate(F.linear(x, *key_part).unflatten(1, (-1, head_size)), rotary)
        asking_RHA = rotate(q_RHE, (cos.index_select(0, index), sin.index_select(0, index)))
    documents = zip(
        asking_RHA.split(counts), keys_TKA.split(plan.lengths), x.split(plan.lengths), strict=True
    )
    mean_RHC = torch.cat([_weighted_mean(*document) for document in documents if len(document[0])])
    out_RHE = _by_head(mean_RHC, value_weight.unflatten(0, (-1, head_size)).transpose(1, 2))
    if value_bias is None:
        return out_RHE
    bias_KE = value_bias.to(out_RHE.dtype).unflatten(0, (-1, head_size))
    return out_RHE + bias_KE.repeat_interleave(num_heads // len(bias_KE), dim=0)


def _weighted_mean(asking_QHA: Tensor, keys_LKA: Tensor, x_LC: Tensor) -> Tensor:
    """Of one document's x, by the softmax of its queries' scores. Returns (Q, H, C)."""
    num_kv_heads = keys_LKA.shape[1]
    asking_KRA = _to_kv_heads(asking_QHA, num_kv_heads)
    scores_KRL = asking_KRA @ keys_LKA.permute(1, 2, 0)
    weights_KRL = scores_KRL.softmax(dim=-1, dtype=torch.float32).to(x_LC.dtype)
    return _from_kv_heads(weights_KRL @ x_LC, len(asking_QHA))


def _by_head(x_RHA: Tensor, matrix_KAB: Tensor) -> Tensor:
    """(R, H, A) to (R, H, B), by the matrix that each key/value head has for its query heads."""
    return _from_kv_heads(_to_kv_heads(x_RHA, len(matrix_KAB)) @ matrix_KAB, len(x_RHA))


def _to_kv_heads(x_RHA: Tensor, num_kv_heads: int) -> Tensor:
    """(R, H, A) to (K, R * H / K, A)."""
    return x_RHA.unflatten(1, (num_kv_heads, -1)).transpose(0, 1).flatten(1, 2)


def _from_kv_heads(x_KQB: Tensor, rows: int) -> Tensor:
    """(K, R * H / K, B) back to (R, H, B)."""
    return x_KQB.unflatten(1, (rows, -1)).transpose(0, 1).flatten(1, 2)
