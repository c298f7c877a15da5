"""The checkpoints of a run: what is written, what is kept, and what if the disk refuses."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from longspan.config import CheckpointConfig
from longspan.durable import cannot_write
from longspan.errors import UserError
from longspan.training.checkpoints.io import CheckpointFolders
from longspan.training.checkpoints.manifest import best_first
from longspan.training.checkpoints.shelf import Shelf
from longspan.training.tracking import MetricsFile

log = logging.getLogger(__name__)


class CheckpointStore:
    """Writes the last state, to go on from, and the best weights by the dev metric.

    Lightning's ModelCheckpoint keeps what it knows of its files in the state that it saves, under
    absolute paths, and where the disk is full one rank raises and the others wait. Here the
    manifests on the disk are all that is known, and the ranks agree on what became of a checkpoint.

    Args:
        config: how many to keep, and what to do where one cannot be written.
        last: states to go on from.
        best: weights by the metric.
        monitor: metric and min or max; None = there is no dev split.

    Attributes:
        io: the trainer's plugin, which writes them.
        resumed: the step that this process goes on from; 0 = it starts anew.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        last: Shelf,
        best: Shelf,
        monitor: tuple[str, str] | None,
    ) -> None:
        self.config, self.last, self.best, self.monitor = config, last, best, monitor
        self.io = CheckpointFolders()
        self.resumed = 0
        self._step_of_last: int | None = None
        self._step_of_best: int | None = None

    def with_plugin(self, others: str | Sequence[str] | None) -> list[Any]:
        """The trainer's plugins: others, and the one that writes checkpoints."""
        named = [others] if isinstance(others, str) else list(others or ())
        return [*named, self.io]

    def check_ranks(self, trainer: L.Trainer) -> None:
        """Make sure that all ranks go on from the same state: they chose it before they had met.

        Raises:
            UserError: they do not.
        """
        if trainer.world_size == 1:
            return
        steps: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(steps, self.resumed)
        if len(set(steps)) > 1:
            raise UserError(
                f"the ranks see checkpoints of different steps in {self.last.path} ({steps}); put "
                "runs_dir on a file system that all hosts share"
            )

    def save_last(self, trainer: L.Trainer) -> Path | None:
        """Save the state, unless that of this step is there; all ranks must come here.

        Returns:
            where it lies; None = it is not saved, which has been said, and training is to go on.

        Raises:
            UserError: it could not be written, and training is to stop.
        """
        step = trainer.global_step
        if step in (0, self.resumed, self._step_of_last) or _is_dry(trainer):
            return self.last.folder(step) if step in self.last.steps() else None
        saved = self._save(trainer, self.last)
        if saved is None:
            return None
        self._step_of_last = step
        if trainer.is_global_zero:
            until = [s for s in self.last.steps() if s <= step]
            _keep(self.last, until[-self.config.keep_last :], step)
        return saved

    def save_best(self, trainer: L.Trainer) -> None:
        """Save the weights if they are among the best so far, after a validation.

        Call it before `save_last`: a kill in between goes on from the state before, and comes to
        the same weights again. The other way round they would never be saved.

        Raises:
            UserError: as of `save_last`.
        """
        step = trainer.global_step
        if self.monitor is None or step == self._step_of_best or _is_dry(trainer):
            return
        metric, mode = self.monitor
        value = trainer.callback_metrics.get(f"dev/{metric}")
        if value is None:
            return  # no validation yet
        self._step_of_best, score = step, float(value)
        kept = None
        if trainer.is_global_zero:
            # what lies there under this step is of the time before the run was resumed
            scores = self.best.scores(step - 1) | {step: score}
            kept = best_first(scores, mode)[: self.config.keep_best]
        kept = trainer.strategy.broadcast(kept)
        assert kept is not None
        if step in kept and self._save(trainer, self.best, score) is None:
            return
        if trainer.is_global_zero:
            _keep(self.best, kept, step)

    def _save(self, trainer: L.Trainer, shelf: Shelf, score: float | None = None) -> Path | None:
        folder = shelf.folder(trainer.global_step)
        # who goes on from a checkpoint finds the records up to its step
        failure = trainer.strategy.broadcast(_sync_records(trainer))
        if failure is None:
            trainer.save_checkpoint(folder, score is not None, storage_options=score)
            failure = trainer.strategy.broadcast(self.io.failure)
        if failure is None:
            return folder
        kept = self.last.steps()
        stays = f"{self.last.folder(kept[-1])} stays" if kept else "there is none before it"
        if self.config.on_write_error == "stop":
            raise UserError(f"{failure}; {stays}; make room, and the same command goes on")
        log.warning("%s; training goes on, %s", failure, stays)
        return None


def _is_dry(trainer: L.Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))  # Lightning sets it where no type says so


def _keep(shelf: Shelf, steps: Sequence[int], until: int) -> None:
    try:
        shelf.keep(steps, until)
    except OSError as error:  # costs space, and nothing else
        log.warning("%s: old checkpoints cannot be removed (%s)", shelf.path, error)


def _sync_records(trainer: L.Trainer) -> str | None:
    """Bring the metrics to the disk; what keeps them from it, if anything does."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                try:
                    logger.sync()
                except OSError as error:
                    return cannot_write(error, logger.metrics_path)
    return None
