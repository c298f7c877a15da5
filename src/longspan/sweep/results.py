"""A sweep folder, finished or not, read cell by cell. Nothing in it is trusted to be whole."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from longspan.config import ModelConfig
from longspan.errors import UserError
from longspan.lock import owner_of
from longspan.sweep.paths import RESERVED, CellPaths
from longspan.sweep.plan import Plan, read_plan
from longspan.sweep.prediction import read_forecast
from longspan.typed import from_dict

Status = Literal["finished", "running", "pruned", "failed", "broken off", "missing"]
WINDOW, LAYERS, SEED = "model.window", "model.num_layers", "seed"


@dataclass(frozen=True)
class CellResult:
    """What is known of a cell.

    Attributes:
        name: its folder's.
        status: `broken off` = begun, not finished, nobody at it: the same command resumes it.
        reason: why there is no result.
        values: dotted field to value, of the swept fields, window, layers and seed.
        report: as in report.json; empty where there is none.
        records: of metrics.jsonl.
        transfer: evaluations at other windows, as `eval.py run=… model.window=…` left them.
        model: as the cell's config.yaml has it; None where it cannot be read.
    """

    name: str
    status: Status
    reason: str
    values: dict[str, Any]
    report: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    transfer: list[dict[str, Any]] = field(default_factory=list)
    model: ModelConfig | None = None

    @property
    def window(self) -> Any:
        """In tokens; None = full attention; a tuple = per layer."""
        window = self.values.get(WINDOW)
        return tuple(window) if isinstance(window, list) else window

    @property
    def layers(self) -> Any:
        return self.values.get(LAYERS)


@dataclass(frozen=True)
class SweepResults:
    """All cells of a sweep folder, in the order of the plan, and what varies."""

    folder: Path
    plan: Plan
    cells: list[CellResult]

    @property
    def finished(self) -> list[CellResult]:
        return [cell for cell in self.cells if cell.status == "finished"]

    def having(self, *statuses: Status) -> list[CellResult]:
        return [cell for cell in self.cells if cell.status in statuses]

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that counts, and whether it is to be `max` or `min`."""
        for cell in self.finished:
            if cell.report.get("monitor"):
                name, mode = cell.report["monitor"]
                return str(name), str(mode)
            if cell.report.get("metrics"):
                name = next(iter(cell.report["metrics"]))
                return name, "min" if name == "loss" else "max"
        return "quality", "max"


def read_sweep(folder: Path) -> SweepResults:
    """Read a sweep folder.

    Raises:
        UserError: there is no sweep.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give that of a sweep: sweeps/<name>")
    plan = read_plan(folder) or Plan()
    names = list(dict.fromkeys([*plan.cells, *_cell_folders(folder)]))
    forecast = read_forecast(folder)
    if not names:
        raise UserError(f"{folder} holds no cell of a sweep; give the folder of a sweep")
    cells = [read_cell(CellPaths(folder, name), plan, forecast.get(name)) for name in names]
    return SweepResults(folder, plan, cells)


def _cell_folders(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in RESERVED and not path.name.startswith("."):
            kept = ("config.yaml", "report.json", "failed.json")
            if any((path / name).exists() for name in kept):
                yield path.name


def read_cell(paths: CellPaths, plan: Plan, forecast: dict[str, Any] | None = None) -> CellResult:
    """Read one cell.

    Args:
        paths: of the cell.
        plan: of its sweep.
        forecast: of its time (`prediction.read_forecast`), for `predicted` in its report.
    """
    values = dict(plan.cells.get(paths.name, {}))
    config = _read_config(paths.folder.config_file)
    for dotted in dict.fromkeys([*plan.swept, WINDOW, LAYERS, SEED]):
        found = _at(config, dotted)
        if not isinstance(found, dict):  # a group: its name says more than its fields
            values.setdefault(dotted, found)
            if dotted in (WINDOW, LAYERS) and config:
                values[dotted] = found  # `keep`, of a pretrained model, is a number by now
    report = _read_json(paths.folder.report_file)
    if isinstance(forecast, dict):
        report["predicted"] = forecast | (report.get("predicted") or {})
    status, reason = _status(paths, report)
    finished = status == "finished"
    return CellResult(
        paths.name,
        status,
        reason,
        values,
        report if finished else {},
        _read_records(paths.folder.path / "metrics.jsonl"),
        [t for f in sorted(paths.folder.path.glob("eval-*-window=*.json")) if (t := _read_json(f))],
        _model_of(config),
    )


def _status(paths: CellPaths, report: dict[str, Any]) -> tuple[Status, str]:
    folder = paths.folder
    if report.get("metrics"):
        return "finished", ""
    if owner := owner_of(paths.lock):
        return "running", f"by {owner}"
    failure = _read_json(paths.failure)
    if failure:
        return ("pruned" if failure.get("kind") == "pruned" else "failed"), str(
            failure.get("reason", "no reason was written down")
        )
    if folder.is_finished:
        return "failed", "report.json is damaged or has no metrics; the same command redoes it"
    if folder.config_file.exists():
        return "broken off", "the same command resumes it"
    return "missing", "not started"


def _read_config(file: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return data if isinstance(data, dict) else {}


def _model_of(config: dict[str, Any]) -> ModelConfig | None:
    try:
        return from_dict(ModelConfig, config["model"])
    except (KeyError, TypeError, UserError):
        return None


def _at(config: dict[str, Any], dotted: str) -> Any:
    node: Any = config
    for key in dotted.split("."):
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _read_records(file: Path) -> list[dict[str, Any]]:
    """Lines that can be read: the last one may be half written as we look."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records
