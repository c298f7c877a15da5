"""How fast this machine runs the real modules: linear layers, attention, the rest, a whole step.

One layer of each shape is measured, at as many tokens as the time allows; the step of a deep model
is put together from that (`Rates.step_seconds`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from longspan.attention import AttentionPlan, Pattern, attend
from longspan.config import Config, ModelConfig, PatternConfig
from longspan.cost.documents import Documents
from longspan.cost.flops import (
    FORWARD_AND_BACKWARD,
    document_flops,
    layer_flops,
    mlp_flops,
    projection_flops,
)
from longspan.cost.rows import Rows
from longspan.forecast.steps import Stopwatch, random_batch, step_seconds
from longspan.model.layers import Block
from longspan.model.positions import position_ids, rotary_table
from longspan.training.module import LongDocumentModule, Task
from longspan.training.optim import build_optimizer

FEW_TOKENS = 256  # of the first look, which tells how many can be afforded


@dataclass(frozen=True)
class Rates:
    """What was measured, for models of one shape, whatever their layers and patterns.

    Attributes:
        linear: operations a second of the blocks' linear layers, forward and backward.
        attention: seconds a (query, key) pair that the pattern holds, likewise, by pattern.
        plan: seconds a token that the plan of a batch takes, by pattern.
        rest: seconds a token of what else is in a block: norms, activations, residuals, rotations.
        ends: seconds a token below and above the blocks: embeddings, head, loss.
        optimizer: seconds a trained parameter of clipping and AdamW.
        overhead: seconds a batch, whatever is in it.
        tokens: of the batch that was measured.
    """

    linear: float
    attention: dict[Pattern, float]
    plan: dict[Pattern, float]
    rest: float
    ends: float
    optimizer: float
    overhead: float
    tokens: int

    def step_seconds(
        self, config: Config, documents: Documents, tokens: float, trained: int
    ) -> dict[str, float]:
        """Seconds of a training batch by what they are spent on.

        Args:
            config: of this shape.
            documents: that fill the batch.
            tokens: of the batch.
            trained: parameters that the optimiser moves.
        """
        model = config.model
        batch = tokens / documents.mean_length  # documents
        flops = FORWARD_AND_BACKWARD * batch * document_flops(config, documents).linear
        patterns = calibrated(model)
        pairs = {pattern: batch * documents.mean_pairs(pattern) for pattern in set(patterns)}
        rows = Rows(config, documents)
        computed = patterns[:-1] if rows.read_alone else patterns
        attention = sum(self.attention[pattern] * pairs[pattern] for pattern in computed)
        # a checkpointed block runs forward again, a third of what it does otherwise
        again = 1 + model.gradient_checkpointing / FORWARD_AND_BACKWARD
        return {
            "linear": again * flops / self.linear,
            "attention": again * attention + tokens * sum(self.plan[p] for p in pairs),
            "rest": again * self.rest * tokens * (model.num_layers - 1 + last_share(rows)),
            "ends": self.ends * tokens,
            "optimizer": self.optimizer * trained / config.trainer.accumulate_grad_batches,
            "overhead": self.overhead,
        }


def last_share(rows: Rows) -> float:
    """Of the tokens, those that the last layer computes beyond keys and values."""
    return rows.read / rows.documents.mean_length


def shape_of(config: Config) -> Config:
    """One layer of the model: what a calibration depends on beside windows and documents."""
    bases = config.model.rope_theta
    model = replace(
        config.model,
        pretrained=None,
        num_layers=1,
        window=None,
        full_attention_every=0,
        pattern=PatternConfig(),
        rope_theta=bases[0] if isinstance(bases, tuple) else bases,
        rope_theta_full=None,
        gradient_checkpointing=False,
    )
    return replace(config, model=model, optim=replace(config.optim, freeze_layers=0))


def calibrate(
    shape: Config,
    task: Task,
    documents: Documents,
    patterns: Iterable[Pattern],
    tokens: int,
    watch: Stopwatch,
) -> Rates:
    """Measure one layer.

    Args:
        shape: of `shape_of`.
        task: head and loss.
        documents: that fill the batches.
        patterns: all that the cells use (`calibrated`).
        tokens: of the batch that the cells train on; fewer are measured where time is short.
        watch: its share is for each of `measurements`.
    """
    patterns = sorted(set(patterns), key=_simplest_first)
    base = patterns[0] if patterns[0].is_plain else Pattern(patterns[0].window)
    shape = replace(shape, model=replace(shape.model, window=base.window))
    probe = Layer(shape, documents.filling(FEW_TOKENS), watch.device)
    watch.once(probe.block)
    affordable = int(watch.share / 4 / watch.once(probe.block) * probe.tokens)
    layer = Layer(shape, documents.filling(min(tokens, max(FEW_TOKENS, affordable))), watch.device)

    linear, block = watch.fastest(layer.linear), watch.fastest(layer.block)
    measured = list(dict.fromkeys([base, *patterns]))
    attention = {pattern: watch.fastest(layer.attention(pattern)) for pattern in measured}
    fresh = {pattern: watch.fastest(layer.attention(pattern, reuse=False)) for pattern in measured}
    plan = {pattern: max(0.0, fresh[pattern] - attention[pattern]) for pattern in measured}
    module = LongDocumentModule(shape, task)
    short, long = layer.documents.beginnings(8), layer.documents
    seconds = [step_seconds(shape, module, random_batch(shape, task, d)) for d in (short, long)]
    optimizer = watch.fastest(optimizer_step(module.to(watch.device), shape))

    more_tokens = max(1, sum(long.lengths) - sum(short.lengths))
    a_token = (seconds[1] - seconds[0]) / more_tokens
    pairs = {pattern: len(long) * long.mean_pairs(pattern) for pattern in patterns}
    probed = projection_flops(shape.model, layer.tokens) + mlp_flops(shape.model, layer.tokens)
    a_flop = linear / probed  # seconds, forward and backward
    whole, last = (
        a_flop * len(long) * layer_flops(shape, long, long.mean_pairs(base), is_last).linear
        for is_last in (False, True)
    )
    rest = max(0.0, block - whole - attention[base]) / layer.tokens
    # the one layer of the whole step is the last, which computes what the head reads
    rows = Rows(shape, long)
    in_block = last + rest * layer.tokens * last_share(rows) + plan[base]
    in_block += 0.0 if rows.read_alone else attention[base]
    return Rates(
        linear=FORWARD_AND_BACKWARD / a_flop,
        attention={pattern: attention[pattern] / pairs[pattern] for pattern in patterns},
        plan={pattern: plan[pattern] / layer.tokens for pattern in patterns},
        rest=rest,
        ends=max(0.0, a_token - in_block / layer.tokens),
        optimizer=optimizer / sum(p.numel() for p in module.parameters()),
        overhead=max(0.0, seconds[1] - optimizer - a_token * layer.tokens),
        tokens=layer.tokens,
    )


def calibrated(model: ModelConfig) -> tuple[Pattern, ...]:
    """The pattern of each layer; of random blocks the first layer's draw stands for all."""
    patterns = Pattern.of_layers(model.layer_patterns)
    return tuple(
        replace(p, random_seed=(0,), random_table=p.random_table and patterns[0].random_table)
        for p in patterns
    )


def _simplest_first(pattern: Pattern) -> tuple[bool, bool, int, str]:
    window = pattern.window
    return not pattern.is_plain, window is None, window or 0, str(pattern)


def measurements(patterns: Iterable[Pattern]) -> int:
    """How many `calibrate` makes."""
    patterns = set(patterns)
    return 5 + 2 * len(patterns) + 2 * (not any(p.is_plain for p in patterns))


class Layer:
    """The parts of one block, forward and backward, each as a call.

    Args:
        shape: of one layer, with its window.
        documents: of the batch.
        device: where it runs.
    """

    def __init__(self, shape: Config, documents: Documents, device: torch.device) -> None:
        self.model: ModelConfig = shape.model
        self.documents = documents
        self.separate = shape.trains_global_projections and documents.mean_globals > 0
        self.cu_seqlens, self.global_mask = (x.to(device) for x in documents.packed(len(documents)))
        self.module = Block(shape.model).to(device)
        self.x = self._random(shape.model.hidden_size)
        self.rotary = None
        if shape.model.positions == "rotary":
            position = position_ids(self.cu_seqlens)
            self.rotary = rotary_table(position, shape.model.head_size, shape.model.rope_thetas[0])
        self.plan = self._plan(Pattern(shape.model.windows[0]))
        self.linears = [
            (layer, self._random(layer.in_features))
            for layer in self.module.modules()
            if isinstance(layer, nn.Linear) and layer is not self.module.attention.global_qkv
        ]

    @property
    def tokens(self) -> int:
        return len(self.global_mask)

    def block(self) -> None:
        """All of it."""
        backward(self.module(self.x, self.plan, self.rotary))

    def linear(self) -> None:
        """Its linear layers alone, each on values of its own."""
        for layer, x in self.linears:
            backward(layer(x))

    def attention(self, pattern: Pattern, reuse: bool = True) -> Callable[[], None]:
        """Its attention alone, of some pattern; without `reuse` with a plan of its own each time."""
        model, plan = self.model, self._plan(pattern)
        q_THE = self._random(model.num_heads, model.head_size)
        k_TKE, v_TKE = (self._random(model.kv_heads, model.head_size) for _ in range(2))
        of_globals = q_THE.detach()[plan.global_index].requires_grad_()

        def call() -> None:
            q, k, v, of_g = (self._cast(x) for x in (q_THE, k_TKE, v_TKE, of_globals))
            out_THE = attend(
                q,
                k,
                v,
                plan if reuse else self._plan(pattern),
                global_qkv=(of_g, k, v) if self.separate else None,
                backend=model.attention_backend,
                dropout_p=model.attention_dropout,
            )
            backward(out_THE)

        return call

    def _plan(self, pattern: Pattern) -> AttentionPlan:
        return AttentionPlan(self.cu_seqlens, self.global_mask, pattern)

    def _cast(self, x: Tensor) -> Tensor:
        """As a linear layer would have given it."""
        device = self.global_mask.device.type
        return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x

    def _random(self, *shape: int) -> Tensor:
        device = self.global_mask.device
        return torch.randn(self.tokens, *shape, device=device, requires_grad=True)


def optimizer_step(module: LongDocumentModule, config: Config) -> Callable[[], Any]:
    """Clipping and AdamW, as Lightning calls them."""
    optimizer = build_optimizer(module, config.model.num_layers, config.optim)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        if config.trainer.gradient_clip_val:
            nn.utils.clip_grad_norm_(module.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()

    return step


def backward(out: Tensor) -> None:
    with torch.autocast(out.device.type, enabled=False):  # as Lightning: forward alone is in it
        out.backward(torch.ones_like(out))
