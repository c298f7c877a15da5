"""The attention benchmark runs as it is documented and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ["bfloat16"]
NUMBERS = {
    "forward_seconds",
    "forward_backward_seconds",
    "first_forward_seconds",
    "first_forward_bytes",
    "forward_bytes",
    "forward_backward_bytes",
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("results") / "sub" / "attention.json"


@pytest.fixture(scope="module")
def printed(output):
    command = [sys.executable, "benchmarks/attention.py", "--output", str(output)]
    command += ["--tokens", "64", "128", "--windows", "4", "--heads", "1", "--head-size", "8"]
    command += ["--repeats", "1", "--masked-up-to", "64", "--max-seconds", "0"]
    command += ["--dtypes", *DTYPES, "--block-size", "16", "--backends", "blocked"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def result(printed):
    return json.loads(printed.splitlines()[-1])


def test_every_configuration_has_its_row(result):
    rows = {(r["dtype"], r["attention"], r["tokens"], r["window"]): r for r in result["rows"]}
    skipped = {key: row["skipped"] for key, row in rows.items() if "skipped" in row}
    assert list(rows) == [
        (dtype, *kind)
        for dtype in DTYPES
        for kind in [
            *[("blocked", 64, 4), ("masked", 64, 4), ("full", 64, None)],
            *[("blocked", 128, 4), ("masked", 128, 4), ("full", 128, None)],
        ]
    ]
    assert skipped == {
        (dtype, *kind): reason
        for dtype in DTYPES
        for kind, reason in [
            (("masked", 128, 4), "--masked-up-to 64"),
            (("full", 128, None), "--max-seconds 0"),
        ]
    }
    for key in rows.keys() - skipped.keys():
        assert rows[key].keys() == NUMBERS | {"dtype", "attention", "tokens", "window"}
        assert all(rows[key][name] >= 0 for name in NUMBERS)
        assert all(rows[key][name] > 0 for name in NUMBERS if name.endswith("seconds"))


def test_the_result_says_what_was_measured_where(result):
    assert result["benchmark"] == "attention"
    assert result["heads"] == 1
    assert result["head_size"] == 8
    assert result["dtypes"] == DTYPES
    assert result["block_size"] == 16
    assert {"date", "processor", "cores", "torch"} <= result.keys()


def test_growth_is_fitted_where_there_are_two_lengths(result):
    for fit, dtype in zip(result["exponents"], DTYPES, strict=True):
        assert fit.keys() == {"dtype", "attention", "window", "time", "memory"}
        assert (fit["dtype"], fit["attention"], fit["window"]) == (dtype, "blocked", 4)


def test_result_and_picture_are_written(result, output):
    assert json.loads(output.read_text()) == result
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_table_shows_every_row(printed, result):
    assert printed.count("blocked ") == 2 * len(DTYPES)
    assert printed.count("–") == 12 * len(DTYPES)  # six numbers of each that was skipped
