"""Scores of slices to the choice among a question's candidates."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SlicePrediction:
    """What one slice says.

    Attributes:
        id: the slice.
        details: the question's (`Feature.details`).
        gold: place of the right candidate; None where unknown.
        scores: one a candidate.
        tokens_cut: as of `Prediction`.
    """

    id: str
    details: dict[str, Any]
    gold: int | None
    scores: tuple[float, ...]
    tokens_cut: int


@dataclass(frozen=True)
class Prediction:
    """The choice for one question; one line of a predictions file.

    Attributes:
        id: the question.
        question: its text.
        gold: the right candidate; None where unknown.
        predicted: the chosen one.
        gold_index, predicted_index: their places among the candidates, from 0 on.
        candidates: in the row's order.
        probabilities: of each.
        length: tokens of question, candidates and document that the model read, each once.
        tokens_cut: of the document, by truncation.
        loss: minus the log-probability of the right one; None where gold is unknown.
    """

    id: str
    question: str
    gold: str | None
    predicted: str
    gold_index: int | None
    predicted_index: int
    candidates: list[str]
    probabilities: list[float]
    length: int
    tokens_cut: int
    loss: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def told(self) -> dict[str, Any]:
        """As a user reads it who asked."""
        return {
            "question": self.question,
            "predicted": self.predicted,
            "index": self.predicted_index,
            "candidates": self.candidates,
            "probabilities": self.probabilities,
            "length": self.length,
            "tokens_cut": self.tokens_cut,
        }


def merge(slices: Sequence[SlicePrediction]) -> list[Prediction]:
    """One prediction a question, in the order of their names."""
    ordered = sorted(slices, key=lambda piece: (piece.details["id"], piece.id))
    groups = groupby(ordered, key=lambda piece: piece.details["id"])
    return [_choose(list(group)) for _, group in groups]


def _choose(slices: list[SlicePrediction]) -> Prediction:
    """The candidate with the best mean score over the slices of a question."""
    details, gold = slices[0].details, slices[0].gold
    candidates = details["candidates"]
    scores = np.mean([piece.scores for piece in slices], axis=0)
    log_probabilities = scores - np.logaddexp.reduce(scores)
    best = int(scores.argmax())
    return Prediction(
        id=details["id"],
        question=details["question"],
        gold=None if gold is None else candidates[gold],
        predicted=candidates[best],
        gold_index=gold,
        predicted_index=best,
        candidates=candidates,
        probabilities=np.exp(log_probabilities).tolist(),
        length=details["length"],
        tokens_cut=slices[0].tokens_cut,
        loss=None if gold is None else -float(log_probabilities[gold]),
    )
