"""The profile of a step tells operations apart and adds up to the step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--tokens", "96", "--layers", "2", "--hidden", "16", "--heads", "2", "--window", "8"]
SMALL += ["--vocabulary", "50", "--steps", "1", "--batches", "mix"]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    output = tmp_path_factory.mktemp("results") / "profile.json"
    command = [sys.executable, "benchmarks/profile_step.py", *SMALL, "--output", str(output)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def rows(printed):
    return json.loads(printed.splitlines()[-1])["rows"]


def test_every_dtype_has_its_row_and_table(rows, printed):
    assert [(r["name"], r["dtype"]) for r in rows] == [("mix", "float32"), ("mix", "bfloat16")]
    assert [r["tokens"] for r in rows] == [96 + 14 + 9 + 6 + 4 + 3 + 2 + 1] * 2
    assert printed.count("  matrix product ") == 2
    assert all(r["cpu_seconds"] > 0 and r["peak_bytes"] >= 0 for r in rows)


def test_the_kinds_of_a_step_are_told_apart(rows):
    for row in rows:
        calls = row["calls_by_kind"]
        assert {"matrix product", "attention", "norms and activation", "optimizer"} <= calls.keys()
        assert {"dropout", "embedding", "loss", "clipping"} <= calls.keys()
        assert calls["attention"] == 2, "forward and backward; the last layer has one row"
        assert row["seconds_by_kind"].keys() == calls.keys()
    # float32 casts nothing but what tells documents apart
    assert rows[0]["calls_by_kind"].get("casts", 0) < rows[1]["calls_by_kind"]["casts"]


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda x: x @ x, "matrix product"),
        (lambda x: x.bfloat16(), "casts"),
        (lambda x: x.clone(), "copies"),
        (lambda x: torch.cat([x, x]), "copies"),
        (lambda x: torch.nn.functional.gelu(x), "norms and activation"),
        (lambda x: torch.nn.functional.layer_norm(x, (4,)), "norms and activation"),
        (lambda x: x + x, "elementwise and rest"),
    ],
)
def test_an_operation_is_of_its_kind(call, kind, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from profile_step import OperationTimes

    times, x = OperationTimes(), torch.ones(4, 4)
    times.begin("forward")
    with times:
        call(x)
    assert list(times.calls) == [kind]
    times.begin("optimizer")
    with times:
        call(x)
    assert list(times.calls) == [kind, "optimizer"]


def test_the_page_shows_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import profile_step

    result = json.loads(profile_step.RESULT.read_text())
    page, table = profile_step.PAGE.read_text(), profile_step.as_markdown(result["rows"])
    assert profile_step.with_table(page, "profile_step", table) == page
