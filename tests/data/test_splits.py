"""Splits that are cut from train: by the seed alone, alike in every class, of the right size."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from longspan.config import DataConfig
from longspan.data.splits import cut_missing_splits, cut_shares
from longspan.errors import UserError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=120)
# shares of test and dev that leave something for train
SHARES = st.tuples(st.floats(0.01, 0.6), st.floats(0.01, 0.35))


def strata_of(labels):
    return [np.flatnonzero(np.array(labels) == label) for label in sorted(set(labels))]


@given(labels=LABELS, shares=SHARES, seed=st.integers(0, 99))
def test_shares_are_disjoint_and_of_the_right_size(labels, shares, seed):
    named = dict(zip(("test", "dev"), shares))
    cut = cut_shares(strata_of(labels), named, seed)
    taken = [row for rows in cut.values() for row in rows]
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(range(len(labels)))
    for name, share in named.items():
        assert cut[name] == sorted(cut[name])
        assert abs(len(cut[name]) - share * len(labels)) <= 1


@given(labels=LABELS, shares=SHARES, seed=st.integers(0, 99))
def test_every_class_is_cut_alike(labels, shares, seed):
    named = dict(zip(("test", "dev"), shares))
    cut = cut_shares(strata_of(labels), named, seed)
    total = Counter(labels)
    for name, share in named.items():
        counts = Counter(labels[row] for row in cut[name])
        for label in total:
            # a class carries what rounding left over in the one before
            assert abs(counts[label] - share * total[label]) <= 1.5


@given(labels=LABELS, seed=st.integers(0, 99))
def test_the_cut_is_a_function_of_the_seed(labels, seed):
    named = {"test": 0.3, "dev": 0.2}
    first = cut_shares(strata_of(labels), named, seed)
    np.random.seed(1)
    np.random.rand()
    assert cut_shares(strata_of(labels), named, seed) == first


def test_other_seeds_cut_otherwise():
    cuts = {tuple(cut_shares([np.arange(50)], {"test": 0.3}, seed)["test"]) for seed in range(10)}
    assert len(cuts) == 10


@pytest.fixture
def table():
    return Dataset.from_dict(
        {"text": [f"text {i}" for i in range(100)], "label": [min(i // 10, 3) for i in range(100)]}
    )


def test_train_keeps_the_rest(table, config):
    data = config(dev_fraction=0.1, test_fraction=0.2)
    splits = cut_missing_splits({"train": table}, data, stratify=True)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 70,
        "test": 20,
        "dev": 10,
    }
    rows = [text for split in splits.values() for text in split["text"]]
    assert sorted(rows) == sorted(table["text"])
    assert Counter(splits["test"]["label"]) == {0: 2, 1: 2, 2: 2, 3: 14}
    again = cut_missing_splits({"train": table}, data, stratify=True)
    assert all(again[split]["text"][:] == splits[split]["text"][:] for split in splits)


def test_only_what_is_missing_is_cut(table, config):
    data = config(dev_fraction=0.1, test_fraction=0.2)
    test = table.select(range(5))
    splits = cut_missing_splits({"train": table, "test": test}, data, stratify=True)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 90,
        "test": 5,
        "dev": 10,
    }
    assert splits["test"] is test
    given = {"train": table, "dev": test, "test": test}
    assert cut_missing_splits(given, data, stratify=True) is given
    nothing = config(dev_fraction=0.0, test_fraction=0.0)
    assert list(cut_missing_splits({"train": table}, nothing, stratify=True)) == ["train"]


def test_without_stratification_labels_are_not_looked_at(config):
    table = Dataset.from_dict({"text": list("abcdefghij"), "label": [0.5] * 10})
    data = config(dev_fraction=0.2, label_column="absent")
    for stratify in (True, False):
        splits = cut_missing_splits({"train": table}, data, stratify=stratify)
        assert {split: len(rows) for split, rows in splits.items()} == {"train": 8, "dev": 2}


@pytest.mark.parametrize(
    ("rows", "fractions", "field"),
    [
        (3, {"dev_fraction": 0.1}, "data.dev_fraction"),
        (3, {"test_fraction": 0.1}, "data.test_fraction"),
        (4, {"dev_fraction": 0.5, "test_fraction": 0.49}, "data.dev_fraction"),
    ],
)
def test_too_few_documents_to_cut_from(config, rows, fractions, field):
    table = Dataset.from_dict({"text": ["x"] * rows, "label": ["a"] * rows})
    with pytest.raises(UserError) as error:
        cut_missing_splits({"train": table}, config(**fractions), stratify=True)
    assert f"{rows} documents are too few" in str(error.value)
    assert field in str(error.value)
    assert "\n" not in str(error.value)


GROUPS = st.lists(st.integers(0, 12), min_size=40, max_size=90).filter(lambda g: len(set(g)) > 9)


@given(groups=GROUPS, seed=st.integers(0, 99))
def test_a_group_stays_whole(groups, seed):
    table = Dataset.from_dict({"title": groups, "row": list(range(len(groups)))})
    config = DataConfig(group_column="title", dev_fraction=0.2, test_fraction=0.3, split_seed=seed)
    splits = cut_missing_splits({"train": table}, config, stratify=False)
    titles = {split: set(rows["title"]) for split, rows in splits.items()}
    assert sum(map(len, titles.values())) == len(set(groups))  # none is in two of them
    rows = sorted(row for rows in splits.values() for row in rows["row"])
    assert rows == list(range(len(groups)))
    share = len(titles["test"]) / len(set(groups))
    assert abs(share - 0.3) <= 1 / len(set(groups))
