"""The benchmark of packed beside padded batches: what it compares, and its page shows the result."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import batching  # noqa: E402

LENGTHS = [100, 4, 90, 8, 50, 3, 60, 5]
SMALL: dict[str, Any] = {"budget": 110, "documents": 2}


@pytest.mark.parametrize("way", batching.WAYS)
def test_every_document_is_in_one_batch(way: str) -> None:
    groups = batching.group(way, LENGTHS, SMALL)
    assert sorted(row for rows in groups for row in rows) == list(range(len(LENGTHS)))


def test_what_the_ways_differ_in() -> None:
    groups = {way: batching.group(way, LENGTHS, SMALL) for way in batching.WAYS}
    tokens = {way: [[LENGTHS[row] for row in rows] for rows in x] for way, x in groups.items()}
    assert all(sum(x) <= 110 for x in tokens["packed"])
    assert tokens["grouped"] == [[100, 90], [60, 50], [8, 5], [4, 3]]
    assert {len(x) for x in tokens["one"]} == {1}


def test_a_rectangle_is_filled_up_and_a_packed_batch_is_not() -> None:
    documents = [np.arange(3), np.arange(5)]
    assert batching.as_batch(documents, "padded").cu_seqlens.tolist() == [0, 5, 10]
    assert batching.as_batch(documents, "packed").cu_seqlens.tolist() == [0, 3, 8]


def test_a_way_is_measured() -> None:
    small = {"number": 3, "longest": 40, "layers": 1, "hidden": 16, "window": 4}
    row = batching.measure("padded", SMALL | small | {"dtype": "bfloat16"})
    assert row["batches"] == 2
    assert row["share_of_padding"] < 1
    assert row["tokens_per_second"] > 0
    assert row["peak_bytes"] > 2**20
    runs = [row | {"way": way} for way in batching.WAYS]
    summary = batching.summarise(runs)
    assert [line["packing_is_faster"] for line in summary] == [1.0] * 4
    assert batching.as_markdown(summary).count("\n") == 5


@pytest.mark.slow
def test_table_and_json(tmp_path: Path) -> None:
    output = tmp_path / "batching.json"
    command = [sys.executable, "benchmarks/batching.py", "--number", "4", "--longest", "64"]
    command += ["--hidden", "16", "--layers", "1", "--repeats", "1", "--output", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    assert [row["way"] for row in last["summary"]] == list(batching.WAYS)
    assert last["summary"][0]["share_of_padding"] == 0


def test_the_page_shows_what_was_measured() -> None:
    if not batching.RESULT.is_file():
        pytest.skip(f"{batching.RESULT.name} is not there: python benchmarks/batching.py")
    result = json.loads(batching.RESULT.read_text())
    page = batching.PAGE.read_text()
    table = batching.as_markdown(result["summary"])
    assert batching.with_table(page, "batching", table) == page
