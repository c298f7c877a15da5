"""The benchmark of global question tokens runs and says what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import needle  # noqa: E402

QUICK = [
    "data.needle.lengths=[256,768]",
    "data.needle.depths=[0,100]",
    "data.needle.train=[4,2]",
    "data.needle.dev=[1,0]",
    "data.needle.test=[2,2]",
    "model.num_layers=1",
]


@pytest.mark.slow
def test_table_picture_and_json(tmp_path: Path) -> None:
    output = tmp_path / "needle.json"
    command = [sys.executable, "benchmarks/needle.py", "--seeds", "0"]
    command += ["--runs-dir", str(tmp_path / "runs"), "--output", str(output)]
    result = subprocess.run(
        [*command, "--overrides", *QUICK], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    assert [row["variant"] for row in last["runs"]] == list(needle.VARIANTS)
    reach = {row["variant"]: row["highest_exact_match"] for row in last["runs"]}
    # the one answer of four that stands at the end of 768 tokens
    assert list(reach.values()) == [1.0, 1.0, 0.75]
    for row in last["runs"]:
        cells = {(cell["length"], cell["depth"]): cell["questions"] for cell in row["cells"]}
        assert cells == dict.fromkeys([(256, 0), (256, 100), (768, 0), (768, 100)], 1)
    assert last["torch"]
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_exact_match_is_counted_by_cell_and_length(tmp_path: Path) -> None:
    rows = [("needle-256-0-0", "rye"), ("needle-256-50-1", "The rye."), ("needle-512-0-0", "oats")]
    file = tmp_path / "test.jsonl"
    lines = [json.dumps({"id": i, "gold": ["rye"], "predicted": p}) for i, p in rows]
    file.write_text("\n".join(lines) + "\n")
    cells = needle.exact_match_by_cell(file)
    assert cells == {(256, 0): [1.0], (256, 50): [1.0], (512, 0): [0.0]}
    assert needle.mean_by_length(cells) == {"256": 1.0, "512": 0.0}


def test_the_readme_shows_what_was_measured() -> None:
    if not needle.RESULT.is_file():
        pytest.skip("python benchmarks/needle.py has not been run on a quiet machine yet")
    result = json.loads(needle.RESULT.read_text())
    page = (ROOT / "README.md").read_text()
    table = needle.as_markdown(result["summary"])
    assert needle.with_table(page, "needle", table) == page
    assert min(row["seeds"] for row in result["summary"]) >= 3
    first = [
        r["exact_match"]["2048"]
        for r in result["runs"]
        if r["variant"] == "question and [CLS] global"
    ]
    worst, middle, best = (f"{100 * value:.0f}" for value in sorted(first))
    assert f"two of three find {middle} and {best} %, the third" in page
    assert f", {worst} %. Measured" in page
    assert needle.RESULT.with_suffix(".png").is_file()
