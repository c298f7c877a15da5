"""Attention of a few queries over keys that come part by part, none of which is kept."""

import torch
from torch import Tensor

SCORES_AT_ONCE = 2**22  # numbers; 16 MiB in float32


class RunningAttention:
    """The online softmax (Milakov & Gimelshein 2018), in float32.

    Args:
        q_QHE: (Q, H, E) queries.
        num_kv_heads: K; it divides H (grouped-query attention).
    """

    def __init__(self, q_QHE: Tensor, num_kv_heads: int) -> None:
        self.shape, self.dtype = q_QHE.shape, q_QHE.dtype
        num_queries, num_heads, head_size = q_QHE.shape
        # the queries of all heads that share keys stand below each other: R = Q * H / K rows
        group = (num_kv_heads, num_heads // num_kv_heads * num_queries, head_size)
        scaled = q_QHE.float() * head_size**-0.5
        self.q_KRE = scaled.transpose(0, 1).reshape(group)
        self.largest = scaled.new_full((*group[:2], 1), -torch.inf)
        self.total = scaled.new_zeros(*group[:2], 1)
        self.weighted_KRE = scaled.new_zeros(group)

    def see(self, k_LKE: Tensor, v_LKE: Tensor) -> None:
        """Take in L >= 1 further keys and values, (L, K, E) each."""
        if not self.shape[0]:
            return
        keys_at_once = max(1, SCORES_AT_ONCE // (self.shape[0] * self.shape[1]))
        parts = zip(k_LKE.split(keys_at_once), v_LKE.split(keys_at_once), strict=True)
        with torch.autocast(self.q_KRE.device.type, enabled=False):
            for k, v in parts:
                self._see(k.float().transpose(0, 1), v.float().transpose(0, 1))

    def _see(self, k_KLE: Tensor, v_KLE: Tensor) -> None:
        scores_KRL = self.q_KRE @ k_KLE.transpose(1, 2)
        largest = torch.maximum(self.largest, scores_KRL.amax(dim=2, keepdim=True))
        shrink = (self.largest - largest).exp()  # 0 at first: there was nothing
        probabilities_KRL = scores_KRL.sub_(largest).exp_()
        self.total = self.total * shrink + probabilities_KRL.sum(dim=2, keepdim=True)
        self.weighted_KRE = torch.baddbmm(self.weighted_KRE * shrink, probabilities_KRL, v_KLE)
        self.largest = largest

    def result(self) -> Tensor:
        """(Q, H, E), once at least one key was seen."""
        num_queries, num_heads, head_size = self.shape
        out_KRE = self.weighted_KRE / self.total
        out_HQE = out_KRE.view(num_heads, num_queries, head_size)
        return out_HQE.transpose(0, 1).to(self.dtype)
