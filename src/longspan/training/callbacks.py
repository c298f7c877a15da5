"""Speed, memory and interruptions as a run goes."""

import logging
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch

from longspan.batch import PackedBatch
from longspan.cost.heap import give_back_heap
from longspan.errors import was_interrupted
from longspan.training.checkpoints.shelf import Shelf

log = logging.getLogger(__name__)


class Throughput(L.Callback):
    """Tokens a second of training, validation apart, on the progress bar and in `speed.jsonl`.

    A run that goes on from a checkpoint goes on counting: the figures are those of all the work
    that its weights come from. What an earlier start did after its last checkpoint is not in them.

    Args:
        began: `time.perf_counter()` as this start of the run began.

    Attributes:
        tokens: trained on so far, on this rank.
        seconds: that took.
    """

    def __init__(self, began: float | None = None) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._started = 0.0
        self._began = time.perf_counter() if began is None else began
        self._seconds_before = 0.0  # of earlier starts

    def state_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "seconds": self.seconds,
            "seconds_in_all": self.seconds_in_all,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.tokens, self.seconds = state_dict["tokens"], state_dict["seconds"]
        self._seconds_before = state_dict["seconds_in_all"]

    @property
    def seconds_in_all(self) -> float:
        """From the beginning of the run, with everything around training."""
        return self._seconds_before + time.perf_counter() - self._began

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: PackedBatch, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
    ) -> None:
        seconds = time.perf_counter() - self._started
        self.tokens += batch.num_tokens
        self.seconds += seconds
        speed = batch.num_tokens * trainer.world_size / seconds
        pl_module.log("speed/tokens_per_second", speed)
        pl_module.log("tokens/s", speed, prog_bar=True, logger=False)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


class StepLimit(L.Callback):
    """Ends training after so many optimiser steps, with a validation.

    Lightning's own `max_steps` validates only where an interval falls on the last step, and counts
    an epoch twice when a run is resumed at its end.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_at_limit(trainer)  # resumed after its last step

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: PackedBatch,
        batch_idx: int,
    ) -> None:
        self._stop_at_limit(trainer)

    def _stop_at_limit(self, trainer: L.Trainer) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.should_stop = True


class InterruptionNotice(L.Callback):
    """Says where an interrupted run stands."""

    def __init__(self, checkpoints: Shelf) -> None:
        self.checkpoints = checkpoints

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if not was_interrupted(exception):
            return
        steps = self.checkpoints.steps()
        if steps:
            newest = self.checkpoints.folder(steps[-1])
            log.warning("interrupted; the same command goes on from %s", newest)
        else:
            log.warning("interrupted before the first checkpoint; the same command starts anew")


def forget_peak_memory() -> None:
    """Let `peak_memory_bytes` begin anew: a process may have made another run before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    give_back_heap()
    with suppress(OSError):  # Linux only, and not in every container: then the peak is that of all
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far, or the GPU's peak where one was used."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
