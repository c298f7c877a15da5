"""A scheduler wants the machine back: save at the next optimiser step, and leave.

SIGTERM is what Kubernetes, SLURM and most others send before they kill; SIGUSR1 is what SLURM is
asked to send ahead of a time limit (`--signal=USR1@120`). Lightning's own handlers of these two
broadcast inside of the handler, save in another place and never come back with an exit code, so
they are not installed: there is this one way.
"""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from longspan.errors import Preempted
from longspan.training.resuming import LastCheckpoint

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # in the order of their weight where ranks differ
# A scheduler that signals every process and a launcher that passes its own signal on give one
# notice between them.
ONE_NOTICE_SECONDS = 1.0
PARENT_VARIABLE = "LONGSPAN_SWEEP_PID"  # of a cell: its sweep asks for the requeue

log = logging.getLogger(__name__)


class Notice:
    """Listens for the signals as a context manager, and leaves handlers as they were.

    The first signal is only noted where something `defers` it, and ends the program at once where
    nothing does. The second ends it at once wherever it is.

    Attributes:
        signal: that came first; None = none did.
        defers: whether somebody looks at `signal` from time to time and acts on it.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.defers = False
        self._time = 0.0
        self._owner = os.getpid()
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if isinstance(error, Preempted) and self.signal == signal.SIGUSR1:
            requeue()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._owner:  # a process that was forked from this one
            _die(number)
        if self.signal is None:
            self.signal, self._time = signal.Signals(number), now
            if not self.defers:
                raise Preempted
        elif now - self._time > ONE_NOTICE_SECONDS:
            _die(number)


def _die(number: int) -> None:
    """As if the signal had never been handled."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Preemption(Checkpoint):
    """Asks all ranks, at every optimiser step and every batch of an evaluation, who was told to go.

    If any was, all save and leave with `Preempted`. An evaluation within training is made anew when
    the run goes on.

    Args:
        notice: what this process was told.
    """

    def __init__(self, notice: Notice) -> None:
        self.notice = notice

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer._signal_connector.register_signal_handlers = _no_other_handlers
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

    def on_test_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._leave_if_told(trainer)

    def _leave_if_told(self, trainer: L.Trainer) -> None:
        told = 0 if self.notice.signal is None else 1 + SIGNALS.index(self.notice.signal)
        if trainer.world_size > 1:
            counter = torch.tensor(told, device=trainer.strategy.root_device)
            told = int(trainer.strategy.reduce(counter, reduce_op="max"))
        if told:
            self.notice.signal = SIGNALS[told - 1]
            save_last(trainer)
            self._leave(trainer)

    def _leave(self, trainer: L.Trainer) -> None:
        assert self.notice.signal is not None
        log.warning(
            "%s: stopped at step %d; the same command goes on from there",
            self.notice.signal.name,
            trainer.global_step,
        )
        if _is_reported_for(trainer):
            raise Preempted(0)
        raise Preempted


def save_last(trainer: L.Trainer) -> None:
    """Save what to go on from; outside of training it has been saved as that ended."""
    if trainer.state.fn != TrainerFn.FITTING:
        return
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint):
            callback.save(trainer)


def _no_other_handlers() -> None:
    pass


def _is_reported_for(trainer: L.Trainer) -> bool:
    """Whether this is a process of Lightning's own launcher.

    That one kills everything where a process ends with any code but 0; the first rank, which the
    user started, ends with the code that counts.
    """
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def requeue() -> None:
    """Ask SLURM, if this is a job of it, to queue the job once more; it may be killed for that.

    On SIGUSR1 only: SIGTERM also comes from `scancel`, and a job that is preempted with it in SLURM
    is queued again by SLURM itself.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None or rank_zero_only.rank or PARENT_VARIABLE in os.environ:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"[0-9_]+", job):
        log.warning("SLURM_JOB_ID=%s is no job; not queued again", job)
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        log.warning("scontrol requeue %s: %s; queue the job again by hand", job, error)
        return
    if done.returncode:
        said = " ".join(done.stderr.split())
        log.warning("scontrol requeue %s failed: %s; queue the job again by hand", job, said)
    else:
        log.warning("SLURM job %s is queued again", job)
