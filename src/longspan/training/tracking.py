"""Where metrics go: `metrics.jsonl`, the record of truth, and Weights & Biases on the side."""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from longspan.config import LoggerConfig
from longspan.training.wandb_logger import DetachedWandbLogger

log = logging.getLogger(__name__)

SPEED_PREFIX = "speed/"  # metrics that depend on the clock


def build_loggers(
    config: LoggerConfig, run_dir: Path, run_id: str, group: str | None, hparams: dict[str, Any]
) -> list[Logger]:
    """The loggers of a run, for `Trainer(logger=...)`; the metrics file is always the first.

    Args:
        config: which tracker, and how it is set up.
        run_dir: the run folder.
        run_id: names the W&B run; a resumed run with the same id continues the same W&B run.
        group: W&B group, the runs of one sweep for instance.
        hparams: the configuration as plain values, shown by W&B.
    """
    loggers: list[Logger] = [MetricsFile(run_dir)]
    if config.kind == "none" or os.environ.get("WANDB_MODE") == "disabled":
        return loggers
    if importlib.util.find_spec("wandb") is None:
        _warn_missing()
        return loggers
    loggers.append(DetachedWandbLogger(config, run_dir, run_id, group, hparams))
    return loggers


class MetricsFile(Logger):
    """Writes every logged metric to `<run_dir>/metrics.jsonl`, one JSON object a line.

    A line is {"step": …, "epoch": …, "<metric>": …}, with null for what is not finite, in one
    write, so that a kill leaves half a last line at most. Nothing in it depends on the clock: the
    same run with the same seed writes the same bytes. Metrics under "speed/" do depend on it and
    go to `speed.jsonl`.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = Path(run_dir)
        self.metrics_path = self.run_dir / "metrics.jsonl"
        self.speed_path = self.run_dir / "speed.jsonl"
        self._cut_broken_tails()

    # Lightning makes the default checkpoint folder of these three: <run_dir>/checkpoints.
    @property
    def save_dir(self) -> str:
        return str(self.run_dir)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # in an order of their own: a resumed run may meet some of them earlier
        names = sorted(metrics, key=lambda name: (name == "epoch", name))
        numbers = {name: _json_number(metrics[name]) for name in names}
        speed = {name: numbers.pop(name) for name in metrics if name.startswith(SPEED_PREFIX)}
        if numbers.keys() - {"epoch"}:
            _append_line(self.metrics_path, {"step": step, **numbers})
        if speed:
            _append_line(self.speed_path, {"step": step, **speed})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the run folder has its config.yaml."""

    @rank_zero_only
    def discard_from(self, step: int) -> None:
        """Drop the records of `step` and later, which a run resumed at `step` writes again.

        With Lightning, `step` is `trainer.global_step` in `on_train_start`: records carry the
        number of optimiser steps before theirs.
        """
        for path in (self.metrics_path, self.speed_path):
            if path.exists():
                lines = _complete_lines(path)
                kept = [line for line in lines if (json.loads(line)["step"] or 0) < step]
                partial = path.with_suffix(".partial")
                partial.write_bytes(b"".join(kept))
                partial.replace(path)

    @rank_zero_only
    def _cut_broken_tails(self) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        for path in (self.metrics_path, self.speed_path):
            if path.exists():
                os.truncate(path, sum(map(len, _complete_lines(path))))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; half a last line, of a run killed in writing, is left out.

    Raises:
        json.JSONDecodeError: a line before the last is not JSON.
    """
    return [json.loads(line) for line in _complete_lines(path)]


def _complete_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _append_line(path: Path, record: dict[str, Any]) -> None:
    line = json.dumps(record, allow_nan=False) + "\n"
    # Opened each time: costs microseconds a record, and leaves no handle to close or to pickle.
    with path.open("ab", buffering=0) as file:
        file.write(line.encode())


def _json_number(value: Any) -> Any:
    number = value.item() if hasattr(value, "item") else value  # tensors, NumPy scalars
    return None if isinstance(number, float) and not math.isfinite(number) else number


@rank_zero_only
def _warn_missing() -> None:
    log.warning("W&B tracking is off: wandb is not installed; `pip install wandb` or logger=none")
