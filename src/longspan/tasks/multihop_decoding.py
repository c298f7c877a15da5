"""Scores of slices to an answer and its supporting facts; HotpotQA's official prediction file."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np

from longspan.batch import Feature
from longspan.tasks import qa_decoding, qa_merging
from longspan.tasks.multihop_rows import TYPES

SENTENCE, PARAGRAPH, TYPE = 2, 3, 4  # columns of the logits, after start and end; TYPE has three


@dataclass(frozen=True)
class SlicePrediction:
    """What one slice says.

    Attributes:
        id: the slice.
        details: the question's (`Feature.details`).
        spans: its best answers in the text.
        types: (3,) logits of `TYPES`.
        titles: logit by paragraph, of those whose title the slice holds.
        sentences: logit by (paragraph, number), of those whose beginning the slice holds.
        loss: None where gold is unknown.
    """

    id: str
    details: dict[str, Any]
    spans: qa_decoding.SlicePrediction
    types: np.ndarray
    titles: dict[int, float]
    sentences: dict[tuple[int, int], float]
    loss: float | None


@dataclass(frozen=True)
class SupportingFact:
    """A sentence that the answer rests on: its paragraph, its number there, its probability."""

    title: str
    sentence: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one question; one line of a predictions file.

    Attributes:
        id: the question.
        question: its text.
        gold: the right answer; None where unknown.
        gold_facts: [title, number of the sentence] each; None where unknown.
        predicted: a substring of the passage, yes or no.
        type: which of the three.
        start, end: its characters in the passage; None for yes and no.
        probability: of the type, times that of the span among all that were considered.
        facts: by falling probability.
        length: tokens of question and passage together that the model read, each once.
        tokens_cut: of the passage, by truncation.
        loss: mean over the slices; None where gold is unknown.
        depth: where the answer first stands, as a share of the passage; None for yes and no, and
            where it stands nowhere or is unknown.
    """

    id: str
    question: str
    gold: str | None
    gold_facts: list[list[Any]] | None
    predicted: str
    type: str
    start: int | None
    end: int | None
    probability: float
    facts: tuple[SupportingFact, ...]
    length: int
    tokens_cut: int
    loss: float | None
    depth: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def told(self) -> dict[str, Any]:
        """As a user reads it who asked."""
        return {
            "question": self.question,
            "answer": self.predicted,
            "type": self.type,
            "start": self.start,
            "end": self.end,
            "probability": self.probability,
            "facts": [asdict(fact) for fact in self.facts],
        }


def slice_prediction(
    feature: Feature, scores: np.ndarray, spans: qa_decoding.SlicePrediction, loss: float | None
) -> SlicePrediction:
    """What a slice says, from its logits (L, 7) and the answers found in its text."""
    details = feature.details
    names = ("id", "question", "gold", "gold_facts", "titles_of_paragraphs")
    return SlicePrediction(
        id=feature.id,
        details={name: details[name] for name in names},
        spans=spans,
        types=scores[0, TYPE:],
        titles={p: float(scores[token, PARAGRAPH]) for token, p in details["titles"]},
        sentences={(p, n): float(scores[token, SENTENCE]) for token, p, n in details["sentences"]},
        loss=loss,
    )


def merge(
    slices: Sequence[SlicePrediction],
    spans: Sequence[qa_merging.Prediction],
    num_paragraphs: int | None,
    threshold: float,
) -> list[Prediction]:
    """One prediction a question, in the order of their names.

    Args:
        slices: of any questions in any order.
        spans: the best span of each question.
        num_paragraphs, threshold: as of `choose_facts`.
    """
    found = {span.id: span for span in spans}
    ordered = sorted(slices, key=lambda piece: (piece.details["id"], piece.id))
    return [
        _merge_question(found[name], list(group), num_paragraphs, threshold)
        for name, group in groupby(ordered, key=lambda piece: piece.details["id"])
    ]


def _merge_question(
    span: qa_merging.Prediction,
    slices: list[SlicePrediction],
    num_paragraphs: int | None,
    threshold: float,
) -> Prediction:
    details, losses = slices[0].details, [s.loss for s in slices if s.loss is not None]
    types = _softmax(np.mean([piece.types for piece in slices], axis=0))
    chosen = int(types.argmax())
    is_span = chosen == 0
    facts = choose_facts(
        _means(piece.titles for piece in slices),
        _means(piece.sentences for piece in slices),
        num_paragraphs,
        threshold,
    )
    return Prediction(
        id=details["id"],
        question=details["question"],
        gold=details["gold"],
        gold_facts=details["gold_facts"],
        predicted=span.predicted if is_span else TYPES[chosen],
        type=TYPES[chosen],
        start=span.start if is_span else None,
        end=span.end if is_span else None,
        probability=float(types[chosen]) * (span.probability if is_span else 1.0),
        facts=tuple(
            SupportingFact(details["titles_of_paragraphs"][paragraph], number, probability)
            for paragraph, number, probability in facts
        ),
        length=span.length,
        tokens_cut=span.tokens_cut,
        loss=sum(losses) / len(losses) if losses else None,
        depth=span.depth,
    )


def choose_facts(
    titles: dict[int, float],
    sentences: dict[tuple[int, int], float],
    num_paragraphs: int | None,
    threshold: float,
) -> list[tuple[int, int, float]]:
    """The sentences that count as supporting facts.

    Facts lie in two paragraphs of HotpotQA: of the best `num_paragraphs`, each gives its sentences
    above the threshold, and its best one if there are none.

    Args:
        titles: logit by paragraph.
        sentences: logit by (paragraph, number).
        num_paragraphs: None = every sentence above the threshold, from all paragraphs.
        threshold: probability.

    Returns:
        (paragraph, number, probability), by falling probability.
    """
    found = {place: _sigmoid(logit) for place, logit in sentences.items()}
    chosen = {place for place, probability in found.items() if probability >= threshold}
    if num_paragraphs is not None:
        # a paragraph whose title was cut away, or has no tokens, is as good as its best sentence
        scores: dict[int, float] = defaultdict(lambda: -np.inf)
        for (paragraph, _), logit in sentences.items():
            scores[paragraph] = titles.get(paragraph, max(scores[paragraph], logit))
        best = sorted(scores, key=lambda paragraph: -scores[paragraph])[:num_paragraphs]
        chosen = {place for place in chosen if place[0] in best}
        for paragraph in set(best) - {place[0] for place in chosen}:
            chosen.add(max((p for p in found if p[0] == paragraph), key=found.__getitem__))
    return sorted(((*place, found[place]) for place in chosen), key=lambda fact: (-fact[2], fact))


def _means(parts: Iterable[dict[Any, float]]) -> dict[Any, float]:
    """The mean of every key's values: slices overlap."""
    values: dict[Any, list[float]] = defaultdict(list)
    for part in parts:
        for key, value in part.items():
            values[key].append(value)
    return {key: sum(given) / len(given) for key, given in values.items()}


def _sigmoid(logit: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -logit)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits - np.logaddexp.reduce(logits))


def hotpot_predictions(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """What HotpotQA's official scorer reads, as JSON has it.

    Returns:
        `answer`: id to text; `sp`: id to [title, number of the sentence] of the supporting facts.
    """
    rows = list(predictions)
    return {
        "answer": {p.id: p.predicted for p in rows},
        "sp": {p.id: [[fact.title, fact.sentence] for fact in p.facts] for p in rows},
    }
