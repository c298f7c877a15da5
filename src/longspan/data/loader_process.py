"""What a loader's process does about signals that are meant for the training."""

import multiprocessing
import os
import signal
import threading

TOLD_TO_ALL = {signal.SIGTERM, signal.SIGUSR1}  # by a scheduler that wants its machine back


def outlive_notices(worker: int) -> None:
    """Let the training decide when a process of its loader ends; for `worker_init_fn`.

    SLURM, a container or a shell may signal every process of a job. Loaders that died of it would
    take the step along that the training is at, and what it wanted to save.

    Args:
        worker: number of the process.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS has none
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, TOLD_TO_ALL)
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int | None) -> None:
    while True:
        told = signal.sigwaitinfo(TOLD_TO_ALL)
        if told.si_signo == signal.SIGTERM and told.si_pid == parent:
            os._exit(0)
