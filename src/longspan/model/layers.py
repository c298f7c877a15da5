"""The one block: attention and MLP around a residual stream, everything from the config."""

import torch.nn.functional as F
from torch import Tensor, nn

from longspan.attention import AttentionPlan, attend
from longspan.attention.api import Backend, GlobalProjections
from longspan.config import ModelConfig
from longspan.model.positions import RotaryTable, rotate


class Attention(nn.Module):
    """Multi-head hybrid attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.kv_heads
        self.head_size = config.head_size
        self.dropout_p = config.attention_dropout
        self.backend: Backend = config.attention_backend
        heads = self.num_heads + 2 * self.num_kv_heads
        self.qkv = nn.Linear(config.hidden_size, heads * self.head_size, config.attention_bias)
        self.global_qkv = None
        if config.global_projections == "separate":
            self.global_qkv = nn.Linear(
                config.hidden_size, heads * self.head_size, config.attention_bias
            )
        self.out = nn.Linear(
            self.num_heads * self.head_size, config.hidden_size, config.attention_bias
        )

    def forward(self, x: Tensor, plan: AttentionPlan, rotary: RotaryTable | None) -> Tensor:
        """(T, C) to (T, C)."""
        q_THE, k_TKE, v_TKE = self.project(x, rotary)
        out_THE = attend(
            q_THE,
            k_TKE,
            v_TKE,
            plan,
            global_qkv=self._project_globals(x, plan, rotary),
            backend=self.backend,
            dropout_p=self.dropout_p if self.training else 0.0,
        )
        if self.global_qkv is not None and not len(plan.global_index):
            # a batch may have no global token: the sum over no tokens is 0, and its gradients
            # are zeros, for which DDP's other ranks wait
            out_THE = out_THE + self.global_qkv(x[:0]).sum()
        return self.out(out_THE.flatten(1))

    def project(self, x: Tensor, rotary: RotaryTable | None) -> tuple[Tensor, Tensor, Tensor]:
        """(T, C) to q (T, H, E), k and v (T, K, E)."""
        return self._split(self.qkv(x), rotary)

    def project_for_globals(
        self, x: Tensor, rotary: RotaryTable | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Likewise, of what global rows use: projections of their own, or the shared ones."""
        return self._split((self.global_qkv or self.qkv)(x), rotary)

    def _split(
        self, projected: Tensor, rotary: RotaryTable | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(T, (H + 2K) * E) to q (T, H, E), k and v (T, K, E), rotated where positions are."""
        sizes = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        heads = projected.view(len(projected), sum(sizes), self.head_size)
        if rotary is None:
            q, k, v = heads.split(sizes, dim=1)
            return q, k, v
        qk, v = heads.split([sizes[0] + sizes[1], sizes[2]], dim=1)
        q, k = rotate(qk, rotary).split(sizes[:2], dim=1)
        return q, k, v

    def _project_globals(
        self, x: Tensor, plan: AttentionPlan, rotary: RotaryTable | None
    ) -> GlobalProjections | None:
        if self.global_qkv is None or not len(plan.global_index):
            return None
        # all tokens are projected, also where only a few queries are kept: one matrix product
        q_THE, k_TKE, v_TKE = self.project_for_globals(x, rotary)
        return q_THE.index_select(0, plan.global_index), k_TKE, v_TKE


class Mlp(nn.Module):
    """Two projections with GELU between them, or the gated form (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp != "gelu"
        self.activation = F.silu if config.mlp == "swiglu" else F.gelu
        width = config.mlp_size * (2 if self.gated else 1)
        self.up = nn.Linear(config.hidden_size, width, config.mlp_bias)
        self.down = nn.Linear(config.mlp_size, config.hidden_size, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, C) to (T, C)."""
        hidden = self.up(x)
        if self.gated:
            hidden, gate = hidden.chunk(2, dim=-1)
            return self.down(self.activation(hidden) * gate)
        return self.down(self.activation(hidden))


class Block(nn.Module):
    """One layer: attention, then MLP, normalised before or after each residual sum."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, plan: AttentionPlan, rotary: RotaryTable | None) -> Tensor:
        """(T, C) to (T, C)."""
        return self.after_attention(x, self.attention(self.before_attention(x), plan, rotary))

    def before_attention(self, x: Tensor) -> Tensor:
        """What attention reads of the residual stream, (T, C), row by row."""
        return self.attention_norm(x) if self.pre_norm else x

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The residual stream (T, C) with attention's output (T, C) and the MLP's, row by row."""
        x = x + self.dropout(attended)
        if self.pre_norm:
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        x = self.attention_norm(x)
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


def make_norm(config: ModelConfig) -> nn.Module:
    if config.norm == "rmsnorm":
        return nn.RMSNorm(config.hidden_size, config.norm_eps)
    return nn.LayerNorm(config.hidden_size, config.norm_eps, bias=config.norm_bias)
