"""The run folder: a name from the command line, one run a folder, nothing half-written."""

import json
import os
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config import Config, DataConfig, LoggerConfig, ModelConfig, TrainerConfig
from longspan.errors import UserError
from longspan.training.run_folder import RunFolder, differing_fields, run_name, write_text


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "default"),
        (["model.window=64", "seed=1"], "window=64,seed=1"),
        (["model=hybrid_small", "+trainer.x=1", "~data.name"], "model=hybrid_small,x=1,name="),
        (["experiment=a", "name=b", "runs_dir=/tmp", "overwrite=true"], "default"),
        (["logger=none", "logger.kind=none", "data.num_workers=2"], "default"),
        (["trainer.enable_progress_bar=false", "trainer.max_epochs=3"], "max_epochs=3"),
        (["model.window=[4,null]"], "window=_4,null_"),
        (["data.files.train=/a/b.csv"], "train=_a_b.csv"),
        (['data.text_column="a b"'], "text_column=_a_b_"),
    ],
)
def test_a_run_is_named_by_what_its_command_changes(overrides, name):
    assert run_name(overrides) == name


@given(st.lists(st.text()))
def test_every_name_is_a_folder_of_its_own(overrides):
    name = run_name(overrides)
    Config(name=name)  # refuses what is no folder's name
    assert len(name.encode()) <= 200
    assert run_name(overrides) == name


def test_a_name_is_counted_in_bytes():
    assert len(run_name([f"data.text_column={'𐀀' * 60}"]).encode()) <= 200


def test_long_names_differ_where_their_commands_do():
    long = [f"data.files.{split}=/{'x' * 90}.csv" for split in ("train", "dev", "test")]
    assert run_name([*long, "seed=1"]) != run_name([*long, "seed=2"])


CONFIG = Config(model=ModelConfig(window=8))
INCIDENTAL = replace(
    CONFIG,
    runs_dir="elsewhere",
    overwrite=True,
    logger=LoggerConfig(kind="none"),
    data=DataConfig(num_workers=2, num_proc=2, cache_dir="x"),
    trainer=TrainerConfig(enable_progress_bar=False, log_every_n_steps=1, profiler="simple"),
)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "runs" / "experiment" / "name")


def test_a_new_folder_is_free(folder):
    folder.check_free(CONFIG)
    assert not folder.path.exists()


def test_a_folder_keeps_the_config_of_its_run(folder):
    folder.prepare(CONFIG)
    assert folder.read_config() == CONFIG
    folder.prepare(INCIDENTAL_BUT_OVERWRITE)
    assert folder.read_config() == CONFIG  # as it began


INCIDENTAL_BUT_OVERWRITE = replace(INCIDENTAL, overwrite=False)


def test_the_same_run_may_go_on_whatever_is_incidental(folder):
    folder.prepare(CONFIG)
    folder.check_free(CONFIG)
    folder.check_free(INCIDENTAL_BUT_OVERWRITE)


@pytest.mark.parametrize(("finished", "state"), [(False, "an unfinished"), (True, "a finished")])
def test_another_run_may_not(folder, finished, state):
    folder.prepare(CONFIG)
    if finished:
        folder.write_report({})
    assert folder.is_finished is finished
    other = replace(CONFIG, seed=7, model=ModelConfig(window=(8, None)))
    with pytest.raises(UserError) as error:
        folder.check_free(other)
    assert f"holds {state} run with another config" in str(error.value)
    assert "model.window: 8 → [8, None]; seed: 0 → 7" in str(error.value)
    folder.check_free(replace(other, overwrite=True))


def test_differences_are_told_field_by_field():
    assert differing_fields(CONFIG, CONFIG) == []
    assert differing_fields(CONFIG, INCIDENTAL) == []
    files = replace(CONFIG, data=DataConfig(files={"train": "a.csv"}))
    assert differing_fields(CONFIG, files) == ["data.files.train: None → a.csv"]


def test_overwriting_empties_the_folder(folder):
    folder.prepare(CONFIG)
    (folder.path / "stale").touch()
    folder.write_report({})
    folder.prepare(CONFIG)
    assert folder.is_finished
    folder.prepare(replace(CONFIG, overwrite=True))
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"runs_dir=runs: .*file/run cannot be made \(Not a dir"):
        folder.prepare(CONFIG)


@pytest.mark.parametrize("content", [None, "model: [", "- a list"])
def test_a_folder_without_a_config_holds_no_run(folder, content):
    folder.path.mkdir(parents=True)
    if content is not None:
        folder.config_file.write_text(content)
    with pytest.raises(UserError):
        folder.read_config()


@dataclass
class Line:
    text: str

    def to_dict(self):
        return {"text": self.text}


def test_predictions_are_one_object_a_line_whatever_their_text(folder):
    folder.prepare(CONFIG)
    texts = ["plain", "two\nlines", "Ærø 漢字 🏛", "\u2028", '"quoted"']
    file = folder.write_predictions("test", map(Line, texts))
    assert file == folder.predictions / "test.jsonl"
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert [json.loads(line)["text"] for line in lines] == texts


def test_a_failure_in_writing_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "report.json"
    write_text(file, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
