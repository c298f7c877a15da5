"""Start and end scores to answers: the best span of each slice, the best slice of each question."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longspan.batch import Feature, PackedBatch

NUM_BEST = 20  # answers of each slice that are compared with those of others
QUESTION_DETAILS = ("id", "question", "answers", "depth", "length")


@dataclass(frozen=True)
class Answer:
    """A span of a document.

    Attributes:
        text: what stands there, without white space around it.
        start, end: its characters in the whole document.
        score: log-probability of its start plus that of its end, within the slice.
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class SlicePrediction:
    """The best answers of one slice.

    Attributes:
        id: the slice.
        question: its name, text, gold answers, their depth and the length (`Feature.details`).
        answers: best first; none where the slice holds nothing of the document.
        null_score: as an answer's, of having none.
        tokens_cut, loss: as of `Prediction`.
    """

    id: str
    question: dict[str, Any]
    answers: tuple[Answer, ...]
    null_score: float
    tokens_cut: int
    loss: float | None


@dataclass(frozen=True)
class Prediction:
    """The answer to one question; one line of a predictions file.

    Attributes:
        id: the question.
        question: its text.
        gold: all right answers, none where there is no answer; None where unknown.
        predicted: a substring of the document; "" = no answer.
        start, end: its characters in the document; None without an answer.
        probability: of the prediction, among all spans that were considered and no answer.
        null_score_difference: by how much no answer is better than the best one, in nats.
        best: the best answer, whether or not none was better.
        nbest: at most `NUM_BEST` of what was considered, most probable first, as dictionaries of
            `text` ("" = no answer), `start`, `end` and `probability`.
        depth: where its first gold answer starts, as a share of the document; None without one.
        length: tokens of question and document together that the model read, each once.
        tokens_cut: of the document, by truncation.
        loss: mean over the slices; None where gold is unknown.
    """

    id: str
    question: str
    gold: list[str] | None
    predicted: str
    start: int | None
    end: int | None
    probability: float
    null_score_difference: float
    best: str
    nbest: list[dict[str, Any]]
    depth: float | None
    length: int
    tokens_cut: int
    loss: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def candidates(batch: PackedBatch) -> Tensor:
    """(T,) bool: tokens where an answer may start or end, and the first of each slice: none."""
    chosen = []
    for feature in batch.features:
        assert feature.offsets is not None, "encode_slices gives offsets"
        own = feature.offsets[:, 1] > feature.offsets[:, 0]
        own[0] = True
        chosen.append(own)
    return torch.from_numpy(np.concatenate(chosen)).to(batch.input_ids.device)


def document_of(batch: PackedBatch) -> Tensor:
    """(T,) int64: which slice of the batch each token belongs to."""
    lengths = batch.cu_seqlens.long().diff()
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def segment_logsumexp(scores: Tensor, chosen: Tensor, document: Tensor, num: int) -> Tensor:
    """Log-sum-exp over the chosen tokens of each document; 0 where none is chosen.

    Args:
        scores: (T, S).
        chosen: (T, S) bool.
        document: (T,) int64.
        num: documents D.

    Returns:
        (D, S).
    """
    masked = scores.masked_fill(~chosen, -math.inf)
    index = document[:, None].expand_as(masked)
    maximum = masked.new_full((num, masked.shape[1]), -math.inf)
    maximum = maximum.scatter_reduce(0, index, masked.detach(), "amax")
    maximum = maximum.masked_fill(maximum == -math.inf, 0.0)
    total = torch.zeros_like(maximum).index_add(0, document, (masked - maximum[document]).exp())
    return torch.where(total > 0, total, 1.0).log() + maximum


def best_spans(
    start: np.ndarray, end: np.ndarray, chosen: np.ndarray, top_k: int, max_length: int
) -> list[tuple[int, int, float]]:
    """The best pairs of the `top_k` best starts and ends with start <= end < start + max_length.

    A start may be its own end too, so that there always is a pair.

    Args:
        start, end: (L,) log-probabilities.
        chosen: (N,) tokens that may be either.
        top_k: of each.
        max_length: tokens of an answer.

    Returns:
        first and last token and the sum of their scores of at most `NUM_BEST` pairs, best first.
    """
    starts = _top(start, chosen, top_k)
    ends = np.unique(np.concatenate([_top(end, chosen, top_k), starts]))
    reach = ends[None, :] - starts[:, None]
    scores = np.where((reach >= 0) & (reach < max_length), start[starts, None] + end[ends], -np.inf)
    order = np.argsort(-scores, axis=None, kind="stable")[:NUM_BEST]
    rows, columns = np.unravel_index(order, scores.shape)
    pairs = zip(starts[rows].tolist(), ends[columns].tolist(), scores[rows, columns].tolist())
    return [pair for pair in pairs if pair[2] > -math.inf]


def _top(scores: np.ndarray, chosen: np.ndarray, k: int) -> np.ndarray:
    if len(chosen) <= k:
        return chosen
    return np.sort(chosen[np.argpartition(-scores[chosen], k - 1)[:k]])


def slice_prediction(
    feature: Feature, scores: np.ndarray, loss: float | None, top_k: int, max_length: int
) -> SlicePrediction:
    """The best answers of a slice from its log-probabilities (L, 2)."""
    offsets, details = feature.offsets, feature.details
    assert offsets is not None, "encode_slices gives offsets"
    chosen = (offsets[:, 1] > offsets[:, 0]).nonzero()[0]
    spans = best_spans(scores[:, 0], scores[:, 1], chosen, top_k, max_length) if len(chosen) else []
    answers = tuple(_answer(feature, *span) for span in spans)
    question = {name: details[name] for name in QUESTION_DETAILS}
    null = float(scores[0].sum())
    return SlicePrediction(feature.id, question, answers, null, feature.tokens_cut, loss)


def _answer(feature: Feature, first: int, last: int, score: float) -> Answer:
    assert feature.offsets is not None, "encode_slices gives offsets"
    base = feature.details["text_start"]
    start, end = int(feature.offsets[first, 0]), int(feature.offsets[first : last + 1, 1].max())
    text = feature.details["text"][start - base : end - base]
    start += len(text) - len(text.lstrip())  # byte-level tokens hold the space before them
    return Answer(text.strip(), start, start + len(text.strip()), score)


def merge(slices: Sequence[SlicePrediction], threshold: float | None) -> list[Prediction]:
    """One prediction a question, in the order of their names.

    Args:
        slices: of any questions in any order.
        threshold: no answer where `null_score_difference` is above it; None = always an answer.
    """
    ordered = sorted(slices, key=lambda piece: (piece.question["id"], piece.id))
    groups = groupby(ordered, key=lambda piece: piece.question["id"])
    return [_merge_question(list(group), threshold) for _, group in groups]


def _merge_question(slices: list[SlicePrediction], threshold: float | None) -> Prediction:
    # slices overlap: an answer that several of them hold counts once
    scores: dict[tuple[int, int], Answer] = {}
    for answer in (answer for piece in slices for answer in piece.answers):
        place = (answer.start, answer.end)
        if place not in scores or answer.score > scores[place].score:
            scores[place] = answer
    nothing = Answer("", 0, 0, -math.inf)
    best = max(scores.values(), key=lambda answer: answer.score, default=nothing)
    # a question has no answer where every slice says so
    null = min(piece.null_score for piece in slices)
    difference = max(-1e4, min(1e4, null - best.score))  # JSON knows no infinity
    is_null = not best.text or (threshold is not None and difference > threshold)
    considered = list(scores.values())
    considered += [replace(nothing, score=null)] if threshold is not None or is_null else []
    log_total = np.logaddexp.reduce([answer.score for answer in considered])
    question, losses = slices[0].question, [p.loss for p in slices if p.loss is not None]
    return Prediction(
        id=question["id"],
        question=question["question"],
        gold=question["answers"],
        predicted="" if is_null else best.text,
        start=None if is_null else best.start,
        end=None if is_null else best.end,
        probability=float(np.exp((null if is_null else best.score) - log_total)),
        null_score_difference=difference,
        best=best.text,
        nbest=_nbest(considered, log_total),
        depth=question["depth"],
        length=question["length"],
        tokens_cut=slices[0].tokens_cut,
        loss=sum(losses) / len(losses) if losses else None,
    )


def _nbest(considered: list[Answer], log_total: float) -> list[dict[str, Any]]:
    ranked = sorted(considered, key=lambda answer: -answer.score)[:NUM_BEST]
    return [
        {
            "text": answer.text,
            "start": answer.start if answer.text else None,
            "end": answer.end if answer.text else None,
            "probability": float(np.exp(answer.score - log_total)),
        }
        for answer in ranked
    ]
