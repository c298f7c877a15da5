"""Weights & Biases for a training that must not notice it: the training's side of the pipe."""

import atexit
import json
import logging
import os
import re
import select
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from longspan.config import LoggerConfig
from longspan.terminal import SECRETS
from longspan.training import wandb_process

log = logging.getLogger(__name__)

MAX_BACKLOG_BYTES = 8 * 2**20  # some 50,000 records


class DetachedWandbLogger(WandbLogger):
    """Lightning's WandbLogger whose run lives in another process (why: see `wandb_process`).

    wandb is not imported here. No call waits, raises or prints; what goes wrong is one warning.
    Hyperparameters, metrics, image files and artifacts of files are served. The other methods of
    Lightning's logger (tables, `watch`) are not, and no checkpoint is uploaded.

    Args:
        config: project, mode and so on.
        run_dir: the run folder; W&B's files go to its subfolder `wandb`.
        run_id: id of the W&B run; the same id continues the same run.
        group: W&B group, or None.
        hparams: the configuration as plain values.
    """

    def __init__(
        self,
        config: LoggerConfig,
        run_dir: Path,
        run_id: str,
        group: str | None,
        hparams: dict[str, Any],
    ) -> None:
        run_dir = Path(run_dir).resolve()
        run = {
            "project": config.project,
            "entity": config.entity,
            "group": group,
            "tags": list(config.tags),
            "name": run_dir.name,
            "id": _name(run_id),
            "dir": str(run_dir),
            "config": hparams,
        }
        options = {"run": run, "mode": config.mode, "timeout_seconds": config.timeout_seconds}
        self._run = RemoteRun(options)
        experiment: Any = self._run
        super().__init__(project=config.project, save_dir=run_dir, experiment=experiment)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # Lightning's would start a run and attach to it

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `RemoteRun`; Lightning's property would import wandb."""
        return self._run

    @property
    def version(self) -> str:
        """None: of the run's id, Lightning's progress bar would show the last four letters."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        values = vars(params) if isinstance(params, Namespace) else params
        self._run.call("update_config", dict(values))

    @rank_zero_only
    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Log image files. They are read soon after the call: do not overwrite or remove them.

        Args:
            key: name of the figure.
            images: paths of PNG or JPEG files.
            step: the training step they belong to.
            **kwargs: Lightning's captions, masks and boxes; left out.
        """
        paths = {key: [os.path.abspath(image) for image in images]}
        at_step = {} if step is None else {wandb_process.GLOBAL_STEP: step}
        self._run.call("log_images", {"paths": paths, **at_step})

    @rank_zero_only
    def log_files(self, name: str, kind: str, files: Sequence[Path]) -> None:
        """Keep files as an artifact.

        Args:
            name: of the artifact; W&B makes a new version of it where the files have changed.
            kind: W&B's type of the artifact.
            files: read soon after the call.
        """
        paths = [os.path.abspath(file) for file in files]
        self._run.call("log_files", {"name": _name(name), "type": kind, "paths": paths})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Note how it went. The run stays open: Lightning calls this after every fit and test."""
        self._run.exit_code = 1 if status == "failed" else 0

    def close(self) -> None:
        """Finish the W&B run, waiting `logger.timeout_seconds` at most; else done at exit."""
        self._run.finish()


class RemoteRun:
    """A wandb run in a process of its own, which starts at the first call.

    Calls go as JSON lines into a pipe that never blocks. What it does not take at once waits in
    memory; what is more than `MAX_BACKLOG_BYTES` is dropped, counted and reported.

    Args:
        options: for `wandb_process`: "run" (arguments of `wandb.init`), "mode", "timeout_seconds".
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.id: str = options["run"]["id"]
        self.exit_code = 1  # until somebody says that it went well
        self._options = options
        self._log_path = Path(options["run"]["dir"]) / "wandb" / "process.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._backlog = bytearray()
        self._dropped = 0
        self._ended = False

    def __getstate__(self) -> dict[str, Any]:
        """For launchers that pickle the trainer: a run goes along only if it has not started."""
        started = self._process is not None
        return {**self.__dict__, "_process": None, "_ended": self._ended or started}

    def log(self, values: dict[str, Any]) -> None:
        """As `wandb.Run.log`; Lightning's `WandbLogger.log_metrics` calls it."""
        self.call("log", values)

    def call(self, call: str, values: dict[str, Any]) -> None:
        """Hand a call to `wandb_process` and return at once; never raises."""
        if self._ended:
            return
        try:
            process = self._process or self._start()
            self._relay_reports(process)
            line = _json_line({"call": call, "values": values})
            if len(self._backlog) + len(line) > MAX_BACKLOG_BYTES:
                self._dropped += 1
            else:
                self._backlog += line
            self._push(process)
        except Exception as error:
            self._give_up(error)

    def finish(self) -> None:
        """Finish the run, waiting `timeout_seconds` at most; never raises."""
        if self._ended or self._process is None:
            return
        try:
            self._finish(self._process)
        except Exception as error:
            self._give_up(error)
        else:
            self._end(self._process)

    def _start(self) -> subprocess.Popen[bytes]:
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        environment.pop("WANDB_SERVICE", None)  # another run's service, which ends with that run
        for name in set(SECRETS) - {"WANDB_API_KEY"}:
            environment.pop(name, None)  # of the hub: none of its business
        with self._log_path.open("ab") as log_file:
            process = subprocess.Popen(
                # -P: the script's folder belongs to a package, whose modules are not top-level.
                [sys.executable, "-P", wandb_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                bufsize=0,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the training, which then ends the run
            )
        self._process = process
        atexit.register(self.finish)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._backlog += _json_line({**self._options, "training_pid": os.getpid()})
        return process

    def _push(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        if self._backlog:
            written = process.stdin.write(self._backlog)  # None: the pipe is full
            del self._backlog[: written or 0]

    def _relay_reports(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in (process.stdout.read() or b"").decode(errors="replace").splitlines():
            log.warning("%s (metrics.jsonl has everything; see %s)", line, self._log_path)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        timeout = self._options["timeout_seconds"]
        deadline = time.monotonic() + timeout
        # Said, not left to the closing of the pipe: a data loader's forked workers hold it open.
        self._backlog += _json_line({"call": "finish", "values": {"exit_code": self.exit_code}})
        self._push(process)
        while self._backlog and (left := deadline - time.monotonic()) > 0:
            select.select([], [process.stdin], [], left)
            self._push(process)
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"not done after logger.timeout_seconds={timeout:g}") from None
        if code:
            raise ChildProcessError(f"the W&B process ended with code {code}")

    def _give_up(self, error: Exception) -> None:
        """Stop tracking, with one warning unless `wandb_process` has given it."""
        self._ended = True
        if self._process is not None:
            self._end(self._process)
            if self._process.returncode == wandb_process.REPORTED:
                return
        log.warning(
            "W&B tracking is off from here: %s: %s (metrics.jsonl has everything; see %s)",
            type(error).__name__,
            error,
            self._log_path,
        )

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Leave nothing behind. wandb's service process ends by itself without its parent."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._ended = True
        atexit.unregister(self.finish)
        process.stdin.close()
        process.kill()
        process.wait()
        self._relay_reports(process)
        process.stdout.close()
        if self._dropped:
            log.warning("W&B was too slow and missed %d records", self._dropped)


def _name(text: str) -> str:
    """As an id that W&B takes: it reserves : ; , # ? / ' and has room for 128 characters."""
    name = re.sub(r"[^\w.=-]|^\.+", "-", text)
    if len(name) <= 128:
        return name
    return f"{name[:110]}-{sha256(name.encode()).hexdigest()[:16]}"


def _json_line(message: dict[str, Any]) -> bytes:
    return (json.dumps(message, default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    """The number of a tensor or NumPy scalar, the text of paths and the like."""
    return value.item() if hasattr(value, "item") else str(value)
