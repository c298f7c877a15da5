"""Predictions as the official scorers of question-answering sets read them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from longspan.tasks.qa_decoding import Prediction

Files = dict[str, Any]  # file name to what its JSON holds


def squad_files(predictions: Sequence[Prediction]) -> Files:
    """For SQuAD 1.1's and 2.0's `evaluate-v2.0.py data.json predictions.json --na-prob-file …`.

    The odds of no answer are told as a probability, e^d / (1 + e^d) of `null_score_difference`:
    the scorer searches its best thresholds in their order alone, and blanks every answer above
    1.0, as raw odds may be.
    """
    return {
        "predictions.json": {p.id: p.predicted for p in predictions},
        "na_prob.json": {p.id: _logistic(p.null_score_difference) for p in predictions},
    }


def cuad_files(predictions: Sequence[Prediction]) -> Files:
    """For CUAD's `evaluate.py`, which looks for this file name in the folder of a model."""
    return {"nbest_predictions_.json": {p.id: by_text(p.nbest) for p in predictions}}


def by_text(nbest: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Candidates at different places to different texts, as CUAD's scorer takes them.

    It keeps one probability a text: one that stands in several places has their sum.
    """
    texts: dict[str, float] = {}
    for candidate in nbest:
        text = candidate["text"]
        texts[text] = min(1.0, texts.get(text, 0.0) + candidate["probability"])
    ranked = sorted(texts.items(), key=lambda item: -item[1])
    return [{"text": text, "probability": probability} for text, probability in ranked]


def _logistic(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0  # exp(700) is near float's end
