"""Where in its training a run stands, said so that Lightning 2.6 goes on exactly there.

Lightning saves the counters of its loops as they are in the hook that saves, and guesses from them,
on restart, what was going on. Some guesses are wrong (a validation that was due is left out, a
batch that was fetched counts as trained on, an epoch that ended begins at the place of the last).
So a checkpoint of ours holds one of two places, whatever hook it is written in:

- between two batches of an epoch, at the boundary of an optimiser step. Where a validation is due
  that has not ended, this is noted, and it is made before the next batch;
- before the first batch of an epoch.

Everything else that a run draws or reads follows from the place (`randomness`, `longspan.data`).
"""

from typing import Any

import lightning as L

from longspan.data.datamodule import DocumentData


class ExactResume(L.Callback):
    """Writes the place into every checkpoint, and takes a run up at it.

    Give it to the trainer as the last callback but those that save: it acts on what the others say.

    Attributes:
        validation_is_due: a validation has begun and has not ended.
        must_stop: training was to end (enough steps, no improvement) as the checkpoint was saved.
    """

    def __init__(self) -> None:
        self.validation_is_due = False
        self.must_stop = False

    def state_dict(self) -> dict[str, Any]:
        return {"validation_is_due": self.validation_is_due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validation_is_due = state_dict["validation_is_due"]
        self.must_stop = state_dict["must_stop"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        own = checkpoint["callbacks"][self.state_key]
        own["must_stop"] = trainer.should_stop
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
        if begun_over(epochs, batches):
            own["validation_is_due"] = False
            return
        pending = _pending(trainer, batches["current"]["completed"])
        if pending:  # their gradients are lost: they are done again, and then the validation
            own["validation_is_due"] = False
        for counts in (batches["current"], batches["total"]):
            counts |= dict.fromkeys(counts, counts["started"] - pending)
        batches["is_last_batch"] &= own["validation_is_due"]
        for counts in loops["epoch_loop.val_loop.batch_progress"].values():
            if isinstance(counts, dict):
                counts |= dict.fromkeys(counts, 0)  # a validation is made from its first batch on

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.fit_loop.restarting:
            return
        trainer.should_stop |= self.must_stop
        self._read_from_place(trainer)
        if not trainer.fit_loop.epoch_loop.batch_progress.current.ready:
            trainer.fit_loop.restarting = False  # an epoch that begins as any other does
        elif self.validation_is_due:
            _validate(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation_is_due = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation_is_due = False

    def _read_from_place(self, trainer: L.Trainer) -> None:
        """Replace a loader that was made before the place was known.

        `Trainer.estimated_stepping_batches` makes one, and whoever reads it before the checkpoint is
        restored would leave the run with a loader that begins at the epoch's first batch.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if isinstance(data, DocumentData) and data.is_elsewhere():
            trainer.fit_loop._combined_loader = None
            trainer.fit_loop.setup_data()


def begun_over(epochs: dict[str, Any], batches: dict[str, Any]) -> bool:
    """Turn counters of an epoch that has ended, or has not begun, into those before an epoch.

    Args:
        epochs, batches: progress of Lightning's loops as in a checkpoint, changed in place.

    Returns:
        whether they were.
    """
    current = epochs["current"]
    has_ended = current["processed"] == current["started"]
    has_begun = batches["current"]["started"] > 0
    if has_begun and not has_ended:
        return False
    for counts in (epochs["current"], epochs["total"]):
        counts |= dict.fromkeys(counts, counts["processed"])
    counts = batches["total"]
    counts |= dict.fromkeys(counts, counts["started"])
    batches["current"] |= dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
    return True


def _pending(trainer: L.Trainer, completed: int) -> int:
    """Batches whose gradients are being accumulated."""
    if (
        trainer.is_last_batch
        and trainer.fit_loop.epoch_loop.batch_progress.current.ready == completed
    ):
        return 0  # Lightning steps on the last one, however many there are
    return completed % trainer.accumulate_grad_batches


def _validate(trainer: L.Trainer) -> None:
    """Make the validation that was due; end the epoch if training is to stop with it.

    As Lightning's loops do it (`_TrainingEpochLoop.on_advance_end`, `_FitLoop.advance`).
    """
    loop = trainer.fit_loop
    trainer.validating = True
    loop.epoch_loop.val_loop.run()
    trainer.training = True
    if loop.done:
        loop.epoch_loop._batches_that_stepped += 1
        loop.on_advance_end()


def at_boundary(trainer: L.Trainer) -> bool:
    """Whether the batch that was trained on last completed an optimiser step."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()
