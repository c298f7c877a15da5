"""Which official scorer's figures a run reports."""

from types import SimpleNamespace

import pytest

from longspan.config import QAConfig
from longspan.tasks.cuad_metrics import cuad
from longspan.tasks.qa import QuestionAnswering
from longspan.tasks.qa_official import cuad_files


def answered(gold, predicted, best=None, difference=-1.0, id="x__Governing Law"):
    """A prediction with its best answer, which is surer than having none by minus `difference`."""
    best = best or predicted
    rows = [{"text": best, "probability": 0.6}, {"text": "", "probability": 0.4}]
    return SimpleNamespace(
        id=id,
        gold=gold,
        predicted=predicted,
        best=best,
        nbest=rows,
        null_score_difference=difference,
        loss=0.5,
    )


def metrics(scoring, *predictions):
    return QuestionAnswering(QAConfig(scoring=scoring)).metrics(predictions)


def test_squads_figures_and_the_best_threshold_where_some_questions_have_no_answer():
    one, other = answered(["rock-and-roll"], "rock and roll"), answered([], "jazz", difference=-0.5)
    assert metrics("squad", one) == {"loss": 0.5, "exact_match": 0.0, "f1": 0.0}
    both = metrics("squad", one, other)
    assert both["no_answer_exact_match"] == 0.0
    assert both["best_exact"] == 0.5  # answering neither
    assert both["best_exact_thresh"] < -1.0


def test_triviaqas_normalisation_is_its_own():
    found = metrics("triviaqa", answered(["jazz", "Rock-and-roll"], "rock and roll"))
    assert found == {"loss": 0.5, "exact_match": 1.0, "f1": 1.0}


def test_qaspers_annotators_may_say_that_there_is_no_answer():
    found = metrics("qasper", answered(["Europarl", "Unanswerable"], "", "Europarl"))
    assert found == {"loss": 0.5, "exact_match": 1.0, "f1": 1.0}


def test_cuads_figures_come_from_the_n_best_list_and_beside_squads():
    # the threshold hid the answer, which the list still holds
    found = metrics("cuad", answered(["laws of Ohio"], "", "the laws of Ohio", 2.0))
    assert found["aupr"] == found["precision_at_80_recall"] == 1.0
    assert found["exact_match"] == 0.0
    inside = answered(["Acme"], "x", "Acme and its many affiliates", id="x__Parties")
    assert metrics("cuad", inside)["aupr"] == 1.0


def test_cuads_figures_are_those_of_the_file_that_its_scorer_reads():
    """A text that stands in two places counts once, with both probabilities."""
    one = answered(["laws of Ohio"], "x")
    rows = [("jazz", 0.4), ("laws of Ohio", 0.3), ("laws of Ohio", 0.25), ("", 0.05)]
    one.nbest = [{"text": text, "probability": probability} for text, probability in rows]
    found = metrics("cuad", one)
    assert found["aupr"] == 1.0  # Ohio, 0.55, comes before jazz
    written = cuad_files([one])["nbest_predictions_.json"]
    assert cuad(list(written), list(written.values()), [one.gold])["aupr"] == found["aupr"]


@pytest.mark.parametrize(
    ("scoring", "metric"), [("squad", "f1"), ("triviaqa", "f1"), ("cuad", "aupr"), ("qasper", "f1")]
)
def test_the_main_figure_says_which_checkpoint_is_best(scoring, metric):
    task = QuestionAnswering(QAConfig(scoring=scoring))
    assert task.monitor == (metric, "max")
    assert metric in task.metrics([answered(["x"], "x")])


def test_questions_without_known_answers_have_no_figures():
    assert metrics("cuad", answered(None, "x")) == {}
