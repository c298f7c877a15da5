"""Run, model and sweep folders that were damaged, and rows to predict: used, or refused in a line."""

import copy
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, note, settings
from hypothesis import strategies as st

from longspan.checkpoint import save_model
from longspan.config import EvalConfig
from longspan.known_tasks import known_task
from longspan.predict import load_predictor
from longspan.predict_files import read_rows, write_rows
from longspan.pretrained.tokenizer import load_tokenizer
from longspan.sweep.report import draw
from longspan.training import evaluate, report, run
from longspan.training.build import complete
from longspan.training.module import LongDocumentModule
from longspan.training.run_folder import RunFolder, folder_of

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
TASKS = ("classification", "qa", "multihop", "choice")
ROW = {"id": "1", "text": "war is war", "question": "What is war?", "pair": "peace",
       "candidates": ["war", "peace"]}  # fmt: skip
PARAGRAPHS = [{"title": "war", "text": "war is war"}]

words = st.sampled_from(("", " ", "war", "\0", "\ud800", "\x1b[2J", "e\u0301", "w " * 500, "../x"))
scalars = st.none() | st.booleans() | st.sampled_from((0, -1, 1, 2**70, 0.5, 1e308)) | words
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(("title", "text", "a")), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(tree):
    """(container, key) of every value in a tree of JSON."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, dict | list):
            yield from places(value)


@st.composite
def damaged(draw, content):
    """A JSON, YAML or other file with a value changed, or bytes cut off or put in."""
    is_json = content[:1] == b"{" and content.count(b"\n{") == 0
    if is_json and draw(st.booleans()):
        tree = json.loads(content)
        found = list(places(tree))
        container, key = found[draw(st.integers(0, len(found) - 1))]
        if draw(st.booleans()):
            container[key] = draw(anything)
        else:
            del container[key]
        return json.dumps(tree).encode()
    start = draw(st.integers(0, len(content)))
    noise = draw(st.sampled_from((b"", b"\0", b"\xff", b"[" * 3000, b"9", b"\n- x", b"{}")))
    kept = draw(st.sampled_from((content[start:], content[start + 1 :], b"")))
    return content[:start] + noise + kept


@pytest.fixture(scope="module")
def runs(make_config, tmp_path_factory):
    """The folder of a finished run of each task, of a model that has learned nothing."""
    tokenizer = load_tokenizer("embedded:sotu")
    folders = {}
    for task in TASKS:
        config = make_config(tmp_path_factory.mktemp(task), **{"task.name": task})
        config = complete(config, len(tokenizer))
        folder = folder_of(config)
        folder.prepare(config)
        labels = ["peace", "war"] if task == "classification" else []
        module = LongDocumentModule(config, known_task(config, labels, None, tokenizer))
        save_model(folder.model, module.state_dict(), config, module.task.labels, tokenizer)
        folder.write_report(
            {"split": "test", "metrics": {"loss": 0.5}, "monitor": ["loss", "min"], "seconds": 1.0,
             "by_length": [{"above": 0, "up_to": 512, "documents": 9, "loss": 0.5}],
             "by_depth": [{"from": 0.0, "to": 0.2, "documents": 9, "loss": 0.5}],
             "tokens_per_second": 10.0, "peak_memory_bytes": 1, "parameters": 1, "steps": 1,
             "predicted": {"flops_per_token": 1.0}}
        )  # fmt: skip
        folders[task] = (folder, config)
    return folders


@pytest.fixture(scope="module")
def predictors(runs):
    return {task: load_predictor(folder.path) for task, (folder, _) in runs.items()}


@settings(FUZZ, max_examples=FUZZ.max_examples * 2)
@given(task=st.sampled_from(TASKS), data=st.data())
def test_rows_to_predict(verdict, predictors, new_folder, task, data):
    fitting = {"classification": ("id", "text"), "qa": ("id", "text", "question"),
               "choice": ("id", "text", "question", "candidates")}  # fmt: skip
    names = fitting.get(task, ("id", "text", "question"))
    rows = []
    for _ in range(data.draw(st.integers(0, 3))):
        row = {name: ROW[name] for name in names}
        if task == "multihop":
            row["text"] = copy.deepcopy(PARAGRAPHS)
        for name in data.draw(st.lists(st.sampled_from(list(ROW)), max_size=2)):
            row[name] = data.draw(anything)
        rows.append(row)
    content = "\n".join(map(json.dumps, rows)).encode()
    if not data.draw(st.integers(0, 3)):
        content = data.draw(damaged(content))
    file, output = new_folder() / "rows.jsonl", new_folder() / "out.jsonl"
    file.write_bytes(content)
    note(content[:500])
    count, line = verdict(lambda: write_rows(predictors[task].predict_all(read_rows(file)), output))
    if line is not None:
        assert str(file) in line or "document" in line or "question" in line
        assert not output.exists()
    else:
        assert len(list(map(json.loads, output.read_text().splitlines()))) == count


def copied(folder, new_folder):
    place = new_folder() / "run"
    shutil.copytree(folder.path, place)
    return RunFolder(place)


@settings(FUZZ)
@given(name=st.sampled_from(("config.json", "model.safetensors", "tokenizer.json",
                             "tokenizer_config.json")), data=st.data())  # fmt: skip
def test_a_model_folder(verdict, runs, new_folder, name, data):
    folder = copied(runs["classification"][0], new_folder)
    file = folder.model / name
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    predictor, line = verdict(load_predictor, folder.path)
    if line is None:
        _, line = verdict(predictor.predict, "war is war")
    assert line is None or str(folder.model) in line or "data.tokenizer" in line or "text" in line


@settings(FUZZ, max_examples=max(1, FUZZ.max_examples // 10))
@given(name=st.sampled_from(("config.json", "model.safetensors")), data=st.data())
def test_an_evaluation_of_it(verdict, runs, new_folder, name, data):
    folder = copied(runs["classification"][0], new_folder)
    file = folder.model / name
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "show", lambda *_: None)
        config = EvalConfig(run=str(folder.path), data={"num_workers": 0})
        _, line = verdict(evaluate.evaluate, config)
    assert line is not None or list(folder.predictions.glob("*.jsonl"))


@settings(FUZZ)
@given(name=st.sampled_from(("config.yaml", "report.json")), data=st.data())
def test_a_run_that_is_finished(verdict, runs, new_folder, name, data):
    """It is told again, or its files are named; it is not trained again."""
    folder, config = runs["classification"]
    place = copied(folder, new_folder)
    config = replace(config, runs_dir=str(place.path), experiment=".x", name="run")
    shutil.move(str(place.path), str(new_folder() / "aside"))
    target = folder_of(config)
    shutil.copytree(folder.path, target.path)
    file = target.path / name
    file.write_bytes(data.draw(damaged(file.read_bytes())))
    _, line = verdict(run.train, config)
    assert line is None or str(target.path) in line


@pytest.fixture(scope="module")
def sweep(runs, tmp_path_factory):
    """The folder of a sweep of two cells, with all that a report reads."""
    folder, _ = runs["classification"]
    place = tmp_path_factory.mktemp("sweeps") / "w"
    cells = {f"window={w}": {"model.window": w} for w in (4, 8)}
    for name, values in cells.items():
        cell = RunFolder(place / name)
        cell.path.mkdir(parents=True)
        tree = yaml.safe_load(folder.config_file.read_text())
        tree["model"]["window"] = values["model.window"]
        cell.config_file.write_text(yaml.safe_dump(tree))
        shutil.copy(folder.report_file, cell.report_file)
        records = [{"step": s, "dev/loss": 1 / (s + 1), "epoch": 0} for s in range(3)]
        (cell.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
        transfer = json.loads(cell.report_file.read_text()) | {"window": 16}
        (cell.path / "eval-test-window=16.json").write_text(json.dumps(transfer))
    plan = {"swept": ["model.window"], "cells": cells, "cost": "time", "ceiling": None}
    (place / "sweep.json").write_text(json.dumps(plan))
    forecast = {name: {"tokens_per_second": 9.0, "training_seconds": 1.0} for name in cells}
    (place / "forecast.json").write_text(json.dumps(forecast))
    return place


@pytest.mark.slow
@settings(FUZZ, max_examples=max(3, FUZZ.max_examples // 20))
@given(st.data())
def test_a_sweep(verdict, sweep, new_folder, data):
    """Whatever is in its files, the report is drawn: it shows what can be read."""
    place = new_folder() / "w"
    shutil.copytree(sweep, place)
    files = sorted(file for file in place.rglob("*") if file.is_file())
    for file in data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=3)):
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        note(f"{Path(file).relative_to(place)}: {file.read_bytes()[:300]!r}")
    drawn, line = verdict(draw, place)
    assert line is None or str(place) in line
    assert drawn is None or all(file.is_file() for file in drawn.files)
