"""Predictions to the figures of the official scorer that a run chose."""

from collections.abc import Callable, Sequence

from longspan.tasks import qa_metrics, qasper_metrics, triviaqa_metrics
from longspan.tasks.cuad_metrics import cuad
from longspan.tasks.qa_decoding import Prediction
from longspan.tasks.qa_metrics import best_thresholds, squad
from longspan.tasks.qa_official import by_text
from longspan.tasks.qasper_metrics import qasper
from longspan.tasks.triviaqa_metrics import triviaqa

# exact match and F1 of one answer ("" = none) against all that are right, by `task.scoring`
Score = Callable[[str, Sequence[str]], tuple[float, float]]
SCORES: dict[str, Score] = {
    "squad": qa_metrics.score,
    "cuad": qa_metrics.score,
    "triviaqa": triviaqa_metrics.score,
    "qasper": qasper_metrics.score,
}


def official_metrics(predictions: Sequence[Prediction], scoring: str) -> dict[str, float]:
    """Figures of at least one question, all with gold answers.

    Args:
        predictions: of the questions.
        scoring: `task.scoring`; CUAD's figures come with SQuAD's.
    """
    predicted, gold = [p.predicted for p in predictions], [p.gold or [] for p in predictions]
    if scoring == "triviaqa":
        return triviaqa(predicted, gold)
    if scoring == "qasper":
        return qasper(predicted, gold)
    measured = squad(predicted, gold)
    if not all(gold):
        differences = [p.null_score_difference for p in predictions]
        measured |= best_thresholds([p.best for p in predictions], gold, differences)
    if scoring == "cuad":
        # as they are written for the scorer itself
        ids, nbest = [p.id for p in predictions], [by_text(p.nbest) for p in predictions]
        measured = cuad(ids, nbest, gold) | measured
    return measured
