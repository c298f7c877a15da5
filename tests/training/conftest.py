"""What the tests of training share: trainings of some steps; for those of tracking an empty W&B
account, and loggers that end with their test.
"""

import os
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from longspan.batch import Feature
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    LoggerConfig,
    ModelConfig,
    TrainerConfig,
)
from longspan.tasks.classification import Classification
from longspan.training.adapters import adapt
from longspan.training.build import build_trainer
from longspan.training.module import LongDocumentModule
from longspan.training.optim import build_optimizer, build_schedule
from longspan.training.wandb_logger import DetachedWandbLogger

SLACK = 5.0  # seconds that killing a process may take on a busy machine


@pytest.fixture
def no_wandb_account(tmp_path, monkeypatch):
    """An environment without anybody's W&B account or settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_") or name == "NETRC"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def make_logger(run_dir, no_wandb_account):
    """Make a logger of the run `run_dir`; whatever is made is closed after the test."""
    made = []

    def make(mode="auto", timeout=30.0, hparams=None):
        config = LoggerConfig(mode=mode, tags=("a", "b"), timeout_seconds=timeout)
        made.append(DetachedWandbLogger(config, run_dir, "exp/window=8,seed=0", "g", hparams or {}))
        return made[-1]

    yield make
    for logger in made:
        logger.close()


@pytest.fixture
def close_in_time():
    """Close a logger: no later than it may, and with its process gone. A bound, no measurement."""

    def close(logger):
        started = time.monotonic()
        logger.close()
        limit = logger.experiment._options["timeout_seconds"]
        assert time.monotonic() - started < limit + SLACK
        assert logger.experiment._process.poll() is not None

    return close


@pytest.fixture
def tracking_warnings(caplog):
    """The texts of the warnings that tracking has given so far."""

    def texts():
        return [r.getMessage() for r in caplog.records if r.name.startswith("longspan")]

    return texts


@pytest.fixture(scope="session")
def make_features():
    """Documents of random lengths and tokens with alternating labels, named 00, 01, …"""

    def make(number, seed=0):
        random = np.random.default_rng(seed)
        return [
            Feature(
                id=f"{place:02}",
                input_ids=random.integers(0, 20, random.integers(1, 9)).astype(np.int32),
                global_positions=np.array([0], np.int32),
                label=place % 2,
            )
            for place in range(number)
        ]

    return make


@pytest.fixture(scope="session")
def make_small_config():
    """A run of a model of one layer without dropout, with some fields of `trainer.*` changed."""

    def make(**trainer):
        plain = {"accelerator": "cpu", "precision": "32-true", "max_epochs": 1,
                 "enable_progress_bar": False, "limit_val_batches": 0}  # fmt: skip
        return Config(
            model=ModelConfig(
                vocab_size=20, hidden_size=8, num_layers=1, num_heads=2, window=2,
                hidden_dropout=0.0,
            ),
            data=DataConfig(max_length=512, tokens_per_batch=512),
            task=ClassificationConfig(head_dropout=0.0),
            trainer=TrainerConfig(**plain | trainer),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def fit():
    """Train a small config on packed batches, in their order, with some callbacks: the module."""

    def fit(config, batches, callbacks=(), num_steps=10, **arguments):
        torch.manual_seed(0)
        task = Classification(config.task, ["a", "b"])
        module = LongDocumentModule(config, task, num_steps=num_steps)
        adapt(module, announce=False)
        plain = {"logger": False, "enable_checkpointing": False, "callbacks": list(callbacks)}
        trainer = build_trainer(config, **plain | arguments)
        loader = DataLoader(batches, batch_size=None)
        trainer.fit(module, loader, loader)
        return module

    return fit


@pytest.fixture(scope="session")
def fit_by_hand():
    """Module and optimiser after a training without Lightning, some of whose steps are not made."""

    def fit_by_hand(config, batches, skipped):
        torch.manual_seed(0)
        module = LongDocumentModule(config, Classification(config.task, ["a", "b"]))
        adapt(module, announce=False)
        optimizer = build_optimizer(module, config.model.num_layers, config.optim)
        schedule = build_schedule(optimizer, config.optim, 10)
        accumulate = config.trainer.accumulate_grad_batches
        for step in range(len(batches) // accumulate):
            optimizer.zero_grad()
            for batch in batches[step * accumulate : (step + 1) * accumulate]:
                loss = module.task.loss(module(batch), batch).sum()
                (loss * accumulate / batch.step_weight / accumulate).backward()
            if step not in skipped:
                limit = config.trainer.gradient_clip_val
                torch.nn.utils.clip_grad_norm_(module.parameters(), limit)
                optimizer.step()
            schedule.step()
        return module, optimizer

    return fit_by_hand
