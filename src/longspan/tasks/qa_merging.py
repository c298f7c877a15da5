"""The slices of a question to one prediction: its answers, whether there is one, and how sure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np

from longspan.tasks.qa_decoding import NUM_BEST, Answer, Prediction, SlicePrediction

FARTHEST = 1e4  # nats; JSON knows no infinity


@dataclass(frozen=True)
class Decision:
    """How scores become a decision and a probability.

    Attributes:
        null_threshold: no answer where it is better than the best one by more nats; None = always
            an answer.
        temperature: that scores are divided by on their way to probabilities (Guo et al. 2017).
    """

    null_threshold: float | None = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class MergedQuestion:
    """What all slices of a question say together, before it is decided whether to answer.

    Attributes:
        question: as of `SlicePrediction`.
        answers: the `NUM_BEST` best at different places, best first.
        null_score: of no answer, comparable with an answer's score.
        null_score_difference, tokens_cut, loss: as of `Prediction`.
    """

    question: dict[str, Any]
    answers: tuple[Answer, ...]
    null_score: float
    null_score_difference: float
    tokens_cut: int
    loss: float | None


Normalisation = Literal["slice", "document"]


def merge_slices(
    slices: Sequence[SlicePrediction], normalisation: Normalisation = "slice"
) -> list[MergedQuestion]:
    """One for each question, in the order of their names, of slices in any order.

    Args:
        slices: of any questions.
        normalisation: what the model was trained with: a softmax over each slice, so that its own
            "no answer" makes it comparable with others, or one over all slices of a document.
    """
    ordered = sorted(slices, key=lambda piece: (piece.question["id"], piece.id))
    groups = groupby(ordered, key=lambda piece: piece.question["id"])
    return [_merge_question(list(group), normalisation) for _, group in groups]


def _merge_question(slices: list[SlicePrediction], normalisation: Normalisation) -> MergedQuestion:
    if normalisation == "document":
        slices = _renormalised(slices)
    # slices overlap: an answer that several of them hold counts once
    found: dict[tuple[int, int], Answer] = {}
    for answer in (answer for piece in slices for answer in piece.answers):
        place = (answer.start, answer.end)
        if answer.text and (place not in found or answer.score > found[place].score):
            found[place] = answer
    answers = sorted(found.values(), key=lambda a: (-a.score, a.start, a.end))[:NUM_BEST]
    losses = [piece.loss for piece in slices if piece.loss is not None]
    loss = None
    if losses:
        loss = sum(losses) if normalisation == "document" else sum(losses) / len(losses)
    null, difference = _null_score(slices, answers, normalisation)
    difference = max(-FARTHEST, min(FARTHEST, difference))
    return MergedQuestion(
        slices[0].question, tuple(answers), null, difference, slices[0].tokens_cut, loss
    )


def _renormalised(slices: list[SlicePrediction]) -> list[SlicePrediction]:
    """Log-probabilities within slices to those within the document that they make up."""
    own = np.array([piece.partition for piece in slices])  # (slices, 2)
    shift = own - np.logaddexp.reduce(own, axis=0)
    return [
        replace(
            piece,
            answers=tuple(replace(a, score=a.score + start + end) for a in piece.answers),
            null=(piece.null[0] + start, piece.null[1] + end),
        )
        for piece, (start, end) in zip(slices, shift.tolist(), strict=True)
    ]


def _null_score(
    slices: list[SlicePrediction], answers: list[Answer], normalisation: Normalisation
) -> tuple[float, float]:
    """The score of no answer, and by how much it is better than the best answer."""
    said = [piece.answerable for piece in slices if piece.answerable is not None]
    if said:
        # the head's odds against an answer in any slice, on the scale of all answers together
        difference = -max(said)
        together = float(np.logaddexp.reduce([a.score for a in answers])) if answers else 0.0
        return together + difference, difference if answers else math.inf
    if normalisation == "document":
        # every slice's first token is a share of the one probability of no answer
        null = float(np.logaddexp.reduce([piece.null for piece in slices], axis=0).sum())
    else:
        # a question has no answer where every slice says so
        null = min(sum(piece.null) for piece in slices)
    return null, null - (answers[0].score if answers else -math.inf)


def scores_and_choice(
    merged: MergedQuestion, threshold: float | None
) -> tuple[np.ndarray, int | None]:
    """Scores of the answers, and of no answer behind them where it is an option.

    Returns:
        the scores, that of no answer less the threshold; and which answer is chosen, None = none.
    """
    choice = 0 if merged.answers else None
    if threshold is not None and merged.null_score_difference > threshold:
        choice = None
    scores = [answer.score for answer in merged.answers]
    if threshold is not None or choice is None:
        scores.append(merged.null_score - (threshold or 0.0))
    return np.array(scores), choice


def decide(merged: MergedQuestion, decision: Decision) -> Prediction:
    """The answer to a question, or none, and the probabilities of both."""
    scores, choice = scores_and_choice(merged, decision.null_threshold)
    scores = scores / decision.temperature
    probabilities = np.exp(scores - np.logaddexp.reduce(scores)).tolist()
    nbest = [
        {"text": answer.text, "start": answer.start, "end": answer.end, "probability": probability}
        for answer, probability in zip(merged.answers, probabilities)
    ]
    if len(probabilities) > len(nbest):
        nbest.append({"text": "", "start": None, "end": None, "probability": probabilities[-1]})
    chosen, question = nbest[-1 if choice is None else choice], merged.question
    return Prediction(
        id=question["id"],
        question=question["question"],
        gold=question["answers"],
        predicted=chosen["text"],
        start=chosen["start"],
        end=chosen["end"],
        probability=chosen["probability"],
        null_score_difference=merged.null_score_difference,
        best=merged.answers[0].text if merged.answers else "",
        nbest=sorted(nbest, key=lambda candidate: -candidate["probability"]),
        length=question["length"],
        tokens_cut=merged.tokens_cut,
        loss=merged.loss,
        depth=question.get("depth"),
    )
