"""Tables with the columns of a known data set, as questions over documents."""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from datasets import Dataset, Features
from datasets import IterableDataset as Stream

import longspan
from longspan.config import DataConfig
from longspan.data.formats import hotpot_qa, qasper, trivia_qa, wikihop
from longspan.errors import UserError

# A format says which columns it reads (READS), which it makes (COLUMNS), and how it makes a row's
# questions: `questions(row, separator)`, a pure function.
FORMATS: dict[str, Any] = {
    "hotpot_qa": hotpot_qa,
    "qasper": qasper,
    "trivia_qa": trivia_qa,
    "wikihop": wikihop,
}
VERSION = 2  # raised when the same row gives other questions, so that no old cache is read

log = logging.getLogger(__name__)

Cells = dict[str, list[Any]]


def read_table(table: Dataset, split: str, config: DataConfig) -> Dataset:
    """One row a question, with the columns of `data.format`; the table as it is without one.

    Questions without a document are left out, and counted.

    Raises:
        UserError: a column or a field of a row that is not there.
    """
    if config.format is None:
        return table
    _check(table.column_names, split, config)
    parts = [longspan.__version__, VERSION, table._fingerprint, config.format]
    key = hashlib.sha256(repr([*parts, config.section_separator]).encode()).hexdigest()[:32]
    read = table.map(
        questions_of(split, config),
        with_indices=True,
        batched=True,
        batch_size=64,
        num_proc=config.num_proc,
        remove_columns=table.column_names,
        features=Features(FORMATS[config.format].COLUMNS),
        new_fingerprint=key,
        desc=f"read {split} as {config.format}",
    )
    kept = read.filter(
        _has_text,
        input_columns="text",
        new_fingerprint=f"{key}kept",
        desc=f"leave out questions of {split} without a document",
    )
    if not len(kept):
        raise UserError(
            f"data.format={config.format}: no question of the {split} split has a document; check "
            "data.name, as some configurations come without"
        )
    if len(kept) < len(read):
        log.warning(
            "%s: %d of %d questions have no document; they are left out",
            split,
            len(read) - len(kept),
            len(read),
        )
    return kept


def read_stream(rows: Stream, columns: list[str], split: str, config: DataConfig) -> Stream:
    """The same for rows as they come, which have these columns."""
    _check(columns, split, config)
    read = rows.map(
        questions_of(split, config), with_indices=True, batched=True, remove_columns=columns
    )
    return read.filter(_has_text, input_columns="text")


def questions_of(split: str, config: DataConfig) -> Callable[[Cells, list[int]], Cells]:
    """From cells by column, and the numbers of their rows, to those of the questions."""
    assert config.format is not None
    columns = FORMATS[config.format].COLUMNS

    def read(cells: Mapping[str, list[Any]], places: list[int]) -> Cells:
        found: Cells = {name: [] for name in columns}
        for i, place in enumerate(places):
            row = {name: column[i] for name, column in cells.items()}
            for question in _questions(row, f"row {place} of the {split} split", config):
                for name, cell in question.items():
                    found[name].append(cell)
        return found

    return read


def _questions(row: Mapping[str, Any], where: str, config: DataConfig) -> Iterator[dict[str, Any]]:
    try:
        yield from FORMATS[config.format or ""].questions(row, config.section_separator)
    except (UserError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(
            f"data.format={config.format}: {where} cannot be read ({reason}); mend or drop it"
        ) from error


def _check(columns: list[str], split: str, config: DataConfig) -> None:
    missing = [name for name in FORMATS[config.format or ""].READS if name not in columns]
    if missing:
        raise UserError(
            f"data.format={config.format} reads {', '.join(missing)}, which the {split} split does "
            f"not have; there are {', '.join(columns)}; set data.format=null to name columns"
        )


def _has_text(text: str) -> bool:
    return bool(text.strip())
