"""Exact match and F1 as the official scorer of TriviaQA counts them (Joshi et al. 2017)."""

import re
import string
from collections.abc import Sequence

from longspan.tasks.qa_metrics import harmonic_mean, precision_recall

# underscores among them; unlike SQuAD's scorer, this one leaves a space where a mark was
MARKS = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def normalize(answer: str) -> str:
    """Lower case, marks to spaces, then without English articles and extra white space."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer.lower().translate(MARKS)).split())


def score(predicted: str, aliases: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1, each against the alias that suits it best.

    Without an alias, which the official sets do not have, no answer is the right one.
    """
    ours = normalize(predicted)
    if not aliases:
        return float(not ours), float(not ours)
    theirs = [normalize(alias) for alias in aliases]
    overlaps = (precision_recall(ours.split(), alias.split()) for alias in theirs)
    return float(ours in theirs), max(harmonic_mean(*overlap) for overlap in overlaps)


def triviaqa(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over all questions.

    Args:
        predicted: an answer a question; "" = no answer.
        gold: all aliases of the right answer of each.
    """
    scores = [score(answer, right) for answer, right in zip(predicted, gold, strict=True)]
    return {
        "exact_match": sum(row[0] for row in scores) / len(scores),
        "f1": sum(row[1] for row in scores) / len(scores),
    }
