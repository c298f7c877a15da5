"""Start and end scores to the best spans of each slice, and what is told of a question at the end."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from longspan.batch import Feature, PackedBatch
from longspan.config import QAConfig
from longspan.tasks.qa_loss import candidates, document_of, segment_logsumexp

NUM_BEST = 20  # answers of each slice that are compared with those of others


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
        null: log-probability, within the slice, that no answer starts, and that none ends.
        partition: log of the sum that start and end probabilities were divided by, so that they
            can be compared with those of other slices.
        answerable: logit of there being an answer in the slice; None without a head for it.
        tokens_cut: of the document, by truncation.
        loss: what the slice adds to the loss; None where gold is unknown.
    """

    id: str
    question: dict[str, Any]
    answers: tuple[Answer, ...]
    null: tuple[float, float]
    partition: tuple[float, float]
    answerable: float | None
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
        probability: of the prediction, among `nbest`.
        null_score_difference: by how much no answer is better than the best one, in nats; with
            `answerability=head` minus the head's logit.
        best: the best answer, whether or not none was better.
        nbest: answers at different places, and no answer unless the model always answers, most
            probable first, as dictionaries of `text` ("" = no answer), `start`, `end` and
            `probability`; the probabilities add up to 1.
        length: tokens of question and document together that the model read, each once.
        tokens_cut: of the document, by truncation.
        loss: of the question; None where gold is unknown.
        depth: where its first gold answer starts, as a share of the document; None without one.
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
    length: int
    tokens_cut: int
    loss: float | None
    depth: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def decode_slices(
    logits: Tensor, batch: PackedBatch, losses: list[float] | list[None], config: QAConfig
) -> list[SlicePrediction]:
    """The best answers of every slice.

    Args:
        logits: (T, 2), or (T, 3) with answerability.
        batch: the slices.
        losses: of each, or None each.
        config: what may be an answer.
    """
    logits, document = logits.float(), document_of(batch)
    allowed = candidates(batch, config)[:, None].expand(-1, 2)
    partition = segment_logsumexp(logits[:, :2], allowed, document, batch.num_documents)  # (D, 2)
    scores = logits[:, :2] - partition[document]
    answerable = None
    if config.answerability == "head":
        answerable = logits[batch.cu_seqlens[:-1].long(), 2]  # (D,)
        if config.normalisation == "slice":
            # an answer of a slice is one where there is one: this makes slices comparable
            scores = scores + F.logsigmoid(answerable)[document, None] / 2
    pieces, sums = scores.cpu().numpy(), partition.tolist()
    bounds = batch.cu_seqlens.tolist()
    said = [None] * batch.num_documents if answerable is None else answerable.tolist()
    return [
        SlicePrediction(
            feature.id,
            {name: feature.details[name] for name in ("id", "question", "answers", "length")}
            | {"depth": feature.details.get("depth")},
            slice_answers(feature, pieces[bounds[i] : bounds[i + 1]], config),
            (float(pieces[bounds[i], 0]), float(pieces[bounds[i], 1])),
            tuple(sums[i]),
            said[i],
            feature.tokens_cut,
            losses[i],
        )
        for i, feature in enumerate(batch.features)
    ]


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


def slice_answers(feature: Feature, scores: np.ndarray, config: QAConfig) -> tuple[Answer, ...]:
    """The best answers of a slice, best first, from its log-probabilities (L, 2)."""
    assert feature.offsets is not None, "encode_slices gives offsets"
    chosen = (feature.offsets[:, 1] > feature.offsets[:, 0]).nonzero()[0]
    if not len(chosen):
        return ()
    spans = best_spans(scores[:, 0], scores[:, 1], chosen, config.top_k, config.max_answer_length)
    return tuple(_answer(feature, *span) for span in spans)


def _answer(feature: Feature, first: int, last: int, score: float) -> Answer:
    assert feature.offsets is not None, "encode_slices gives offsets"
    base = feature.details["text_start"]
    start, end = int(feature.offsets[first, 0]), int(feature.offsets[first : last + 1, 1].max())
    text = feature.details["text"][start - base : end - base]
    start += len(text) - len(text.lstrip())  # byte-level tokens hold the space before them
    return Answer(text.strip(), start, start + len(text.strip()), score)
