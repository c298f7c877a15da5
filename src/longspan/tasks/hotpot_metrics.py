"""Answers and supporting facts as the official scorer of HotpotQA counts them (Yang et al. 2018)."""

from collections.abc import Collection, Sequence

from longspan.tasks.qa_metrics import exact_match, harmonic_mean, normalize, precision_recall

Fact = tuple[str, int]  # title of a paragraph, number of its sentence
Score = tuple[float, float, float]  # exact match, precision, recall
CLOSED = ("yes", "no", "noanswer")  # right as a whole or not at all


def answer_score(predicted: str, gold: str) -> Score:
    """Of one answer; yes, no and noanswer share no words with anything else."""
    ours, theirs = normalize(predicted), normalize(gold)
    if ours != theirs and (ours in CLOSED or theirs in CLOSED):
        return 0.0, 0.0, 0.0
    return exact_match(predicted, gold), *precision_recall(ours.split(), theirs.split())


def facts_score(predicted: Collection[Fact], gold: Collection[Fact]) -> Score:
    """Of one question's supporting facts; a fact that is named twice counts once."""
    ours, theirs = set(predicted), set(gold)
    right = len(ours & theirs)
    precision = right / len(ours) if ours else 0.0
    recall = right / len(theirs) if theirs else 0.0
    return float(ours == theirs), precision, recall


def hotpot(
    predicted_answers: Sequence[str],
    gold_answers: Sequence[str],
    predicted_facts: Sequence[Collection[Fact]],
    gold_facts: Sequence[Collection[Fact]],
) -> dict[str, float]:
    """Means over questions of answer, supporting facts and both together.

    Jointly, exact matches, precisions and recalls of a question are multiplied, and F1 is that of
    the products.

    Args:
        predicted_answers, gold_answers: one a question; "" = none.
        predicted_facts, gold_facts: (title, sentence) pairs of each question.

    Returns:
        `exact_match` and `f1`, the same with `supporting_` and `joint_` before them; {} without
        questions.
    """
    answers = [answer_score(*pair) for pair in zip(predicted_answers, gold_answers, strict=True)]
    facts = [facts_score(*pair) for pair in zip(predicted_facts, gold_facts, strict=True)]
    joint: list[Score] = [
        (a[0] * f[0], a[1] * f[1], a[2] * f[2]) for a, f in zip(answers, facts, strict=True)
    ]
    measured: dict[str, float] = {}
    for name, scores in (("", answers), ("supporting_", facts), ("joint_", joint)):
        if scores:
            measured[f"{name}exact_match"] = sum(s[0] for s in scores) / len(scores)
            measured[f"{name}f1"] = sum(harmonic_mean(*s[1:]) for s in scores) / len(scores)
    return measured
