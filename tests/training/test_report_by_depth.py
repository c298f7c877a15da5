"""Metrics by where in the document the answer begins, alone and together with its length."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from longspan.config import QAConfig
from longspan.tasks.qa import QuestionAnswering
from longspan.training import report
from longspan.training.figures import draw_figures

TASK = QuestionAnswering(QAConfig())


def answered(depth, is_right=True, length=100):
    """A question whose answer begins at that share of its document; None = it has none."""
    gold = [] if depth is None else ["Paris"]
    return SimpleNamespace(
        id=f"{depth}-{length}",
        gold=gold,
        predicted=(gold or [""])[0] if is_right else "Rome",
        best="Rome",
        nbest=[],
        null_score_difference=0.0,
        depth=depth,
        length=length,
        tokens_cut=0,
        loss=0.5,
    )


def test_answers_are_told_apart_by_their_depth():
    predictions = [
        answered(0.0),
        answered(0.19, False),
        answered(0.2),
        answered(0.9),
        answered(1.0),
    ]
    rows = report.by_depth(TASK, [*predictions, answered(None)])
    assert [(row["from"], row["to"], row["documents"]) for row in rows] == [
        (0.0, 0.2, 2),
        (0.2, 0.4, 1),
        (0.8, 1.0, 2),
    ]
    assert [row["exact_match"] for row in rows] == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("parts", [100, 7])
def test_every_answer_has_one_depth(parts):
    rows = report.by_depth(TASK, [answered(i / parts) for i in range(parts + 1)])
    assert sum(row["documents"] for row in rows) == parts + 1
    assert len(rows) == report.DEPTH_PARTS


def test_length_and_depth_together_are_the_cells_of_a_map():
    predictions = [answered(0.1), answered(0.5, False, 600), answered(0.9, True, 600)]
    rows = report.by_length_and_depth(TASK, [*predictions, answered(None, True, 5000)])
    cells = {(row["up_to"], row["from"]): row["exact_match"] for row in rows}
    assert cells == {(512, 0.0): 1.0, (1024, 0.4): 0.0, (1024, 0.8): 1.0}
    assert all(row["documents"] == 1 for row in rows)


def test_a_report_shows_depths_where_there_are_any():
    predictions = [answered(0.0), answered(0.9, False), answered(None)]
    summary = {"split": "test"} | report.breakdown(TASK, predictions)
    file = io.StringIO()
    report.show(summary, "runs/x", Console(file=file, width=100))
    text = file.getvalue()
    assert "test: 2 documents with an answer" in text
    assert "80–100 %" in text
    assert "…" not in text
    assert "_thresh" not in text  # a threshold is no score
    assert "best_exact_thresh" in summary["metrics"]
    without = report.breakdown(TASK, [answered(None)])
    assert set(without) == {"metrics", "by_length"}


def test_no_name_is_cut_in_the_widest_table():
    task = QuestionAnswering(QAConfig(scoring="cuad"))
    found = report.breakdown(task, [answered(0.0), answered(0.9, False), answered(None)])
    file = io.StringIO()
    report.show({"split": "test"} | found, "runs/x", Console(file=file, width=80))
    assert "…" not in file.getvalue()
    assert "precision_" in file.getvalue()


def test_depths_are_drawn(tmp_path):
    files = draw_figures(TASK, [answered(0.0), answered(0.9, False)], tmp_path)
    assert set(files) == {"f1_by_length", "f1_by_depth"}
    assert files["f1_by_depth"].stat().st_size > 1000
