"""Answer F1 as the official scorer of Qasper counts it (Dasigi et al. 2021).

It is SQuAD's token F1, but that what is not answered is a text of its own: an annotator who found
no answer says "Unanswerable", which is right beside what the others say.
"""

from collections.abc import Sequence

from longspan.tasks.qa_metrics import exact_match, harmonic_mean, normalize, precision_recall

UNANSWERABLE = "Unanswerable"  # as `data.formats.qasper` has it among the answers


def score(predicted: str, gold: Sequence[str]) -> tuple[float, float]:
    """Exact match, which is ours, and F1, each against the annotator who suits it best.

    Args:
        predicted: "" = no answer.
        gold: an answer an annotator; none = all found the question unanswerable.
    """
    said, references = predicted or UNANSWERABLE, gold or [UNANSWERABLE]
    ours = normalize(said).split()
    # unlike SQuAD's scorer, this one finds nothing in common where both are articles and marks
    overlaps = [precision_recall(ours, normalize(reference).split()) for reference in references]
    exact = max(exact_match(said, reference) for reference in references)
    return exact, max(harmonic_mean(*overlap) for overlap in overlaps)


def qasper(predicted: Sequence[str], gold: Sequence[Sequence[str]]) -> dict[str, float]:
    """Means over all questions.

    Args:
        predicted: an answer a question; "" = no answer.
        gold: what each annotator says.
    """
    scores = [score(answer, right) for answer, right in zip(predicted, gold, strict=True)]
    return {
        "exact_match": sum(row[0] for row in scores) / len(scores),
        "f1": sum(row[1] for row in scores) / len(scores),
    }
