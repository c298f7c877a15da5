"""W&B gets what Lightning logs, and a W&B that fails or hangs stops no run and holds up none.

Real wandb, offline and against a stand-in for its server; nothing leaves this machine.
"""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from lightning import Trainer
from lightning.pytorch.callbacks.progress.progress_bar import get_standard_metrics
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from longspan.training import wandb_logger

KEY = "k0123456789012345678901234567890123456789"


class Server(ThreadingHTTPServer):
    """As much of the W&B server as a run needs, remembering what it was sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.config = {}
        self.files = {}
        self.stream = defaultdict(list)
        self.exit_code = None

    def handle_error(self, request, client_address):
        """wandb drops its connections at the end."""

    def graphql(self, operation, variables):
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "e", "username": "u", "flags": "{}"}}
        if operation == "UpsertBucket":
            self.config |= json.loads(variables["config"] or "{}")
            project = {"id": "p", "name": "longspan", "entity": {"id": "e", "name": "e"}}
            bucket = {"id": "aWQ=", "name": variables["name"], "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if operation == "CreateRunFiles":
            urls = [{"name": n, "uploadUrl": f"{self.url}/put/{n}"} for n in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": urls}}
        return {"model": None}


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args):
        """Silent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = {}
        if self.path == "/graphql":
            query = json.loads(body)
            data = self.server.graphql(query["operationName"], query.get("variables"))
            answer = {"data": data}
        elif self.path.endswith("/file_stream"):
            message = json.loads(body)
            for name, chunk in message.get("files", {}).items():
                self.server.stream[name] += map(json.loads, chunk["content"])
            self.server.exit_code = message.get("exitcode", self.server.exit_code)
        else:
            self.server.files[self.path.removeprefix("/put/")] = body
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # noqa: N815


@pytest.fixture
def server(no_wandb_account):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hanging_url(no_wandb_account):
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def online(monkeypatch, url):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", url)


def offline_files(run_dir):
    return list(run_dir.glob("wandb/offline-run-*/run-exp-window=8-seed=0.wandb"))


def test_a_key_takes_config_metrics_and_figures_to_the_server(
    server, make_logger, run_dir, monkeypatch, close_in_time, tracking_warnings
):
    online(monkeypatch, server.url)
    run_dir.mkdir()
    Image.new("RGB", (4, 4), "red").save(run_dir / "figure.png")
    logger = make_logger(hparams={"model": {"window": 8}, "path": Path("x")})
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=0)
    logger.finalize("success")  # after fit; test comes next
    logger.log_hyperparams({"seed": np.int64(3)})
    logger.log_metrics({"loss": float("nan"), "epoch": 1}, step=10)
    logger.log_image("curve", [str(run_dir / "figure.png")])
    logger.finalize("success")
    close_in_time(logger)

    history = server.stream["wandb-history.jsonl"]
    assert [row.get("trainer/global_step") for row in history] == [0, 10, 10]  # the last is synced
    assert history[0]["loss"] == 0.5
    (figure,) = history[2]["curve"]["filenames"]
    assert server.files[figure] == (run_dir / "figure.png").read_bytes()
    assert server.config["model"]["value"] == {"window": 8}
    assert server.config["seed"]["value"] == 3
    assert server.exit_code == 0
    metadata = json.loads(server.files["wandb-metadata.json"])
    assert not metadata.get("git")
    assert not metadata.get("host")
    assert not [name for name in server.files if name.endswith((".py", ".patch", ".log"))]
    assert not tracking_warnings()
    for path in run_dir.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_failed_run_is_marked_failed(server, make_logger, monkeypatch, close_in_time):
    online(monkeypatch, server.url)
    logger = make_logger()
    logger.log_metrics({"loss": 0.5}, step=0)
    logger.finalize("failed")
    close_in_time(logger)
    assert server.exit_code == 1


@pytest.mark.parametrize("mode", ["auto", "offline"])
def test_without_a_key_the_run_is_written_to_disk(
    mode, make_logger, run_dir, monkeypatch, close_in_time, tracking_warnings
):
    monkeypatch.delenv("WANDB_MODE")
    logger = make_logger(mode, hparams={"window": 8})
    logger.log_metrics({"dev/exact_match": 0.5}, step=0)
    close_in_time(logger)
    (file,) = offline_files(run_dir)
    assert b"dev/exact_match" in file.read_bytes()
    assert b"window" in file.read_bytes()
    assert not tracking_warnings()


@pytest.mark.parametrize("key", [None, "tooshort"])
def test_online_without_a_good_key_goes_offline_with_one_warning(
    key, make_logger, run_dir, monkeypatch, close_in_time, tracking_warnings
):
    monkeypatch.delenv("WANDB_MODE")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    logger = make_logger("online")
    logger.log_metrics({"loss": 0.5}, step=0)
    close_in_time(logger)
    (warning,) = tracking_warnings()
    assert "records offline" in warning
    assert "API key" in warning
    assert not key or key not in warning
    assert offline_files(run_dir)


def test_the_environment_overrules_the_configured_mode(
    make_logger, run_dir, hanging_url, monkeypatch, close_in_time
):
    online(monkeypatch, hanging_url)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = make_logger("online")
    logger.log_metrics({"loss": 0.5}, step=0)
    close_in_time(logger)
    assert offline_files(run_dir)


def test_behind_a_hanging_server_the_run_is_written_to_disk(
    hanging_url, make_logger, run_dir, monkeypatch, close_in_time, tracking_warnings
):
    online(monkeypatch, hanging_url)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")  # seconds that wandb waits for an answer; not 10
    logger = make_logger("online")
    logger.log_metrics({"loss": 0.5}, step=0)
    close_in_time(logger)
    (warning,) = tracking_warnings()
    assert "records offline" in warning
    assert offline_files(run_dir)


def test_a_hanging_server_does_not_keep_the_program_from_ending(hanging_url, run_dir, monkeypatch):
    online(monkeypatch, hanging_url)
    program = f"""
        import sys
        from pathlib import Path
        from longspan.config import LoggerConfig
        from longspan.training.tracking import build_loggers

        config = LoggerConfig(mode="online", timeout_seconds=2)
        loggers = build_loggers(config, Path({str(run_dir)!r}), "id", None, {{}})
        for step in range(1000):
            for logger in loggers:
                logger.log_metrics({{"loss": 1 / (step + 1)}}, step)
        for logger in loggers:
            logger.finalize("success")
        assert "wandb" not in sys.modules
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(wandb_logger.__file__).parents[2])},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("W&B") == 1, ended.stderr
    assert "timeout_seconds=2" in ended.stderr
    assert (run_dir / "metrics.jsonl").read_text().count("\n") == 1000


def test_a_missing_figure_does_not_stop_the_metrics(
    make_logger, run_dir, close_in_time, tracking_warnings
):
    logger = make_logger()
    logger.log_image("curve", [run_dir / "missing.png"], step=0)
    logger.log_image("curve", [run_dir / "missing.png"], step=1)
    logger.log_metrics({"dev/exact_match": 0.5}, step=1)
    close_in_time(logger)
    (warning,) = tracking_warnings()
    assert "missed a record" in warning
    assert b"dev/exact_match" in offline_files(run_dir)[0].read_bytes()


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's, with torch 2.13
def test_lightning_is_served_and_no_checkpoint_is_uploaded(
    make_logger, run_dir, close_in_time, tracking_warnings
):
    logger = make_logger()
    trainer = Trainer(
        logger=logger,
        default_root_dir=run_dir,
        max_steps=2,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = BoringModel()
    model.test_step = lambda batch: model.log("test/exact_match", 0.5)
    trainer.fit(model)
    trainer.test(model, verbose=False)
    assert logger.name == "longspan"
    assert get_standard_metrics(trainer) == {}  # no end of the run's id on the progress bar
    assert list(run_dir.rglob("*.ckpt"))
    close_in_time(logger)
    (file,) = offline_files(run_dir)
    assert b"test/exact_match" in file.read_bytes()
    assert not list((run_dir / "wandb").rglob("*.ckpt"))
    assert not [text for text in tracking_warnings() if "W&B" in text]
