"""The benchmark of windows and of reading on for questions, and its table is what it found."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared/data"
sys.path.insert(0, str(ROOT / "benchmarks"))

import quality_qa  # noqa: E402

DATA = quality_qa.DataSet(
    {"train": 3, "dev": 9, "test": 0}, {"train": 2, "dev": 9, "test": 9},
    lambda question: question["id"].endswith("kept"), (64, 8), [],
)  # fmt: skip


def document(number: int, questions: int) -> dict[str, Any]:
    ids = [f"{number}-{i}-{kept}" for i in range(questions) for kept in ("kept", "left")]
    qas = [{"id": name, "question": "Who?", "answers": []} for name in ids]
    return {"title": str(number), "paragraphs": [{"context": f"text {number}", "qas": qas}]}


def test_a_subset_holds_some_documents_whole_and_some_of_their_questions() -> None:
    source = {"version": "2.0", "data": [document(number, 4) for number in range(8)]}
    source["data"].append(document(0, 4))  # questions of the same ids
    taken = quality_qa.subset(source, DATA, "train")
    assert taken == quality_qa.subset(source, DATA, "train")
    assert taken["version"] == "2.0"
    assert len(taken["data"]) == 3
    whole = {d["title"]: d["paragraphs"][0] for d in source["data"]}
    for chosen in taken["data"]:
        (paragraph,) = chosen["paragraphs"]
        assert paragraph["context"] == whole[chosen["title"]]["context"]
        assert len({question["id"] for question in paragraph["qas"]}) == 2
        assert all(question["id"].endswith("kept") for question in paragraph["qas"])
    everything = quality_qa.subset(source, DATA, "dev")
    ids = Counter(q["id"] for d in everything["data"] for q in d["paragraphs"][0]["qas"])
    assert len(ids) == 32
    assert set(ids.values()) == {1}
    assert quality_qa.subset(source, DATA, "test")["data"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", quality_qa.DATA_SETS)
def test_every_window_and_way_of_reading_trains_and_is_told(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not there")
    output = tmp_path / "quality_qa.json"
    few = ["trainer.max_steps=1", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2"]
    few += ["trainer.val_check_interval=1", "model.num_layers=1"]
    command = [sys.executable, "benchmarks/quality_qa.py", "--only", name]
    command += ["--runs-dir", str(tmp_path / "runs"), "--output", str(output)]
    result = subprocess.run(
        [*command, "--overrides", *few], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    reads = [(row["read"], row["window"]) for row in last["runs"]]
    assert reads == [(read, w) for read in quality_qa.READS for w in quality_qa.WINDOWS]
    cut, whole = last["runs"][0], last["runs"][-1]
    assert cut["highest_exact_match"] < whole["highest_exact_match"]


def test_the_page_shows_what_was_measured() -> None:
    if not quality_qa.RESULT.is_file():
        pytest.skip("python benchmarks/quality_qa.py has not been run yet")
    result = json.loads(quality_qa.RESULT.read_text())
    page = quality_qa.PAGE.read_text()
    table = quality_qa.as_markdown(result["runs"])
    assert quality_qa.with_table(page, "quality_qa", table) == page
    assert {row["data"] for row in result["runs"]} == set(quality_qa.DATA_SETS)
    for row in result["runs"]:
        assert row["settings"][: len(quality_qa.SETTINGS)] == quality_qa.SETTINGS
        assert {"date", "processor", "torch"} <= row["measured"].keys()


def test_other_data_sets_stay_in_the_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    output = tmp_path / "quality_qa.json"
    monkeypatch.setattr(quality_qa, "available", lambda folder: list(quality_qa.DATA_SETS))
    monkeypatch.setattr(quality_qa, "take", lambda name, arguments: {})
    monkeypatch.setattr(quality_qa, "taken", lambda files: {})
    figures = ("exact_match", "f1", "f1_with_answer", "highest_exact_match")

    for name, exact in (("squad_articles", 0.1), ("cuad", 0.2), ("squad_articles", 0.3)):
        found = {"aupr": None} | dict.fromkeys(figures, exact)
        monkeypatch.setattr(
            quality_qa,
            "measure",
            lambda seed, name, read, window, *_, found=found: (
                found | {"data": name, "read": read, "window": window}
            ),
        )
        monkeypatch.setattr(sys, "argv", ["", "--only", name, "--output", str(output)])
        quality_qa.main()
    rows = json.loads(output.read_text())["runs"]
    assert [row["data"] for row in rows] == 6 * ["cuad"] + 6 * ["squad_articles"]
    assert [row["exact_match"] for row in rows] == 6 * [0.2] + 6 * [0.3]
