"""Official formats, read as the official scorers read them."""

import pytest

from longspan.tasks.qa_decoding import Prediction
from longspan.tasks.qa_official import cuad_files, squad_files


def prediction(id: str, predicted: str, difference: float, nbest: dict | list) -> Prediction:
    rows = nbest.items() if isinstance(nbest, dict) else nbest
    listed = [{"text": t, "start": i, "end": i + len(t), "probability": p}
              for i, (t, p) in enumerate(rows)]  # fmt: skip
    return Prediction(
        id=id, question="Who?", gold=None, predicted=predicted, start=None, end=None,
        probability=0.5, null_score_difference=difference, best="Ann", nbest=listed, length=9,
        tokens_cut=0, loss=None,
    )  # fmt: skip


def test_squads_scorer_leaves_answers_alone_and_keeps_their_order() -> None:
    differences = {"a": -1e4, "b": -1.5, "c": 0.0, "d": 3.0, "e": 800.0, "f": 1e4}
    rows = [prediction(name, name, d, {}) for name, d in differences.items()]
    files = squad_files(rows)
    assert files["predictions.json"] == {name: name for name in differences}
    odds = files["na_prob.json"]
    # evaluate-v2.0.py blanks an answer where na_probs[id] > na_prob_thresh, 1.0 unless it is told
    assert all(0 <= odds[name] <= 1.0 for name in differences)
    assert sorted(odds, key=lambda name: (odds[name], name)) == list(differences)
    assert odds["c"] == 0.5


def preds_above(nbest: list[dict], confidence: float) -> list[str]:
    """CUAD's `get_preds`: the last probability of a text counts, "" is no prediction."""
    found = {row["text"]: row["probability"] for row in nbest if row["text"] != ""}
    return [text for text, probability in found.items() if probability > confidence]


def test_cuads_scorer_finds_a_clause_that_stands_twice_as_sure_as_it_is() -> None:
    nbest = [("of Ohio", 0.4), ("", 0.3), ("of Ohio", 0.2), ("Ohio", 0.1)]
    (content,) = cuad_files([prediction("x__Governing Law", "of Ohio", 0.0, nbest)]).values()
    rows = content["x__Governing Law"]
    assert preds_above(rows, 0.5) == ["of Ohio"]
    assert preds_above(rows, 0.05) == ["of Ohio", "Ohio"]
    assert sum(row["probability"] for row in rows) == pytest.approx(1)
    assert list(cuad_files([])) == ["nbest_predictions_.json"]  # the name that it looks for
