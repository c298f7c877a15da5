"""Exact match and F1 as the official scorer of SQuAD 2.0 counts them (Rajpurkar et al. 2018)."""

import re
import string
from collections import Counter
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra white space, in the
    scorer's order."""
    without = answer.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without).split())


def exact_match(predicted: str, gold: str) -> float:
    return float(normalize(predicted) == normalize(gold))


def f1(predicted: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the words; where one has none, whether both have."""
    ours, theirs = normalize(predicted).split(), normalize(gold).split()
    if not ours or not theirs:
        return float(ours == theirs)
    return harmonic_mean(*precision_recall(ours, theirs))


def precision_recall(ours: Sequence[str], theirs: Sequence[str]) -> tuple[float, float]:
    """Shares of our words and of theirs that both have, each as often as both have it."""
    same = sum((Counter(ours) & Counter(theirs)).values())
    return (same / len(ours), same / len(theirs)) if same else (0.0, 0.0)


def harmonic_mean(precision: float, recall: float) -> float:
    """F1; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score(predicted: str, gold: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 against the best of the gold answers; none = the empty answer is right."""
    answers = [answer for answer in gold if normalize(answer)] or [""]
    return max(exact_match(predicted, a) for a in answers), max(f1(predicted, a) for a in answers)


def squad(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over all questions, and over those with and without an answer where there are both.

    Args:
        predicted: an answer a question; "" = no answer.
        gold: all right answers of each.
    """
    scores = [score(answer, right) for answer, right in zip(predicted, gold, strict=True)]
    has_answer = [bool(right) for right in gold]
    groups = {"": [True] * len(scores)}
    if len(set(has_answer)) > 1:
        groups["has_answer_"] = has_answer
        groups["no_answer_"] = [not has for has in has_answer]
    measured: dict[str, float] = {}
    for name, chosen in groups.items():
        rows = [row for row, is_in in zip(scores, chosen, strict=True) if is_in]
        measured[f"{name}exact_match"] = sum(row[0] for row in rows) / len(rows)
        measured[f"{name}f1"] = sum(row[1] for row in rows) / len(rows)
    return measured


def best_thresholds(
    best: Sequence[str], gold: Sequence[Sequence[str]], differences: Sequence[float]
) -> dict[str, float]:
    """The scores that the best threshold on having no answer would give (`find_best_thresh`).

    Args:
        best: the best answer of each question, whether or not having none is better; "" = none.
        gold: all right answers of each.
        differences: by how much having none is better.

    Returns:
        `best_exact` and `best_f1`, each with its `_thresh`: a difference above it means no answer.
    """
    scores = [score(answer, right) for answer, right in zip(best, gold, strict=True)]
    measured: dict[str, float] = {}
    for place, name in enumerate(("exact", "f1")):
        # what a question adds to the sum of scores as soon as it is answered
        gains = [
            row[place] if right else -float(bool(answer))
            for row, right, answer in zip(scores, gold, best, strict=True)
        ]
        highest, threshold = best_threshold(gains, differences)
        unanswerable = sum(not right for right in gold)
        measured[f"best_{name}"] = (unanswerable + highest) / len(gold)
        measured[f"best_{name}_thresh"] = threshold
    return measured


def best_threshold(gains: Sequence[float], differences: Sequence[float]) -> tuple[float, float]:
    """The highest sum of the gains of questions whose difference is not above a threshold.

    Returns:
        the sum and the lowest such threshold; it lies below all differences where every sum is
        below 0. (The official scorer says 0.0 there, as its differences are probabilities.)
    """
    highest, threshold = 0.0, min(differences) - 1.0
    total = 0.0
    for place in sorted(range(len(gains)), key=lambda place: differences[place]):
        total += gains[place]
        if total > highest:
            highest, threshold = total, differences[place]
    return highest, threshold
