"""The fields of `model.pattern.*`: who sees whom beyond a window and global tokens."""

from dataclasses import dataclass
from typing import Any

from longspan.config.checks import LONGEST, above_zero, at_least, at_most
from longspan.errors import UserError

Dilation = int | tuple[int, ...]  # of all heads; list = of each group of heads
MOST_DRAWN = 4096  # blocks; `flex` has a number of each for every token
RandomTables = tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]


@dataclass(frozen=True, kw_only=True)
class PatternConfig:
    """What `longspan.attention.Pattern` says of one layer, for all of them; docs/patterns.md."""

    causal: bool = False  # nothing on the right is seen; needs globals=none
    sinks: int = 0  # first tokens of a document that all see, and that see no more than others
    # step within the window, 1 = no gaps; list = per layer, of numbers or of lists, one number for
    # each group of heads; a list of one layer stands for all
    dilation: int | tuple[Dilation, ...] = 1
    block: int = 1  # tokens; more than 1: model.window counts in blocks
    global_edges: int = 0  # first and last blocks of a document that are global
    random_blocks: int = 0  # drawn for each block and head, others in each layer
    random_seed: int = 0  # of the draw
    random_table: RandomTables | None = None  # [layer][head][block] = blocks, instead of a draw
    stride: int | tuple[int, ...] = 0  # every so many tokens are seen; 0 = none; list = per layer
    summaries: int = 0  # last tokens of every block that all see
    window_growth: float = 1.0  # factor of model.window from layer to layer; below 1 it shrinks

    def __post_init__(self) -> None:
        for name in ("sinks", "global_edges", "random_blocks", "random_seed", "summaries"):
            at_least(0, f"model.pattern.{name}", getattr(self, name))
        for name in ("sinks", "global_edges", "summaries", "block"):
            at_most(LONGEST, f"model.pattern.{name}", getattr(self, name))
        at_most(MOST_DRAWN, "model.pattern.random_blocks", self.random_blocks)
        at_least(1, "model.pattern.block", self.block)
        above_zero("model.pattern.window_growth", self.window_growth)
        strides = self.stride if isinstance(self.stride, tuple) else (self.stride,)
        for stride in strides:
            at_least(0, "model.pattern.stride", stride)
            at_most(LONGEST, "model.pattern.stride", stride)
        layers = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,)
        for layer in layers:
            for dilation in layer if isinstance(layer, tuple) else (layer,):
                at_least(1, "model.pattern.dilation", dilation)
                at_most(LONGEST, "model.pattern.dilation", dilation)
        if self.random_seed >= 2**32:
            raise UserError(f"model.pattern.random_seed={self.random_seed} must be below 2**32")
        self._check_together()

    def _check_together(self) -> None:
        if self.causal and self.global_edges:
            raise UserError(
                f"model.pattern.global_edges={self.global_edges} makes tokens global, which see and "
                "are seen both ways; with model.pattern.causal=true use model.pattern.sinks"
            )
        if self.block > 1 and self.dilates:
            raise UserError(
                f"model.pattern.dilation has no meaning between blocks of model.pattern.block="
                f"{self.block} tokens; set one of them to 1"
            )
        if self.summaries and self.summaries >= self.block:
            raise UserError(
                f"model.pattern.summaries={self.summaries} are the last tokens of a block; set "
                f"model.pattern.block above that, it is {self.block}"
            )
        if self.random_table is not None and not self.random_blocks:
            raise UserError(
                "model.pattern.random_table is given with model.pattern.random_blocks=0; say how "
                "many a row has"
            )

    @property
    def dilates(self) -> bool:
        layers = self.dilation if isinstance(self.dilation, tuple) else (self.dilation,)
        return any(layer not in (1, (1,)) for layer in layers)

    @property
    def is_plain(self) -> bool:
        """Whether there are windows and global tokens alone, of whatever schedule."""
        return self == PatternConfig(window_growth=self.window_growth)

    @property
    def is_windowed(self) -> bool:
        """Whether windows of tokens, with or without gaps, one-sided or not, sinks and global
        tokens are all there is."""
        kept = ("causal", "sinks", "dilation", "window_growth")
        return self == PatternConfig(**{name: getattr(self, name) for name in kept})

    def said(self) -> str:
        """Fields that are not as usual, as `model.pattern.name=value`."""
        usual = vars(PatternConfig())
        fields = {n: x for n, x in vars(self).items() if x != usual[n] and n != "window_growth"}
        if self.random_table is not None:
            fields["random_table"] = "given"
        return ", ".join(f"model.pattern.{name}={value}" for name, value in fields.items())

    def of_layer(self, layer: int) -> dict[str, object]:
        """The arguments of one layer's `Pattern`, its window left out."""
        dilation = entry_of(self.dilation, layer)
        stride = entry_of(self.stride, layer)
        table = None if self.random_table is None else self.random_table[layer]
        return {
            "causal": self.causal,
            "sinks": self.sinks,
            "dilation": dilation,
            "block": self.block,
            "global_edges": self.global_edges,
            "random_blocks": self.random_blocks,
            # what is not drawn has no seed: so layers that are alike share a plan
            "random_seed": (self.random_seed, layer) if self.random_blocks else (0,),
            "random_table": table,
            "stride": stride,
            "summaries": self.summaries,
        }

    def check_layers(self, windows: tuple[int | None, ...], num_heads: int) -> None:
        """What only a model's layers and heads can tell."""
        num_layers = len(windows)
        for name in ("dilation", "stride", "random_table"):
            value = getattr(self, name)
            for_all = name != "random_table" and isinstance(value, tuple) and len(value) == 1
            if isinstance(value, tuple) and len(value) != num_layers and not for_all:
                raise UserError(
                    f"model.pattern.{name} lists {len(value)} layers for model.num_layers="
                    f"{num_layers}; give one entry per layer"
                )
        if all(window is None for window in windows):
            self._check_full()
        for layer, window in enumerate(windows):
            dilation = self.of_layer(layer)["dilation"]
            if dilation != 1 and not window:
                size = "null: full attention has" if window is None else "0: one token has"
                raise UserError(
                    f"model.pattern.dilation={dilation} of layer {layer}, whose model.window is "
                    f"{size} no gaps; list 1 for that layer"
                )
            if isinstance(dilation, tuple) and (not dilation or num_heads % len(dilation)):
                raise UserError(
                    f"model.pattern.dilation={list(dilation)} of layer {layer} lists groups that "
                    f"do not divide model.num_heads={num_heads}; choose a divisor"
                )
        for table in self.random_table or ():
            self._check_table(table, num_heads)

    def _check_full(self) -> None:
        """Of layers that see everything: what could show them more means nothing."""
        usual = PatternConfig()
        for name in ("sinks", "stride", "random_blocks", "summaries", "block", "window_growth"):
            value = getattr(self, name)
            if value != getattr(usual, name):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(
                    f"model.pattern.{name}={shown} has no effect where every layer sees all "
                    "(model.window=null); set a window, or leave it out"
                )

    def _check_table(self, table: tuple[tuple[tuple[int, ...], ...], ...], num_heads: int) -> None:
        for head in table:
            fits = all(len(row) == self.random_blocks for row in head)
            if len(table) != num_heads or not fits or any(b < 0 for row in head for b in row):
                raise UserError(
                    f"model.pattern.random_table must list, for each of model.num_heads={num_heads} "
                    f"heads and each block, model.pattern.random_blocks={self.random_blocks} blocks"
                )


def entry_of(value: int | tuple[Any, ...], layer: int) -> Any:
    """What a field says of one layer: a list has an entry for each, or one for all."""
    if not isinstance(value, tuple):
        return value
    return value[layer % len(value)]
