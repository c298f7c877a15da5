"""Evaluation of a finished run: its own data, other data, and what does not fit."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from longspan.config import EvalConfig, EvalModelConfig
from longspan.errors import UserError
from longspan.training.build import build_trainer
from longspan.training.evaluate import evaluate
from longspan.training.run import train
from longspan.training.tracking import read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)


@pytest.fixture(scope="module")
def config(make_config, tmp_path_factory):
    return make_config(tmp_path_factory.mktemp("runs"), **{"data.split_seed": 5})


@pytest.fixture(scope="module")
def report(config):
    return train(config)


@pytest.fixture
def folder(config, report):
    return Path(config.runs_dir) / config.experiment / config.name


def rows_of(folder, name):
    lines = (folder / "predictions" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_test_split_gives_the_numbers_of_the_report(folder, report):
    summary = evaluate(EvalConfig(run=str(folder), output="again"))
    assert summary["split"] == "test"
    assert summary["metrics"] == report["metrics"]
    assert summary["by_length"] == report["by_length"]
    assert rows_of(folder, "again") == rows_of(folder, "test")


def test_the_dev_split_gives_the_best_of_the_training(folder):
    summary = evaluate(EvalConfig(run=str(folder), split="dev"))
    best = max(
        record["dev/accuracy"]
        for record in read_metrics(folder / "metrics.jsonl")
        if "dev/accuracy" in record
    )
    assert summary["metrics"]["accuracy"] == pytest.approx(best)
    assert len(rows_of(folder, "dev")) == 8


def test_the_training_split_can_be_evaluated_too(folder):
    assert len(evaluate(EvalConfig(run=str(folder), split="train"))["by_length"]) == 1
    assert len(rows_of(folder, "train")) == 24


def test_what_limits_a_training_does_not_limit_its_evaluation(make_config, tmp_path):
    limits = {
        "trainer.limit_test_batches": 1,
        "trainer.limit_train_batches": 1,
        "trainer.max_epochs": 1,
        "data.tokens_per_batch": 32,
    }
    config = make_config(tmp_path, **limits)
    assert sum(row["documents"] for row in train(config)["by_length"]) < 9
    summary = evaluate(EvalConfig(run=str(tmp_path / config.experiment / config.name)))
    assert sum(row["documents"] for row in summary["by_length"]) == 9


def test_the_devices_of_the_training_do_not_bind_its_evaluation(
    folder, report, tmp_path, monkeypatch
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = copy / "model" / "config.json"
    about = json.loads(file.read_text())
    trained_on = {"accelerator": "gpu", "devices": 8, "num_nodes": 2, "strategy": "ddp"}
    about["config"]["trainer"] |= trained_on
    file.write_text(json.dumps(about))

    def checked(config, **arguments):
        for name in trained_on:
            assert getattr(config.trainer, name) in ("auto", 1)
        return build_trainer(config, **arguments)

    monkeypatch.setattr("longspan.training.evaluate.build_trainer", checked)
    assert evaluate(EvalConfig(run=str(copy)))["metrics"] == pytest.approx(report["metrics"])


def other(tmp_path, *rows, name="other.csv"):
    file = tmp_path / name
    file.write_text("\n".join(rows) + "\n")
    return str(file)


def test_other_data_with_the_same_columns(folder, tmp_path):
    file = other(tmp_path, "text,label", "war war of war,war", "peace the of,peace", "of,war")
    for data in (
        {"files": {"train": None, "dev": None, "test": file}, "splits": {"test": None}},
        {"path": file},
    ):
        summary = evaluate(EvalConfig(run=str(folder), output="other", data=data))
        assert sum(row["documents"] for row in summary["by_length"]) == 3
        assert [row["gold"] for row in rows_of(folder, "other")] == ["war", "peace", "war"]


def test_other_data_may_have_other_columns_if_they_are_named(folder, tmp_path):
    file = other(tmp_path, "body,era,name", "war war,war,x", "peace,peace,y", name="era.csv")
    data = {"path": file, "text_column": "body", "label_column": "era", "id_column": "name"}
    evaluate(EvalConfig(run=str(folder), output="era", data=data))
    assert [row["id"] for row in rows_of(folder, "era")] == ["x", "y"]


def test_data_without_labels_is_predicted(folder, tmp_path):
    file = other(tmp_path, "text", "war war of war", "peace the of", name="bare.csv")
    summary = evaluate(EvalConfig(run=str(folder), output="bare", data={"path": file}))
    assert summary["metrics"] == {}
    assert [row["gold"] for row in rows_of(folder, "bare")] == [None, None]
    assert {row["predicted"] for row in rows_of(folder, "bare")} <= {"war", "peace"}


def test_nothing_given_means_as_in_the_run(folder, report):
    nothing = {"path": None, "files": {"train": None, "dev": None, "test": None}}
    summary = evaluate(EvalConfig(run=str(folder), output="same", data=nothing))
    assert summary["metrics"] == report["metrics"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"run": "nowhere"}, "run=nowhere holds no run; give a folder that train.py printed"),
        ({"data": {"txt_column": "x"}}, "data.txt_column is not a field; did you mean"),
        ({"data": {"text_column": 3}}, "data.text_column=3 has the wrong type"),
        ({"data": {"text_column": "body"}}, "data.text_column=body is not a column"),
        ({"data": {"path": "/nowhere.csv"}}, "data.path=/nowhere.csv does not exist"),
        ({"data": {"tokens_per_batch": 4}}, "data.tokens_per_batch=4 cannot hold one document"),
        (
            {"data": {"tokens_per_batch": "auto"}},
            "data.tokens_per_batch=auto is decided by training",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(folder, change, said):
    before = sorted(folder.rglob("*"))
    config = replace(EvalConfig(run=str(folder), output="x"), **change)
    with pytest.raises(UserError) as error:
        evaluate(config)
    assert said in str(error.value)
    assert sorted(folder.rglob("*")) == before


def test_an_unknown_label_names_the_row(folder, tmp_path):
    file = other(tmp_path, "text,label", "war,war", "of,famine", name="famine.csv")
    with pytest.raises(UserError, match=r"row 1='famine' does not occur in train"):
        evaluate(EvalConfig(run=str(folder), data={"path": file}))


def test_a_run_that_has_not_finished_has_no_model(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / "model")
    with pytest.raises(UserError, match="has no model yet; let its training finish first"):
        evaluate(EvalConfig(run=str(copy)))


def test_a_run_folder_can_be_moved(folder, report, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert evaluate(EvalConfig(run=str(moved)))["metrics"] == report["metrics"]


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_splits_that_training_cut_from_one_file_are_cut_alike(make_config, tmp_path, problem):
    labels = [["war"], ["peace"]] if problem == "multi_label" else ["war", "peace"]
    rows = [{"text": f"{'war' if i % 3 else 'peace'} {i}", "label": labels[i % 3 > 0]}
            for i in range(60)]  # fmt: skip
    file = tmp_path / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"data.files": None, "data.path": str(file), "task.problem": problem}
    config = make_config(tmp_path / "runs", **changes)
    report = train(config)
    run = tmp_path / "runs/default/default"
    predicted = (run / "predictions/test.jsonl").read_text()
    again = evaluate(EvalConfig(run=str(run), split="test"))
    assert (run / "predictions/test.jsonl").read_text() == predicted
    assert again["metrics"] == pytest.approx(report["metrics"])


def test_other_data_never_writes_over_the_predictions_of_the_run(folder, tmp_path):
    own = (folder / "predictions/test.jsonl").read_bytes()
    file = tmp_path / "more.jsonl"
    file.write_text('{"text": "war and peace"}\n')
    evaluate(EvalConfig(run=str(folder), data={"path": str(file)}))
    assert (folder / "predictions/test.jsonl").read_bytes() == own
    assert len((folder / "predictions/test-of-more.jsonl").read_text().splitlines()) == 1


def test_another_window_is_evaluated_beside_the_run(folder, report, config):
    as_trained = EvalModelConfig(window=config.model.window)
    same = evaluate(EvalConfig(run=str(folder), model=as_trained))
    assert same["metrics"] == pytest.approx(report["metrics"])
    evaluate(EvalConfig(run=str(folder), model=EvalModelConfig(window=None)))
    written = json.loads((folder / "eval-test-window=null.json").read_text())
    assert written["window"] is None
    assert written["split"] == "test"
    assert written["metrics"].keys() == report["metrics"].keys()
    # documents of up to 32 tokens see more than the four at each side that they were trained with
    assert written["metrics"]["loss"] != report["metrics"]["loss"]
    assert len(rows_of(folder, "test-window=null")) == 9
    assert rows_of(folder, "test-window=4") == rows_of(folder, "test")
    assert json.loads((folder / "report.json").read_text())["metrics"] == report["metrics"]


def test_a_window_that_cannot_be_is_refused(folder):
    with pytest.raises(UserError, match=r"model.window=-1 is negative"):
        evaluate(EvalConfig(run=str(folder), model=EvalModelConfig(window=-1)))
