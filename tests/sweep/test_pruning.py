"""The median rule: a cell that is worse than half of the finished ones at the same step stops."""

import json

import pytest

from longspan.sweep.pruning import hopeless

NAME = "window=256,num_layers=1,seed=0"


def write_curve(cell, values):
    cell.mkdir(exist_ok=True)
    records = [{"step": 10 * (i + 1) - 1, "dev/accuracy": v} for i, v in enumerate(values)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (cell / "metrics.jsonl").write_text(lines)


@pytest.fixture
def folder(make_sweep):
    """Three finished cells that have 0.2, 0.5 and 0.8 at step 10 and 0.9 at step 20; one begun."""
    folder = make_sweep((16, 32, 64, 256), (1,), (0,), without=[(256, 1, 0)])
    for window, first in ((16, 0.2), (32, 0.5), (64, 0.8)):
        write_curve(folder / f"window={window},num_layers=1,seed=0", [first, 0.9])
    return folder


@pytest.mark.parametrize(
    ("values", "least", "stops"),
    [
        ([0.49], 3, True),
        ([0.5], 3, False),
        ([0.6], 3, False),
        ([0.6, 0.3], 3, True),  # 0.6 at best, where the others have 0.9
        ([0.95, 0.1], 3, False),  # its best counts
        ([0.1], 4, False),  # too few to say
        ([], 3, False),
    ],
)
def test_the_median_decides(folder, values, least, stops):
    write_curve(folder / NAME, values)
    reason = hopeless(folder, NAME, least)
    assert (reason is not None) == stops
    if stops:
        assert "is worse than the median" in reason


def test_a_cell_that_has_not_begun_has_its_chance(folder):
    assert hopeless(folder, NAME, 1) is None
