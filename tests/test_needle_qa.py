"""`experiment=needle_qa` as a user meets it, made small: from the generator to the heat map."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "data.needle.lengths=[96,160]",
    "data.needle.depths=[0,100]",
    "data.needle.train=[6,4]",
    "data.needle.dev=[2,0]",
    "data.needle.test=[4,2]",
    "data.needle.facts=2",
    "data.max_length=192",
    "data.tokens_per_batch=384",
    "model.num_layers=1",
    "model.window=8",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "logger=none",
]


def run(script, cwd, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("needle")
    run("train.py", place, "experiment=needle_qa", "name=run", *SMALL)
    return place / "runs/needle_qa/run"


def predictions(folder, name):
    lines = (folder / f"predictions/{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_needle_of_test_gets_an_answer(folder):
    rows = predictions(folder, "test")
    assert sorted(row["id"] for row in rows) == [
        "needle-160-0-0", "needle-160-100-1",
        "needle-96-0-0", "needle-96-0-2", "needle-96-100-1", "needle-96-100-3",
    ]  # fmt: skip
    assert all(row["gold"] and row["predicted"] for row in rows)


def test_the_run_draws_its_heat_map_and_counts_lost_answers(folder):
    assert min(imread(folder / "figures/exact_match_by_length_and_depth.png").shape[:2]) > 100
    report = json.loads((folder / "report.json").read_text())
    assert report["steps"] >= 3
    assert report["data"]["test"]["highest_exact_match"] == 1
    assert report["data"]["globals"]["mean"] > 8, "the question is global"


def test_the_model_is_windowed_and_4096_long(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["data"]["shortest_first"]
    weights = load_file(folder / "model/model.safetensors")
    (positions,) = [w for name, w in weights.items() if "position_embedding" in name]
    assert len(positions) == 4096


def test_evaluation_makes_the_same_needles(folder):
    run("eval.py", folder.parents[2], f"run={folder}", "split=test", "output=again")
    assert predictions(folder, "again") == predictions(folder, "test")
