"""Which documents share a batch: every document once, the budget kept, all ranks alike."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longspan.data.batching import (
    evaluation_batches,
    pack_rows,
    packing_efficiency,
    spread,
    training_batches,
    whole_documents,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)
BUDGET = st.integers(1, 100)
RANKS = st.integers(1, 4)
SEED = st.integers(0, 1000)


def rows_of(ranks):
    return [list(spec.rows) for rank in ranks for spec in rank]


def check_epoch(ranks, lengths, budget, world_size):
    rows = rows_of(ranks)
    assert sorted(row for batch in rows for row in batch) == list(range(len(lengths)))
    empty = rows.count([])
    assert empty < world_size
    if empty:  # there was nothing to halve, and they come last
        assert max(map(len, rows)) == 1
        assert not any(spec.rows == () for rank in ranks for spec in rank[:-1])
    for batch in filter(None, rows):
        assert len(batch) == 1 or sum(lengths[row] for row in batch) <= budget
    assert len(ranks) == world_size
    assert len({len(rank) for rank in ranks}) == 1


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED, epoch=st.integers(0, 5), world_size=RANKS)
@example(lengths=[1, 60, 60, 60], budget=60, seed=0, epoch=0, world_size=2)
def test_every_document_once_an_epoch_within_the_budget(lengths, budget, seed, epoch, world_size):
    ranks = training_batches(lengths, budget=budget, seed=seed, epoch=epoch, world_size=world_size)
    check_epoch(ranks, lengths, budget, world_size)


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED, epoch=st.integers(0, 5), world_size=RANKS)
def test_a_curriculum_holds_every_document_once(lengths, budget, seed, epoch, world_size):
    ranks = training_batches(
        lengths, budget=budget, seed=seed, epoch=epoch, world_size=world_size, shortest_first=True
    )
    check_epoch(ranks, lengths, budget, world_size)


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED)
def test_documents_of_a_curriculum_get_longer(lengths, budget, seed):
    (rank,) = training_batches(lengths, budget=budget, seed=seed, epoch=0, shortest_first=True)
    powers = [math.ceil(math.log2(lengths[row])) for spec in rank for row in spec.rows]
    assert powers == sorted(powers)


def test_a_curriculum_differs_between_epochs_and_seeds():
    orders = [
        training_batches([50] * 40, budget=100, seed=seed, epoch=epoch, shortest_first=True)
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]


@given(lengths=LENGTHS, budget=BUDGET, world_size=RANKS)
def test_every_document_is_evaluated_once(lengths, budget, world_size):
    ranks = evaluation_batches(lengths, budget=budget, world_size=world_size)
    check_epoch(ranks, lengths, budget, world_size)
    documents = [spec.step_weight for rank in ranks for spec in rank]
    assert sum(documents) == world_size * len(lengths)


def test_evaluation_starts_with_the_longest_document():
    lengths = [5, 50, 7, 49, 3, 20]
    ((first, *_),) = evaluation_batches(lengths, budget=60)
    assert 1 in first.rows


@given(
    lengths=LENGTHS,
    budget=st.integers(30, 100),
    world_size=RANKS,
    accumulate=st.integers(1, 5),
    seed=SEED,
)
def test_documents_of_a_step(lengths, budget, world_size, accumulate, seed):
    ranks = training_batches(
        lengths,
        budget=budget,
        seed=seed,
        epoch=0,
        world_size=world_size,
        accumulate=accumulate,
    )
    check_epoch(ranks, lengths, budget, world_size)
    # a step ends after `accumulate` batches of a rank, or with the epoch
    for start in range(0, len(ranks[0]), accumulate):
        step = [spec for rank in ranks for spec in rank[start : start + accumulate]]
        assert {spec.step_weight for spec in step} == {sum(len(spec.rows) for spec in step)}


@given(lengths=LENGTHS, budget=BUDGET, seed=SEED, epoch=st.integers(0, 5))
def test_the_order_is_a_function_of_seed_and_epoch(lengths, budget, seed, epoch):
    first = training_batches(lengths, budget=budget, seed=seed, epoch=epoch)
    np.random.seed(len(lengths))
    np.random.rand()
    assert training_batches(lengths, budget=budget, seed=seed, epoch=epoch) == first


def test_the_order_differs_between_epochs_and_seeds():
    lengths = np.random.default_rng(0).integers(1, 100, 200).tolist()
    drawn = {
        (seed, epoch): training_batches(lengths, budget=300, seed=seed, epoch=epoch)
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    as_sets = {key: {spec.rows for spec in ranks[0]} for key, ranks in drawn.items()}
    for one in drawn:
        for other in drawn:
            if one != other:
                assert drawn[one] != drawn[other]
                # not only in another order: other documents meet
                assert as_sets[one] != as_sets[other]


def test_ranks_share_what_one_process_would_do():
    lengths = np.random.default_rng(1).integers(1, 100, 200).tolist()
    one = training_batches(lengths, budget=300, seed=3, epoch=1)
    two = training_batches(lengths, budget=300, seed=3, epoch=1, world_size=2)
    known = {spec.rows for spec in one[0]}
    assert sum(spec.rows not in known for rank in two for spec in rank) <= 2  # one was halved


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=80), budget=st.integers(60, 200))
def test_few_batches(lengths, budget):
    batches = pack_rows(lengths, range(len(lengths)), budget)
    # a batch is opened for what fits nowhere else: at most one may stay half empty
    assert len(batches) <= 2 * sum(lengths) / budget + 1
    sizes = [sum(lengths[row] for row in batch) for batch in batches]
    assert packing_efficiency(batches, lengths, budget) == pytest.approx(np.mean(sizes) / budget)


@pytest.mark.parametrize("world_size", [1, 4])
def test_batches_of_real_lengths_are_full(world_size):
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(6.5, 0.8, 2000), 10, 4096).astype(int).tolist()
    ranks = training_batches(lengths, budget=16_384, seed=0, epoch=0, world_size=world_size)
    assert packing_efficiency(rows_of(ranks), lengths, 16_384) > 0.95


def test_long_and_short_batches_alternate():
    """Sorting stays within a pool: an epoch does not run from long to short documents."""
    lengths = np.random.default_rng(2).integers(1, 1000, 2000).tolist()
    (rank,) = training_batches(lengths, budget=8000, seed=0, epoch=0)
    means = [np.mean([lengths[row] for row in spec.rows]) for spec in rank]
    assert abs(np.corrcoef(range(len(means)), means)[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("lengths", "world_size", "empty"),
    [([5, 5, 5], 4, 1), ([10, 10, 10], 2, 1), ([10, 10, 5, 5], 2, 0), ([10], 3, 2)],
)
def test_a_rank_without_a_document_of_its_own_keeps_step(lengths, world_size, empty):
    for ranks in (
        training_batches(lengths, budget=10, seed=0, epoch=0, world_size=world_size),
        evaluation_batches(lengths, budget=10, world_size=world_size),
    ):
        check_epoch(ranks, lengths, 10, world_size)
        specs = [spec for rank in ranks for spec in rank]
        assert [spec.weight for spec in specs].count(0) == empty
        assert min(spec.step_weight for spec in specs) >= 1


DOCUMENTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=20)


@given(DOCUMENTS, st.integers(1, 120))
def test_slices_of_a_document_stay_together_as_far_as_a_batch_holds_them(documents, budget):
    lengths = [length for slices in documents for length in slices]
    owner = [number for number, slices in enumerate(documents) for _ in slices]
    units = whole_documents(lengths, owner, budget)
    assert [row for unit in units for row in unit] == list(range(len(lengths)))
    for unit in units:
        assert len({owner[row] for row in unit}) == 1
        assert len(unit) == 1 or sum(lengths[row] for row in unit) <= budget
    for number, slices in enumerate(documents):
        own = [unit for unit in units if owner[unit[0]] == number]
        assert (len(own) == 1) or sum(slices) > budget
        for one, other in pairwise(own):  # a part ends where the next slice would not fit
            assert sum(lengths[row] for row in one) + lengths[other[0]] > budget


@given(DOCUMENTS, st.integers(40, 120), SEED, RANKS, st.integers(1, 3))
def test_every_slice_once_an_epoch_with_its_document(documents, budget, seed, world_size, steps):
    lengths = [length for slices in documents for length in slices]
    owner = [number for number, slices in enumerate(documents) for _ in slices]
    units = whole_documents(lengths, owner, budget)
    of_units = [sum(lengths[row] for row in unit) for unit in units]
    arguments = {"budget": budget, "seed": seed, "epoch": 1, "world_size": world_size}
    ranks = training_batches(of_units, accumulate=steps, **arguments)
    batches = spread(ranks, units)
    rows = [row for batch in rows_of(batches) for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    for rank in batches:
        for spec in rank:
            assert sum(lengths[row] for row in spec.rows) <= budget
            parts = [unit for unit in units if set(unit) & set(spec.rows)]
            assert sum(map(len, parts)) == len(spec.rows)  # no unit is parted
            assert spec.weight == len(parts)
    assert spread(training_batches(of_units, accumulate=steps, **arguments), units) == batches
