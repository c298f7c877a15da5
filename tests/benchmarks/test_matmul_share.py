"""The share of the processor's limit is counted as its page says, and the page shows the result."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import matmul_share  # noqa: E402  # pyright: ignore[reportMissingImports]


def test_the_share_counts_seven_products_of_the_pairs_that_the_window_needs(tmp_path: Path) -> None:
    output = tmp_path / "share.json"
    command = [sys.executable, "benchmarks/matmul_share.py", "--output", str(output)]
    command += ["--backends", "blocked", "--dtypes", "bfloat16", "--tokens", "64", "--windows", "4"]
    command += ["--heads", "1", "--head-size", "8", "--matmul", "32", "--repeats", "2"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(output.read_text()) == result
    (row,) = result["rows"]
    assert (row["dtype"], row["attention"], row["window"]) == ("bfloat16", "blocked", 4)
    useful = 7 * 2 * 64 * 9 * 8
    rate = useful / row["forward_backward_seconds"]
    assert row["share_of_matmul_rate"] == pytest.approx(rate / row["matmul_flops_per_second"])
    assert {"date", "processor", "cores", "torch"} <= result.keys()


def test_the_page_shows_what_was_measured() -> None:
    result = json.loads(matmul_share.RESULT.read_text())
    page = matmul_share.PAGE.read_text()
    assert (
        matmul_share.with_table(page, "matmul_share", matmul_share.as_markdown(result["rows"]))
        == page
    )
