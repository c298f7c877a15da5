"""What the tests of training share: trainings of some steps; for those of tracking an empty W&B
account, and loggers that end with their test.
"""

import json
import os
import socket
import sys
import time
import traceback

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from longspan.batch import Feature
from longspan.command import quiet_lightning, set_up_logging
from longspan.config import (
    ClassificationConfig,
    Config,
    DataConfig,
    LoggerConfig,
    ModelConfig,
    TrainerConfig,
)
from longspan.tasks.classification import Classification
from longspan.training import run, run_folder
from longspan.training.adapters import adapt
from longspan.training.build import build_trainer
from longspan.training.checkpoints.folder import read_checkpoint, read_weights
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


# --- runs that are killed or preempted: test_resume.py and test_preemption.py ---


class Starts:
    """Starts of a run, each in a process of its own, forked before any of them trained.

    Args:
        log: file for what they print.
    """

    def __init__(self, log):
        self.log = log

    def __call__(self, config, *callbacks, **environment):
        """Train to the end of the process.

        Args:
            config: of the run.
            callbacks: Lightning's, beside those of a run.
            environment: variables that the process finds.

        Returns:
            its exit code, or minus the signal that ended it.
        """
        return _ended(self._fork(config, callbacks, environment))

    def ranks(self, config, *callbacks):
        """Train in two processes with gloo, each with its own of the callbacks: their ends."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        children = [
            self._fork(config, own, shared | {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2"})
            for rank, own in enumerate(callbacks)
        ]
        return [_ended(child) for child in children]

    def _fork(self, config, callbacks, environment):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.environ |= environment
                code = self._train(config, callbacks)
            finally:
                os._exit(code)
        return child

    def _train(self, config, callbacks):
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        set_up_logging()
        quiet_lightning()
        build_trainer = run.build_trainer

        def build(config, **arguments):
            arguments["callbacks"] = [*arguments["callbacks"], *callbacks]
            return build_trainer(config, **arguments)

        run.build_trainer = build
        try:
            run.train(config)
        except SystemExit as exit_:
            return exit_.code
        except BaseException:
            traceback.print_exc()
            return 99
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        return 0


def _ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a run in a fresh process; what it printed is shown where a test fails."""
    log = tmp_path_factory.mktemp("starts") / "log"
    log.touch()
    yield Starts(log)
    print(log.read_text()[-20_000:])


# what a report says of the machine and its clock; everything else of two equal runs is equal
OF_THE_CLOCK = {"tokens_per_second", "peak_memory_bytes", "seconds", "predicted"}


@pytest.fixture(scope="session")
def outcome_of():
    """All that a run leaves and that no clock decides: bytes of its files, leaves of its state."""

    def outcome_of(config):
        folder = run_folder.folder_of(config)
        files = [folder.path / "metrics.jsonl", *folder.model.iterdir()]
        files += folder.predictions.iterdir()
        place = config.runs_dir.encode()  # which model/config.json names
        found = {file.name: file.read_bytes().replace(place, b"") for file in files}
        report = folder.read_report()
        found |= _leaves({n: v for n, v in report.items() if n not in OF_THE_CLOCK}, "report")
        best, last = folder.best_checkpoints, folder.last_checkpoints
        for step in best.steps():
            found |= _leaves(read_weights(best.folder(step)), f"best.{step}")
        state = read_checkpoint(last.newest_whole(mend=False))
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
            found |= _leaves(state[part], part)
        return found

    return outcome_of


def _leaves(tree, path):
    if isinstance(tree, dict):
        branches = tree.items()
    elif isinstance(tree, (list, tuple)):
        branches = enumerate(tree)
    else:
        return {path: tree.numpy().tobytes() if isinstance(tree, torch.Tensor) else tree}
    return {
        at: leaf for k, branch in branches for at, leaf in _leaves(branch, f"{path}.{k}").items()
    }


def _questions(number):
    rows = []
    for i in range(number):
        name = ("Ann", "Bob", "Grant")[i % 3]
        text = "the sea is calm " * (i % 5) + f"the letter was written by {name} in 1801"
        answers = {"text": [name], "answer_start": [text.index(name)]}
        rows.append(
            {"id": str(i), "context": text, "question": "who wrote it ?", "answers": answers}
        )
    return "".join(json.dumps(row) + "\n" for row in rows)


# five batches an epoch: the third step of an epoch has one batch, and a validation after the third
# batch falls among accumulated gradients
OF_ALL = {
    "model.num_layers": 1,
    "model.hidden_dropout": 0.1,
    "model.attention_dropout": 0.1,
    "trainer.accumulate_grad_batches": 2,
}
WORST_FIRST = {"checkpoint.monitor": "loss", "checkpoint.mode": "max"}  # which falls: stops early
MLM = {"task.name": "mlm"}
RUNS = {
    "validation among gradients": {"trainer.val_check_interval": 3},
    "saved at every second step": {"checkpoint.every_n_steps": 2, "trainer.max_steps": 5},
    "stopped early": WORST_FIRST | {"checkpoint.patience": 1, "trainer.max_epochs": 5},
    "stopped early within an epoch": WORST_FIRST
    | {"checkpoint.patience": 2, "trainer.val_check_interval": 2, "trainer.max_epochs": 5},
    "validation at the end of an epoch": {},
    "validation between steps": {"trainer.val_check_interval": 2},
    "validation over epochs": {
        "trainer.val_check_interval": 4,
        "trainer.check_val_every_n_epoch": None,
    },
    "validation every second epoch": {
        "checkpoint.every_n_steps": 1,
        "trainer.check_val_every_n_epoch": 2,
    },
    "saved at every step": {"checkpoint.every_n_steps": 1, "trainer.val_check_interval": 2},
    "no dev split": {"data.dev_fraction": 0},
    "no dev split, saved at every second step": {
        "data.dev_fraction": 0,
        "checkpoint.every_n_steps": 2,
    },
    "loader processes": {"data.num_workers": 2, "trainer.val_check_interval": 2},
    "masked language modelling": MLM | {"trainer.val_check_interval": 2},
    "a stream": MLM
    | {
        "data.streaming": True,
        "data.shuffle_buffer": 5,
        "trainer.max_steps": 7,
        "trainer.val_check_interval": 4,
        "trainer.check_val_every_n_epoch": None,
    },
    "questions": {
        "task.name": "qa",
        "data.text_column": "context",
        "data.tokens_per_batch": 256,
        "data.stride": 8,
        "globals.question": True,
        "trainer.val_check_interval": 2,
    },
    "two ranks": {
        "trainer.strategy": "ddp",
        "trainer.devices": 2,
        "data.tokens_per_batch": 64,
        "trainer.val_check_interval": 3,
    },
}


@pytest.fixture(scope="session")
def make_breakable(make_config, tiny_fields, tmp_path_factory):
    """Make the config of one of `RUNS`, in a folder of its own."""
    questions = tmp_path_factory.mktemp("questions")
    for split, number in (("train", 24), ("dev", 8), ("test", 8)):
        (questions / f"{split}.jsonl").write_text(_questions(number))

    def make_breakable(name):
        fields = OF_ALL | RUNS[name]
        files = dict(tiny_fields["data.files"])
        if name == "questions":
            files = {split: str(questions / f"{split}.jsonl") for split in files}
        if "data.dev_fraction" in fields:
            del files["dev"]
        return make_config(tmp_path_factory.mktemp("runs"), **fields | {"data.files": files})

    return make_breakable


def pytest_generate_tests(metafunc):
    """`any_run`: each of `RUNS` that is a single process."""
    if "any_run" in metafunc.fixturenames:
        metafunc.parametrize("any_run", [name for name in RUNS if name != "two ranks"])
