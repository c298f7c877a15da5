"""The benchmark of predicted against measured cost runs, and its page shows what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import cost  # noqa: E402


@pytest.mark.slow
def test_cells_are_predicted_and_measured(tmp_path: Path) -> None:
    output = tmp_path / "cost.json"
    command = [sys.executable, "benchmarks/cost.py", "--groups", "1", "--batches", "2"]
    command += ["--seconds", "1", "--output", str(output), "--overrides", "model.hidden_size=16"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    assert len(last["rows"]) == 6
    for row in last["rows"]:
        assert abs(row["memory"]["error"]) < 0.25
        assert row["time"]["predicted"] > 0
    assert last["processor"]


def test_an_error_is_relative_to_what_was_measured() -> None:
    forecast = {"memory_bytes": {"total": 150}, "tokens_per_second": 50}
    report = {"peak_memory_bytes": 100, "tokens_per_second": 100}
    row = cost.compare("x=1", forecast, report | {"predicted": {"peak_memory_bytes": 90}})
    assert row["memory"]["error"] == pytest.approx(0.5)
    assert row["time"]["error"] == pytest.approx(1.0)
    assert row["in_the_report"]["error"] == pytest.approx(-0.1)
    assert "| x=1 |" in cost.as_markdown([row])


@pytest.mark.skipif(not cost.RESULT.is_file(), reason="not measured on a quiet machine yet")
def test_the_page_shows_what_was_measured() -> None:
    result = json.loads(cost.RESULT.read_text())
    page = cost.PAGE.read_text()
    assert cost.with_table(page, "cost", cost.as_markdown(result["rows"])) == page
    assert max(result["largest_error"].values()) <= 0.25
