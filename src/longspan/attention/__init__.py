"""Hybrid attention on packed batches: windows everywhere, whole documents for global tokens."""

from longspan.attention.api import attend, auto_backend, refusal
from longspan.attention.pattern import Pattern
from longspan.attention.plan import AttentionPlan

__all__ = ["AttentionPlan", "Pattern", "attend", "auto_backend", "refusal"]
