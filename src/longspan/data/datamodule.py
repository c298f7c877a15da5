"""Features to the loaders that Lightning reads."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import lightning as L
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from longspan.batch import PackedBatch, pack
from longspan.config import Config
from longspan.data.batching import (
    BatchSpec,
    evaluation_batches,
    packing_efficiency,
    spread,
    training_batches,
    whole_documents,
)
from longspan.data.features import FeatureSet
from longspan.data.streaming import StreamedBatches, TrainingStream
from longspan.data.task import Draw, ReadingTask
from longspan.errors import UserError

# whose batches are made to count the steps of a training; of more, these are the measure
EPOCHS_COUNTED = 1000

log = logging.getLogger(__name__)


class Batches(Dataset[PackedBatch]):
    """Batches by number, so that any of them can be read without those before it.

    Args:
        features: of the split.
        specs: which of them make each batch.
        task: what it does to a feature each time that it is read.
        key: with the row, what that may depend on where it draws at random.
    """

    def __init__(
        self,
        features: FeatureSet,
        specs: Sequence[BatchSpec],
        task: ReadingTask,
        key: tuple[int, ...],
    ) -> None:
        self.features, self.specs, self.task, self.key = features, specs, task, key

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, place: int) -> PackedBatch:
        spec = self.specs[place]
        if not spec.rows:  # any document, at weight 0
            shortest = min(range(len(self.features)), key=self.features.lengths.__getitem__)
            spec = replace(spec, rows=(shortest,))
        features = [
            self.task.prepare(feature, (*self.key, row))
            for feature, row in zip(self.features.read(spec.rows), spec.rows, strict=True)
        ]
        return pack(features, spec.weight, spec.step_weight)


class Remaining(SequentialSampler):
    """Places of batches from `start` on, with the length of all of them.

    Lightning goes on counting where an interrupted epoch stopped, and ends it at this length. It
    wants a `SequentialSampler` where it overfits.
    """

    def __init__(self, start: int, total: int) -> None:
        super().__init__(range(total))
        self.start, self.total = start, total

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.total))


class DocumentData(L.LightningDataModule):
    """The loaders of all splits.

    Args:
        config: token budget, seed, workers, accumulation.
        splits: features by split.
        task: how they are read.
        stream: train, where it is not among the splits.
        draw: the features of train that an epoch reads; None = all.
    """

    def __init__(
        self,
        config: Config,
        splits: dict[str, FeatureSet],
        task: ReadingTask,
        stream: TrainingStream | None = None,
        draw: Draw | None = None,
    ) -> None:
        super().__init__()
        self.config, self.splits, self.task, self.stream = config, splits, task, stream
        self.draw = draw

    def batches_of_epoch(self, epoch: int, world_size: int) -> list[list[BatchSpec]]:
        """The training batches of each rank."""
        # overfitting wants the same few batches every epoch
        epoch = 0 if self.config.trainer.overfit_batches else epoch
        units = self._units("train", self._rows_of_epoch(epoch))
        ranks = training_batches(
            self._lengths("train", units),
            budget=self.config.data.token_budget,
            seed=self.config.seed,
            epoch=epoch,
            world_size=world_size,
            accumulate=self.config.trainer.accumulate_grad_batches,
            weight=self.task.weight,
            shortest_first=self.config.data.shortest_first,
        )
        return spread(ranks, units)

    def _rows_of_epoch(self, epoch: int) -> Sequence[int]:
        if self.draw is None:
            return range(len(self.splits["train"]))
        return self.draw(self._train_labels, (self.config.seed, epoch))

    @cached_property
    def _train_labels(self) -> list[Any]:
        return self.splits["train"].labels()

    def _units(self, split: str, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """Rows that must not be parted: each alone, or all slices of a document."""
        if not self.config.keeps_documents_whole:
            return [(row,) for row in rows]
        features = self.splits[split]
        lengths, documents = features.lengths, features.documents()
        units = whole_documents(
            [lengths[row] for row in rows],
            [documents[row] for row in rows],
            self.config.data.token_budget,
        )
        return [tuple(rows[place] for place in unit) for unit in units]

    def _lengths(self, split: str, units: Sequence[tuple[int, ...]]) -> list[int]:
        lengths = self.splits[split].lengths
        return [sum(lengths[row] for row in unit) for unit in units]

    def num_steps(self, world_size: int) -> int:
        """Optimiser steps of the whole training: packing differs a little from epoch to epoch."""
        trainer = self.config.trainer
        if self.stream is not None:
            return trainer.max_steps
        limit = trainer.limit_train_batches
        total = 0
        for epoch in range(min(trainer.max_epochs, EPOCHS_COUNTED)):
            batches = len(self.batches_of_epoch(epoch, world_size)[0])
            if isinstance(limit, float):
                batches = int(batches * limit)
            elif limit is not None:
                batches = min(batches, limit)
            if trainer.overfit_batches:
                overfit = trainer.overfit_batches
                batches = overfit if isinstance(overfit, int) else int(batches * overfit)
            self._check_interval(batches, epoch)
            total += -(-batches // trainer.accumulate_grad_batches)
            if 0 <= trainer.max_steps <= total:
                return trainer.max_steps
        if trainer.max_epochs > EPOCHS_COUNTED:
            total = total * trainer.max_epochs // EPOCHS_COUNTED
        return total if trainer.max_steps < 0 else min(total, trainer.max_steps)

    def _check_interval(self, batches: int, epoch: int) -> None:
        """Whether every epoch holds a validation: Lightning would stop at the first that does not."""
        trainer = self.config.trainer
        every = trainer.val_check_interval
        if not isinstance(every, int) or trainer.check_val_every_n_epoch is None:
            return
        if every > batches and "dev" in self.splits and not trainer.overfit_batches:
            raise UserError(
                f"trainer.val_check_interval={every} exceeds the {batches} batches of epoch "
                f"{epoch}; lower it, or set trainer.check_val_every_n_epoch=null to count on from "
                "epoch to epoch"
            )

    def report_packing(self) -> float | None:
        """Log how full the first epoch's batches are, and return it; None for a stream."""
        if self.stream is not None:
            return None
        rows = [spec.rows for spec in self.batches_of_epoch(0, world_size=1)[0]]
        read = sum(len(batch) for batch in rows)
        if read < len(self.splits["train"]):
            log.info("an epoch reads %d of %d pieces", read, len(self.splits["train"]))
        budget = self.config.data.token_budget
        efficiency = packing_efficiency(rows, self.splits["train"].lengths, budget)
        log.info(
            "%d batches an epoch of at most %d tokens, %.1f%% filled",
            len(rows),
            budget,
            100 * efficiency,
        )
        if self.config.keeps_documents_whole:
            self._report_parted_documents()
        return efficiency

    def _report_parted_documents(self) -> None:
        """Say where a document's slices exceed a batch, and what would hold them."""
        for split, features in self.splits.items():
            tokens: Counter[int] = Counter()
            for document, length in zip(features.documents(), features.lengths, strict=True):
                tokens[document] += length
            budget = self.config.data.token_budget
            parted = sum(total > budget for total in tokens.values())
            if parted:
                log.warning(
                    "%s: %d of %d documents have more slices than data.tokens_per_batch=%d holds; "
                    "each is normalised over as many consecutive slices as fit; %d would hold all",
                    split,
                    parted,
                    len(tokens),
                    budget,
                    max(tokens.values()),
                )

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        # Lightning asks again every epoch (reload_dataloaders_every_n_epochs=1)
        trainer = self.trainer
        assert trainer is not None
        if self.stream is not None:
            batches = StreamedBatches(
                self.stream,
                self.config,
                self.task,
                epoch=trainer.current_epoch,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                start=self._batches_done(),
            )
            return DataLoader(batches, batch_size=None, num_workers=self.config.data.num_workers)
        ranks = self.batches_of_epoch(trainer.current_epoch, trainer.world_size)
        key = (self.config.seed, trainer.current_epoch + 1)
        return self._loader("train", ranks[trainer.global_rank], key, self._batches_done())

    def _batches_done(self) -> int:
        """Batches of this epoch that were trained on before an interruption."""
        assert self.trainer is not None
        loop = self.trainer.fit_loop
        return loop.epoch_loop.batch_progress.current.ready if loop.restarting else 0

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[DataLoader[PackedBatch]]:
        return self.evaluation_loader("dev") if "dev" in self.splits else []

    def evaluation_loader(self, split: str) -> DataLoader[PackedBatch]:
        trainer = self.trainer
        assert trainer is not None
        units = self._units(split, range(len(self.splits[split])))
        ranks = evaluation_batches(
            self._lengths(split, units),
            budget=self.config.data.token_budget,
            world_size=trainer.world_size,
        )
        ranks = spread(ranks, units)
        # whatever the seed: what is drawn for an evaluation is the same for all runs
        return self._loader(split, ranks[trainer.global_rank], key=(0, 0))

    def _loader(
        self, split: str, specs: Sequence[BatchSpec], key: tuple[int, ...], start: int = 0
    ) -> DataLoader[PackedBatch]:
        batches = Batches(self.splits[split], specs, self.task, key)
        return DataLoader(
            batches,
            batch_size=None,
            sampler=Remaining(start, len(specs)),
            num_workers=self.config.data.num_workers,
        )
