"""Metrics of classification, by torchmetrics; one that is not defined on the data is left out."""

import warnings

import torch
from torch import Tensor
from torchmetrics.functional import classification as tm
from torchmetrics.functional import regression as tmr

CALIBRATION_BINS = 15


def single_label(scores: Tensor, gold: Tensor) -> dict[str, float]:
    """Accuracy, F1, AUROC (one class against the rest) and expected calibration error.

    Args:
        scores: (D, classes) probabilities.
        gold: (D,) class indices.
    """
    classes = scores.shape[1]
    measured = {
        "accuracy": tm.multiclass_accuracy(scores, gold, classes, average="micro"),
        "macro_f1": tm.multiclass_f1_score(scores, gold, classes, average="macro"),
        "micro_f1": tm.multiclass_f1_score(scores, gold, classes, average="micro"),
        "ece": tm.multiclass_calibration_error(scores, gold, classes, CALIBRATION_BINS),
    }
    if len(gold.unique()) == classes:
        measured["auroc"] = tm.multiclass_auroc(scores, gold, classes)
    return {name: float(value) for name, value in measured.items()}


def multi_label(scores: Tensor, gold: Tensor, threshold: float) -> dict[str, float]:
    """F1, exact-match accuracy, AUROC over labels with both values, calibration over all cells.

    Args:
        scores: (D, labels) probabilities.
        gold: (D, labels) zeros and ones.
        threshold: probability from which a label counts.
    """
    labels = scores.shape[1]
    # torchmetrics counts scores above the threshold; a prediction counts from it, in double
    chosen = (scores.double() >= threshold).int()
    measured = {
        "micro_f1": tm.multilabel_f1_score(chosen, gold, labels, average="micro"),
        "macro_f1": tm.multilabel_f1_score(chosen, gold, labels, average="macro"),
        "accuracy": tm.multilabel_exact_match(chosen, gold, labels),
        "ece": tm.binary_calibration_error(scores.flatten(), gold.flatten(), CALIBRATION_BINS),
    }
    both = (gold.min(dim=0).values == 0) & (gold.max(dim=0).values == 1)
    if both.any():
        each = [tm.binary_auroc(scores[:, i], gold[:, i]) for i in both.nonzero().flatten()]
        measured["auroc"] = torch.stack(each).mean()
    return {name: float(value) for name, value in measured.items()}


def regression(predicted: Tensor, gold: Tensor) -> dict[str, float]:
    """Errors, and correlations where both sides vary. Both arguments (D,)."""
    measured = {
        "mse": tmr.mean_squared_error(predicted, gold),
        "mae": tmr.mean_absolute_error(predicted, gold),
    }
    if len(gold) > 1 and gold.std() > 0:
        measured["r2"] = tmr.r2_score(predicted, gold)
    if "r2" in measured and predicted.std() > 0:
        with warnings.catch_warnings():
            # nearly constant predictions early in training: the value is still what it is
            warnings.filterwarnings("ignore", message="The variance of predictions or target")
            measured["pearson"] = tmr.pearson_corrcoef(predicted, gold)
        measured["spearman"] = tmr.spearman_corrcoef(predicted, gold)
    return {name: float(value) for name, value in measured.items()}
