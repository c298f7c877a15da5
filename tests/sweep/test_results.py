"""What a sweep folder says, whatever state it is in."""

import csv
import io
import json

import pytest
import yaml

from longspan.errors import UserError
from longspan.lock import Lock
from longspan.sweep.cell import record_failure
from longspan.sweep.page import _columns
from longspan.sweep.paths import CellPaths
from longspan.sweep.results import read_sweep
from longspan.sweep.table import (
    Statistic,
    as_csv,
    cost,
    pareto_front,
    rows_of,
    spread,
    straight_line,
    verdict,
    winner,
)


def test_every_state_of_a_cell_is_told(make_sweep):
    gone = [(16, 1, 0), (16, 1, 1)]
    folder = make_sweep(windows=(16, 64), layers=(1,), without=gone)
    names = [f"window={w},num_layers=1,seed={s}" for w in (16, 64) for s in (0, 1, 2)]
    record_failure(CellPaths(folder, names[1]), "RuntimeError: no\nmemory")
    (folder / names[2] / "report.json").unlink()
    (folder / names[3] / "report.json").write_text('{"metr')
    record_failure(CellPaths(folder, names[4]), "below the median", "pruned")
    (folder / names[4] / "report.json").unlink()
    assert [(c.status, c.reason) for c in read_sweep(folder).cells] == [
        ("missing", "not started"),
        ("failed", "RuntimeError: no memory"),
        ("broken off", "the same command resumes it"),
        ("failed", "report.json is damaged or has no metrics; the same command redoes it"),
        ("pruned", "below the median"),
        ("finished", ""),
    ]
    with Lock(CellPaths(folder, names[2]).lock):
        status = read_sweep(folder).cells[2].status
    assert status == "running"


def test_cells_without_a_plan_are_found_and_named_by_their_configs(make_sweep):
    folder = make_sweep(windows=(16, None), layers=(2,), seeds=(0, 1))
    (folder / "sweep.json").unlink()
    (folder / "notes").mkdir()
    rows = rows_of(read_sweep(folder))
    assert [row.values for row in rows] == [
        {"model.window": w, "model.num_layers": 2} for w in (16, None)
    ]
    assert [len(row.finished) for row in rows] == [2, 2]


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_without_cells_is_said(tmp_path, make):
    folder = tmp_path / "none"
    if make:
        folder.mkdir()
        (folder / "logs").mkdir()
    with pytest.raises(UserError, match=r"none holds no cell|none is no folder"):
        read_sweep(folder)


def test_numbers_of_a_row_are_those_of_its_seeds(make_sweep):
    folder = make_sweep(windows=(64,), layers=(2,), seeds=(0, 1, 2))
    results = read_sweep(folder)
    (row,) = rows_of(results)
    values = [cell.report["metrics"]["accuracy"] for cell in results.cells]
    center = sum(values) / 3
    assert row.quality.mean == pytest.approx(center)
    assert row.quality.std == pytest.approx((sum((v - center) ** 2 for v in values) / 2) ** 0.5)
    assert row.reach == 128
    speeds = [1e6 / cell.report["tokens_per_second"] for cell in results.cells]
    assert row.cost("time").mean == pytest.approx(sum(speeds) / 3)
    assert row.cost("flops") is None
    assert spread(row.quality, 3) == f"{row.quality.mean:.3f} ± {row.quality.std:.3f}"
    assert spread(Statistic.of([0.5]), 2) == "0.50"
    assert spread(Statistic.of([None, float("nan")]), 2) == "–"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "128"),
        ({"window": None}, "all"),
        ({"window": [16, 64]}, "80"),
        ({"full_attention_every": 2}, "all"),
        ({"pattern": {"window_growth": 2}}, "192"),
        ({"pattern": {"dilation": [1, [3, 1]]}}, "256"),
        ({"pattern": {"causal": True, "sinks": 4}}, "128 left"),
        ({"window": None, "pattern": {"causal": True}}, "all left"),
        ({"pattern": {"block": 16}}, "–"),
        ({"pattern": {"stride": 8}}, "–"),
        ({"pattern": {"random_blocks": 1}}, "–"),
        ({"window": "keep"}, "–"),
    ],
    ids=str,
)
def test_reach_is_that_of_the_pattern(make_sweep, changes, said):
    folder = make_sweep(windows=(64,), layers=(2,), seeds=(0,))
    (file,) = folder.glob("*/config.yaml")
    config = yaml.safe_load(file.read_text())
    config["model"]["pattern"] |= changes.pop("pattern", {})
    config["model"] |= changes
    file.write_text(yaml.safe_dump(config))
    (row,) = rows_of(read_sweep(folder))
    columns = {column.head: column for column in _columns([row], [], None)}
    cells = columns["reach"].cells if "reach" in columns else [("–", None)]
    assert [text for text, _ in cells] == [said]


def test_flops_come_from_what_was_predicted(make_sweep):
    folder = make_sweep((64,), (1,), (0,), predicted={"flops_per_token": 2.5e6})
    assert cost(read_sweep(folder).cells[0], "flops") == 2.5


def beats(a, b):
    """Better or equal in both, better in one."""
    return a != b and a[0] <= b[0] and a[1] >= b[1]


def test_the_front_is_what_nothing_beats_and_the_winner_the_best_below_the_ceiling(make_sweep):
    rows = rows_of(read_sweep(make_sweep()))
    places = {id(row): (row.cost("time").mean, row.quality.mean) for row in rows}
    front = pareto_front(rows, "time", "max")
    for row in rows:
        beaten = any(beats(places[id(other)], places[id(row)]) for other in rows)
        assert (row in front) != beaten
    for ceiling in (20.0, 40.0, 90.0, 1e9):
        allowed = [row for row in rows if places[id(row)][0] <= ceiling]
        chosen = winner(rows, "time", ceiling, "max")
        if not allowed:
            assert chosen is None
            assert "No finished cell stays below 20" in verdict(rows, "time", ceiling, "max")
            continue
        assert places[id(chosen)][1] == max(places[id(row)][1] for row in allowed)
        assert chosen.label in verdict(rows, "time", ceiling, "max")
    cheapest = winner(rows, "time", None, "max")
    best = max(rows, key=lambda row: row.quality.mean)
    assert cheapest.quality.mean >= best.quality.mean - best.quality.std
    # the other way round: the worst is the best
    worst = min(rows, key=lambda row: row.quality.mean)
    assert winner(rows, "time", 1e9, "min") is worst


def test_a_straight_line_is_found():
    assert straight_line([(x, 3 + 2 * x) for x in (1, 2, 5)]) == pytest.approx((3, 2, 1))
    assert straight_line([(1, 2), (1, 3)]) is None


def test_the_csv_has_a_line_for_every_cell(make_sweep):
    folder = make_sweep((64,), (1, 2), (0,), without=[(64, 2, 0)])
    lines = list(csv.DictReader(io.StringIO(as_csv(read_sweep(folder)))))
    assert [line["status"] for line in lines] == ["finished", "missing"]
    report = json.loads((folder / lines[0]["cell"] / "report.json").read_text())
    assert float(lines[0]["accuracy"]) == report["metrics"]["accuracy"]
    assert lines[0]["model.window"] == "64"
    assert lines[1]["accuracy"] == ""
