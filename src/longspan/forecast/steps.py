"""Timing: calls, and whole training steps as Lightning runs them, over random tokens."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from longspan.batch import Feature, PackedBatch, pack
from longspan.config import ClassificationConfig, Config, MaskedLMConfig
from longspan.cost.documents import Documents
from longspan.cost.machine import uses_gpu
from longspan.training.build import build_trainer, precision
from longspan.training.module import LongDocumentModule, Task

LEAST_REPEATS = 2  # after one to warm up
STEPS = 3  # of a training that is timed, after one to warm up


@dataclass(frozen=True)
class Stopwatch:
    """Times calls on one device, each within a share of the time.

    Attributes:
        share: seconds a call may be repeated for.
        device: where everything runs.
        autocast: type of matrix products; None = float32.
    """

    share: float
    device: torch.device
    autocast: torch.dtype | None

    def once(self, call: Callable[[], Any]) -> float:
        """Seconds of one call."""
        self._wait()
        started = time.perf_counter()
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            call()
        self._wait()
        return time.perf_counter() - started

    def fastest(self, call: Callable[[], Any]) -> float:
        """Seconds of a call, repeated while its share lasts: what others take away counts least."""
        spent = self.once(call)
        seconds: list[float] = []
        while len(seconds) < LEAST_REPEATS or spent < self.share:
            seconds.append(self.once(call))
            spent += seconds[-1]
        return min(seconds)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def device_of(config: Config) -> torch.device:
    """Where Lightning will train."""
    return torch.device("cuda" if uses_gpu(config.trainer.accelerator) else "cpu")


def random_batch(config: Config, task: Task, documents: Documents) -> PackedBatch:
    """A training batch of documents of these lengths and global tokens; their words are random."""
    assert config.model.vocab_size is not None
    generator = np.random.default_rng(0)
    features = []
    for length, positions in zip(documents.lengths, documents.positions, strict=True):
        places = np.arange(length, dtype=np.int32)
        feature = Feature(
            id="random",
            input_ids=generator.integers(config.model.vocab_size, size=length, dtype=np.int32),
            global_positions=np.asarray(positions, np.int64),
            label=_label(config, task),
            words=places - 1,  # the first token is special, every other a word
            characters=np.ones(length, np.int32),
            offsets=np.stack([places, places + (places > 0)], axis=1),
        )
        features.append(task.prepare(feature, (0,)))
    return pack(features)


def _label(config: Config, task: Task) -> Any:
    if isinstance(config.task, MaskedLMConfig):
        return None  # what is hidden is the label
    if isinstance(config.task, ClassificationConfig):
        zeros = [0.0] * len(task.labels)
        return {"single_label": 0, "multi_label": zeros, "regression": 0.0}[config.task.problem]
    return []  # a question without an answer


class _Repeated(Dataset[PackedBatch]):
    """One batch, for `STEPS` and one to warm up."""

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return STEPS + 1

    def __getitem__(self, place: int) -> PackedBatch:
        return self.batch


class _Seconds(L.Callback):
    """Of each training batch, with the optimiser's step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._started)


def step_seconds(config: Config, module: LongDocumentModule, batch: PackedBatch) -> float:
    """Seconds of the fastest of some training steps on the batch, by Lightning's own loop."""
    trainer = replace(
        config.trainer,
        precision=precision(config), devices=1, num_nodes=1, strategy="auto", max_epochs=1, max_time=None,
        accumulate_grad_batches=1, limit_train_batches=None, overfit_batches=0.0,
        fast_dev_run=False, profiler=None, enable_progress_bar=False, log_every_n_steps=10**6,
    )  # fmt: skip
    seconds = _Seconds()
    loader = DataLoader(_Repeated(batch), batch_size=None)
    arguments = {"logger": False, "callbacks": [seconds], "enable_checkpointing": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no `val_dataloader`")  # on purpose
        build_trainer(replace(config, trainer=trainer), **arguments).fit(module, loader)
    return min(seconds.seconds[1:])
