"""The benchmark of truncated against long runs on real documents, and its table is what it found."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

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
    trained = [row for row in last["runs"] if row["model"] == "MiniLM"]
    assert [row["read"] for row in trained] == list(quality.WAYS)
    models = [row["model"] for row in last["summary"]]
    assert models == ["MiniLM"] * 3 + ["TF-IDF + linear SVM"] * 2
    cut = [row["share_of_tokens_cut"] for row in trained]
    assert cut[0] == cut[1] > cut[2]
    assert min(row["accuracy_mean"] for row in last["summary"][3:]) > 0.5


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[str]:
    """Run the benchmark without training; the names of the runs that it asked for."""
    asked = []
    lock = threading.Lock()

    def train_once(experiment: str, name: str, overrides: list[str], *_: object) -> Any:
        with lock:
            asked.append(name)
        metrics = {"accuracy": 0.5, "macro_f1": 0.5}
        cut = {"test": {"share_of_tokens_cut": 0.0}}
        return {"steps": 1, "seconds": 60.0, "metrics": metrics, "data": cut}

    monkeypatch.setattr(quality, "train_once", train_once)
    monkeypatch.setattr(sys, "argv", ["quality.py", "--only", "sotu_era", *arguments])
    quality.main()
    return asked


def test_keep_measures_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "quality.json"
    monkeypatch.setattr(quality, "measured", lambda: {"date": "before"})
    assert len(run_main(monkeypatch, "--output", str(output), "--seeds", "0", "1")) == 6
    monkeypatch.setattr(quality, "measured", lambda: {"date": "now"})
    asked = run_main(monkeypatch, "--output", str(output), "--seeds", "1", "2", "--keep")
    assert len(asked) == 3
    assert all(name.endswith("seed=2") for name in asked)
    result = json.loads(output.read_text())
    trained = [row for row in result["runs"] if row["model"] == "MiniLM"]
    assert [(row["seed"], row["measured"]["date"]) for row in trained] == 3 * [
        (0, "before"), (1, "before"), (2, "now"),
    ]  # fmt: skip
    assert [row["seeds"] for row in result["summary"]] == [3, 3, 3, 1, 1]


def test_keep_drops_rows_of_other_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "quality.json"), "--seeds", "0"]
    run_main(monkeypatch, *output)
    assert run_main(monkeypatch, *output, "--keep") == []
    assert "not kept" not in capsys.readouterr().out
    assert len(run_main(monkeypatch, *output, "--keep", "--overrides", "model.window=32")) == 3
    assert "not kept, its settings are others: sotu_era, first 512" in capsys.readouterr().out
    rows = json.loads((tmp_path / "quality.json").read_text())["runs"]
    assert [row["settings"][-1] for row in rows if row["settings"]] == 3 * ["model.window=32"]


def test_without_keep_all_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = ["--output", str(tmp_path / "quality.json"), "--seeds", "0"]
    assert len(run_main(monkeypatch, *output)) == len(run_main(monkeypatch, *output)) == 3


def test_the_page_shows_what_was_measured() -> None:
    result = json.loads(quality.RESULT.read_text())
    page = quality.PAGE.read_text()
    assert quality.with_table(page, "quality", quality.as_markdown(result["summary"])) == page
    assert {row["data"] for row in result["summary"]} == {
        "sotu_era", "hyperpartisan", "movie_reviews",
    }  # fmt: skip
    assert min(row["seeds"] for row in result["summary"] if row["model"] == "MiniLM") >= 2
    assert all(row["settings"] == quality.today(row, []) for row in result["runs"])
    assert all({"date", "processor", "torch"} <= row["measured"].keys() for row in result["runs"])


def test_the_table_says_how_far_the_long_model_is_from_tfidf() -> None:
    summary = json.loads(quality.RESULT.read_text())["summary"]
    rows = {(row["data"], row["read"]): row for row in summary}
    for row in summary:
        whole = rows[row["data"], "whole documents"]["accuracy_mean"]
        assert row["against_tfidf"] == pytest.approx(row["accuracy_mean"] - whole)
    long = rows["movie_reviews", "up to 4,096 tokens"]
    for accuracy, words in ((0.8374, "misses it by 0.045"), (0.9, "beats it by 0.018")):
        (_, sentence) = quality.against_five_folds([long | {"accuracy_mean": accuracy}])
        assert "0.882" in sentence
        assert words in sentence
