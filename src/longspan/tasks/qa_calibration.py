"""What a trained model learns from the dev split: when not to answer, and how sure it may be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longspan.config import QAConfig
from longspan.tasks.qa_merging import Decision, MergedQuestion, scores_and_choice
from longspan.tasks.qa_scoring import SCORES, Score

TEMPERATURES = np.geomspace(0.1, 30.0, 115)  # 5 % apart
UNCALIBRATED = Decision()


@dataclass(frozen=True)
class Calibration:
    """A decision that was fitted to questions.

    Attributes:
        decision: what to decide by.
        questions: with known gold answers that it was fitted to.
        f1, f1_uncalibrated: of `task.scoring` over them, with it and with `UNCALIBRATED`.
    """

    decision: Decision
    questions: int
    f1: float
    f1_uncalibrated: float


def fixed(config: QAConfig) -> Decision:
    """What the config says; where it says "auto", what is taken before there is a calibration."""
    threshold, temperature = config.null_threshold, config.temperature
    return Decision(
        UNCALIBRATED.null_threshold if threshold == "auto" else threshold,
        UNCALIBRATED.temperature if temperature == "auto" else temperature,
    )


def calibrate(questions: Sequence[MergedQuestion], config: QAConfig) -> Calibration | None:
    """Fit what the config leaves at "auto".

    Args:
        questions: of the dev split.
        config: what is fitted, and whose F1 and exact match it is fitted to.

    Returns:
        None without a question whose gold answers are known.
    """
    known = [q for q in questions if q.question["answers"] is not None]
    if not known:
        return None
    score = SCORES[config.scoring]
    difference = np.array([q.null_score_difference for q in known])
    best = [q.answers[0].text if q.answers else "" for q in known]
    answered = np.array([score(b, q.question["answers"])[1] for b, q in zip(best, known)])
    silent = np.array([score("", q.question["answers"])[1] for q in known])
    decision = fixed(config)
    if config.null_threshold == "auto":
        threshold = None if not silent.any() else best_threshold(difference, answered, silent)
        decision = Decision(threshold, decision.temperature)
    if config.temperature == "auto":
        decision = Decision(decision.null_threshold, best_temperature(known, decision, score))

    def f1(threshold: float | None) -> float:
        says_nothing = np.zeros(len(known), bool) if threshold is None else difference > threshold
        return float(np.where(says_nothing, silent, answered).mean())

    before = f1(UNCALIBRATED.null_threshold)
    return Calibration(decision, len(known), f1(decision.null_threshold), before)


def best_threshold(difference: np.ndarray, answered: np.ndarray, silent: np.ndarray) -> float:
    """The threshold of the highest mean score, if a question is not answered above it.

    As the official scorer of SQuAD 2.0 searches it, but half-way between the questions that it
    parts; of several that are equally good the one nearest to 0, which is 0 if it is one of them.

    Args:
        difference: (Q,) of each question, by how much no answer is better.
        answered, silent: (Q,) its score with its best answer, and with none.
    """
    order = np.argsort(difference, kind="stable")
    edges, gain = difference[order], (answered - silent)[order]
    totals = np.concatenate([[0.0], np.cumsum(gain)])  # (Q+1,) if the first k are answered
    # a cut between equal differences is none
    possible = np.concatenate([[True], edges[1:] > edges[:-1], [True]])
    best = possible & (totals >= totals[possible].max() - 1e-9)
    low = np.concatenate([[-np.inf], edges])[best]  # any threshold in [low, high) parts alike
    high = np.concatenate([edges, [np.inf]])[best]
    if ((low <= 0) & (high > 0)).any():
        return 0.0
    low, high = np.where(np.isinf(low), high - 2, low), np.where(np.isinf(high), low + 2, high)
    middle = (low + high) / 2
    middle = np.where(middle < high, middle, low)  # where rounding hits the end
    return float(middle[np.abs(middle).argmin()])


def best_temperature(
    questions: Sequence[MergedQuestion], decision: Decision, score: Score
) -> float:
    """The temperature at which the probability of a prediction best says whether it is right.

    Least binary cross-entropy against exact match; the targets are Platt's (1999, section 2.2:
    a little below 1 and above 0), so that few questions do not make a model infinitely sure.

    Args:
        questions: with known gold answers.
        decision: with the threshold; its temperature is not read.
        score: what says whether an answer is right.
    """
    scores = np.full((len(questions), max(len(q.answers) for q in questions) + 1), -np.inf)
    chosen = np.zeros(len(questions), int)
    right = np.zeros(len(questions), bool)
    for row, question in enumerate(questions):
        own, choice = scores_and_choice(question, decision.null_threshold)
        scores[row, : len(own)] = own
        chosen[row] = len(own) - 1 if choice is None else choice
        text = "" if choice is None else question.answers[choice].text
        right[row] = score(text, question.question["answers"])[0] == 1
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    losses = []
    for temperature in TEMPERATURES:
        scaled = scores / temperature
        own = scaled[np.arange(len(questions)), chosen]
        p = np.exp(own - np.logaddexp.reduce(scaled, axis=1)).clip(1e-12, 1 - 1e-12)
        losses.append(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean())
    return float(TEMPERATURES[int(np.argmin(losses))])
