"""Train, dev and test: named by a column, or cut with a seed where the source has none."""

import logging
from collections import defaultdict

import numpy as np
from datasets import Dataset

from longspan.config import DataConfig
from longspan.errors import UserError

log = logging.getLogger(__name__)


def split_by_column(table: Dataset, config: DataConfig) -> dict[str, Dataset]:
    """Rows of one table by the name in `data.split_column`, translated by `data.splits`."""
    column = config.split_column
    if column not in table.column_names:
        raise UserError(
            f"data.split_column={column} is not a column; there are {', '.join(table.column_names)}"
        )
    names = np.array(table[column][:], dtype=object)
    wanted = {ours: theirs for ours, theirs in config.splits.items() if theirs is not None}
    unused = sorted({str(name) for name in names} - set(wanted.values()))
    if unused:
        log.warning(
            "data.split_column=%s: rows of %s are left out, as data.splits does not name them",
            column,
            ", ".join(unused),
        )
    places = {ours: (names == theirs).nonzero()[0] for ours, theirs in wanted.items()}
    return {ours: table.select(rows) for ours, rows in places.items() if len(rows)}


def cut_missing_splits(
    splits: dict[str, Dataset], config: DataConfig, stratify: bool
) -> dict[str, Dataset]:
    """Cut dev and test from train where they are missing: a function of `data.split_seed` alone."""
    shares = {
        split: share
        for split, share in (("test", config.test_fraction), ("dev", config.dev_fraction))
        if split not in splits and share > 0
    }
    if not shares:
        return splits
    train = splits["train"]
    if config.group_column is not None:
        cut = _cut_groups(train, config.group_column, shares, config.split_seed)
    else:
        strata = _strata(train, config.label_column if stratify else None)
        cut = cut_shares(strata, shares, config.split_seed)
    taken = sorted(row for rows in cut.values() for row in rows)
    rest = np.setdiff1d(np.arange(len(train)), taken)
    for split, rows in {**cut, "train": rest}.items():
        if not len(rows):
            raise UserError(
                f"data: {len(train)} documents are too few to cut a {split} split from "
                f"(data.{'dev' if split == 'train' else split}_fraction); give more documents or "
                "name the split"
            )
    log.info(
        "cut from train with seed %d: %s", config.split_seed, {k: len(v) for k, v in cut.items()}
    )
    return splits | {split: train.select(rows) for split, rows in {**cut, "train": rest}.items()}


def cut_shares(
    strata: list[np.ndarray], shares: dict[str, float], seed: int
) -> dict[str, list[int]]:
    """Rows of each share, drawn from every stratum alike.

    Args:
        strata: row numbers that are alike (one label), together all rows.
        shares: name to share of all rows.
        seed: of the draw.

    Returns:
        name to ascending row numbers; disjoint.
    """
    generator = np.random.default_rng(seed)
    cut: dict[str, list[int]] = {name: [] for name in shares}
    # what rounding leaves over in one stratum is carried to the next, so that totals are right
    owed = dict.fromkeys(shares, 0.0)
    for rows in strata:
        shuffled = generator.permutation(rows)
        start = 0
        for name, share in shares.items():
            owed[name] += share * len(rows)
            stop = min(start + round(owed[name]), len(rows))
            owed[name] -= stop - start
            cut[name] += shuffled[start:stop].tolist()
            start = stop
    return {name: sorted(rows) for name, rows in cut.items()}


def _cut_groups(
    table: Dataset, column: str, shares: dict[str, float], seed: int
) -> dict[str, list[int]]:
    """Rows of a share of the groups, which stay whole: no question's document is trained on."""
    if column not in table.column_names:
        raise UserError(
            f"data.group_column={column} is not a column; there are {', '.join(table.column_names)}"
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(table[column]):
        groups[str(name)].append(row)
    members = list(groups.values())
    cut = cut_shares([np.arange(len(members))], shares, seed)
    return {
        split: sorted(row for group in chosen for row in members[group])
        for split, chosen in cut.items()
    }


def _strata(table: Dataset, column: str | None) -> list[np.ndarray]:
    if column is None or column not in table.column_names:
        return [np.arange(len(table))]
    groups: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(table[column]):
        groups[str(label)].append(row)
    return [np.array(groups[label]) for label in sorted(groups)]
