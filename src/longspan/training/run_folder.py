"""The folder of a run: its name, what it holds, and whether its work is done already."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from longspan.config import Config
from longspan.config.checks import DEVICES
from longspan.errors import UserError
from longspan.typed import from_dict, to_dict

# fields that do not change what a run computes, so that they neither name nor distinguish it
INCIDENTAL = (
    "runs_dir",
    "name",
    "experiment",
    "overwrite",
    "sweep",
    "logger",
    "data.num_proc",
    "data.num_workers",
    "data.cache_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.max_bad_steps",  # a run that gave up may go on with more of them
    "trainer.split_batches",
)


def run_name(overrides: Iterable[str]) -> str:
    """A run's name from its command line: `model.window=64 seed=1` gives `window=64,seed=1`.

    The same overrides give the same name, so that a command finds its own earlier work.
    """
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if not key.startswith(INCIDENTAL):
            parts.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return folder_name(parts)


def folder_name(parts: Iterable[str]) -> str:
    """Parts of a name joined by commas, without what a file system or a shell would stumble over.

    Whatever the parts hold, it is one part of a path that `checks.file_name` takes.
    """
    name = re.sub(r"[^\w.,=+@-]+", "_", ",".join(parts)) or "default"
    name = re.sub(r"^[.-]|[.]$", "_", name)  # no `..`, nothing hidden, no option of a command
    if name.partition(".")[0].casefold() in DEVICES:
        name = f"_{name}"
    if len(name.encode()) <= 200:
        return name
    start = name.encode()[:150].decode(errors="ignore")  # file systems count bytes
    return f"{start}-{sha256(name.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        return self.checkpoints / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.checkpoints / "best.ckpt"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report_file(self) -> Path:
        return self.path / "report.json"

    @property
    def is_finished(self) -> bool:
        """The report is written last."""
        return self.report_file.is_file()

    def read_report(self) -> dict[str, Any]:
        """As `write_report` wrote it.

        Raises:
            UserError: it is damaged.
        """
        try:
            report = json.loads(self.report_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.report_file} is damaged ({error}); remove it, and the same command "
                "finishes the run again"
            ) from error
        if not isinstance(report, dict):
            raise UserError(
                f"{self.report_file} is damaged (no mapping); remove it, and the same command "
                "finishes the run again"
            )
        return report

    def read_config(self) -> Config:
        """The config of the run.

        Raises:
            UserError: no run lies here.
        """
        try:
            data = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise UserError(f"run={self.path} holds no run ({error}); give a run folder") from error
        try:
            return from_dict(Config, data)
        except UserError as error:
            raise UserError(
                f"{self.config_file} is damaged or of another release ({error})"
            ) from error

    def check_free(self, config: Config) -> None:
        """Whether `config` may run here: nothing here, or the same run, begun or finished.

        Raises:
            UserError: the folder belongs to a run with another config.
        """
        if not self.config_file.exists() or config.overwrite:
            return
        differences = differing_fields(self.read_config(), config)
        if differences:
            state = "a finished" if self.is_finished else "an unfinished"
            raise UserError(
                f"{self.path} holds {state} run with another config ({'; '.join(differences)}); "
                "set name=… for a new folder, or overwrite=true to redo it here"
            )

    def with_its_budget(self, config: Config) -> Config:
        """The config, with the token budget that an earlier start of the run decided on."""
        if config.data.tokens_per_batch != "auto" or config.overwrite:
            return config
        if not self.config_file.exists():
            return config
        recorded = self.read_config().data.tokens_per_batch
        return replace(config, data=replace(config.data, tokens_per_batch=recorded))

    def prepare(self, config: Config) -> None:
        """Make the folder and write the config; empty it first where it is to be overwritten.

        Raises:
            UserError: a place where no folder can be made.
        """
        if config.overwrite and self.path.exists():
            shutil.rmtree(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, UnicodeEncodeError) as error:
            raise UserError(
                f"runs_dir={config.runs_dir}: {self.path} cannot be made ({getattr(error, 'strerror', error)}); "
                "name a folder that you may write to"
            ) from error
        if not self.config_file.exists():
            write_text(self.config_file, yaml.safe_dump(to_dict(config), sort_keys=False))

    def write_report(self, report: dict[str, Any]) -> None:
        write_text(self.report_file, json.dumps(report, indent=2) + "\n")

    def write_evaluation(self, name: str, summary: dict[str, Any]) -> None:
        """The result of an evaluation other than the run's own, beside its report."""
        write_text(self.path / f"eval-{name}.json", json.dumps(summary, indent=2) + "\n")

    def write_predictions(self, name: str, predictions: Iterable[Any]) -> Path:
        """One JSON object a line."""
        file = self.predictions / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        lines = (json.dumps(p.to_dict(), ensure_ascii=False) + "\n" for p in predictions)
        write_text(file, "".join(lines))
        return file

    def write_page(self, name: str, page: str) -> Path:
        """An HTML page beside the predictions."""
        file = self.predictions / f"{name}.html"
        write_text(file, page)
        return file

    def write_official(self, name: str, files: dict[str, Any]) -> Path:
        """A folder of JSON files in the format of an official scorer."""
        folder = self.predictions / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            write_text(folder / file, json.dumps(content, indent=1) + "\n")
        return folder


def folder_of(config: Config) -> RunFolder:
    """Where a run lies."""
    return RunFolder(Path(config.runs_dir) / config.experiment / config.name)


def write_text(file: Path, text: str) -> None:
    """Write aside, sync, rename: a reader or a kill never sees half a file."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """As `write_text`."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with aside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def differing_fields(old: Config, new: Config) -> list[str]:
    """`field: old → new` for every field that changes what a run computes."""
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    if new.data.tokens_per_batch == "auto":  # `old` has the number that it came to
        after["data.tokens_per_batch"] = before["data.tokens_per_batch"]
    return [
        f"{field}: {before.get(field)} → {after.get(field)}"
        for field in sorted(before.keys() | after.keys())
        if before.get(field) != after.get(field) and not field.startswith(INCIDENTAL)
    ]


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
