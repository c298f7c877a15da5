"""Patterns at equal pairs: that they are equal, that the page shows what was measured."""

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from longspan.attention import Pattern
from longspan.compose.cells import compose_cells

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import pattern_pictures  # noqa: E402
import patterns  # noqa: E402

TOKENS, BUDGET = 2048, 129
SWEPT = {
    sweep: yaml.safe_load((ROOT / f"conf/sweep/{sweep}.yaml").read_text())["hydra"]["sweeper"][
        "params"
    ]["model/pattern"].split(",")
    for sweep in ("patterns", "patterns_qa")
}


@pytest.mark.parametrize("preset", [p for chosen in SWEPT.values() for p in chosen])
def test_patterns_are_compared_at_equal_pairs(preset: str) -> None:
    """[CLS], or a question of twelve tokens, over 2,048: counted in the dense mask."""
    asks = preset.startswith("equal_question")
    job = ["task=qa", "globals=question"] if asks else ["task.pooling=mean"]
    (cell,) = compose_cells([*job, f"model/pattern={preset}"])
    model, policies = cell.config.model, cell.config.globals
    count = 12 if policies.question else int(policies.cls)
    bounds, is_global = torch.tensor([0, TOKENS]), torch.arange(TOKENS) < count
    pairs = [
        own.dense_mask(bounds, is_global).sum().item() / TOKENS
        for layer in model.layer_patterns
        for heads, own in Pattern(**layer).by_head(model.num_heads)
        for _ in range(model.num_heads)[heads]
    ]
    if preset.endswith("/full"):
        assert mean(pairs) == TOKENS
    else:
        assert mean(pairs) == pytest.approx(BUDGET, rel=0.06)


@pytest.mark.parametrize("sweep", SWEPT)
def test_the_compared_patterns_are_those_that_are_drawn(sweep: str) -> None:
    assert tuple(preset.partition("/")[2] for preset in SWEPT[sweep]) == pattern_pictures.EQUAL


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return json.loads(patterns.RESULT.read_text())


def test_the_page_shows_what_was_measured(result: dict[str, Any]) -> None:
    page = patterns.PAGE.read_text()
    assert patterns.with_table(page, "patterns", patterns.as_markdown(result)) == page
    found = {(row["sweep"], row["pattern"]) for row in result["runs"]}
    assert found == {(n, pattern) for n in patterns.SWEEPS for pattern in pattern_pictures.EQUAL}
    for measured in (result["steps"], *result["runs"]):
        assert {"date", "processor", "torch"} <= measured["measured"].keys()


@pytest.mark.parametrize("sweep", patterns.SWEEPS)
def test_reports_of_the_sweeps_lie_beside_the_result(result: dict[str, Any], sweep: str) -> None:
    folder = patterns.RESULT.with_suffix("") / sweep
    cells = pd.read_csv(folder / "report.csv", keep_default_na=False)
    assert set(cells["status"]) == {"finished"}
    assert len(cells) == len([row for row in result["runs"] if row["sweep"] == sweep])
    html = (folder / "report.html").read_text()
    assert "https://" not in html
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["patterns", "patterns_qa"])
def test_every_pattern_trains_and_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sweep: str
) -> None:
    few = ["trainer.max_steps=2", "model.num_layers=1", "seed=0"]
    few += [f"trainer.limit_{split}_batches=1" for split in ("train", "val", "test")]
    output = tmp_path / "patterns.json"
    command = ["", "--only", sweep, "--sweeps-dir", str(tmp_path / "sweeps")]
    command += ["--output", str(output), "--steps", "1", "--overrides", *few]
    monkeypatch.setattr(sys, "argv", command)
    patterns.main()
    told = json.loads(output.read_text())
    found = told["runs"]
    assert [row["pattern"] for row in found] == list(pattern_pictures.EQUAL)
    pairs = {row["pattern"]: row["pairs_per_token"] for row in found}
    assert pairs["full"] > max(count for name, count in pairs.items() if name != "full")
    assert (tmp_path / "patterns" / sweep / "report.html").is_file()
    times = told["steps"]["microseconds_per_token"]
    assert list(times) == list(pattern_pictures.EQUAL)
    assert min(times.values()) > 0
    assert len(patterns.as_markdown(told).splitlines()) == 2 + len(times)
