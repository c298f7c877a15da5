"""The loss of span scores: which tokens compete, and which of them are right."""

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from longspan.batch import PackedBatch
from longspan.config import QAConfig

STARTS, ENDS = 1, 2  # bits of a token's label


def document_of(batch: PackedBatch) -> Tensor:
    """(T,) int64: which slice of the batch each token belongs to."""
    lengths = batch.cu_seqlens.long().diff()
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def candidates(batch: PackedBatch, config: QAConfig) -> Tensor:
    """(T,) bool: tokens where an answer may start or end.

    The first of each slice is one of them, as no answer, unless a head of its own says that.
    """
    chosen = []
    for feature in batch.features:
        assert feature.offsets is not None, "encode_slices gives offsets"
        own = feature.offsets[:, 1] > feature.offsets[:, 0]
        own[0] = config.answerability == "null_score"
        chosen.append(own)
    return torch.from_numpy(np.concatenate(chosen)).to(batch.input_ids.device)


def units(batch: PackedBatch, config: QAConfig) -> Tensor:
    """(D,) int64: the softmax that each slice's tokens are part of.

    One of their own, or, with `normalisation=document`, one for all slices of a question that
    follow one another in the document and in the batch.
    """
    if config.normalisation == "slice":
        return torch.arange(batch.num_documents, device=batch.input_ids.device)
    return question_of(batch)


def question_of(batch: PackedBatch) -> Tensor:
    """(D,) int64: which question each slice is of, of those that follow one another in the batch
    as they do in the document."""
    places = [(f.details["id"], f.details["slice"]) for f in batch.features]
    follows = [False, *(b == (a[0], a[1] + 1) for a, b in pairwise(places))]
    starts = torch.tensor(follows, device=batch.input_ids.device).logical_not()
    return starts.long().cumsum(0) - 1


def segment_logsumexp(scores: Tensor, chosen: Tensor, segment: Tensor, num: int) -> Tensor:
    """Log-sum-exp over the chosen tokens of each segment; 0 where none is chosen.

    Args:
        scores: (T, S).
        chosen: (T, S) bool.
        segment: (T,) int64, what each token belongs to.
        num: of segments, N.

    Returns:
        (N, S).
    """
    masked = scores.masked_fill(~chosen, -math.inf)
    index = segment[:, None].expand_as(masked)
    maximum = masked.new_full((num, masked.shape[1]), -math.inf)
    maximum = maximum.scatter_reduce(0, index, masked.detach(), "amax")
    maximum = maximum.masked_fill(maximum == -math.inf, 0.0)
    total = torch.zeros_like(maximum).index_add(0, segment, (masked - maximum[segment]).exp())
    return torch.where(total > 0, total, 1.0).log() + maximum


def span_loss(logits: Tensor, batch: PackedBatch, config: QAConfig) -> Tensor:
    """What each slice adds to the loss, (D,), from logits (T, 2), or (T, 3) with answerability.

    Mean of start and end loss, each a log-sum-exp over all candidates minus that over the gold
    ones (Clark & Gardner 2018: summed objective, no-answer option, and, with
    `normalisation=document`, shared normalisation: section 3.2.1). With `answerability=head` no
    answer is no candidate: questions without one add nothing here, and every slice adds the
    binary cross-entropy of whether it holds one. Slices of one softmax share its loss evenly.
    Nothing is added where gold is unknown.
    """
    assert batch.labels is not None, "`prepare` gives labels"
    document, unit = document_of(batch), units(batch, config)
    num_units, unit_of_token = int(unit[-1]) + 1, unit[document]
    gold = torch.stack([batch.labels & STARTS, batch.labels & ENDS], dim=1) > 0  # (T, 2)
    is_first = torch.zeros_like(batch.labels, dtype=torch.bool)
    is_first[batch.cu_seqlens[:-1].long()] = True
    spans, nulls = gold & ~is_first[:, None], gold & is_first[:, None]
    # slices that hold no answer do not make it unanswerable where another one holds it
    answered = _any(spans, unit_of_token, num_units)
    right = torch.where(answered[unit_of_token], spans, nulls)
    if config.answerability == "head":
        right = spans

    scores = logits[:, :2].float()
    allowed = candidates(batch, config)[:, None].expand_as(scores)
    nats = segment_logsumexp(scores, allowed, unit_of_token, num_units)
    nats = nats - segment_logsumexp(scores, right, unit_of_token, num_units)
    losses = torch.where(_any(right, unit_of_token, num_units), nats, 0.0).mean(dim=1)[unit]  # (D,)
    if config.answerability == "head":
        losses = losses + _answerability_loss(logits, batch, gold, spans)
    return losses / unit.bincount()[unit]


def _answerability_loss(logits: Tensor, batch: PackedBatch, gold: Tensor, spans: Tensor) -> Tensor:
    document, num = document_of(batch), batch.num_documents
    target = _any(spans, document, num)[:, 0]
    known = _any(gold, document, num)[:, 0]
    said = logits[batch.cu_seqlens[:-1].long(), 2].float()
    nats = F.binary_cross_entropy_with_logits(said, target.float(), reduction="none")
    return torch.where(known, nats, 0.0)


def _any(chosen: Tensor, segment: Tensor, num: int) -> Tensor:
    """(N, S) bool: whether any of a segment's tokens is chosen."""
    counts = chosen.new_zeros(num, chosen.shape[1], dtype=torch.long)
    return counts.index_add(0, segment, chosen.long()) > 0
