"""Metrics against scikit-learn, and calibration against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from longspan.tasks.classification_metrics import (
    CALIBRATION_BINS,
    multi_label,
    regression,
    single_label,
)

SEEDS = st.integers(0, 10_000)


def expected_calibration_error(confidence, right):
    """Guo et al. 2017, equation 3: |accuracy - confidence| of each bin, by its share."""
    total = 0.0
    for b in range(CALIBRATION_BINS):
        low, high = b / CALIBRATION_BINS, (b + 1) / CALIBRATION_BINS
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += abs(accuracy - mean) * len(inside) / len(confidence)
    return total


def draw_single(seed, documents=60, classes=4):
    generator = np.random.default_rng(seed)
    scores = generator.dirichlet(np.ones(classes), documents).astype(np.float32)
    gold = generator.integers(0, classes, documents)
    gold[:classes] = range(classes)
    return scores, gold


@settings(max_examples=30)
@given(seed=SEEDS, classes=st.integers(2, 6))
def test_single_label(seed, classes):
    scores, gold = draw_single(seed, classes=classes)
    measured = single_label(torch.tensor(scores), torch.tensor(gold))
    predicted = scores.argmax(axis=1)
    normalised = scores.astype(np.float64) / scores.sum(axis=1, keepdims=True, dtype=np.float64)
    auroc = (
        sk.roc_auc_score(gold, scores[:, 1])
        if classes == 2
        else sk.roc_auc_score(gold, normalised, multi_class="ovr", average="macro")
    )
    assert measured == pytest.approx(
        {
            "accuracy": sk.accuracy_score(gold, predicted),
            "macro_f1": sk.f1_score(gold, predicted, average="macro"),
            "micro_f1": sk.f1_score(gold, predicted, average="micro"),
            "auroc": auroc,
            "ece": expected_calibration_error(scores.max(axis=1), predicted == gold),
        },
        abs=1e-5,
    )


def test_single_label_without_one_of_the_classes():
    """AUROC is not defined then and left out; F1 is the mean over classes that occur."""
    scores = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]], np.float32)
    gold = np.array([0, 1, 1])
    measured = single_label(torch.tensor(scores), torch.tensor(gold))
    assert "auroc" not in measured
    assert measured["macro_f1"] == pytest.approx(
        sk.f1_score(gold, scores.argmax(axis=1), average="macro")
    )
    one = single_label(torch.tensor(scores[:1]), torch.tensor(gold[:1]))
    assert one["accuracy"] == 1.0
    assert "auroc" not in one


def draw_multi(seed, documents=50, labels=5):
    generator = np.random.default_rng(seed)
    scores = generator.uniform(size=(documents, labels)).astype(np.float32)
    gold = (generator.uniform(size=(documents, labels)) < 0.3).astype(int)
    gold[0], gold[1] = 0, 1
    return scores, gold


@settings(max_examples=30)
@given(seed=SEEDS, threshold=st.sampled_from([0.2, 0.5, 0.7]), labels=st.integers(2, 6))
def test_multi_label(seed, threshold, labels):
    scores, gold = draw_multi(seed, labels=labels)
    measured = multi_label(torch.tensor(scores), torch.tensor(gold), threshold)
    predicted = (scores >= threshold).astype(int)
    assert measured == pytest.approx(
        {
            "micro_f1": sk.f1_score(gold, predicted, average="micro"),
            "macro_f1": sk.f1_score(gold, predicted, average="macro"),
            "accuracy": sk.accuracy_score(gold, predicted),
            "auroc": sk.roc_auc_score(gold, scores, average="macro"),
            "ece": expected_calibration_error(scores.flatten(), gold.flatten()),
        },
        abs=1e-5,
    )


def test_multi_label_where_a_label_never_or_always_occurs():
    scores, gold = draw_multi(3, labels=4)
    gold[:, 1], gold[:, 2] = 0, 1
    measured = multi_label(torch.tensor(scores), torch.tensor(gold), 0.5)
    both = [0, 3]  # AUROC is the mean over labels with both values
    assert measured["auroc"] == pytest.approx(
        sk.roc_auc_score(gold[:, both], scores[:, both], average="macro"), abs=1e-5
    )
    predicted = (scores >= 0.5).astype(int)
    assert measured["macro_f1"] == pytest.approx(
        sk.f1_score(gold, predicted, average="macro", zero_division=0), abs=1e-5
    )
    gold[:, both] = 0
    assert "auroc" not in multi_label(torch.tensor(scores), torch.tensor(gold), 0.5)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.3])
def test_a_score_at_the_threshold_counts(threshold):
    scores = torch.tensor([[threshold, 0.0], [0.0, threshold]], dtype=torch.float64)
    measured = multi_label(scores, torch.eye(2, dtype=torch.int64), threshold)
    assert measured["accuracy"] == measured["micro_f1"] == 1.0


@settings(max_examples=30)
@given(seed=SEEDS, documents=st.integers(3, 40))
def test_regression(seed, documents):
    generator = np.random.default_rng(seed)
    gold = generator.normal(size=documents).astype(np.float32)
    predicted = (0.5 * gold + generator.normal(size=documents)).astype(np.float32)
    measured = regression(torch.tensor(predicted), torch.tensor(gold))
    assert measured == pytest.approx(
        {
            "mse": sk.mean_squared_error(gold, predicted),
            "mae": sk.mean_absolute_error(gold, predicted),
            "r2": sk.r2_score(gold, predicted),
            "pearson": stats.pearsonr(predicted, gold).statistic,
            "spearman": stats.spearmanr(predicted, gold).statistic,
        },
        abs=1e-4,
        rel=1e-4,
    )


def test_regression_where_correlations_are_not_defined():
    gold, same = torch.tensor([1.0, 2.0, 3.0]), torch.full((3,), 2.0)
    assert set(regression(gold, same)) == {"mse", "mae"}  # gold does not vary
    constant = regression(same, gold)
    assert set(constant) == {"mse", "mae", "r2"}
    assert constant["r2"] == pytest.approx(0.0)
    assert set(regression(gold[:1], gold[:1])) == {"mse", "mae"}


def test_ties_share_their_rank():
    predicted, gold = torch.tensor([1.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 2.0, 4.0])
    expected = stats.spearmanr(predicted, gold).statistic
    assert regression(predicted, gold)["spearman"] == pytest.approx(expected, abs=1e-6)
