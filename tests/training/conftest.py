"""What the tests of tracking share: an empty W&B account, and loggers that end with their test."""

import os
import sys
import time
import traceback

import pytest

from longspan.command import set_up_logging
from longspan.config import LoggerConfig
from longspan.training import run
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


class Starts:
    """Starts of a run, each in a process of its own, forked before any of them trained.

    Args:
        log: file for what they print.
    """

    def __init__(self, log):
        self.log = log

    def __call__(self, config, *callbacks):
        """Train to the end of the process: its exit code, or minus the signal that ended it.

        Args:
            config: of the run.
            callbacks: Lightning's, beside those of a run.
        """
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = self._train(config, callbacks)
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _train(self, config, callbacks):
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        set_up_logging()
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
        return 0


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a run in a fresh process; what it printed is shown where a test fails."""
    log = tmp_path_factory.mktemp("starts") / "log"
    yield Starts(log)
    if log.exists():
        print(log.read_text()[-20_000:])
