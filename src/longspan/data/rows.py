"""The columns of a source as the rest of the program reads them: id, text, pair, label, globals."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import ClassLabel, Dataset, List

from longspan.config import DataConfig, GlobalsConfig
from longspan.errors import UserError

log = logging.getLogger(__name__)


def text_columns(config: DataConfig) -> tuple[str, ...]:
    column = config.text_column
    return (column,) if isinstance(column, str) else column


def check_columns(
    table: Dataset, split: str, config: DataConfig, policies: GlobalsConfig, labelled: bool
) -> None:
    """Every column that the config names is there, before anything is tokenised."""
    wanted = [("data.text_column", name) for name in text_columns(config)]
    wanted += [("data.text_pair_column", config.text_pair_column)]
    wanted += [("data.id_column", config.id_column), ("globals.column", policies.column)]
    # where questions are asked, the labels are their answers (`known_tasks.task_columns`)
    asks = config.label_column == config.answers_column
    label_field = "data.answers_column" if asks else "data.label_column"
    wanted += [(label_field, config.label_column)] if labelled else []
    for field, name in wanted:
        if name is not None and name not in table.column_names:
            raise UserError(
                f"{field}={name} is not a column of the {split} split; "
                f"there are {', '.join(table.column_names)}"
            )


def class_names(table: Dataset, column: str) -> list[str] | None:
    """The names that the data set declares for integer labels, if it declares any."""
    feature: Any = table.features.get(column)
    if isinstance(feature, List):
        feature = feature.feature
    return list(feature.names) if isinstance(feature, ClassLabel) else None


def label_cells(table: Dataset, column: str) -> tuple[list[Any], list[str] | None]:
    """Every label cell, and the names that the data set declares for them."""
    return table[column][:], class_names(table, column)


def row_ids(table: Dataset, split: str, config: DataConfig) -> list[str]:
    """A name for each row; `<split>-<row>` where the source has none."""
    if config.id_column is None:
        return [f"{split}-{row}" for row in range(len(table))]
    cells = table[config.id_column][:]
    if None in cells:
        raise UserError(
            f"data.id_column={config.id_column}: row {cells.index(None)} of the {split} split has "
            "no id; give every row one, or name another column"
        )
    ids = [str(value) for value in cells]
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise UserError(
            f"data.id_column={config.id_column}: {len(twice)} ids stand twice in the {split} split "
            f"(first: {twice[0]!r}); make them unique, or name another column"
        )
    return ids


def texts(rows: Mapping[str, Sequence[Any]], config: DataConfig) -> list[str]:
    """One text a row: columns and the sections of list cells joined by `data.section_separator`."""
    columns = [rows[name] for name in text_columns(config)]
    return [join_sections(cells, config.section_separator) for cells in zip(*columns, strict=True)]


def join_sections(cells: Sequence[Any], separator: str) -> str:
    """Cells and the entries of list cells joined; a cell without text counts as empty."""
    sections: list[str] = []
    for cell in cells:
        entries = cell if isinstance(cell, list | tuple) else [cell]
        sections += [str(entry) for entry in entries if entry is not None]
    return separator.join(sections)


def warn_about_shared_texts(digests: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Say how many texts of dev and test stand in train too: they make scores too good.

    Args:
        digests: split to the digest of each of its texts (`text_digest`).

    Returns:
        split to number of its texts that train holds as well, where there are any.
    """
    train = set(digests.get("train", ()))
    shared = {
        split: sum(digest in train for digest in rows)
        for split, rows in digests.items()
        if split != "train"
    }
    shared = {split: count for split, count in shared.items() if count}
    for split, count in shared.items():
        log.warning(
            "%d of %d texts of the %s split stand in train too: scores on it are too good",
            count,
            len(digests[split]),
            split,
        )
    return shared


def text_digest(text: str) -> str:
    """Of a text without regard to white space."""
    # half of a surrogate pair, which JSON can spell, is no character that UTF-8 could hold
    return hashlib.sha256(" ".join(text.split()).encode(errors="replace")).hexdigest()
