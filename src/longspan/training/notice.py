"""Hearing that the machine is wanted back, and asking SLURM for it once more.

SIGTERM is what Kubernetes, SLURM and most others send before they kill; SIGUSR1 is what SLURM is
asked to send ahead of a time limit (`--signal=USR1@120`).
"""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from longspan.errors import Preempted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# A scheduler that signals every process and a parent that passes its own signal on give one notice
# between them.
ONE_NOTICE_SECONDS = 1.0
PARENT_VARIABLE = "LONGSPAN_SWEEP_PID"  # set for a cell: the process that waits for it

log = logging.getLogger(__name__)


class Notice:
    """Listens for the signals as a context manager, and leaves handlers as they were.

    The first signal is only noted where something `defers` it, and ends the program with
    `Preempted` where nothing does. A second one ends it at once wherever it is.

    Attributes:
        signal: that came first; None = none did.
        defers: whether somebody looks at `signal` from time to time and acts on it.
        pass_on: called with the first signal as it comes: for a process that this one waits for.
        requeues: whether this process is the one that asks SLURM.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.defers = False
        self.pass_on: Callable[[int], Any] | None = None
        self.requeues = PARENT_VARIABLE not in os.environ  # else the sweep does
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
        if isinstance(error, Preempted) and self.signal == signal.SIGUSR1 and self.requeues:
            requeue()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a process that was forked from this one
            _die(number)
        if self.signal is None:
            self.signal, self._time = signal.Signals(number), time.monotonic()
            if self.pass_on is not None:
                self.pass_on(number)
            if not self.defers:
                raise Preempted
        elif time.monotonic() - self._time > ONE_NOTICE_SECONDS:
            _die(number)


def _die(number: int) -> None:
    """As if the signal had never been handled."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def requeue() -> None:
    """Ask SLURM, if this is a job of it, to queue the job once more; it may be killed for that.

    On SIGUSR1 only: SIGTERM also comes from `scancel`, and a job that is preempted with it in SLURM
    is queued again by SLURM itself.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if not re.fullmatch(r"\d+(_\d+)?", job):
        log.warning("SLURM_JOB_ID=%s is no job; it is not queued again", job)
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False
        )
    except OSError as error:
        log.warning("scontrol requeue %s: %s; queue the job again by hand", job, error)
        return
    if done.returncode:
        said = " ".join(done.stderr.split())
        log.warning("scontrol requeue %s failed: %s; queue the job again by hand", job, said)
    else:
        log.warning("SLURM job %s is queued again", job)
