"""The scaling benchmark runs as it is documented and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = {
    "seconds",
    "fastest_seconds",
    "slowest_seconds",
    "processor_seconds",
    "tokens_per_second",
    "resident_bytes_before",
    "peak_bytes",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "sub" / "scaling.json"


@pytest.fixture(scope="module")
def printed(output):
    command = [sys.executable, "benchmarks/scaling.py", "--output", str(output), "--task", "mlm"]
    command += ["--train", "64", "128", "--returned", "64", "--chunked", "128", "--at-once"]
    command += ["--layers", "1", "--hidden-size", "16", "--heads", "2", "--window", "4"]
    command += ["--vocab-size", "50", "--chunk-tokens", "32", "--repeats", "2"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def result(printed):
    return json.loads(printed.splitlines()[-1])


def test_every_point_has_its_row(result):
    assert [(row["what"], row["tokens"]) for row in result["rows"]] == [
        ("training step", 64),
        ("training step", 128),
        ("training step, pages returned", 64),
        ("inference in chunks", 128),
    ]
    for row in result["rows"]:
        assert row.keys() == NUMBERS | {"what", "tokens"}
        assert 0 < row["fastest_seconds"] <= row["seconds"] <= row["slowest_seconds"]
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert row["peak_bytes"] >= row["resident_bytes_before"] / 2 > 0


def test_a_token_is_compared_where_there_are_two_lengths(result):
    rates = [row["tokens_per_second"] for row in result["rows"]]
    assert result["time_per_token"] == {"training step": pytest.approx(rates[0] / rates[1])}


def test_the_result_says_what_was_measured_where(result):
    assert result["benchmark"] == "scaling"
    assert (result["window"], result["task"], result["chunk_tokens"]) == (4, "mlm", 32)
    assert {"date", "processor", "cores", "torch", "longspan"} <= result.keys()


def test_table_result_and_picture(printed, result, output):
    assert printed.count("training step  ") == 2
    assert json.loads(output.read_text()) == result
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
