"""Randomness as a function of place: a run that goes on draws what it would have drawn.

Lightning's checkpoints hold no state of a generator, and that of a loader's workers lies in other
processes. So nothing is kept: every batch seeds all generators from where it stands in the run,
as the order of the data, the masks of masked language modelling and the slices of question
answering are drawn from theirs (`longspan.data`).
"""

import random
from typing import Any

import lightning as L
import numpy as np
import torch

TRAINING, EVALUATION = 0, 1  # no batch of one shares a place with a batch of the other


def seed_at(*place: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch (the CPU's, and every GPU's) for a place.

    Args:
        place: numbers of 0 or more that name it; any other place gives other numbers.
    """
    words = np.random.SeedSequence(place).generate_state(4, np.uint32)
    seed = int.from_bytes(words.tobytes(), "little")  # 128 bits
    random.seed(seed)
    np.random.seed(words)
    torch.manual_seed(seed % 2**63)


class PlacedRandomness(L.Callback):
    """Seeds all generators at every batch: of training from (seed, epoch, batch, rank).

    Of an evaluation from (batch, rank) alone: what it draws is the same for all runs.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_at(TRAINING, self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        seed_at(EVALUATION, batch_idx, trainer.global_rank)

    on_test_batch_start = on_validation_batch_start
