"""A source as streams: nothing is read before it is asked for, and train is never held whole."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import datasets
from datasets import Dataset
from datasets import IterableDataset as Stream
from datasets.exceptions import DatasetsError

from longspan.config import DataConfig
from longspan.data.formats.read import read_stream
from longspan.data.sources import (
    READ_OPTIONS,
    existing,
    format_of,
    load_hub,
    load_splits,
    name_of,
)
from longspan.data.unreadable import cause_of, unreadable
from longspan.errors import UserError

T = TypeVar("T")


def load_stream(config: DataConfig) -> tuple[Stream, dict[str, Dataset]]:
    """Train as a stream that is read as it is asked for, and the beginnings of dev and test.

    Where the source has no dev split, the first documents of train are held out for it.
    """
    streams = _open_streams(config)
    if config.format is not None:
        streams = {split: _formatted(rows, split, config) for split, rows in streams.items()}
    if "train" not in streams:
        raise UserError(f"data: {name_of(config)} has no train split; name it in data.splits.train")
    held_out = {
        split: as_table(rows, config)
        for split, rows in streams.items()
        if split != "train" and config.held_out
    }
    train = streams["train"]
    if "dev" not in streams and config.held_out:
        train, held_out["dev"] = train.skip(config.held_out), as_table(train, config)
    for split, table in held_out.items():
        if not len(table):
            raise UserError(f"data: the {split} split of {name_of(config)} is empty; give it rows")
    return train, held_out


def _formatted(rows: Stream, split: str, config: DataConfig) -> Stream:
    first = list(readable(rows.take(1), config))
    return read_stream(rows, list(first[0]), split, config) if first else rows


def as_table(rows: Stream, config: DataConfig) -> Dataset:
    """The first documents of a stream, as many as are held out."""
    return table_of(list(readable(rows.take(config.held_out), config)), config)


def table_of(rows: list[dict[str, Any]], config: DataConfig) -> Dataset:
    """Rows as a table.

    Raises:
        UserError: cells of which Arrow makes no column: of different types, or beyond its numbers.
    """
    try:
        return Dataset.from_list(rows)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise UserError(
            f"data: {name_of(config)}: rows whose cells make no table: {cause_of(error)}"
        ) from error


def readable(rows: Iterable[T], config: DataConfig) -> Iterator[T]:
    """The same rows; what goes wrong in reading them is the source's, and said so.

    Raises:
        UserError: a row that cannot be read.
    """
    try:
        yield from rows
    except UserError:  # of a row that is read as data.format says
        raise
    except (DatasetsError, OSError, ValueError) as error:
        raise UserError(
            f"data: {name_of(config)} cannot be read further: {cause_of(error)}"
        ) from error


def _open_streams(config: DataConfig) -> dict[str, Stream]:
    files = {split: Path(file) for split, file in config.local_files.items()}
    if not files and config.split_column is None and os.path.isfile(config.path):
        files = {"train": Path(config.path)}
    if files:
        return {
            split: _stream_file(existing(file, f"data.files.{split}"))
            for split, file in files.items()
        }
    if config.path.startswith("embedded:") or os.path.exists(config.path):
        # small enough to lie here: read whole, and dealt out like a stream
        raw = replace(config, dev_fraction=0.0, test_fraction=0.0, format=None)
        tables = load_splits(raw, stratify=False)
        return {split: table.to_iterable_dataset() for split, table in tables.items()}
    return load_hub(config, streaming=True)


def _stream_file(path: Path) -> Stream:
    kind = format_of(path)
    options = READ_OPTIONS.get(kind, {})
    try:
        return datasets.load_dataset(
            kind, data_files=str(path), split="train", streaming=True, **options
        )
    except (DatasetsError, OSError, ValueError) as error:
        raise unreadable(path, kind, error) from error
