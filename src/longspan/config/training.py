"""The fields of `optim.*`, `trainer.*`, `checkpoint.*` and `logger.*`: how training goes."""

from dataclasses import dataclass, field
from typing import Literal

from longspan.config.checks import MAX_PROCESSES, above_zero, at_least, at_most, probability
from longspan.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adaptation of the encoder's linear layers (Hu et al. 2021)."""

    rank: int = 0  # 0 = none: the whole encoder trains
    alpha: float = 16.0  # the update is scaled by alpha / rank
    dropout: float = 0.0  # on what goes into the adapters
    # linear layers of a block: attention's fused q, k and v, the same for global tokens,
    # attention's output, the MLP's two
    targets: tuple[Literal["qkv", "global_qkv", "out", "up", "down"], ...] = (
        "qkv",
        "global_qkv",
        "out",
    )

    def __post_init__(self) -> None:
        at_least(0, "optim.lora.rank", self.rank)
        above_zero("optim.lora.alpha", self.alpha)
        probability("optim.lora.dropout", self.dropout)
        if not self.targets:
            raise UserError(
                "optim.lora.targets=[] adapts nothing; name layers, or set optim.lora.rank=0"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its schedule."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.01  # not applied to norms and biases
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    layer_decay: float = 1.0  # each layer below the head learns at this multiple of the one above
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = 0.1  # share of all optimiser steps
    freeze_embeddings: bool = False  # tokens, positions, types and the norm of their sum
    freeze_layers: int = 0  # the lowest k layers keep their weights, and so do the embeddings
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        above_zero("optim.learning_rate", self.learning_rate)
        above_zero("optim.eps", self.eps)
        at_least(0, "optim.weight_decay", self.weight_decay)
        for beta in self.betas:
            probability("optim.betas", beta)
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"optim.layer_decay={self.layer_decay} must lie in (0, 1]")
        probability("optim.warmup_ratio", self.warmup_ratio)
        at_least(0, "optim.freeze_layers", self.freeze_layers)


OUR_OWN = ("max_bad_steps", "split_batches")  # fields of `trainer.*` that Lightning does not have


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The arguments of `lightning.Trainer`, by its names; null leaves Lightning's default.

    Those of `OUR_OWN` are not Lightning's.
    """

    accelerator: str = "auto"
    strategy: str = "auto"
    devices: int | str | tuple[int, ...] = "auto"
    num_nodes: int = 1
    precision: int | str = "auto"  # auto = bf16-mixed where the hardware has bf16, else 32-true
    fast_dev_run: bool | int = False
    max_epochs: int = 10
    min_epochs: int | None = None
    max_steps: int = -1  # optimiser steps; -1 = as many as max_epochs holds
    min_steps: int | None = None
    max_time: str | dict[str, int] | None = None
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    val_check_interval: int | float | str | None = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = 0
    log_every_n_steps: int = 10
    enable_progress_bar: bool | None = None
    enable_model_summary: bool = False
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = 1.0
    gradient_clip_algorithm: str | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    profiler: str | None = None
    detect_anomaly: bool = False
    barebones: bool = False
    plugins: str | tuple[str, ...] | None = None
    sync_batchnorm: bool = False
    enable_autolog_hparams: bool = True
    model_registry: str | None = None
    # steps in a row whose loss or gradient is not finite, before training gives up; each is skipped
    max_bad_steps: int = 5
    # compute a batch that memory does not hold in parts, down to single documents; the gradient is
    # the same
    split_batches: bool = True

    def __post_init__(self) -> None:
        counts = ("accumulate_grad_batches", "log_every_n_steps", "num_nodes", "max_bad_steps")
        for name in counts:
            at_least(1, f"trainer.{name}", getattr(self, name))
        at_least(0, "trainer.overfit_batches", self.overfit_batches)
        at_most(MAX_PROCESSES, "trainer.num_nodes", self.num_nodes)
        for name in ("val_check_interval", "check_val_every_n_epoch"):
            if type(getattr(self, name)) is int:  # Lightning divides by them
                at_least(1, f"trainer.{name}", getattr(self, name))
        if isinstance(self.devices, int):
            at_most(MAX_PROCESSES, "trainer.devices", self.devices)
        if self.gradient_clip_val is not None:
            at_least(0, "trainer.gradient_clip_val", self.gradient_clip_val)
        if str(self.precision) in ("64", "64-true", "16-true", "bf16-true"):
            # Lightning converts inputs for these, and cannot look into packed batches
            raise UserError(
                f"trainer.precision={self.precision} is not supported; use 32-true, 16-mixed or "
                "bf16-mixed"
            )
        if self.max_steps < 1 and self.max_steps != -1:
            raise UserError(
                f"trainer.max_steps={self.max_steps} must be 1 or more, or -1 for as many as "
                "trainer.max_epochs holds"
            )
        if self.max_epochs < 1:
            raise UserError(
                f"trainer.max_epochs={self.max_epochs} must be 1 or more: the learning-rate "
                "schedule needs an end; to stop early set trainer.max_steps or trainer.max_time"
            )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved, which state is best, when to stop waiting for a better one."""

    monitor: str | None = None  # dev metric, e.g. accuracy; null = the task's own
    mode: Literal["min", "max"] | None = None  # null = the task's own
    patience: int | None = None  # validations without improvement before stopping; null = never
    every_n_steps: int | None = None  # null = at every validation

    def __post_init__(self) -> None:
        if (self.monitor is None) != (self.mode is None):
            raise UserError("checkpoint.monitor and checkpoint.mode go together; set both or none")
        for name in ("patience", "every_n_steps"):
            if getattr(self, name) is not None:
                at_least(1, f"checkpoint.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LoggerConfig:
    """Weights & Biases; `metrics.jsonl` is written in any case."""

    kind: Literal["wandb", "none"] = "wandb"
    project: str = "longspan"
    entity: str | None = None
    group: str | None = None  # null = the experiment
    tags: tuple[str, ...] = ()
    mode: Literal["auto", "online", "offline"] = "auto"  # auto = online where a key is configured
    timeout_seconds: float = 10.0  # the longest that the tracker may hold up the end of a run

    def __post_init__(self) -> None:
        at_least(0, "logger.timeout_seconds", self.timeout_seconds)
