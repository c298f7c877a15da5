"""Tokens in what is printed and kept of errors; a whole run is held in test_places.py."""

import json
import socket

import httpx
import pytest

from longspan.command import user_errors
from longspan.errors import UserError
from longspan.sweep.cell import record_failure
from longspan.sweep.paths import CellPaths
from longspan.terminal import HIDDEN, SECRETS, print_traceback, without_secrets
from longspan.training.wandb_logger import RemoteRun

TOKEN = "hf_marker0123456789"


@pytest.fixture(params=SECRETS)
def token(request, monkeypatch):
    monkeypatch.setenv(request.param, TOKEN)
    return TOKEN


def test_a_token_in_an_error_is_hidden(token, capsys, tmp_path):
    with pytest.raises(SystemExit), user_errors():
        raise UserError(f"https://user:{token}@a.example cannot be reached")
    error = RuntimeError(f"header Bearer {token}")
    print_traceback(type(error), error, None)
    record_failure(CellPaths(tmp_path, "cell"), f"{token} is wrong")
    said = capsys.readouterr().err + (tmp_path / "cell" / "failed.json").read_text()
    assert token not in said
    assert said.count(HIDDEN) == 3


def test_a_token_that_is_no_header_is_hidden(monkeypatch):
    """httpx quotes the header that it refuses, as Python writes it."""
    bad = f"{TOKEN}\x01\n"
    monkeypatch.setenv("HF_TOKEN", bad)
    with socket.create_server(("127.0.0.1", 0)) as server:  # connects, as it listens
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(httpx.HTTPError) as caught:
            httpx.get(url, headers={"authorization": f"Bearer {bad}x"}, trust_env=False)
    assert TOKEN in str(caught.value)
    assert TOKEN not in without_secrets(str(caught.value))


def test_short_values_are_no_tokens():
    assert without_secrets("a text", {"HF_TOKEN": "te"}) == "a text"


def test_the_process_of_wandb_gets_no_token_of_the_hub(monkeypatch, tmp_path):
    for name in SECRETS:
        monkeypatch.setenv(name, TOKEN)
    started = {}

    def remember(command, **options):
        started.update(options, command=command)
        raise OSError("enough")

    monkeypatch.setattr("subprocess.Popen", remember)
    run = RemoteRun({"run": {"id": "x", "dir": str(tmp_path)}, "timeout_seconds": 1})
    run.call("log", {})
    assert TOKEN not in json.dumps(started["command"], default=str)
    assert [n for n in SECRETS if n in started["env"]] == ["WANDB_API_KEY"]
