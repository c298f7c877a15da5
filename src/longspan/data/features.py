"""Raw rows to features, once: tokenised by as many processes as asked for, kept by `datasets`."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

import longspan
from longspan.batch import Feature
from longspan.config import DataConfig, GlobalsConfig
from longspan.data.rows import check_columns, join_sections, row_ids, text_digest, texts
from longspan.data.task import EncodingTask
from longspan.document import RawDocument
from longspan.encoding import DocumentEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureSet:
    """The features of one split, read from disk as they are asked for.

    Attributes:
        split: its name.
        table: one row a feature.
        lengths: tokens of each feature.
    """

    split: str
    table: Dataset
    lengths: list[int]

    def __len__(self) -> int:
        return len(self.table)

    def select(self, rows: Sequence[int]) -> "FeatureSet":
        """Those at the places `rows`, in that order."""
        return FeatureSet(self.split, self.table.select(rows), [self.lengths[r] for r in rows])

    def read(self, rows: Sequence[int]) -> list[Feature]:
        columns = self.table.select_columns(list(FEATURE_COLUMNS))[list(rows)]
        # `datasets` gives plain lists; JSON says what Arrow has no common type for
        return [
            Feature(
                id=columns["id"][i],
                input_ids=np.asarray(columns["input_ids"][i], np.int32),
                global_positions=np.asarray(columns["global_positions"][i], np.int32),
                label=json.loads(columns["label"][i]),
                tokens_cut=columns["tokens_cut"][i],
                is_empty=columns["is_empty"][i],
                token_type_ids=np.asarray(columns["token_type_ids"][i], np.int8),
                words=_optional(columns["words"][i]),
                characters=_optional(columns["characters"][i]),
                offsets=_pairs_of(columns["offsets"][i]),
                details=json.loads(columns["details"][i] or "null"),
            )
            for i in range(len(rows))
        ]

    def global_positions(self, limit: int) -> list[np.ndarray]:
        """Of the first `limit` documents."""
        cells = self.table[: min(limit, len(self))]["global_positions"]
        return [np.asarray(cell, np.int64) for cell in cells]

    def text_digests(self) -> list[str]:
        """Of each document, however many features it became."""
        return list(dict(zip(self.table["row"][:], self.table["text_digest"][:])).values())

    def documents(self) -> list[int]:
        """(features,) which row of the source each feature is of; they stand side by side."""
        return self.table["row"][:]

    def labels(self) -> list[Any]:
        """Of each feature, as the task gave them."""
        return [json.loads(cell) for cell in self.table["label"][:]]

    def report_truncation(self) -> dict[str, float]:
        """Log how much of the split truncation took away, and return it."""
        cut = np.asarray(self.table["tokens_cut"][:])
        share = float(cut.sum() / (cut.sum() + sum(self.lengths)))
        empty = int(np.sum(self.table["is_empty"][:]))
        documents = len(set(self.table["row"][:]))
        log.info(
            "%s: %d documents%s, %d tokens; %d documents cut, %.1f%% of all tokens lost",
            self.split,
            documents,
            f" in {len(self)} pieces" if len(self) > documents else "",
            sum(self.lengths),
            int((cut > 0).sum()),
            100 * share,
        )
        if empty:
            log.warning(
                "%s: %d documents hold nothing but white space; they are kept and predicted as "
                "empty",
                self.split,
                empty,
            )
        return {
            "documents": documents,
            "documents_cut": int((cut > 0).sum()),
            "share_of_tokens_cut": share,
            "documents_empty": empty,
        } | self.counts()

    def counts(self) -> dict[str, float]:
        """What the features counted, summed."""
        total: Counter[str] = Counter()
        for cell in self.table["counts"][:]:
            total.update(json.loads(cell) or {})
        return dict(total)


ENCODING = 3  # raised when the same text gives other features, so that no old cache is read
FEATURE_COLUMNS = {
    "id": Value("string"),
    "input_ids": List(Value("int32")),
    "global_positions": List(Value("int32")),
    "label": Value("string"),
    "tokens_cut": Value("int32"),
    "is_empty": Value("bool"),
    "token_type_ids": List(Value("int8")),
    "words": List(Value("int32")),
    "characters": List(Value("int32")),
    "offsets": List(Value("int32")),  # (L, 2) row by row
    "details": Value("string"),
}
OTHER_COLUMNS = {
    "length": Value("int32"),
    "row": Value("int64"),  # of the source
    "text_digest": Value("string"),
    "counts": Value("string"),
}


def encode_split(
    table: Dataset,
    split: str,
    *,
    data: DataConfig,
    policies: GlobalsConfig,
    encoder: DocumentEncoder,
    task: EncodingTask,
    labelled: bool = True,
    cells: Mapping[str, str] | None = None,
) -> FeatureSet:
    """Tokenise a split, or find it done.

    Args:
        table: raw rows.
        split: their name.
        data, policies: which columns hold what.
        encoder: text to tokens.
        task: documents and label cells to features.
        labelled: whether the label column is read.
        cells: what else the task reads of a row, and the columns it stands in.

    Raises:
        UserError: a missing column, a label or a globals cell that cannot be read.
    """
    check_columns(table, split, data, policies, labelled)
    ids = row_ids(table, split, data)
    cells = cells or {}

    def encode_rows(rows: dict[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        documents = raw_documents(rows, places, split, data, policies, labelled)
        documents = [
            replace(
                document,
                id=ids[place],
                # rows are counted within the split, which may have been cut here: names are not
                where=_named(document.where, data.id_column, ids[place]),
                cells={name: rows[column][i] for name, column in cells.items()},
            )
            for i, (document, place) in enumerate(zip(documents, places, strict=True))
        ]
        encoded = task.encode(documents, encoder)
        features = [feature for pieces in encoded for feature in pieces]
        columns = {name: [getattr(f, name) for f in features] for name in FEATURE_COLUMNS}
        for name in ("label", "details", "counts"):
            columns[name] = [json.dumps(getattr(f, name)) for f in features]
        columns["offsets"] = [None if f.offsets is None else f.offsets.ravel() for f in features]
        columns["length"] = [len(f.input_ids) for f in features]
        columns["row"] = [place for place, pieces in zip(places, encoded) for _ in pieces]
        digests = [text_digest(document.text) for document in documents]
        columns["text_digest"] = [d for d, pieces in zip(digests, encoded) for _ in pieces]
        return columns

    encoded = table.map(
        encode_rows,
        with_indices=True,
        batched=True,
        batch_size=64,
        num_proc=data.num_proc,
        remove_columns=table.column_names,
        features=Features(FEATURE_COLUMNS | OTHER_COLUMNS),
        new_fingerprint=_fingerprint(table, split, data, policies, encoder, task, labelled, cells),
        desc=f"tokenise {split}",
    )
    return FeatureSet(split, encoded, encoded["length"][:])


def raw_documents(
    rows: Mapping[str, Sequence[Any]],
    places: Sequence[int],
    split: str,
    data: DataConfig,
    policies: GlobalsConfig,
    labelled: bool,
) -> list[RawDocument]:
    """Rows as documents that are not tokenised yet, named `<split>-<row>`.

    Args:
        rows: cells by column.
        places: numbers of the rows in their split.
        split: its name.
        data, policies: which columns hold what.
        labelled: whether the label column is read.
    """
    whole, pairs = texts(rows, data), _pairs(rows, data)
    return [
        RawDocument(
            id=f"{split}-{place}",
            text=whole[i],
            pair=None if pairs is None else pairs[i],
            global_cell=rows[policies.column][i] if policies.column else None,
            label=rows[data.label_column][i] if labelled else None,
            where=f"{data.label_column} of {split} row {place}" if labelled else None,
        )
        for i, place in enumerate(places)
    ]


def _named(where: str | None, id_column: str | None, id: str) -> str | None:
    return where if where is None or id_column is None else f"{where} ({id_column} {id})"


def _optional(cells: Sequence[int] | None) -> np.ndarray | None:
    return None if cells is None else np.asarray(cells, np.int32)


def _pairs_of(cells: Sequence[int] | None) -> np.ndarray | None:
    return None if cells is None else np.asarray(cells, np.int32).reshape(-1, 2)


def _pairs(rows: Mapping[str, Sequence[Any]], data: DataConfig) -> list[str] | None:
    if data.text_pair_column is None:
        return None
    return [join_sections([cell], data.section_separator) for cell in rows[data.text_pair_column]]


def _fingerprint(
    table: Dataset,
    split: str,
    data: DataConfig,
    policies: GlobalsConfig,
    encoder: DocumentEncoder,
    task: EncodingTask,
    labelled: bool,
    cells: Mapping[str, str],
) -> str:
    """Of all that the features depend on; `datasets` would hash the tokenizer's mutable state."""
    parts = {
        "version": [longspan.__version__, ENCODING],
        "features": sorted(FEATURE_COLUMNS | OTHER_COLUMNS),
        "table": table._fingerprint,
        "split": split,
        "columns": [data.id_column, data.text_column, data.text_pair_column, data.label_column],
        "separator": data.section_separator,
        "length": [encoder.max_length, encoder.truncate, encoder.stride],
        "globals": asdict(policies),
        "tokenizer": encoder.tokenizer.to_str(),
        "special": [encoder.cls_id, encoder.sep_id],
        "task": task.fingerprint,
        "labelled": labelled,
        "cells": dict(cells),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
