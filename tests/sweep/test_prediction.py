"""Times that a sweep predicts before its first cell, and the report beside what was measured."""

import json
import logging

import pytest

from hydra_plugins.longspan_sweeper.grid import cells_at_once
from longspan.lock import Lock
from longspan.sweep import prediction
from longspan.sweep.prediction import FORECAST, predict, read_forecast
from longspan.sweep.report import draw
from longspan.sweep.results import read_sweep


@pytest.fixture
def asked(monkeypatch):
    """What processes would be asked; each cell is said to take a minute."""
    questions = []

    def answer(question, at_once):
        questions.append((list(question["cells"]), question["seconds"], at_once))
        return {name: {"training_seconds": 60.0} for name in question["cells"]}

    monkeypatch.setattr(prediction, "_ask", answer)
    return questions


def test_what_is_predicted_already_is_not_asked_again(tmp_path, asked, caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    cells = {"a": ["seed=0"], "b": ["seed=1"]}
    predict(tmp_path, cells, 20.0, at_once=2)
    predict(tmp_path, cells, 20.0)
    predict(tmp_path, cells | {"b": ["seed=2"], "c": ["seed=3"]}, 5.0)
    assert asked == [(["a", "b"], 20.0, 2), (["b", "c"], 5.0, 1)]
    assert "about 1 min of training" in caplog.text  # two minutes, two at once
    assert {name: cell["overrides"] for name, cell in read_forecast(tmp_path).items()} == {
        "a": ["seed=0"], "b": ["seed=2"], "c": ["seed=3"],
    }  # fmt: skip


def test_two_sweeps_do_not_calibrate_in_each_others_way(tmp_path, asked):
    with Lock(tmp_path / ".locks" / FORECAST):
        predict(tmp_path, {"a": ["seed=0"]}, 20.0)
    assert not asked


def test_a_sweep_goes_on_without_a_prediction(tmp_path, caplog):
    predict(tmp_path, {"a": ["model.winow=1"]}, 1.0)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "no times are predicted" in record.getMessage()
    assert "model.winow is not a field" in record.getMessage()
    assert read_forecast(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_damaged_forecast_is_none(tmp_path, text):
    (tmp_path / FORECAST).write_text(text)
    assert read_forecast(tmp_path) == {}


def test_processes_of_their_own_calibrate(tmp_path):
    tiny = ["data.max_length=64", "data.tokens_per_batch=128", "model.hidden_size=16"]
    cells = {f"window={w}": [*tiny, f"model.window={w}", "trainer.max_steps=3"] for w in (4, 8)}
    predict(tmp_path, cells, 0.5, at_once=2)
    found = read_forecast(tmp_path)
    assert list(found) == list(cells)
    for cell in found.values():
        assert cell["tokens_per_second"] > 0
        assert cell["training_seconds"] == pytest.approx(3 * cell["seconds_per_step"])


def test_the_report_shows_predicted_beside_measured(make_sweep):
    folder = make_sweep((16, 64), (1,), (0, 1))
    measured = {c.name: c.report["tokens_per_second"] for c in read_sweep(folder).cells}
    (folder / FORECAST).write_text(
        json.dumps({name: {"tokens_per_second": 0.9 * speed} for name, speed in measured.items()})
    )
    draw(folder)
    page = (folder / "report.html").read_text()
    assert "Predicted and measured" in page
    assert page.count("-10%") == 2  # a row for each window
    assert "predicted_tokens_per_second" in (folder / "report.csv").read_text()


@pytest.mark.parametrize(
    ("launcher", "cells"),
    [
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
        ({"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": 3}, 3),
        ({"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": -1}, 4),
        ({"_target_": "hydra_plugins.x.JoblibLauncher", "n_jobs": -9}, 1),
        ({"_target_": "hydra_plugins.x.SlurmLauncher"}, None),
    ],
    ids=lambda value: str(value),
)
def test_only_what_runs_here_is_calibrated_here(monkeypatch, launcher, cells):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert cells_at_once(launcher) == cells
