"""The LightningModule: forward, loss, optimiser, predictions of a split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from longspan.batch import Feature, PackedBatch
from longspan.config import Config, ModelConfig, TaskConfig
from longspan.errors import UserError
from longspan.model.encoder import Encoder
from longspan.tasks.head import logits_of
from longspan.training.optim import build_optimizer, build_schedule
from longspan.training.step_batch import GeneratorState, StepBatch

if TYPE_CHECKING:
    from longspan.training.memory_guard import MemoryGuard


class Task(Protocol):
    """What training needs of a task."""

    @property
    def labels(self) -> list[str]: ...
    @property
    def monitor(self) -> tuple[str, str]: ...
    def weight(self, length: int) -> float: ...
    def prepare(self, feature: Feature, key: tuple[int, ...]) -> Feature: ...
    def head(self, model: ModelConfig, token_embedding: nn.Embedding) -> nn.Module: ...
    def loss(self, logits: Tensor, batch: PackedBatch) -> Tensor: ...
    def decode(self, logits: Tensor, batch: PackedBatch) -> list[Any]: ...
    def merge(self, predictions: Sequence[Any]) -> Sequence[Any]: ...
    def metrics(self, predictions: Sequence[Any]) -> dict[str, float]: ...


@runtime_checkable
class CalibratedTask(Protocol):
    """A task that fits to the dev split how it decides, after every validation."""

    @property
    def is_calibrated_on_dev(self) -> bool: ...
    def calibrate(self, predictions: Sequence[Any]) -> dict[str, Any]: ...
    def calibrated_config(self) -> TaskConfig: ...


class LongDocumentModule(L.LightningModule):
    """Encoder and task head.

    Args:
        config: the run; its model has its vocabulary size.
        task: head, loss and metrics.
        num_steps: optimiser steps of the whole training, for the schedule; 0 = no training.
    """

    def __init__(self, config: Config, task: Task, num_steps: int = 0) -> None:
        super().__init__()
        self.config, self.task, self.num_steps = config, task, num_steps
        self.encoder = Encoder(config.model)
        self.head = task.head(config.model, self.encoder.token_embedding)
        self.predictions: list[Any] = []  # of the split that was evaluated last
        self.calibration: dict[str, Any] = {}  # what the task said of the last one
        self.memory_guard: MemoryGuard | None = None  # this callback sets it
        self.step_batches: list[StepBatch] = []  # of the optimiser step, so far

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits of a packed batch."""
        return logits_of(self.encoder, self.head, batch)

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.step_batches = []
        self.step_batches.append(StepBatch(batch, GeneratorState.now()))
        if self.memory_guard is None:
            loss = self.summed_loss(batch)
        else:
            loss = self.memory_guard.summed_loss(batch)
        self.step_batches[-1].loss = loss.detach() / batch.step_weight
        if batch.weight:
            mean = loss.detach() / batch.weight
            self.log("train/loss", mean, batch_size=batch.num_documents)
            self.log("loss", mean, prog_bar=True, logger=False, batch_size=1)
        return self.share_of_step(loss, batch)

    def summed_loss(self, batch: PackedBatch) -> Tensor:
        """Over the documents of a batch, or of a part of one."""
        loss = self.task.loss(self(batch), batch).sum()  # of (D,)
        return loss if batch.weight else loss * 0.0  # a gradient of zeros, as DDP waits for one

    def share_of_step(self, loss: Tensor, batch: PackedBatch) -> Tensor:
        """What Lightning shall differentiate of a loss that is summed over documents.

        Every document of an optimiser step has its own weight, however they fell into batches:
        Lightning divides by the accumulated batches and DDP by the ranks, so undo both.
        """
        share = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return loss * share / batch.step_weight

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        try:
            super().backward(loss, *args, **kwargs)
        except torch.OutOfMemoryError as error:
            if self.memory_guard is None or not self.memory_guard.overlaps:
                raise
            raise UserError(
                f"out of memory at step {self.trainer.global_step}, while ranks exchanged "
                "gradients; lower data.tokens_per_batch, or set model.gradient_checkpointing=true"
            ) from error

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if self.memory_guard is None or not self.memory_guard.holds_gradient:
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        self._predict(batch)

    def test_step(self, batch: PackedBatch, batch_idx: int) -> None:
        self._predict(batch)

    def _predict(self, batch: PackedBatch) -> None:
        if batch.weight:
            self.predictions += self.task.decode(self(batch), batch)

    def on_validation_epoch_start(self) -> None:
        self.predictions = []

    def on_test_epoch_start(self) -> None:
        self.predictions = []

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("dev")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        self._gather_predictions()
        if split == "dev" and isinstance(self.task, CalibratedTask):
            self.calibration = self.task.calibrate(self.predictions)
        self.predictions = list(self.task.merge(self.predictions))
        metrics = self.task.metrics(self.predictions)
        monitor = self.config.checkpoint.monitor
        if split == "dev" and monitor is not None and monitor not in metrics:
            raise UserError(
                f"checkpoint.monitor={monitor} is not measured on the dev split; "
                f"choose one of {', '.join(metrics)}"
            )
        for name, value in metrics.items():
            on_bar = name == self.task.monitor[0] != "loss"
            # all ranks hold the same predictions by now: their mean is what each has
            self.log(f"{split}/{name}", value, prog_bar=on_bar, sync_dist=True)

    def _gather_predictions(self) -> None:
        """Bring the documents of all ranks together, in an order that no rank number changes."""
        if self.trainer.world_size > 1:
            ranks: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(ranks, self.predictions)
            self.predictions = [prediction for rank in ranks for prediction in rank]
        self.predictions.sort(key=lambda prediction: prediction.id)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = build_optimizer(self, self.config.model.num_layers, self.config.optim)
        schedule = build_schedule(optimizer, self.config.optim, self.num_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
