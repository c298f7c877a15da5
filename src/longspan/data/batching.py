"""Batches by token budget: which documents share a batch, a function of (seed, epoch) alone.

Documents are shuffled, then packed pool by pool into batches of at most `tokens_per_batch`
tokens, largest first into the fullest batch that still has room (best-fit decreasing), and the
batches are shuffled again. Within a pool, documents of like length tend to meet; pools are random.
"""

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

POOL_BATCHES = 32  # batches' worth of documents that are packed together

Weight = Callable[[int], float]  # tokens of a document to its weight in the loss


def one(length: int) -> float:
    """Every document weighs the same."""
    return 1.0


@dataclass(frozen=True)
class BatchSpec:
    """Which documents make one batch.

    Attributes:
        rows: places of the documents in the data set; none where a rank only keeps step.
        weight: of its documents together, in the task's measure.
        step_weight: of the optimiser step it belongs to, over all ranks.
    """

    rows: tuple[int, ...]
    weight: float
    step_weight: float


def pack_rows(lengths: Sequence[int], rows: Sequence[int], budget: int) -> list[list[int]]:
    """Best-fit decreasing: few batches of at most `budget` tokens. A longer document goes alone."""
    batches: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, batch), ascending
    for row in sorted(rows, key=lambda r: -lengths[r]):
        place = bisect.bisect_left(room, (lengths[row], -1))
        if place == len(room):
            batches.append([row])
            left, batch = budget - lengths[row], len(batches) - 1
        else:
            left, batch = room.pop(place)
            batches[batch].append(row)
            left -= lengths[row]
        bisect.insort(room, (left, batch))
    return batches


def training_batches(
    lengths: Sequence[int],
    *,
    budget: int,
    seed: int,
    epoch: int,
    world_size: int = 1,
    accumulate: int = 1,
    weight: Weight = one,
    shortest_first: bool = False,
) -> list[list[BatchSpec]]:
    """One epoch: every document once.

    Args:
        lengths: tokens of each document.
        budget: tokens a batch, on each rank.
        seed, epoch: what the order depends on.
        world_size: ranks; each gets the same number of batches.
        accumulate: batches a rank adds up before it steps.
        weight: of a document of so many tokens in the loss.
        shortest_first: documents get longer over the epoch, those of like length in random order.

    Returns:
        the batches of each rank, in order.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if shortest_first:
        batches = even(pack_ascending(lengths, order, budget), lengths, world_size)
        return deal(batches, [weight(n) for n in lengths], world_size, accumulate)
    pool_size = max(1, POOL_BATCHES * budget * len(lengths) // max(1, sum(lengths)))
    batches: list[list[int]] = []
    for start in range(0, len(order), pool_size):
        batches += pack_rows(lengths, order[start : start + pool_size].tolist(), budget)
    batches = [batches[i] for i in generator.permutation(len(batches))]
    batches = even(batches, lengths, world_size)
    return deal(batches, [weight(n) for n in lengths], world_size, accumulate)


def pack_ascending(lengths: Sequence[int], order: np.ndarray, budget: int) -> list[list[int]]:
    """Batches whose documents get longer from one to the next.

    Args:
        lengths: tokens of each document.
        order: of the rows, which documents of like length keep.
        budget: tokens a batch.
    """
    tokens = np.asarray(lengths)[order]
    # like = within a power of two; an exact order would give all epochs the same batches
    batches: list[list[int]] = []
    left = 0
    for row in order[np.argsort(np.ceil(np.log2(tokens)), kind="stable")].tolist():
        if not batches or lengths[row] > left:
            batches.append([])
            left = budget
        batches[-1].append(row)
        left -= lengths[row]
    return batches


def evaluation_batches(
    lengths: Sequence[int], *, budget: int, world_size: int = 1
) -> list[list[BatchSpec]]:
    """Every document once, longest first, so that memory runs out at the start or not at all."""
    batches = pack_rows(lengths, range(len(lengths)), budget)
    batches = even(batches, lengths, world_size)
    return deal(batches, [1.0] * len(lengths), world_size, accumulate=1)


def whole_documents(
    lengths: Sequence[int], documents: Sequence[int], budget: int
) -> list[tuple[int, ...]]:
    """Features that are to share a batch: all slices of a document.

    Where they do not fit into one, as many consecutive ones as do.

    Args:
        lengths: tokens of each feature.
        documents: which one each is of; features of a document stand side by side.
        budget: tokens of a batch.

    Returns:
        rows, in order.
    """
    units: list[list[int]] = []
    tokens, current = 0, None
    for row, (length, document) in enumerate(zip(lengths, documents, strict=True)):
        if document != current or tokens + length > budget:
            units.append([])
            tokens, current = 0, document
        units[-1].append(row)
        tokens += length
    return [tuple(unit) for unit in units]


def spread(ranks: list[list[BatchSpec]], units: Sequence[tuple[int, ...]]) -> list[list[BatchSpec]]:
    """Batches of units as batches of the rows that the units are made of."""
    return [
        [replace(spec, rows=tuple(row for i in spec.rows for row in units[i])) for spec in rank]
        for rank in ranks
    ]


def packing_efficiency(
    batches: Sequence[Sequence[int]], lengths: Sequence[int], budget: int
) -> float:
    """Share of the token budget that the batches fill."""
    return sum(lengths[row] for batch in batches for row in batch) / (len(batches) * budget)


def even(batches: list[list[int]], lengths: Sequence[int], world_size: int) -> list[list[int]]:
    """As many batches for every rank: the largest are halved, no document is repeated or dropped.

    Where every document fills a batch there is nothing to halve: empty batches at the end keep the
    ranks in step.
    """
    batches = list(batches)
    while len(batches) % world_size:
        sizes = [sum(lengths[r] for r in b) if len(b) > 1 else 0 for b in batches]
        place = max(range(len(batches)), key=sizes.__getitem__)
        if not sizes[place]:
            return batches + [[] for _ in range(-len(batches) % world_size)]
        rows = batches[place]
        batches[place : place + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return batches


def deal(
    batches: list[list[int]], weights: Sequence[float], world_size: int, accumulate: int
) -> list[list[BatchSpec]]:
    """Batches to ranks in turn, with the weight of the optimiser step that each is part of.

    Args:
        batches: rows of each; their number is a multiple of the ranks.
        weights: of each row in the loss.
        world_size: ranks.
        accumulate: batches a rank adds up before it steps.
    """
    ranks: list[list[BatchSpec]] = [[] for _ in range(world_size)]
    batches_per_step = world_size * accumulate
    for start in range(0, len(batches), batches_per_step):
        step = batches[start : start + batches_per_step]
        own = [sum(weights[row] for row in rows) for rows in step]
        for i, rows in enumerate(step):
            ranks[i % world_size].append(BatchSpec(tuple(rows), own[i], sum(own)))
    return ranks
