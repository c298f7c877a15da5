"""The report: metrics by length before truncation, in a table that a person can read."""

import io

import pytest
from rich.console import Console

from longspan.config import ClassificationConfig
from longspan.tasks.classification import Classification, Prediction
from longspan.training import report

TASK = Classification(ClassificationConfig(), ["peace", "war"])


def prediction(length, cut=0, gold="war", predicted="war"):
    share = 0.75 if predicted == "war" else 0.25
    return Prediction(
        id=f"{length}-{cut}",
        gold=gold,
        predicted=predicted,
        probabilities={"peace": 1 - share, "war": share},
        length=length,
        tokens_cut=cut,
        is_empty=False,
        loss=0.5,
    )


def test_documents_are_told_apart_by_their_length_before_truncation():
    predictions = [
        prediction(2),
        prediction(512, predicted="peace"),
        prediction(512, cut=1),
        prediction(512, cut=4096 - 512),
        prediction(512, cut=10**6),
    ]
    rows = report.by_length(TASK, predictions)
    assert [(row["above"], row["up_to"], row["documents"]) for row in rows] == [
        (0, 512, 2),
        (512, 1024, 1),
        (2048, 4096, 1),
        (524_288, None, 1),
    ]
    assert [row["accuracy"] for row in rows] == [0.5, 1.0, 1.0, 1.0]


def test_every_document_is_in_one_row():
    bounds = [0, 1, *report.LENGTH_BOUNDS]
    lengths = sorted({length + shift for length in bounds for shift in (-1, 0, 1)} - {-1, 0})
    rows = report.by_length(TASK, [prediction(length) for length in lengths])
    assert sum(row["documents"] for row in rows) == len(lengths)


def test_documents_without_gold_are_counted_but_not_scored():
    rows = report.by_length(TASK, [prediction(5, gold=None)])
    assert rows == [{"above": 0, "up_to": 512, "documents": 1}]


@pytest.mark.parametrize("width", [40, 80])
def test_a_report_in_a_file_cuts_no_name_and_no_number(width):
    predictions = [prediction(5), prediction(9000, predicted="peace"), prediction(10**6)]
    summary = {
        "split": "test",
        "metrics": TASK.metrics(predictions),
        "by_length": report.by_length(TASK, predictions),
        "tokens_per_second": 12345.6,
        "peak_memory_bytes": 3 * 2**29,
        "parameters": 1234567,
        "steps": 1000,
        "seconds": 61.4,
    }
    file = io.StringIO()
    report.show(summary, "runs/a-long-name" * 20, Console(file=file, width=width))
    text = file.getvalue()
    assert "…" not in text
    assert "test: 3 documents" in text
    for part in ("1–512", "8,193–16,384", "> 524,288", "accuracy", "macro_f1", "0.6667"):
        assert part in text
    assert "12,346 tokens/s" in text
    assert "peak memory 1.50 GiB" in text
    assert "1,234,567 parameters" in text
    assert "1,000 steps in 61 s" in text
    assert f"run folder: {'runs/a-long-name' * 20}\n" in text  # whole, to be copied


def test_a_metric_that_a_range_does_not_have_is_a_dash():
    rows = report.by_length(TASK, [prediction(5), prediction(600, gold="peace")])
    table = report.metric_table("test", {"accuracy": 1.0, "auroc": 1.0}, rows)
    file = io.StringIO()
    Console(file=file, width=100).print(table)
    assert file.getvalue().count("–\x20") >= 2


def test_a_run_without_evaluation_shows_its_speed_and_its_folder():
    file = io.StringIO()
    summary = {
        "split": None,
        "tokens_per_second": 1.0,
        "peak_memory_bytes": 1,
        "parameters": 1,
        "steps": 1,
        "seconds": 1.0,
    }
    report.show(summary, "runs/x", Console(file=file))
    assert "run folder: runs/x" in file.getvalue()
