"""The one block: attention and MLP around a residual stream, everything from the config."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from longspan.attention import AttentionPlan, attend, native
from longspan.attention.api import Backend, GlobalProjections
from longspan.attention.pointwise import split_heads
from longspan.config import ModelConfig
from longspan.model.absorbed import absorbed_rows, parts_of
from longspan.model.dropout import Dropout
from longspan.model.positions import RotaryTable, rotate

# of `model.mlp`; the gated ones by the name that Shazeer 2020 gives them
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "geglu": F.gelu,
    "swiglu": F.silu,
}


class Attention(nn.Module):
    """Multi-head hybrid attention with one fused projection for queries, keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.kv_heads
        self.head_size = config.head_size
        self.dropout_p = config.attention_dropout
        self.absorbing_pays = config.absorbing_pays
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

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        rotary: RotaryTable | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(T, C) to (T, C), or to (R, C) of the tokens that `rows` (R,) names."""
        out_THE = None if rows is None else self._whole_documents(x, rows, plan, rotary)
        if out_THE is None:
            out_THE = self._all_rows(x, plan, rotary)
            out_THE = out_THE if rows is None else out_THE.index_select(0, rows)
        return self.out(out_THE.flatten(1))

    def _all_rows(self, x: Tensor, plan: AttentionPlan, rotary: RotaryTable | None) -> Tensor:
        """(T, C) to (T, H, E)."""
        q_THE, k_TKE, v_TKE = self.project(x, rotary)
        out_GHE, global_qkv = None, None
        if self.global_qkv is not None:
            out_GHE = self._absorb(self.global_qkv, x, plan.global_index, plan, rotary)
            if out_GHE is None:
                global_qkv = self._project_globals(x, plan, rotary)
        out_THE = attend(
            q_THE,
            k_TKE,
            v_TKE,
            plan,
            global_qkv=global_qkv,
            backend=self.backend,
            dropout_p=self.dropout_p if self.training else 0.0,
        )
        if out_GHE is not None:
            return out_THE.index_copy(0, plan.global_index, out_GHE)
        if self.global_qkv is not None and global_qkv is None:
            # a batch may have no global token
            return out_THE + _zero(self.global_qkv, x)
        return out_THE

    def _whole_documents(
        self, x: Tensor, rows: Tensor, plan: AttentionPlan, rotary: RotaryTable | None
    ) -> Tensor | None:
        """(R, H, E) of `rows` alone; None where they do not all see their whole document."""
        are_global = bool(plan.global_mask[rows].all())
        if self.global_qkv is None:
            whole = are_global or plan.is_full
            return self._absorb(self.qkv, x, rows, plan, rotary) if whole else None
        if not are_global:
            return None
        out_RHE = self._absorb(self.global_qkv, x, rows, plan, rotary)
        return None if out_RHE is None else out_RHE + _zero(self.qkv, x)

    def _absorb(
        self,
        linear: nn.Module,
        x: Tensor,
        index: Tensor,
        plan: AttentionPlan,
        rotary: RotaryTable | None,
    ) -> Tensor | None:
        """(R, H, E) by `absorbed_rows`; None where that cannot be had or does not pay."""
        if not isinstance(linear, nn.Linear) or not len(index) or self.backend == "reference":
            return None  # an adapter's weight is not all that it adds
        if self.dropout_p and self.training:
            return None
        counts = plan.counts(index)
        pairs = sum(length * count for length, count in zip(plan.lengths, counts, strict=True))
        if not self.absorbing_pays(pairs, len(index), plan.num_tokens):
            return None
        return absorbed_rows(linear, x, index, counts, plan, rotary, self.num_heads, self.head_size)

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
        if self.backend in ("auto", "native") and native.computes(heads):
            return split_heads(heads, sizes, rotary)
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
        if not isinstance(self.global_qkv, nn.Linear):  # an adapter has no parts
            q_THE, k_TKE, v_TKE = self.project_for_globals(x, rotary)
            return q_THE.index_select(0, plan.global_index), k_TKE, v_TKE
        q_size, kv_size = self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        query_part, kv_part = parts_of(self.global_qkv, (q_size, 2 * kv_size))
        q_GHE = F.linear(x.index_select(0, plan.global_index), *query_part)
        q_GHE = q_GHE.unflatten(1, (-1, self.head_size))
        k_TKE, v_TKE = F.linear(x, *kv_part).unflatten(1, (-1, self.head_size)).chunk(2, dim=1)
        if rotary is None:
            return q_GHE, k_TKE, v_TKE
        cos, sin = (table.index_select(0, plan.global_index) for table in rotary)
        return rotate(q_GHE, (cos, sin)), rotate(k_TKE, rotary), v_TKE


def _zero(linear: nn.Module, x: Tensor) -> Tensor:
    """A sum over no tokens: 0, whose gradients are zeros, for which DDP's other ranks wait."""
    return linear(x[:0]).sum()


class Mlp(nn.Module):
    """Two projections with GELU between them, or the gated form (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp_is_gated
        self.activation = ACTIVATIONS[config.mlp]
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
        self.dropout = Dropout(config.hidden_dropout)

    def forward(
        self,
        x: Tensor,
        plan: AttentionPlan,
        rotary: RotaryTable | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """(T, C) to (T, C), or to (R, C) of the tokens that `rows` (R,) names."""
        attended = self.attention(self.before_attention(x), plan, rotary, rows)
        return self.after_attention(x if rows is None else x.index_select(0, rows), attended)

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
