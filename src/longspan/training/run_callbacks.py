"""The callbacks of a run, in the order in which they act."""

from lightning.pytorch.callbacks import Callback, EarlyStopping

from longspan.config import Config
from longspan.training.bad_step_files import BadStepFiles
from longspan.training.bad_steps import BadSteps
from longspan.training.budget import documents_of
from longspan.training.build import Prepared
from longspan.training.callbacks import InterruptionNotice, StepLimit, Throughput
from longspan.training.checkpoints.callback import SaveCheckpoints
from longspan.training.checkpoints.store import CheckpointStore
from longspan.training.heap_limit import HeapLimit
from longspan.training.memory_guard import MemoryGuard, bytes_beside
from longspan.training.notice import Notice
from longspan.training.preemption import Preemption
from longspan.training.randomness import PlacedRandomness
from longspan.training.resuming import ExactResume
from longspan.training.run_folder import RunFolder


class RunCallbacks:
    """What a run asks of its callbacks afterwards, and all of them for the trainer.

    Args:
        prepared: the run.
        folder: where it lies.
        started: `time.perf_counter()` as this start of it began.
        notice: what this process is told by signals.

    Attributes:
        store: of its checkpoints.
    """

    def __init__(
        self, prepared: Prepared, folder: RunFolder, started: float, notice: Notice
    ) -> None:
        self.config, self.folder, self.notice = prepared.config, folder, notice
        self.throughput = Throughput(started)
        self.bad_steps = BadSteps(
            self.config.trainer.max_bad_steps, BadStepFiles(folder.path, prepared.tokenizer)
        )
        self.memory_guard = MemoryGuard(self.config, documents_of(prepared))
        monitor = _monitor(self.config, prepared.task.monitor) if "dev" in prepared.splits else None
        self.store = CheckpointStore(
            self.config.checkpoint, folder.last_checkpoints, folder.best_checkpoints, monitor
        )

    def in_order(self) -> list[Callback]:
        """All callbacks: who draws comes first; who saves, after all that have a state or a say."""
        callbacks = [
            PlacedRandomness(self.config.seed),
            self.throughput,
            self.bad_steps,
            self.memory_guard,
            InterruptionNotice(self.folder.last_checkpoints),
        ]
        if not self.memory_guard.catches:  # not on a GPU
            memory, largest = self.memory_guard.memory, self.config.data.token_budget
            callbacks.append(HeapLimit(bytes_beside(memory, largest)))
        if self.config.trainer.max_steps > 0:
            callbacks.append(StepLimit(self.config.trainer.max_steps))
        patience = self.config.checkpoint.patience
        if patience is not None and self.store.monitor is not None:
            metric, mode = self.store.monitor
            callbacks.append(EarlyStopping(f"dev/{metric}", mode=mode, patience=patience))
        return [
            *callbacks,
            ExactResume(),
            SaveCheckpoints(self.store, self._every_n_steps()),
            Preemption(self.notice),
        ]

    def _every_n_steps(self) -> int | None:
        every = self.config.checkpoint.every_n_steps
        if every is None and self.store.monitor is None and self.config.data.streaming:
            return max(1, self.config.trainer.max_steps // 10)  # no validation, no end of an epoch
        return every


def _monitor(config: Config, of_task: tuple[str, str]) -> tuple[str, str]:
    """The metric that the best weights and early stopping go by, and min or max."""
    own = config.checkpoint
    return (own.monitor, own.mode) if own.monitor and own.mode else of_task
