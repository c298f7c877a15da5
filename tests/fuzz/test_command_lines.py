"""Command lines of any kind: a run begins, or one line on stderr and code 1; never a traceback."""

import os
import runpy
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, note, settings
from hypothesis import strategies as st

from longspan import cli
from longspan.training import run
from longspan.training.build import check_attention, check_trainer
from longspan.training.capacity import check_capacity

FUZZ = settings.get_profile(os.environ.get("LONGSPAN_FUZZ", "fuzz"))
ROOT = Path(__file__).resolve().parents[2]
FIELDS = ("model", "model.window", "model.hidden_size", "model.pretrained", "data", "data.path",
          "data.files", "data.files.train", "data.max_length", "task", "task.problem", "optim.betas",
          "trainer.max_epochs", "trainer.devices", "trainer.max_time", "globals", "globals.regex",
          "logger.tags", "checkpoint", "experiment", "name", "seed", "first", "runs_dir", "sweep",
          "sweep.cell", "model.hiden_size", "hidden_size", "seeds", "x", "", "hydra", "hydra.verbose",
          "data@model", "task.", ".task", "model/pretrained", "data.files.train.x")  # fmt: skip
VALUES = ("", "1", "-1", "0", "1e9", "10**9", "null", "true", "nan", "inf", "[]", "[1,2]", "{}",
          "{a:1}", "{train:1}", "'x", '"', "a b", "a,b", "1,2", "range(1,3)", "choice(1,2)",
          "interval(0,1)", "glob(*)", "int(x)", "${x}", "${seed}", "${oc.env:NOWHERE}", "${", "}",
          "\\", "=", "==", "a=b", "../x", "é\u202e", "\t", "x" * 300, "[model.window=4]", "[x]", "qa",
          "hybrid_tiny", "files", "cls", "sotu_era", "9" * 400, "0x10", "1_000", "???", "$a",
          "!!python/object:os.system", "@x", "~", "<script>")  # fmt: skip

overrides = st.one_of(
    st.tuples(
        st.sampled_from(("", "", "", "+", "++", "~")),
        st.sampled_from(FIELDS),
        st.sampled_from(("=", "=", "=", "", "==", " = ")),
        st.sampled_from(VALUES) | st.text(max_size=6),
    ).map("".join),
    st.sampled_from(FIELDS).map("~{}".format),
    st.text(st.characters(exclude_characters="-\0"), max_size=8),
)


@pytest.fixture
def outcome(verdict, monkeypatch, capsys, new_folder, no_training):
    """The code that a command ends with, and what it prints on stderr."""

    def outcome(name, *arguments):
        verdict(lambda: None)  # counted
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        capsys.readouterr()
        try:
            if name == "longspan":
                cli.main()
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        said = capsys.readouterr().err
        note(said)
        assert code in (0, 1)
        assert code == 0 or said.startswith("error: ")
        assert code == 0 or said.count("\n") == 1
        return code, said

    monkeypatch.chdir(new_folder())
    return outcome


@pytest.fixture
def no_training(monkeypatch):
    """All that is checked before anything is loaded, and no more."""

    def checked(config):
        check_capacity(config)
        check_trainer(config)
        check_attention(config)

    monkeypatch.setattr(run, "train", checked)
    monkeypatch.setattr("longspan.command.set_up_logging", lambda: None)
    monkeypatch.setattr("longspan.cli.set_up_logging", lambda: None)


@settings(FUZZ, max_examples=FUZZ.max_examples // 2)
@given(st.lists(overrides, min_size=1, max_size=3))
@example(["~model"])
@example(["~sweep"])
@example(["~name"])
@example(["~model=1"])
@example(["++sweep=5"])
@example(["first=5"])
@example(["first=[5]"])
@example(["model.hidden_size=1000000000"])
@example(["model.num_layers=1000000000"])
@example(["model.vocab_size=9000000000000000000"])
@example(["data.num_workers=1000000"])
@example(["trainer.devices=1000000"])
@example(["seed=99999999999"])
def test_train(outcome, given_overrides):
    outcome("train.py", *given_overrides)


@settings(FUZZ, max_examples=FUZZ.max_examples // 3)
@given(st.lists(overrides, min_size=1, max_size=3))
def test_eval(outcome, given_overrides):
    code, _ = outcome("eval.py", "run=nowhere", *given_overrides)
    assert code == 1 or any(word.startswith("hydra") for word in given_overrides)


@settings(FUZZ, max_examples=FUZZ.max_examples // 3)
@given(st.lists(overrides, min_size=1, max_size=3))
def test_cost(outcome, monkeypatch, given_overrides):
    monkeypatch.setattr("longspan.forecast.forecast.forecast", lambda *_: ([], None))
    outcome("longspan", "cost", "--json", *given_overrides)
