"""How well clauses are found, as the official scorer of CUAD counts it (Hendrycks et al. 2021).

Every span that was predicted with more than a confidence counts; precision and recall are taken at
101 confidences, and the area under that curve is summed up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# as the scorer computes them, rounding errors included: 0.99, 0.98, … 0.01, 0.001, 0
CONFIDENCES = np.append(np.arange(0.99, 0, -0.01), [0.001, 0.0])
MIN_OVERLAP = 0.5  # Jaccard index of the words, from which two spans are the same
MARKS = str.maketrans({**dict.fromkeys(".,;:"), "/": " "})


def words(span: str) -> frozenset[str]:
    """What spans are compared by: their different words, without marks, in lower case."""
    return frozenset(span.translate(MARKS).lower().split())


def jaccard(ours: frozenset[str], theirs: frozenset[str]) -> float:
    """Shared words among all; 0 where there are none, on which the official scorer fails."""
    union = ours | theirs
    return len(ours & theirs) / len(union) if union else 0.0


def cuad(
    questions: Sequence[str],
    predicted: Sequence[Sequence[Mapping[str, Any]]],
    gold: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Area under the precision-recall curve, and the precision where recall is 80 % and 90 %.

    Args:
        questions: their ids; those that hold "Parties" accept a span that contains the gold one.
        predicted: the n-best list of each, with `text` and `probability`; "" counts for nothing.
        gold: all spans that answer each; none = the contract has no such clause.

    Returns:
        `aupr`, `precision_at_80_recall` and `precision_at_90_recall`; 0 where no precision is
        defined or the recall is not reached.
    """
    found: list[float] = []  # of each gold span, the best confidence that matches it
    wrong: list[float] = []  # confidences of what matches nothing
    for question, nbest, spans in zip(questions, predicted, gold, strict=True):
        right, other = _match(question, nbest, spans)
        found += right
        wrong += other
    precision, recall = _curve(np.array(found), np.array(wrong))
    return {
        "aupr": float(np.trapezoid(precision, recall)),
        "precision_at_80_recall": _precision_at(0.8, precision, recall),
        "precision_at_90_recall": _precision_at(0.9, precision, recall),
    }


def _match(
    question: str, nbest: Sequence[Mapping[str, Any]], spans: Sequence[str]
) -> tuple[list[float], list[float]]:
    """The best confidence that matches each gold span (-1 = none), and those that match none."""
    # a text that stands in the list twice has the confidence that comes last
    confidence = {row["text"]: row["probability"] for row in nbest if row["text"]}
    right, wrong = [-1.0] * len(spans), []
    gold_words = [words(span) for span in spans]
    for text, value in confidence.items():
        own = words(text)
        hits = [
            i
            for i, span in enumerate(spans)
            if jaccard(own, gold_words[i]) >= MIN_OVERLAP
            or ("Parties" in question and span in text)
        ]
        for i in hits:
            right[i] = max(right[i], value)
        if not hits:
            wrong.append(value)
    return right, wrong


def _curve(found: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at no recall and at every confidence, by rising recall.

    A precision is the best at that recall or more; where nothing is predicted it is undefined and
    does not count. All are 0 where nothing is ever predicted, or nothing is to be found.
    """
    true = (found[None] > CONFIDENCES[:, None]).sum(axis=1)  # (101,)
    predicted = true + (wrong[None] > CONFIDENCES[:, None]).sum(axis=1)
    if not len(found) or not predicted[-1]:
        return np.zeros(len(true) + 1), np.zeros(len(true) + 1)
    precision = np.divide(true, predicted, out=np.zeros(len(true)), where=predicted > 0)
    precision = np.concatenate([[1.0], precision])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return best, np.concatenate([[0.0], true / len(found)])


def _precision_at(least: float, precision: np.ndarray, recall: np.ndarray) -> float:
    reached = (recall >= least).nonzero()[0]
    return float(precision[reached[0]]) if len(reached) else 0.0
