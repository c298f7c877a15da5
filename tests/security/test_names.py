"""Names that data, model folders or other people's sweeps bring along never become paths.

Where a file's name is made of something that is said elsewhere, it is made by `folder_name` or
checked by `checks.file_name`; all that a data set says otherwise stays inside of files.
"""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.config import EvalConfig, SweepConfig
from longspan.config.checks import NAME_BYTES, file_name
from longspan.embedded import embedded_path
from longspan.errors import UserError
from longspan.sweep.paths import CellPaths
from longspan.sweep.plan import Plan, cell_name, read_plan, sweep_name
from longspan.sweep.results import read_sweep
from longspan.training.evaluate import _name, evaluate
from longspan.training.run import train
from longspan.training.run_folder import folder_name, folder_of, run_name
from longspan.training.wandb_logger import _name as wandb_name

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:Glyph .* missing from font",
)
HOSTILE = [
    "../../escaped", "..", ".", "...", "/absolute", "C:\\escaped", "\\\\host\\share", "..\\up",
    "a/b", "CON", "nul", "NUL.txt", "com1.tar.gz", "Lpt9 ", "trailing.", "trailing ", "a\0b",
    "a\nb", "\x1b[31mred", "x" * 5000, "é" * 200, "․․/x", "．．／x", "\u202egnp.exe",
    "~root", "-rf", "$HOME", "%TEMP%", "a;b", "`id`", "*", "?", "[a]", "",
]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=40),
    st.text(alphabet="./\\ \0\nCONUL:*", max_size=12),
)


def is_one_part(name: str) -> bool:
    """Of a path, on any system."""
    return (
        name not in ("", ".", "..")
        and PurePosixPath(name).parts == (name,)
        and PureWindowsPath(name).parts == (name,)
        and not PureWindowsPath(name).is_reserved()
        and not any(ord(character) < 32 for character in name)
        and len(name.encode()) <= NAME_BYTES
    )


@given(NAMES, NAMES)
def test_a_name_that_we_make_is_one_part_of_a_path(first, second):
    made = [
        folder_name([first, second]),
        folder_name([first]),
        run_name([f"data.path={first}", f"+{second}"]),
        cell_name({"data.path": first, "model.path": second}),
        sweep_name(first or None, [second], [f"data.path={first}"]),
        _name(EvalConfig(run="r", data={"path": first})),
        _name(EvalConfig(run="r", data={"files": {"test": f"x/{second}"}})),
    ]
    for name in made:
        assert is_one_part(name)
        file_name("name", name)
        assert not name.startswith((".", "-"))  # neither hidden nor an option


@given(NAMES)
def test_an_id_of_wandb_is_one_part_of_a_path(name):
    """wandb makes a folder of it, with a date before it."""
    made = wandb_name(name)
    assert not set(made) & set("/\\\0\n:")
    assert made.strip(".") or not name
    assert len(made) <= 128


@given(NAMES)
def test_a_name_that_is_given_is_one_part_of_a_path_or_refused(name):
    try:
        file_name("name", name)
    except UserError:
        return
    assert is_one_part(name)


REFUSED = [name for name in HOSTILE if not is_one_part(name)]


@pytest.mark.parametrize("name", REFUSED, ids=repr)
def test_every_name_that_is_given_is_checked(name, make_config, tmp_path):
    assert len(REFUSED) > 15
    for field in ("name", "experiment"):
        with pytest.raises(UserError, match=f"{field}="):
            make_config(tmp_path, **{field: name})
    for field in ("name", "cell"):
        with pytest.raises(UserError, match=rf"sweep\.{field}="):
            SweepConfig(**{field: name})
    with pytest.raises(UserError, match="output="):
        EvalConfig(run="r", output=name)


@pytest.mark.parametrize("name", ["..", "../data/sotu", "/etc", ".", "sotu/tokenizer", "", "\0"])
def test_embedded_data_is_what_lies_in_its_folder(name):
    with pytest.raises(UserError, match="embedded data"):
        embedded_path(f"embedded:{name}")


@pytest.mark.parametrize("name", [n for n in HOSTILE if not is_one_part(n)], ids=repr)
def test_the_plan_of_a_sweep_names_no_place_outside(name, tmp_path):
    secret = tmp_path / "escaped"
    (tmp_path / "sweeps" / "one" / "cell").mkdir(parents=True)
    for folder in (secret, tmp_path / "sweeps" / "one" / "cell"):
        folder.mkdir(exist_ok=True)
        (folder / "failed.json").write_text(json.dumps({"reason": f"in {folder.name}"}))
    sweep = tmp_path / "sweeps" / "one"
    plan = {"swept": ["seed"], "cells": {name: {"seed": 0}}}
    (sweep / "sweep.json").write_text(json.dumps(plan))
    assert read_plan(sweep) is None
    assert [cell.name for cell in read_sweep(sweep).cells] == ["cell"]


@pytest.mark.parametrize(
    "plan",
    [[], {"cells": []}, {"cells": {"a": 1}}, {"swept": [1]}, {"cost": "evil"}, {"ceiling": "x"},
     {"cells": {1: {}}, "swept": None}, {"_target_": "os.mkdir"}],
    ids=repr,
)  # fmt: skip
def test_a_plan_of_another_form_is_none(plan, tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(plan))
    assert read_plan(tmp_path) is None


def test_a_plan_that_we_write_is_read(tmp_path):
    plan = Plan(["seed"], {"seed=0": {"seed": 0}}, "memory", 2)
    plan.merge_into(tmp_path)
    assert read_plan(tmp_path) == plan


# --- what a data set says -----------------------------------------------------------------------


def files_below(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}


def test_names_of_a_data_set_stay_in_files(make_config, tmp_path, monkeypatch):
    """Labels, columns, ids, questions and titles: none of them is seen in the name of a file."""
    monkeypatch.chdir(tmp_path)
    ids = [name for name in HOSTILE if name]
    name = {"id": "../../id", "question": "/question", "context": "CON", "answers": "nul."}
    articles = [
        {"title": given, "paragraphs": [{"context": "the sea is calm", "qas": [
            {"id": f"{given}{i}", "question": "what is calm ?",
             "answers": [{"text": "sea", "answer_start": 4}]}
            for i in range(2)
        ]}]}
        for given in ids
    ]  # fmt: skip
    (tmp_path / "asked.json").write_text(json.dumps({"data": articles}))
    config = make_config(
        tmp_path / "runs",
        **{
            "task.name": "qa", "data.files": None, "data.path": str(tmp_path / "asked.json"),
            "data.id_column": "id", "data.question_column": name["question"],
            "data.text_column": name["context"], "data.answers_column": name["answers"],
            "data.cache_dir": str(tmp_path / "cache"), "trainer.max_steps": 1,
        },
    )  # fmt: skip
    train(config)
    run = folder_of(config).path
    trained = files_below(run)
    evaluate(EvalConfig(run=str(run), format="squad", page=100))
    made = files_below(run) - trained
    assert made == {
        "predictions/test.html",
        "predictions/test.squad/predictions.json",
        "predictions/test.squad/na_prob.json",
    }
    for file in trained:
        assert not any(len(given) > 3 and given in file for given in ids)
    assert sorted(os.listdir(tmp_path)) == ["asked.json", "cache", "runs"]
    predicted = json.loads((run / "predictions/test.squad/predictions.json").read_text())
    assert set(predicted) <= {f"{given}{i}" for given in ids for i in range(2)}


def test_labels_of_a_data_set_stay_in_files(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labels = [name for name in HOSTILE if name.strip(" \0\n")]
    rows = [{"../text": f"word {i}", "/label": label} for label in labels for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = make_config(
        tmp_path / "runs",
        **{
            "data.files": None, "data.path": str(tmp_path / "rows.jsonl"),
            "data.text_column": "../text", "data.label_column": "/label",
            "data.cache_dir": str(tmp_path / "cache"), "trainer.max_steps": 1,
        },
    )  # fmt: skip
    train(config)
    run = folder_of(config).path
    found = {f for f in files_below(run) if not f.startswith(("checkpoints/", "model/"))}
    assert found == {
        "config.yaml", "metrics.jsonl", "speed.jsonl", "report.json", "predictions/test.jsonl",
        "figures/accuracy_by_length.png", "figures/confusion_matrix.png",
    }  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == ["cache", "rows.jsonl", "runs"]
    known = json.loads((run / "model" / "config.json").read_text())["labels"]
    assert set(known) == {label.strip() for label in labels}


def test_a_cell_lies_in_its_sweep(tmp_path):
    for name in HOSTILE:
        paths = CellPaths(tmp_path / "sweep", cell_name({"data.path": name}))
        places = [paths.folder.path, paths.lock, paths.log, paths.failure, paths.set_aside(1)]
        for place in places:
            assert place.resolve().is_relative_to(tmp_path / "sweep")
