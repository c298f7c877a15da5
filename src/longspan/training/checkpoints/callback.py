"""When checkpoints are saved."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from longspan.training.checkpoints.store import CheckpointStore
from longspan.training.resuming import at_boundary


class SaveCheckpoints(Checkpoint):
    """Saves the best weights at every validation, and the state to go on from where it is exact.

    Lightning's own callback saves in the midst of accumulated gradients, before a step's metrics
    are written, and before a validation that it forgets when it restarts. A state that is due here
    waits for the next moment without any of these. Weights need not wait, and are written before
    the state: a kill in between goes on from the state before, and comes to the same weights.

    Args:
        store: where to.
        every_n_steps: optimiser steps between two states; None = at every validation, or the end
            of every epoch where there is none.
    """

    def __init__(self, store: CheckpointStore, every_n_steps: int | None) -> None:
        self.store, self.every_n_steps = store, every_n_steps
        self._is_due = False

    def save(self, trainer: L.Trainer) -> Path | None:
        """Save the state now; all ranks must come here, from one of the hooks below.

        Returns, raises:
            as `CheckpointStore.save_last`.
        """
        self._is_due = False
        return self.store.save_last(trainer)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.store.check_ranks(trainer)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self.every_n_steps is not None and at_boundary(trainer):
            self._is_due |= trainer.global_step % self.every_n_steps == 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._is_due and batch_idx % trainer.accumulate_grad_batches == 0:
            self.save(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.store.save_best(trainer)
        self._is_due |= self.every_n_steps is None
        ends_epoch = trainer.is_last_batch or trainer.should_stop
        if self._is_due and at_boundary(trainer) and not ends_epoch:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_due or (self.every_n_steps is None and not trainer.enable_validation):
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.save(trainer)  # what follows, calibration and test, can be interrupted as well


def save_now(trainer: L.Trainer) -> Path | None:
    """As `SaveCheckpoints.save`, of the run's own saver."""
    (saving,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, SaveCheckpoints))
    return saving.save(trainer)
