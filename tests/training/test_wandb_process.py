"""Whatever wandb does to the process it runs in, the training gets by with one warning.

A module of ours stands in wandb's place, for what real wandb cannot be made to do.
"""

import json
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from longspan.config import LoggerConfig
from longspan.training import wandb_logger, wandb_process


@pytest.fixture
def fake_wandb(tmp_path, monkeypatch, no_wandb_account):
    """Put a module with this code in wandb's place, for the other process only."""

    def put(code):
        module = tmp_path / "fake" / "wandb" / "__init__.py"
        module.parent.mkdir(parents=True)
        module.write_text(FAKE_WANDB + textwrap.dedent(code))
        (module.parent / "errors.py").write_text("class UsageError(Exception): pass")
        monkeypatch.setenv("PYTHONPATH", str(module.parents[1]))
        return tmp_path / "fake" / "calls"

    return put


FAKE_WANDB = """
import os, pathlib, time
class Settings:
    model_fields = {}
class Run:
    def __getattr__(self, name):
        def call(*args, **kwargs):
            with open(pathlib.Path(__file__).parents[1] / "calls", "a") as file:
                print(name, *args, file=file)
        return call
def init(**options):
    return Run()
"""


BROKEN = {
    "import fails": "raise ImportError('half installed')",
    "init raises": "def init(**options): raise RuntimeError('half installed')",
    "init kills": "def init(**options): print('half installed'); os._exit(9)",
    "log kills": "def log(run, values): os._exit(9)\nRun.log = log",
    "finish raises": "def finish(run, code): raise RuntimeError('half installed')\nRun.finish = finish",
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_broken_wandb_is_one_warning(
    code, fake_wandb, make_logger, close_in_time, tracking_warnings
):
    fake_wandb(code)
    logger = make_logger()
    logger.log_metrics({"loss": 1.0}, step=0)
    if "finish" not in code:
        logger.experiment._process.wait(timeout=30)
    for step in range(1, 100):
        logger.log_metrics({"loss": 1.0}, step)
    logger.log_image("curve", ["missing.png"])
    logger.finalize("success")
    close_in_time(logger)
    (warning,) = [text for text in tracking_warnings() if "missed a record" not in text]
    assert "metrics.jsonl has everything" in warning


HANGING = {
    "import": "time.sleep(3600)",
    "init": "def init(**options): time.sleep(3600)",
    "log": "def log(run, values): time.sleep(3600)\nRun.log = log",
    "finish": "def finish(run, code): time.sleep(3600)\nRun.finish = finish",
}


@pytest.mark.parametrize("code", HANGING.values(), ids=HANGING)
def test_a_hanging_wandb_is_left_behind(
    code, fake_wandb, make_logger, monkeypatch, close_in_time, tracking_warnings
):
    monkeypatch.setattr(wandb_logger, "MAX_BACKLOG_BYTES", 50_000)
    fake_wandb(code)
    logger = make_logger(timeout=1.5)
    for step in range(3000):  # twice what pipe and backlog hold
        logger.log_metrics({"loss": 1.0}, step)
    assert len(logger.experiment._backlog) <= 50_000
    close_in_time(logger)
    for step in range(100):
        logger.log_metrics({"loss": 1.0}, step)
    texts = tracking_warnings()
    assert sum("TimeoutError: not done" in text for text in texts) == 1
    if "finish" not in code:
        assert any("missed" in text for text in texts)


def test_a_slow_start_loses_nothing(fake_wandb, make_logger, close_in_time, tracking_warnings):
    calls = fake_wandb("time.sleep(1)")
    logger = make_logger()
    for step in range(3000):  # three times what the pipe holds
        logger.log_metrics({"loss": 1.0}, step)
    logger.finalize("success")
    close_in_time(logger)
    logged = [line for line in calls.read_text().splitlines() if line.startswith("log ")]
    assert logged == [f"log {{'loss': 1.0, 'trainer/global_step': {n}}}" for n in range(3000)]
    assert calls.read_text().splitlines()[-1] == "finish 0"
    assert not tracking_warnings()


def test_a_run_ends_while_forked_workers_hold_the_pipe(
    fake_wandb, make_logger, close_in_time, tracking_warnings
):
    calls = fake_wandb("")
    logger = make_logger()
    logger.log_metrics({"loss": 1.0}, step=0)
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    worker.start()
    try:
        close_in_time(logger)
    finally:
        worker.kill()
        worker.join()
    assert calls.read_text().splitlines()[-1] == "finish 1"  # nobody said success
    assert not tracking_warnings()


def test_the_run_of_a_killed_training_is_finished_all_the_same(fake_wandb, tmp_path):
    calls = fake_wandb("")
    process = subprocess.Popen(
        [sys.executable, "-P", wandb_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    options = {"run": {}, "mode": "offline", "timeout_seconds": 5, "training_pid": os.getpid()}
    process.stdin.write(json.dumps(options).encode() + b"\n")
    process.stdin.write(b'{"call": "log", "values": {"loss": 1}}\n')
    process.stdin.flush()
    while not calls.exists() or "log {'loss': 1}" not in calls.read_text():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # the web page's Stop button
    process.communicate(b'{"call": "log", "val', timeout=30)  # killed in the middle of a record
    assert process.returncode == 0
    assert calls.read_text().splitlines()[-1] == f"finish {wandb_process.KILLED}"


def test_a_hanging_wandb_does_not_outlive_a_killed_training_for_long(fake_wandb):
    fake_wandb("def init(**options): time.sleep(3600)")
    training = f"""
        import json, os, subprocess, sys
        options = {{"timeout_seconds": 0.5, "training_pid": os.getpid()}}
        command = [sys.executable, "-P", {wandb_process.__file__!r}]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        process.stdin.write(json.dumps({{"run": {{}}, "mode": "offline", **options}}).encode())
        process.stdin.close()
        os._exit(9)
    """
    # Returns when the last process that has the output open is gone.
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(training)], capture_output=True, timeout=30
    )


def test_a_pickled_logger_starts_the_run_only_where_it_has_not_started(fake_wandb, make_logger):
    fake_wandb("")
    logger = make_logger()
    copy = pickle.loads(pickle.dumps(logger))
    copy.log_metrics({"loss": 1.0}, step=0)
    assert copy.experiment._process is not None
    inert = pickle.loads(pickle.dumps(copy))
    inert.log_metrics({"loss": 1.0}, step=0)
    assert inert.experiment._process is None
    copy.close()


def test_files_go_along_as_an_artifact(fake_wandb, make_logger, close_in_time, tracking_warnings):
    calls = fake_wandb("""
        class Artifact:
            def __init__(self, name, kind):
                self.said = [name, kind]
            def add_file(self, path):
                self.said.append(path)
            def __str__(self):
                return " ".join(self.said)
    """)
    logger = make_logger()
    logger.log_files("s,x-report", "report", [wandb_process.__file__])
    close_in_time(logger)
    said = [line for line in calls.read_text().splitlines() if line.startswith("log_artifact")]
    assert said == [f"log_artifact s-x-report report {wandb_process.__file__}"]
    assert not tracking_warnings()


def test_an_upload_of_files_that_hangs_is_left_behind(
    fake_wandb, make_logger, close_in_time, tracking_warnings
):
    fake_wandb("""
        class Artifact:
            def __init__(self, name, kind): pass
            def add_file(self, path): pass
        def log_artifact(run, artifact): time.sleep(3600)
        Run.log_artifact = log_artifact
    """)
    logger = make_logger(timeout=1.5)
    logger.log_files("s-report", "report", [wandb_process.__file__])
    close_in_time(logger)
    (warning,) = tracking_warnings()
    assert "TimeoutError: not done" in warning


def test_cells_have_ids_of_their_own_however_long_their_names(tmp_path):
    def run_id(seed):
        name = ",".join(f"field_{n}=0.001" for n in range(20)) + f",seed={seed}"
        logger = wandb_logger.DetachedWandbLogger(LoggerConfig(), tmp_path, f"s-{name}", "s", {})
        return logger.experiment.id

    assert run_id(0) == run_id(0) != run_id(1)
    assert len(run_id(0)) <= 128
    assert re.fullmatch(r"[\w.=-]+", run_id(0))
