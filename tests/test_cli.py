"""`longspan …` answers a wrong command line as train.py does: one line, exit code 1."""

import sys

import pytest

from longspan.cli import main


@pytest.fixture
def longspan(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["longspan", *arguments])
        return main()

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exprt"], "exprt"),
        (["export"], "Missing argument"),
        (["export", "run", "--output", "x", "--to", "onnx"], "'onnx' is not one of 'hf', 'longspa"),
        (["predict", "run", "--no-such-option"], "--no-such-option"),
    ],
)
def test_a_wrong_command_line_is_answered_in_one_line(longspan, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        longspan(*arguments)
    assert caught.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.endswith("see longspan --help\n")
    assert len(told.err.splitlines()) == 1
    assert said in told.err


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_there_is_help(longspan, capsys, arguments):
    assert not longspan(*arguments)
    told = capsys.readouterr().out
    assert "predict" in told
    assert "export" in told
