"""The benchmark of truncated against long runs on real documents, and its table is what it found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
sys.path.insert(0, str(ROOT / "benchmarks"))

import quality  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("data", ["sotu_era", "hyperpartisan", "movie_reviews"])
def test_every_way_of_reading_trains_and_is_told(data: str, tmp_path: Path) -> None:
    if data != "sotu_era" and not (SHARED / data).is_dir():
        pytest.skip(f"{SHARED / data} is not there")
    output = tmp_path / "quality.json"
    few = [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    command = [sys.executable, "benchmarks/quality.py", "--only", data, "--seeds", "0"]
    command += ["--runs-dir", str(tmp_path / "runs"), "--output", str(output)]
    result = subprocess.run(
        [*command, "--overrides", *few], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    assert [row["read"] for row in last["runs"]] == list(quality.WAYS)
    models = [row["model"] for row in last["summary"]]
    assert models == ["MiniLM"] * 3 + ["TF-IDF + linear SVM"] * 2
    cut = [row["share_of_tokens_cut"] for row in last["runs"]]
    assert cut[0] == cut[1] > cut[2]
    assert min(row["accuracy_mean"] for row in last["summary"][3:]) > 0.5


def test_the_page_shows_what_was_measured() -> None:
    result = json.loads(quality.RESULT.read_text())
    page = quality.PAGE.read_text()
    assert quality.with_table(page, "quality", quality.as_markdown(result["summary"])) == page
    assert {row["data"] for row in result["summary"]} == {
        "sotu_era", "hyperpartisan", "movie_reviews",
    }  # fmt: skip
    assert min(row["seeds"] for row in result["summary"] if row["model"] == "MiniLM") >= 2
    assert result["settings"] == quality.SETTINGS
