"""The metrics file survives kills, is the same for the same run, and W&B is optional."""

import json
import logging
import math
import sys

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from longspan.config import LoggerConfig
from longspan.training.tracking import MetricsFile, build_loggers, read_metrics
from longspan.training.wandb_logger import DetachedWandbLogger


def log_three(file, tokens_per_second):
    file.log_metrics({"train/loss": 0.1 + 0.2, "epoch": 0}, step=0)
    file.log_metrics({"speed/tokens_per_second": tokens_per_second, "epoch": 0}, step=0)
    file.log_metrics({"dev/f1": 1 / 3, "epoch": 0, "speed/seconds": tokens_per_second}, step=1)


def test_the_same_calls_write_the_same_bytes_whatever_the_clock_says(tmp_path):
    for name, tokens_per_second in (("a", 100.0), ("b", 170.5)):
        log_three(MetricsFile(tmp_path / name), tokens_per_second)
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (
        b'{"step": 0, "train/loss": 0.30000000000000004, "epoch": 0}\n'
        b'{"step": 1, "dev/f1": 0.3333333333333333, "epoch": 0}\n'
    )
    assert (tmp_path / "b/metrics.jsonl").read_bytes() == (
        tmp_path / "a/metrics.jsonl"
    ).read_bytes()
    assert read_metrics(tmp_path / "b/speed.jsonl") == [
        {"step": 0, "speed/tokens_per_second": 170.5},
        {"step": 1, "speed/seconds": 170.5},
    ]


def test_what_is_not_finite_is_null_and_every_kind_of_scalar_is_a_number(tmp_path):
    file = MetricsFile(tmp_path)
    values = {"nan": math.nan, "inf": math.inf, "minus": torch.tensor(-math.inf)}
    file.log_metrics({**values, "tensor": torch.tensor(0.5), "numpy": np.int64(3)}, step=7)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(file.metrics_path.read_text(), parse_constant=refuse) == {
        "step": 7,
        "nan": None,
        "inf": None,
        "minus": None,
        "tensor": 0.5,
        "numpy": 3,
    }


def test_a_kill_at_any_byte_costs_the_record_in_writing_at_most(tmp_path):
    log_three(MetricsFile(tmp_path), 100.0)
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    records = read_metrics(tmp_path / "metrics.jsonl")
    for size in range(len(whole) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / "metrics.jsonl").write_bytes(whole[:size])
        survivors = records[: whole[:size].count(b"\n")]
        assert read_metrics(folder / "metrics.jsonl") == survivors
        MetricsFile(folder).log_metrics({"loss": 1.0}, step=2)
        assert read_metrics(folder / "metrics.jsonl") == [*survivors, {"step": 2, "loss": 1.0}]


def test_a_line_broken_before_the_last_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "lo\n{"step": 1}\n')
    with pytest.raises(json.JSONDecodeError):
        read_metrics(tmp_path / "metrics.jsonl")


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    file = MetricsFile(tmp_path / "run")
    log_three(file, 100.0)
    file.discard_from(0)
    assert not (tmp_path / "run").exists()


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def training_step(self, batch):
        loss = self.linear(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch):
        self.log("dev/loss", self.linear(batch).square().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StopAtStep(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step:
            raise InterruptedError


class DiscardRepeats(Callback):
    def on_train_start(self, trainer, pl_module):
        trainer.logger.discard_from(trainer.global_step)


def fit(run_dir, stop_at=None, resume_from=None):
    seed_everything(0, verbose=False)
    batches = DataLoader(torch.arange(32.0).reshape(8, 4) / 32)
    trainer = Trainer(
        max_epochs=3,
        logger=MetricsFile(run_dir),
        callbacks=[ModelCheckpoint(save_last=True), StopAtStep(stop_at), DiscardRepeats()],
        log_every_n_steps=1,
        val_check_interval=4,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Regression(), batches, batches, ckpt_path=resume_from)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_broken_and_resumed_leaves_the_file_of_an_unbroken_one(tmp_path):
    fit(tmp_path / "unbroken")
    with pytest.raises(InterruptedError):
        fit(tmp_path / "broken", stop_at=19)
    last = tmp_path / "broken/checkpoints/last.ckpt"  # of step 16: two records are repeated
    fit(tmp_path / "broken", resume_from=last)
    unbroken = (tmp_path / "unbroken/metrics.jsonl").read_bytes()
    assert unbroken.count(b"train/loss") == 24
    assert (tmp_path / "broken/metrics.jsonl").read_bytes() == unbroken


def loggers_of(tmp_path, kind="wandb"):
    return build_loggers(LoggerConfig(kind=kind), tmp_path, "id", group=None, hparams={})


def test_without_wandb_there_is_one_warning_and_the_file(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING):
        (file,) = loggers_of(tmp_path)
    assert [record.getMessage() for record in caplog.records] == [
        "W&B tracking is off: wandb is not installed; `pip install wandb` or logger=none"
    ]
    log_three(file, 100.0)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_wandb_can_be_switched_off_by_config_and_by_environment(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert [type(logger) for logger in loggers_of(tmp_path)] == [MetricsFile, DetachedWandbLogger]
    assert [type(logger) for logger in loggers_of(tmp_path, kind="none")] == [MetricsFile]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert [type(logger) for logger in loggers_of(tmp_path)] == [MetricsFile]
    assert not caplog.records
