"""Predictions to the figures of the official scorer that a run chose."""

from collections.abc import Sequence

from longspan.tasks.cuad_metrics import cuad
from longspan.tasks.qa_decoding import Prediction
from longspan.tasks.qa_metrics import best_thresholds, squad
from longspan.tasks.qa_official import by_text
from longspan.tasks.triviaqa_metrics import triviaqa


def official_metrics(predictions: Sequence[Prediction], scoring: str) -> dict[str, float]:
    """Figures of at least one question, all with gold answers.

    Args:
        predictions: of the questions.
        scoring: `task.scoring`; CUAD's figures come with SQuAD's.
    """
    predicted, gold = [p.predicted for p in predictions], [p.gold or [] for p in predictions]
    if scoring == "triviaqa":
        return triviaqa(predicted, gold)
    measured = squad(predicted, gold)
    if not all(gold):
        differences = [p.null_score_difference for p in predictions]
        measured |= best_thresholds([p.best for p in predictions], gold, differences)
    if scoring == "cuad":
        # as they are written for the scorer itself
        ids, nbest = [p.id for p in predictions], [by_text(p.nbest) for p in predictions]
        measured = cuad(ids, nbest, gold) | measured
    return measured
