"""`longspan cost`: cells to rows; the calibration's arithmetic; what a run says of its own cost."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from longspan.attention import Pattern
from longspan.cli import app
from longspan.compose.cells import Cell
from longspan.config import MaskedLMConfig, QAConfig
from longspan.errors import UserError
from longspan.forecast.calibration import Rates, calibrate, shape_of
from longspan.forecast.forecast import forecast
from longspan.forecast.sample import read_sample
from longspan.forecast.steps import Stopwatch
from longspan.forecast.table import duration, show
from longspan.training.run import train

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
    "ignore:Checkpoint directory .* exists and is not empty",
)


@pytest.fixture
def make_cell(make_config, tmp_path):
    def make(name="", **changes):
        return Cell(name, make_config(tmp_path, **changes))

    return make


@pytest.fixture
def two_gibibytes(monkeypatch):
    """A machine of so much memory, whatever the tests before have left in this process."""
    monkeypatch.setattr("longspan.training.budget.memory_bytes", lambda _: 2 * 2**30)
    for name in ("longspan.training.budget", "longspan.forecast.forecast"):
        monkeypatch.setattr(f"{name}.resident_bytes", lambda: 2**29)


def test_a_cell_is_what_its_training_will_be(make_cell):
    cell = make_cell(**{"model.num_layers": 3})
    (row,), rates = forecast([cell], seconds=0)
    report = train(cell.config)
    assert row.parameters == report["parameters"]
    assert row.trained == report["trained_parameters"]
    assert row.documents.are_read
    assert len(row.documents) == 24
    assert row.batches.budget == 128
    assert row.batches.number == report["steps"] / report["epochs"]
    assert row.batches.mean == pytest.approx(128 * report["packing_efficiency"])
    assert row.batches.largest <= 128
    assert row.seconds is None
    assert rates == []
    own = report["predicted"]
    assert own["flops_per_token"] == pytest.approx(row.forward.total / row.documents.mean_length)
    assert own["training_flops_per_token"] == pytest.approx(3 * own["flops_per_token"])
    assert own["tokens_per_batch"] == 128
    assert own["peak_memory_bytes"] == pytest.approx(sum(own["memory_bytes"].values()), abs=8)


def test_wider_windows_and_deeper_models_cost_more(make_cell, two_gibibytes, monkeypatch):
    # holes are gone where tensors outgrow the heap: there a larger batch takes less
    monkeypatch.setattr("longspan.cost.memory.HOLES", 0.0)
    cells = [
        make_cell(f"window={window},num_layers={layers}",
                  **{"model.window": window, "model.num_layers": layers,
                     "model.attention_backend": "blocked"})  # native's memory knows no windows
        for window in (2, 8)
        for layers in (2, 3)  # the last one sees no window: its row is that of a global token
    ]  # fmt: skip
    rows, rates = forecast(cells, seconds=0.5)
    assert len(rates) == 1  # one layer of one shape serves all
    assert set(rates[0].attention) == {Pattern(2), Pattern(8)}
    for less, more in ((0, 1), (2, 3), (0, 2), (1, 3)):
        assert rows[less].forward.total < rows[more].forward.total
        assert rows[less].memory.total < rows[more].memory.total
        assert rows[less].largest_budget > rows[more].largest_budget
    assert all(row.step_seconds > 0 and row.total_seconds > 0 for row in rows)
    ratio = rows[1].forward.linear / rows[0].forward.linear
    assert rows[0].seconds["linear"] * ratio == pytest.approx(rows[1].seconds["linear"])


def test_without_documents_all_are_of_the_largest_length(make_cell):
    (row,), _ = forecast([make_cell()], count=0, seconds=0)
    assert not row.documents.are_read
    assert row.documents.lengths == [32]
    assert row.batches.number is None
    assert row.batches.mean == 128


def test_a_sample_stands_for_the_split(make_cell):
    sample = read_sample(make_cell().config, 5)
    assert len(sample.documents) == 5
    assert sample.total == 24


@pytest.mark.parametrize("task", [MaskedLMConfig(), QAConfig()], ids=["mlm", "qa"])
@pytest.mark.parametrize("window", [4, None])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_every_task_can_be_calibrated(task, window, autocast, make_cell):
    config = make_cell(**{"model.window": window}).config
    sample = read_sample(replace(config, task=task), 0)
    watch = Stopwatch(0.01, torch.device("cpu"), autocast)
    rates = calibrate(
        shape_of(sample.config), sample.task, sample.documents, {Pattern(window)}, 64, watch
    )
    assert rates.tokens == 64
    assert rates.linear > 0
    assert rates.attention[Pattern(window)] > 0
    assert rates.optimizer > 0


def test_global_projections_can_be_calibrated(make_cell):
    sample = read_sample(make_cell(**{"model.global_projections": "separate"}).config, 0)
    watch = Stopwatch(0.01, torch.device("cpu"), None)
    rates = calibrate(
        shape_of(sample.config), sample.task, sample.documents, {Pattern(4)}, 64, watch
    )
    assert rates.attention[Pattern(4)] > 0


def test_a_step_is_the_sum_of_what_was_measured(make_cell):
    config = make_cell(**{"model.num_layers": 4, "model.window": 4}).config
    sample = read_sample(config, 0)
    rates = Rates(
        linear=1e9, attention={Pattern(4): 2e-9}, plan={Pattern(4): 1e-6}, rest=1e-6, ends=2e-6, optimizer=1e-9,
        overhead=0.5, tokens=64,
    )  # fmt: skip
    seconds = rates.step_seconds(sample.config, sample.documents, 64, trained=1000)
    pairs = 2 * sample.documents.mean_pairs(Pattern(4))  # two documents of 32
    assert seconds["attention"] == pytest.approx(3 * 2e-9 * pairs + 64e-6)
    # the last layer: keys of all tokens, and the first row's other projections and MLP
    blocks, keys, row = 3 * 2 * 64 * 16 * 6 * 16, 2 * 64 * 16 * 16, 2 * 16 * (3 + 2) * 16
    assert seconds["linear"] == pytest.approx(3 * (blocks + keys + 2 * row) / 1e9)
    assert seconds["rest"] == pytest.approx((3 + 1 / 32) * 64e-6)
    assert seconds["ends"] == pytest.approx(128e-6)
    assert seconds["optimizer"] == pytest.approx(1e-6)
    assert seconds["overhead"] == 0.5
    checkpointed = replace(
        sample.config, model=replace(sample.config.model, gradient_checkpointing=True)
    )
    again = rates.step_seconds(checkpointed, sample.documents, 64, trained=1000)
    assert again["linear"] == pytest.approx(4 / 3 * seconds["linear"])


def test_the_tables_show_every_cell(make_cell):
    cells = [make_cell(f"window={w}", **{"model.window": w}) for w in (2, None)]
    console = Console(record=True, width=200, file=io.StringIO())
    show(*forecast(cells, seconds=0.1), console)
    text = console.export_text()
    for part in ("window=2", "window=None", "24 of the training split", "GFLOP/s", "optimiser"):
        assert part in text
    assert [duration(s) for s in (5, 300, 9000)] == ["5 s", "5 min", "2.5 h"]


def test_the_command_prints_json(tiny_fields):
    fields = dict(tiny_fields)
    files = fields.pop("data.files")
    overrides = [f"data.files.{split}={file}" for split, file in files.items()]
    overrides += [
        f"{name}={value}" for name, value in (fields | {"model.window": "2,null"}).items()
    ]
    result = CliRunner().invoke(app, ["cost", "data=files", *overrides, "--json", "--seconds", "0"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["cell"] for row in rows] == ["window=2", "window=null"]
    first = rows[0]
    parts = first["flops_per_document"]
    assert parts["total"] == pytest.approx(sum(v for k, v in parts.items() if k != "total"))
    assert first["seconds_per_step"] is None
    assert first["largest_tokens_per_batch"] > 10_000


def test_auto_is_decided_once_and_kept(make_config, tmp_path, two_gibibytes, monkeypatch):
    config = make_config(tmp_path, **{"data.tokens_per_batch": "auto"})
    report = train(config)
    budget = report["predicted"]["tokens_per_batch"]
    assert budget % 1024 == 0
    assert report["steps"] == 2  # a batch holds the whole split
    folder = tmp_path / "default" / "default"
    assert f"tokens_per_batch: {budget}" in (folder / "config.yaml").read_text()
    # another machine, the same run: shown as it is, or gone on with as it was
    monkeypatch.setattr("longspan.training.budget.memory_bytes", lambda _: 64 * 2**30)
    assert train(config) == report
    (folder / "report.json").unlink()
    assert train(config)["predicted"]["tokens_per_batch"] == budget
    again = train(replace(config, overwrite=True))
    assert again["predicted"]["tokens_per_batch"] > budget


def test_auto_says_what_does_not_fit(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("longspan.training.budget.memory_bytes", lambda _: 2**20)
    with pytest.raises(UserError, match=r"data\.tokens_per_batch=auto: one document"):
        train(make_config(tmp_path, **{"data.tokens_per_batch": "auto"}))
    assert not (tmp_path / "default" / "default").exists()
