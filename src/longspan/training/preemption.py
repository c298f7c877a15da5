"""The machine is wanted back: save at the next optimiser step, and leave.

Lightning's own handlers of SIGTERM and of SLURM's signal broadcast inside of the handler, save to
another place and end with no code of their own. They are not installed: there is this one way.
"""

import logging
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from longspan.errors import Preempted
from longspan.training.checkpoints.callback import save_now
from longspan.training.notice import SIGNALS, Notice

log = logging.getLogger(__name__)


class Preemption(Checkpoint):
    """Asks all ranks, at every optimiser step and every batch of an evaluation, who was told to go.

    If any was, all save and leave with `Preempted`. An evaluation that is left is made anew when
    the run goes on. (A `Checkpoint` to Lightning, so that its turn comes after all that is saved.)

    Args:
        notice: what this process was told.
    """

    def __init__(self, notice: Notice) -> None:
        self.notice = notice

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer._signal_connector.register_signal_handlers = _no_other_handlers
        self.notice.requeues &= trainer.is_global_zero
        self.notice.defers = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.notice.defers = False
        if self.notice.signal is not None:  # it came after the last batch
            self._leave(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._leave_if_told(trainer)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._leave_if_told(trainer)

    on_test_batch_start = on_validation_batch_start

    def _leave_if_told(self, trainer: L.Trainer) -> None:
        """One small reduction where there are several ranks: none of them may go alone."""
        told = 0 if self.notice.signal is None else 1 + SIGNALS.index(self.notice.signal)
        if trainer.world_size > 1:
            of_all = torch.tensor(told, device=trainer.strategy.root_device)
            told = int(trainer.strategy.reduce(of_all, reduce_op="max"))
        if told:
            self.notice.signal = SIGNALS[told - 1]
            is_saved = True  # what is not training goes on from where that ended
            if trainer.state.fn == TrainerFn.FITTING and trainer.global_step:
                is_saved = save_now(trainer) is not None
            self._leave(trainer, is_saved)

    def _leave(self, trainer: L.Trainer, is_saved: bool = True) -> None:
        assert self.notice.signal is not None
        log.warning(
            "%s: stopped after step %d; the same command goes on from %s",
            self.notice.signal.name,
            trainer.global_step,
            "there" if is_saved else "the checkpoint before",
        )
        raise Preempted(0 if _is_answered_for(trainer) else Preempted.CODE)


def _no_other_handlers() -> None:
    pass


def _is_answered_for(trainer: L.Trainer) -> bool:
    """Whether this is a process of Lightning's launcher, which kills all if one ends with a code.

    The first rank, which the user started, ends with the code that counts.
    """
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
