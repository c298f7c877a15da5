"""The task: losses against formulas, pooling, predictions, weights of the classes."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from longspan.batch import Feature, pack
from longspan.config import ClassificationConfig, ModelConfig
from longspan.tasks.classification import Classification, ClassificationHead


def batch_of(labels, lengths=None, **fields):
    lengths = lengths or [3 + i for i in range(len(labels))]
    return pack(
        [
            Feature(
                f"doc-{i}",
                np.arange(length, dtype=np.int32),
                np.zeros(1, np.int32),
                label,
                **fields,
            )
            for i, (label, length) in enumerate(zip(labels, lengths, strict=True))
        ]
    )


def task_of(labels=("a", "b", "c"), **config):
    return Classification(ClassificationConfig(**config), list(labels))


@pytest.fixture
def logits():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


SINGLE = [0, 2, 1, 1, 0, 2]
MULTI = [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]] * 2


# --- loss ---------------------------------------------------------------------------------------


def test_single_label_loss(logits):
    loss = task_of().loss(logits, batch_of(SINGLE))
    by_hand = [-torch.log(logits[i].exp()[k] / logits[i].exp().sum()) for i, k in enumerate(SINGLE)]
    torch.testing.assert_close(loss, torch.stack(by_hand))
    probabilities = logits.double().softmax(1).numpy()
    assert loss.mean().item() == pytest.approx(log_loss(SINGLE, probabilities), rel=1e-5)


def test_label_smoothing(logits):
    """Szegedy et al. 2016, section 7: the target is (1 - e) one-hot + e / classes."""
    smoothing = 0.2
    loss = task_of(label_smoothing=smoothing).loss(logits, batch_of(SINGLE))
    target = (1 - smoothing) * F.one_hot(torch.tensor(SINGLE), 3) + smoothing / 3
    torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1))


def test_given_class_weights(logits):
    weights = (1.0, 0.5, 3.0)
    loss = task_of(class_weights=weights).loss(logits, batch_of(SINGLE))
    plain = task_of().loss(logits, batch_of(SINGLE))
    torch.testing.assert_close(loss, plain * torch.tensor(weights)[SINGLE])


def test_multi_label_loss(logits):
    gold = torch.tensor(MULTI)
    loss = task_of(problem="multi_label").loss(logits, batch_of(MULTI))
    p = logits.sigmoid()
    each = -(gold * p.log() + (1 - gold) * (1 - p).log())
    torch.testing.assert_close(loss, each.mean(1))
    weights = (1.0, 0.0, 2.0)
    weighted = task_of(problem="multi_label", class_weights=weights).loss(logits, batch_of(MULTI))
    torch.testing.assert_close(weighted, (each * torch.tensor(weights)).mean(1))


def test_regression_loss():
    predicted, gold = torch.tensor([[0.5], [2.0], [-1.0]]), [1.0, 2.0, 1.0]
    task = Classification.from_training_labels(
        ClassificationConfig(problem="regression"), gold, None, "y"
    )
    assert task.loss(predicted, batch_of(gold)).tolist() == [0.25, 0.0, 4.0]


def test_loss_is_float32_whatever_the_logits_are(logits):
    for problem, labels in (("single_label", SINGLE), ("multi_label", MULTI)):
        loss = task_of(problem=problem).loss(logits.bfloat16(), batch_of(labels))
        assert loss.dtype == torch.float32


# --- balanced weights ---------------------------------------------------------------------------


@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=50).filter(lambda c: len(set(c)) > 1)
)
def test_balanced_weights(labels):
    config = ClassificationConfig(class_weights="balanced")
    task = Classification.from_training_labels(config, labels, None, "label")
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    torch.testing.assert_close(task.class_weights, torch.tensor(expected, dtype=torch.float32))


def test_a_declared_class_without_documents_has_no_weight():
    config = ClassificationConfig(class_weights="balanced")
    task = Classification.from_training_labels(config, [0, 0, 0, 2], ["x", "y", "z"], "label")
    expected = compute_class_weight("balanced", classes=np.array([0, 2]), y=[0, 0, 0, 2])
    assert task.class_weights.tolist() == pytest.approx([expected[0], 0.0, expected[1]])
    # so that the mean over training documents stays 1
    assert task.class_weights[[0, 0, 0, 2]].mean() == pytest.approx(1.0)


# --- pooling and head ---------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling(pooling):
    lengths = [5, 1, 3]
    hidden = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    head = ClassificationHead(4, 2, ClassificationConfig(pooling=pooling, head_dropout=0.0))
    documents = hidden.split(lengths)
    pooled = torch.stack([d[0] if pooling == "cls" else d.mean(0) for d in documents])
    expected = head.out(head.dense(pooled).tanh())
    torch.testing.assert_close(head(hidden, batch_of([0, 0, 0], lengths)), expected)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_documents_of_a_batch_do_not_meet(pooling):
    lengths = [4, 2]
    hidden = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    head = ClassificationHead(4, 2, ClassificationConfig(pooling=pooling, head_dropout=0.0))
    head(hidden, batch_of([0, 0], lengths))[0].sum().backward()
    assert (hidden.grad[4:] == 0).all()
    assert (hidden.grad[:4] != 0).any()


def test_the_head_has_one_output_a_label():
    for problem, labels, outputs in (
        ("single_label", "abc", 3),
        ("multi_label", "abc", 3),
        ("regression", ["value"], 1),
    ):
        head = task_of(labels, problem=problem).head(ModelConfig(hidden_size=8), nn.Embedding(5, 8))
        assert head.out.out_features == outputs
        assert (head.out.bias == 0).all()
        assert 0.01 < head.dense.weight.std() < 0.03


# --- predictions --------------------------------------------------------------------------------


def test_predictions_of_one_label(logits):
    task, batch = task_of(), batch_of(SINGLE, tokens_cut=7)
    predictions = task.decode(logits, batch)
    losses = task.loss(logits, batch)
    for i, prediction in enumerate(predictions):
        probabilities = logits[i].softmax(0)
        assert prediction.id == f"doc-{i}"
        assert prediction.gold == "abc"[SINGLE[i]]
        assert prediction.predicted == "abc"[logits[i].argmax()]
        assert list(prediction.probabilities) == ["a", "b", "c"]
        assert list(prediction.probabilities.values()) == pytest.approx(probabilities.tolist())
        assert (prediction.length, prediction.tokens_cut) == (3 + i, 7)
        assert prediction.is_empty is False
        assert prediction.loss == pytest.approx(losses[i].item())


def test_predictions_of_several_labels():
    logits = torch.tensor([[2.0, -2.0, 0.0], [-1.0, -1.0, -1.0]])
    task = task_of(problem="multi_label", threshold=0.5)
    batch = batch_of([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]], is_empty=True)
    first, second = task.decode(logits, batch)
    assert (first.gold, first.predicted) == (["a", "b"], ["a", "c"])  # 0.5 counts
    assert (second.gold, second.predicted) == ([], [])
    assert first.probabilities == pytest.approx(
        dict(zip("abc", torch.sigmoid(logits[0]).tolist(), strict=True))
    )
    assert first.is_empty
    assert task_of(problem="multi_label", threshold=0.9).decode(logits, batch)[0].predicted == []


def test_predictions_of_a_number():
    task = task_of(["value"], problem="regression")
    (prediction,) = task.decode(torch.tensor([[1.5]]), batch_of([2.0]))
    assert (prediction.gold, prediction.predicted) == (2.0, 1.5)
    assert prediction.probabilities == {}
    assert prediction.loss == pytest.approx(0.25)


def test_documents_without_gold_are_predicted(logits):
    for problem in ("single_label", "multi_label"):
        predictions = task_of(problem=problem).decode(logits, batch_of([None] * 6))
        assert all(p.gold is None and p.loss is None for p in predictions)
        assert all(p.predicted is not None for p in predictions)
        assert task_of(problem=problem).metrics(predictions) == {}


def test_a_prediction_is_a_line_of_json(logits):
    prediction = task_of().decode(logits, batch_of(SINGLE))[0]
    record = json.loads(json.dumps(prediction.to_dict()))
    assert set(record) == {
        "id",
        "gold",
        "predicted",
        "probabilities",
        "length",
        "tokens_cut",
        "is_empty",
        "loss",
    }


# --- metrics over predictions -------------------------------------------------------------------


def test_metrics_of_predictions(logits):
    task = task_of()
    predictions = task.decode(logits, batch_of(SINGLE))
    measured = task.metrics(predictions)
    right = (logits.argmax(1) == torch.tensor(SINGLE)).float().mean().item()
    assert measured["accuracy"] == pytest.approx(right)
    assert measured["loss"] == pytest.approx(task.loss(logits, batch_of(SINGLE)).mean().item())
    # documents without a gold label count nowhere
    unknown = task.decode(logits, batch_of([None] * 6))
    assert task.metrics(unknown[:2] + predictions + unknown[2:]) == measured


def test_metrics_of_several_labels(logits):
    task = task_of(problem="multi_label", threshold=0.4)
    predictions = task.decode(logits, batch_of(MULTI))
    exact = [p.predicted == p.gold for p in predictions]
    measured = task.metrics(predictions)
    assert measured["accuracy"] == pytest.approx(np.mean(exact))
    assert {"micro_f1", "macro_f1", "auroc", "ece", "loss"} <= set(measured)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_metrics_and_predictions_agree_at_the_threshold(threshold):
    """float32 has no 0.3 or 0.7: both must round it alike."""
    task = task_of("ab", problem="multi_label", threshold=threshold)
    odds = torch.tensor(threshold).logit()
    logits = torch.stack([odds + step for step in torch.linspace(-2e-7, 2e-7, 9)])
    logits = torch.stack([logits, -logits], 1)
    predictions = task.decode(logits, batch_of([[1.0, 0.0]] * 9))
    exact = np.mean([p.predicted == p.gold for p in predictions])
    assert task.metrics(predictions)["accuracy"] == pytest.approx(exact)


def test_metrics_of_a_number():
    task = task_of(["value"], problem="regression")
    predictions = task.decode(torch.tensor([[1.0], [3.0]]), batch_of([1.0, 2.0]))
    measured = task.metrics(predictions)
    assert measured["mse"] == measured["loss"] == pytest.approx(0.5)
    assert measured["r2"] == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("problem", "monitor"),
    [
        ("single_label", ("accuracy", "max")),
        ("multi_label", ("micro_f1", "max")),
        ("regression", ("mse", "min")),
    ],
)
def test_the_metric_that_decides_is_measured(problem, monitor, logits):
    labels = {"single_label": SINGLE, "multi_label": MULTI, "regression": [0.5, 1.0, 2.0] * 2}
    task = task_of(["value"] if problem == "regression" else "abc", problem=problem)
    assert task.monitor == monitor
    outputs = logits[:, :1] if problem == "regression" else logits
    assert monitor[0] in task.metrics(task.decode(outputs, batch_of(labels[problem])))


@given(data=st.data(), problem=st.sampled_from(["single_label", "multi_label", "regression"]))
def test_gold_of_a_prediction_is_the_cell_it_came_from(data, problem):
    names = ["a", "b", "c"]
    cells = {
        "single_label": st.sampled_from(names),
        "multi_label": st.lists(st.sampled_from(names), unique=True).map(sorted),
        "regression": st.floats(-9, 9, width=32),
    }
    cell = data.draw(cells[problem])
    train = {"single_label": names, "multi_label": [names], "regression": [0.0]}[problem]
    task = Classification.from_training_labels(
        ClassificationConfig(problem=problem), train, None, "label"
    )
    label = task.encode_label(cell, "x")
    (prediction,) = task.decode(torch.zeros(1, len(task.labels)), batch_of([label]))
    assert prediction.gold == cell
