"""A training split that is never held whole: read, shuffled, tokenised and packed as it comes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from datasets import IterableDataset as Stream
from torch.utils.data import IterableDataset

from longspan.batch import Feature, PackedBatch, pack
from longspan.config import Config
from longspan.data.batching import POOL_BATCHES, deal, even, pack_rows
from longspan.data.features import raw_documents
from longspan.data.rows import check_columns
from longspan.data.stream_sources import readable, table_of
from longspan.data.task import EncodingTask, ReadingTask
from longspan.encoding import DocumentEncoder
from longspan.errors import UserError

ROWS_AT_ONCE = 64  # that are tokenised together

Numbered = tuple[int, Feature]  # a feature and its number in the epoch


@dataclass(frozen=True)
class TrainingStream:
    """Rows of the training split, and how they become features.

    Attributes:
        rows: as they come.
        encoder: text to tokens.
        task: documents to features.
    """

    rows: Stream
    encoder: DocumentEncoder
    task: EncodingTask

    def check(self, config: Config) -> None:
        """Whether there is a first row, with every column that the config names.

        Raises:
            UserError: there is not.
        """
        first = list(readable(self.rows.take(1), config.data))
        if not first:
            raise UserError("data: the train split is an empty stream; give it rows")
        check_columns(table_of(first, config.data), "train", config.data, config.globals, False)

    def features(self, config: Config, epoch: int) -> Iterator[list[Feature]]:
        """Those of a few documents at a time, in an order that (seed, epoch) alone decides."""
        (seed,) = np.random.SeedSequence([config.seed, epoch]).generate_state(1).tolist()
        shuffled = self.rows.shuffle(seed=seed, buffer_size=config.data.shuffle_buffer)
        numbered = enumerate(readable(shuffled, config.data))
        while chunk := list(islice(numbered, ROWS_AT_ONCE)):
            places = [place for place, _ in chunk]
            columns = {name: [row[name] for _, row in chunk] for name in chunk[0][1]}
            documents = raw_documents(columns, places, "train", config.data, config.globals, False)
            yield [
                feature
                for pieces in self.task.encode(documents, self.encoder)
                for feature in pieces
            ]


class StreamedBatches(IterableDataset[PackedBatch]):
    """One epoch of batches for one rank; every rank reads the whole stream and keeps its share.

    Pools of features are packed as in `training_batches`. What does not fill an optimiser step of
    all ranks goes to the next pool.

    Args:
        stream: the training split.
        config: token budget, seed, accumulation.
        task: what it does to a feature as it is read, and what that weighs.
        epoch, rank, world_size: whose batches.
        start: batches to leave out, as they were trained on before an interruption.
    """

    def __init__(
        self,
        stream: TrainingStream,
        config: Config,
        task: ReadingTask,
        *,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        self.stream, self.config, self.task = stream, config, task
        self.epoch, self.rank, self.world_size, self.start = epoch, rank, world_size, start

    def __iter__(self) -> Iterator[PackedBatch]:
        return islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[PackedBatch]:
        generator = np.random.default_rng([self.config.seed, self.epoch])
        enough = POOL_BATCHES * self.config.data.token_budget * self.world_size
        pool: list[Numbered] = []
        number = 0
        for features in self.stream.features(self.config, self.epoch):
            pool += enumerate(features, start=number)
            number += len(features)
            if sum(len(feature.input_ids) for _, feature in pool) >= enough:
                pool = yield from self._pack(pool, generator, is_last=False)
        yield from self._pack(pool, generator, is_last=True)

    def _pack(
        self, pool: list[Numbered], generator: np.random.Generator, is_last: bool
    ) -> Iterator[Any]:
        """Yield this rank's batches of the pool; return what goes to the next one."""
        lengths = [len(feature.input_ids) for _, feature in pool]
        batches = pack_rows(lengths, range(len(pool)), self.config.data.token_budget)
        batches = [batches[i] for i in generator.permutation(len(batches))]
        accumulate = self.config.trainer.accumulate_grad_batches
        whole = len(batches) // (self.world_size * accumulate) * self.world_size * accumulate
        if is_last:
            batches = even(batches, lengths, self.world_size)
            whole = len(batches)
        weights = [self.task.weight(length) for length in lengths]
        for spec in deal(batches[:whole], weights, self.world_size, accumulate)[self.rank]:
            rows = spec.rows or (0,)  # where a rank only keeps step, any document, at weight 0
            features = [self._read(*pool[row]) for row in rows]
            yield pack(features, spec.weight, spec.step_weight)
        return [pool[row] for batch in batches[whole:] for row in batch]

    def _read(self, number: int, feature: Feature) -> Feature:
        return self.task.prepare(feature, (self.config.seed, self.epoch + 1, number))
