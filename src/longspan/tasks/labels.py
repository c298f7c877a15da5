"""Label cells of a data set to numbers, checked row by row."""

import logging
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from longspan.errors import UserError

log = logging.getLogger(__name__)


def label_names(cells: Iterable[Any], class_names: Sequence[str] | None, column: str) -> list[str]:
    """The names of all labels, in the order of their class indices.

    Args:
        cells: label cells of the training split; lists where a row has several labels.
        class_names: names that the data set itself declares for its integers, if it does.
        column: what to call the cells in an error.
    """
    if class_names is not None:
        return list(class_names)
    names = {
        name_of(label, f"{column} of train row {row}")
        for row, cell in enumerate(cells)
        for label in _as_list(cell)
    }
    if not names:
        raise UserError(f"{column}: the training split has no label at all; give labels")
    _warn_of_lookalikes(names, column)
    # numbers in numerical order, so that 10 does not come before 2
    return sorted(names, key=lambda name: (not _is_number(name), _number(name), name))


def _warn_of_lookalikes(names: Iterable[str], column: str) -> None:
    """Say which labels are spelled alike but for white space, case or how accents are written."""
    spelled: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spelled[" ".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    alike = [sorted(group) for group in spelled.values() if len(group) > 1]
    if alike:
        log.warning(
            "%s: %d labels look alike but are told apart (first: %s); if they are one, spell them "
            "the same",
            column,
            sum(map(len, alike)),
            ", ".join(ascii(name)[:40] for name in alike[0]),
        )


def name_of(label: Any, where: str) -> str:
    """One label as text: 3, 3.0 and '3' are one label, as tables lose the difference."""
    missing = label is None or (isinstance(label, float) and math.isnan(label))
    if missing or not str(label).strip():
        raise UserError(f"{where} is empty; give every row a label or drop the row")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(label).strip()


def class_index(
    label: Any, index: dict[str, int], class_names: Sequence[str] | None, where: str
) -> int:
    """The class of one label.

    Args:
        label: a cell, or one entry of a list cell.
        index: label name to class index.
        class_names: the data set's own names: then integers are indices already.
        where: split and row, for messages.
    """
    if class_names is not None and isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(class_names):
            raise UserError(f"{where}={label} is no class of {len(class_names)}; mend the row")
        return index[class_names[label]]
    name = name_of(label, where)
    if name not in index:
        known = ", ".join(list(index)[:10]) + (", …" if len(index) > 10 else "")
        raise UserError(
            f"{where}={name!r} does not occur in train (known: {known}); mend it, or add "
            "training documents with it"
        )
    return index[name]


def number(cell: Any, where: str) -> float:
    """A regression target."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        raise UserError(f"{where}={cell!r} is not a number; mend the row") from None
    if not math.isfinite(value):
        raise UserError(f"{where}={cell!r} is not a finite number; mend or drop the row")
    return value


def _as_list(cell: Any) -> list[Any]:
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def _is_number(name: str) -> bool:
    return math.isfinite(_number(name))


def _number(name: str) -> float:
    try:
        value = float(name)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) else math.inf  # "nan" has no place in an order
