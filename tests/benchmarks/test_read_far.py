"""The benchmark behind the README's figure runs and says what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import read_far  # noqa: E402


@pytest.mark.slow
def test_table_picture_and_json(tmp_path: Path) -> None:
    output = tmp_path / "read_far.json"
    quick = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "model.hidden_size=16"]
    command = [sys.executable, "benchmarks/read_far.py", "--lengths", "64", "128", "--seeds", "0"]
    command += ["--runs-dir", str(tmp_path / "runs"), "--output", str(output)]
    result = subprocess.run(
        [*command, "--overrides", *quick], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    batches = [(row["max_length"], row["tokens_per_batch"]) for row in last["runs"]]
    assert batches == [(64, 256), (64, 128), (128, 256)]
    assert last["summary"][1]["share_of_tokens_cut"] > last["summary"][2]["share_of_tokens_cut"]
    assert last["torch"]
    assert last["processor"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_readme_shows_what_was_measured() -> None:
    result = json.loads(read_far.RESULT.read_text())
    page = (ROOT / "README.md").read_text()
    table = read_far.as_markdown(result["summary"])
    assert read_far.with_table(page, "read_far", table) == page
    assert min(row["seeds"] for row in result["summary"]) >= 3
    assert read_far.RESULT.with_suffix(".png").is_file()
