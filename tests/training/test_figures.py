"""Pictures of an evaluation: real PNG files with something in them."""

import numpy as np
import pytest
from matplotlib.image import imread

from longspan.config import ClassificationConfig, QAConfig
from longspan.tasks import qa_decoding
from longspan.tasks.classification import Classification, Prediction
from longspan.tasks.qa import QuestionAnswering
from longspan.training import figures
from longspan.training.figures import draw_figures


def prediction(place, gold, predicted, probabilities):
    return Prediction(
        id=str(place),
        gold=gold,
        predicted=predicted,
        probabilities=probabilities,
        length=100 * (place + 1),
        tokens_cut=0,
        is_empty=False,
        loss=0.5,
    )


def of_classes(labels, number=12):
    task = Classification(ClassificationConfig(), labels)
    even = dict.fromkeys(labels, 1 / len(labels))
    golds = [labels[place % len(labels)] for place in range(number)]
    return task, [prediction(i, gold, labels[0], even) for i, gold in enumerate(golds)]


def assert_picture(file):
    pixels = imread(file)
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_one_label_has_a_confusion_matrix_and_bars(tmp_path):
    files = draw_figures(*of_classes(["war", "peace", "a longer name of a class"]), tmp_path / "f")
    assert set(files) == {"confusion_matrix", "accuracy_by_length"}
    for name, file in files.items():
        assert file == tmp_path / "f" / f"{name}.png"
        assert_picture(file)


def test_a_matrix_that_nobody_could_read_is_left_out(tmp_path):
    few = [f"class {i}" for i in range(figures.MAX_CLASSES)]
    assert "confusion_matrix" in draw_figures(*of_classes(few), tmp_path)
    assert "confusion_matrix" not in draw_figures(*of_classes([*few, "one more"]), tmp_path)


@pytest.mark.parametrize(
    ("problem", "gold", "predicted", "probabilities", "name"),
    [
        ("multi_label", ["war"], [], {"war": 0.4, "peace": 0.1}, "micro_f1_by_length"),
        ("regression", 1.5, 1.0, {}, "mse_by_length"),
    ],
)
def test_other_problems_have_bars_alone(tmp_path, problem, gold, predicted, probabilities, name):
    labels = ["value"] if problem == "regression" else ["war", "peace"]
    task = Classification(ClassificationConfig(problem=problem), labels)
    predictions = [prediction(i, gold, predicted, probabilities) for i in range(8)]
    files = draw_figures(task, predictions, tmp_path)
    assert set(files) == {name}
    assert_picture(files[name])


def test_the_matrix_counts_gold_in_rows_and_predictions_in_columns(monkeypatch):
    task, _ = of_classes(["a", "b"])
    known = [prediction(i, g, p, {}) for i, (g, p) in enumerate(["aa", "ab", "ab", "bb"])]
    figure = figures._confusion_matrix(task.labels, known)
    (axes,) = figure.axes
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "1", (1, 0): "2", (1, 1): "1"}  # (column, row)
    np.testing.assert_allclose(axes.images[0].get_array(), [[1 / 3, 2 / 3], [0, 1]])


def answer(id, predicted):
    return qa_decoding.Prediction(
        id=id,
        question="which",
        gold=["rye"],
        predicted=predicted,
        start=0,
        end=3,
        probability=1.0,
        null_score_difference=0.0,
        best=predicted,
        nbest=[],
        length=200,
        tokens_cut=0,
        loss=0.0,
    )


def test_needles_have_a_heat_map_of_exact_match(tmp_path):
    task = QuestionAnswering(QAConfig())
    rows = [answer("needle-256-0-0", "rye"), answer("needle-256-0-2", "oats"),
            answer("needle-512-50-1", "rye")]  # fmt: skip
    cells = figures.by_length_and_depth(task, rows)
    assert cells == {(256, 0): 0.5, (512, 50): 1.0}
    axes = figures.heat_map(cells).axes[0]
    shown = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "0.50", (1, 1): "1.00"}  # (column, row): length, depth
    files = draw_figures(task, rows, tmp_path)
    assert_picture(files["exact_match_by_length_and_depth"])


def test_other_questions_have_none(tmp_path):
    files = draw_figures(QuestionAnswering(QAConfig()), [answer("a", "rye")], tmp_path)
    assert set(files) == {"f1_by_length"}
