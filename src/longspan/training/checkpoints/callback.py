"""When checkpoints are saved."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from longspan.training.checkpoints.store import CheckpointStore


class SaveCheckpoints(Checkpoint):
    """Saves the best weights after every validation, and the last state then or every few steps.

    Args:
        store: where to.
        every_n_steps: between two states; None = at every validation, or the end of every epoch
            where there is none.
    """

    def __init__(self, store: CheckpointStore, every_n_steps: int | None) -> None:
        self.store, self.every_n_steps = store, every_n_steps

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
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self.store.save_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_training and not self._waits_for_epoch_end(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._waits_for_epoch_end(trainer):
            self._save(trainer)

    def _waits_for_epoch_end(self, trainer: L.Trainer) -> bool:
        """Whether an epoch ends with its only validation, or without one: then all is done by then.

        Early stopping has counted, too.
        """
        if self.store.monitor is None or not sum(trainer.num_val_batches):
            return True
        return trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval == 1.0

    def _save(self, trainer: L.Trainer) -> None:
        self.store.save_best(trainer)
        if self.every_n_steps is None:
            self.store.save_last(trainer)


def save_now(trainer: L.Trainer) -> Path | None:
    """Save the state at once from within a callback; all ranks must call it at the same step.

    Returns, raises:
        as `CheckpointStore.save_last`.
    """
    (saving,) = (c for c in trainer.checkpoint_callbacks if isinstance(c, SaveCheckpoints))
    return saving.store.save_last(trainer)
