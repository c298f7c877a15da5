"""The fields of `model.*`: the encoder."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from longspan.config.checks import LONGEST, above_zero, at_least, at_most, probability
from longspan.config.pattern import PatternConfig
from longspan.errors import UserError

Window = int | None
MAX_LAYERS = 10_000  # the deepest that were trained have a thousand (Wang et al. 2022, DeepNet)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder: one block repeated, everything that varies is a field."""

    pretrained: str | None = None  # a folder, package:<name> or hub id; decides what is not given
    keep_layers: Literal["spaced", "first", "last"] | tuple[int, ...] = "spaced"  # of pretrained
    vocab_size: int | None = None  # null = the tokenizer's
    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int | None = None  # null = num_heads; fewer = grouped-query attention
    head_dim: int | None = None  # null = hidden_size / num_heads
    intermediate_size: int | None = None  # null = 4 * hidden_size
    window: Window | tuple[Window, ...] = 64  # one-sided, in tokens; null = full; list = per layer
    full_attention_every: int = 0  # n: layers 0, n, 2n, … attend to everything; 0 = none does
    pattern: PatternConfig = field(default_factory=PatternConfig)  # beyond windows: causal, …
    positions: Literal["rotary", "learned", "none"] = "rotary"
    max_positions: int | None = None  # learned positions only; null = data.max_length
    type_vocab_size: int = 0  # token types (BERT's segments); 0 = none
    rope_theta: float | tuple[float, ...] = 10_000.0  # rotary base; list = per layer
    rope_theta_full: float | None = None  # rotary base of full layers; null = rope_theta
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: float = 1e-5
    embedding_norm: bool = True
    first_norm: bool = True  # false: layer 0 has no norm before its attention (ModernBERT)
    mlp: Literal["gelu", "gelu_tanh", "geglu", "swiglu"] = "gelu"  # gelu_tanh approximates gelu
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    global_projections: Literal["shared", "separate"] = "shared"
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.1
    initializer_range: float = 0.02
    gradient_checkpointing: bool = False
    attention_backend: Literal["auto", "reference", "blocked", "native", "flex"] = "auto"

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads"):
            at_least(1, f"model.{name}", getattr(self, name))
        at_most(MAX_LAYERS, "model.num_layers", self.num_layers)
        optional = ("vocab_size", "num_kv_heads", "head_dim", "intermediate_size", "max_positions")
        for name in optional:
            if getattr(self, name) is not None:
                at_least(1, f"model.{name}", getattr(self, name))
        at_least(0, "model.type_vocab_size", self.type_vocab_size)
        for name in ("attention_dropout", "hidden_dropout"):
            probability(f"model.{name}", getattr(self, name))
        for name in ("norm_eps", "initializer_range"):
            above_zero(f"model.{name}", getattr(self, name))
        bases = self.rope_theta if isinstance(self.rope_theta, tuple) else (self.rope_theta,)
        for theta in bases:
            above_zero("model.rope_theta", theta)
        if self.rope_theta_full is not None:
            above_zero("model.rope_theta_full", self.rope_theta_full)
        if self.head_dim is None and self.hidden_size % self.num_heads:
            raise UserError(
                f"model.num_heads={self.num_heads} does not divide "
                f"model.hidden_size={self.hidden_size}; choose a divisor or set model.head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide "
                f"model.num_heads={self.num_heads}; choose a divisor"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise UserError(
                f"model.head_dim={self.head_size} is odd; rotary positions turn pairs of "
                "coordinates: choose an even size or model.positions=learned"
            )
        if isinstance(self.rope_theta, tuple) and len(self.rope_theta) != self.num_layers:
            raise UserError(
                f"model.rope_theta lists {len(self.rope_theta)} bases for "
                f"model.num_layers={self.num_layers}; give one number or one per layer"
            )
        if isinstance(self.rope_theta, tuple) and self.rope_theta_full is not None:
            raise UserError(
                f"model.rope_theta_full={self.rope_theta_full} has no effect where "
                "model.rope_theta lists every layer's base; set it to null"
            )
        if not self.first_norm and self.norm_position == "post":
            raise UserError(
                "model.first_norm=false needs model.norm_position=pre, not post; set it to true"
            )
        self._check_windows()

    def _check_windows(self) -> None:
        at_least(0, "model.full_attention_every", self.full_attention_every)
        windows = self.window if isinstance(self.window, tuple) else (self.window,)
        if isinstance(self.window, tuple) and len(windows) != self.num_layers:
            raise UserError(
                f"model.window lists {len(windows)} windows for "
                f"model.num_layers={self.num_layers}; give one number or one per layer"
            )
        for window in windows:
            if window is not None and window < 0:
                raise UserError(
                    f"model.window={window} is negative; it is the one-sided reach in tokens: "
                    "0 or more, or null for full attention"
                )
            at_most(LONGEST, "model.window", window or 0)
        growth = self.pattern.window_growth
        if isinstance(self.window, tuple) and growth != 1:
            raise UserError(
                f"model.pattern.window_growth={growth} has no effect where model.window lists every "
                "layer's; set it to 1"
            )
        largest = max((window for window in self.windows if window is not None), default=0)
        if largest > LONGEST:
            raise UserError(
                f"model.pattern.window_growth={growth} makes a window larger than any document "
                f"(model.window={self.window} of {self.num_layers} layers); lower it"
            )
        self.pattern.check_layers(self.windows, self.num_heads)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def mlp_size(self) -> int:
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def mlp_is_gated(self) -> bool:
        return self.mlp in ("geglu", "swiglu")

    def absorbing_pays(self, pairs: float, rows: float, tokens: float) -> bool:
        """Whether rows that see their whole document take fewer operations from hidden states
        than keys and values of all tokens do (`model/absorbed.py`).

        Args:
            pairs: of such a row and a token of its document.
            rows: that are asked for.
            tokens: of the documents together.
        """
        from_hidden_states = self.num_heads * (pairs + rows * self.head_size)
        return from_hidden_states < tokens * self.kv_heads * self.head_size

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each layer, bottom first."""
        if isinstance(self.window, tuple):
            schedule = list(self.window)
        else:
            growth = self.pattern.window_growth
            layers = range(self.num_layers)
            schedule = [_grown(self.window, growth, layer) for layer in layers]
        if self.full_attention_every:
            schedule[:: self.full_attention_every] = [None] * len(
                schedule[:: self.full_attention_every]
            )
        return tuple(schedule)

    @property
    def layer_patterns(self) -> tuple[dict[str, Any], ...]:
        """The arguments of each layer's `attention.Pattern`, bottom first."""
        return tuple(
            {"window": window} | self.pattern.of_layer(layer)
            for layer, window in enumerate(self.windows)
        )

    @property
    def windows_reach(self) -> float | None:
        """Tokens on a side, over which windows carry information: the sum over layers; inf = all.

        Sinks and global tokens carry it further. None where something else does, which is in no
        window.
        """
        if not self.pattern.is_windowed:
            return None
        total = 0.0
        for layer in self.layer_patterns:
            window, groups = layer["window"], layer["dilation"]
            step = max(groups) if isinstance(groups, tuple) else groups
            total += math.inf if window is None else window * step
        return total

    @property
    def rope_thetas(self) -> tuple[float, ...]:
        """The rotary base of each layer, bottom first."""
        if isinstance(self.rope_theta, tuple):
            return self.rope_theta
        full = self.rope_theta_full or self.rope_theta
        return tuple(full if window is None else self.rope_theta for window in self.windows)


def _grown(window: Window, growth: float, layer: int) -> Window:
    """Rounded; a window does not shrink to nothing."""
    if not window:
        return window
    if layer * math.log2(growth) > math.log2(LONGEST):  # a number that no window may be
        return 2 * LONGEST
    return max(1, int(window * growth**layer + 0.5))
