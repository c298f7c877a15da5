"""The model folder: whole or not there, complete in itself, and checked as it is read."""

import json
from pathlib import Path

import pytest
import torch

from longspan.checkpoint import read_model, save_model
from longspan.config import Config, DataConfig, ModelConfig
from longspan.errors import UserError
from longspan.pretrained.tokenizer import load_tokenizer

CONFIG = Config(
    name="named",
    model=ModelConfig(window=(4, None), vocab_size=7),
    data=DataConfig(text_column=("title", "body"), files={"train": "a.csv"}),
)
LABELS = ["war", "peace", "Ærø 漢字"]
STATE = {
    "encoder.weight": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
    "head.bias": torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True),
}


@pytest.fixture
def folder(tmp_path, tokenizers):
    folder = tmp_path / "runs" / "model"
    save_model(folder, STATE, CONFIG, LABELS, tokenizers["embedded"])
    return folder


def test_what_is_saved_is_read(folder, tokenizers):
    config, labels, state = read_model(folder)
    assert config == CONFIG
    assert labels == LABELS
    assert state.keys() == STATE.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, STATE[name].detach(), rtol=0, atol=0)
    text = "A Message to Congress"
    assert load_tokenizer(str(folder))(text) == tokenizers["embedded"](text)


def test_the_folder_holds_no_pickle_and_is_open_to_whom_folders_are(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    (folder / "ordinary").mkdir()
    assert folder.stat().st_mode == (folder / "ordinary").stat().st_mode


def test_saving_again_replaces_the_folder(folder, tokenizers):
    (folder / "stale").touch()
    save_model(folder, {"new": torch.zeros(1)}, CONFIG, [], tokenizers["embedded"])
    assert read_model(folder)[2].keys() == {"new"}
    assert not (folder / "stale").exists()
    assert list(folder.parent.iterdir()) == [folder]


class Unwilling:
    def save_pretrained(self, save_directory):
        raise OSError("disk full")


def test_a_failure_in_the_middle_leaves_the_old_folder_and_nothing_else(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, {"new": torch.zeros(1)}, CONFIG, [], Unwilling())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_before_the_first_folder_leaves_none(tmp_path):
    with pytest.raises(OSError, match="disk full"):
        save_model(tmp_path / "model", STATE, CONFIG, LABELS, Unwilling())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", [0, 1])
def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    folder, tokenizers, monkeypatch, failing
):
    rename, calls = Path.rename, []

    def fail_once(path, target):
        calls.append(path)
        if len(calls) == failing + 1:
            raise OSError("no such luck")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(OSError, match="no such luck"):
        save_model(folder, {"new": torch.zeros(1)}, CONFIG, [], tokenizers["embedded"])
    assert read_model(folder)[2].keys() == STATE.keys()
    assert list(folder.parent.iterdir()) == [folder]


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: truncate(f / "model.safetensors"), "model.safetensors cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors cannot be read"),
        (lambda f: truncate(f / "config.json"), "is no model folder"),
        (lambda f: (f / "config.json").unlink(), "is no model folder"),
        (lambda f: (f / "config.json").write_text("[]"), "is not of format longspan-1"),
        (lambda f: change(f, format="longspan-2"), "is not of format longspan-1"),
        (lambda f: change(f, config={"modle": {}}), "did you mean model?"),
        (lambda f: change(f, config=None), "must be a mapping"),
        (lambda f: change(f, labels=None), "config.json"),
    ],
)
def test_a_damaged_folder_is_named_with_a_remedy(folder, damage, named):
    damage(folder)
    with pytest.raises(UserError) as error:
        read_model(folder)
    assert named in str(error.value)
    assert str(folder) in str(error.value)


def change(folder, **fields):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
