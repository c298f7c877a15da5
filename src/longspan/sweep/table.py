"""Cells to rows: mean and standard deviation over seeds, the Pareto front, the winner."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from longspan.config import ModelConfig
from longspan.config.sweep import Cost
from longspan.sweep.plan import last_part
from longspan.sweep.results import LAYERS, SEED, WINDOW, CellResult, SweepResults

UNITS: dict[Cost, str] = {"time": "µs a token", "memory": "GiB", "flops": "MFLOPs a token"}


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation over the seeds of a row; no deviation of a single one."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Statistic | None":
        known = [v for v in values if v is not None and math.isfinite(v)]
        if not known:
            return None
        return cls(mean(known), stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Row:
    """Cells that differ in their seed only.

    Attributes:
        values: of the swept fields but the seed.
        cells: all of them; `finished` ones make the numbers.
    """

    values: dict[str, Any]
    cells: list[CellResult]
    metric: str

    @property
    def finished(self) -> list[CellResult]:
        return [cell for cell in self.cells if cell.status == "finished"]

    @property
    def label(self) -> str:
        return ", ".join(f"{last_part(name)}={shown(value)}" for name, value in self.values.items())

    @property
    def window(self) -> Any:
        return self.cells[0].window

    @property
    def layers(self) -> Any:
        return self.cells[0].layers

    @property
    def quality(self) -> Statistic | None:
        return self.metric_named(self.metric)

    def metric_named(self, name: str) -> Statistic | None:
        return Statistic.of([quality(cell, name) for cell in self.finished])

    def cost(self, kind: Cost) -> Statistic | None:
        return Statistic.of([cost(cell, kind) for cell in self.finished])

    def reported(self, name: str) -> Statistic | None:
        """Of a number in report.json."""
        return Statistic.of([number(cell.report.get(name)) for cell in self.finished])

    def predicted(self, name: str) -> Statistic | None:
        """Of a number that was predicted before training, where it was."""
        return Statistic.of([number(_predicted(cell).get(name)) for cell in self.finished])

    @property
    def model(self) -> ModelConfig | None:
        """Of the first cell that has written its configuration."""
        return next((cell.model for cell in self.cells if cell.model is not None), None)

    @property
    def reach(self) -> float | None:
        """How far windows carry a token's information on each side (`windows_reach`).

        None where that is not known yet, or where not windows alone carry it.
        """
        return self.model.windows_reach if self.model is not None else None


def rows_of(results: SweepResults) -> list[Row]:
    """One row for each combination of the swept values but the seed, in the order of the plan."""
    fields = [f for f in results.plan.swept or [WINDOW, LAYERS] if f != SEED]
    groups: dict[str, list[CellResult]] = {}
    for cell in results.cells:
        groups.setdefault(repr([cell.values.get(f) for f in fields]), []).append(cell)
    return [
        Row({f: cells[0].values.get(f) for f in fields}, cells, results.monitor[0])
        for cells in groups.values()
    ]


def quality(cell: CellResult, metric: str) -> float | None:
    return number(cell.report.get("metrics", {}).get(metric))


def cost(cell: CellResult, kind: Cost) -> float | None:
    """In the unit of `UNITS`; None where it was not measured."""
    if kind == "time":
        speed = number(cell.report.get("tokens_per_second"))
        return 1e6 / speed if speed else None
    name, report, unit = {
        "memory": ("peak_memory_bytes", cell.report, 2**30),
        "flops": ("flops_per_token", _predicted(cell), 1e6),
    }[kind]
    value = number(report.get(name))
    return None if value is None else value / unit


def _predicted(cell: CellResult) -> dict[str, Any]:
    found = cell.report.get("predicted")
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a report may hold."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def pareto_front(rows: Sequence[Row], kind: Cost, mode: str) -> list[Row]:
    """The rows that no other beats in both quality and cost, cheapest first."""
    front: list[Row] = []
    best = -math.inf
    for row, _, value in sorted(_weighed(rows, kind, mode), key=lambda w: (w[1], -w[2])):
        if value > best:
            front.append(row)
            best = value
    return front


def _weighed(rows: Sequence[Row], kind: Cost, mode: str) -> list[tuple[Row, float, float]]:
    """Rows with cost and quality known, the quality so that more is better."""
    sign = 1 if mode == "max" else -1
    return [
        (row, price.mean, sign * value.mean)
        for row in rows
        if (price := row.cost(kind)) is not None and (value := row.quality) is not None
    ]


def winner(rows: Sequence[Row], kind: Cost, ceiling: float | None, mode: str) -> Row | None:
    """The best row that costs no more than the ceiling.

    Without a ceiling: the cheapest row within one standard deviation of the best one's quality, as
    seeds alone move quality by so much.
    """
    weighed = _weighed(rows, kind, mode)
    if ceiling is not None:
        weighed = [w for w in weighed if w[1] <= ceiling]
        return max(weighed, key=lambda w: (w[2], -w[1]))[0] if weighed else None
    if not weighed:
        return None
    best = max(weighed, key=lambda w: (w[2], -w[1]))
    spread = best[0].quality
    assert spread is not None
    close = [w for w in weighed if w[2] >= best[2] - (spread.std or 0.0)]
    return min(close, key=lambda w: (w[1], -w[2]))[0]


def verdict(rows: Sequence[Row], kind: Cost, ceiling: float | None, mode: str) -> str:
    """The winner in one sentence."""
    chosen = winner(rows, kind, ceiling, mode)
    unit = UNITS[kind]
    if chosen is None and ceiling is not None:
        known = [price for row in rows if (price := row.cost(kind)) is not None]
        cheapest = f"; the cheapest needs {min(p.mean for p in known):.3g}" if known else ""
        return f"No finished cell stays below {ceiling:g} {unit}{cheapest}."
    if chosen is None:
        return "No cell is finished yet."
    price = chosen.cost(kind)
    assert price is not None
    said = f"{chosen.label}: {chosen.metric} {spread(chosen.quality, 3)} at {price.mean:.3g} {unit}"
    weighed = _weighed(rows, kind, mode)
    best = max(weighed, key=lambda w: (w[2], -w[1]))[0]
    best_price = best.cost(kind)
    assert best_price is not None
    if ceiling is not None:
        said = f"The best below {ceiling:g} {unit} is {said}"
    elif best is chosen:
        return f"The best is {said}, and nothing cheaper comes within a standard deviation of it."
    else:
        said = f"The cheapest within one standard deviation of the best is {said}"
    if best is chosen:
        return f"{said}, which is the best of all."
    return (
        f"{said}; the best of all, {best.label}, has {spread(best.quality, 3)} "
        f"at {best_price.mean:.3g}."
    )


def spread(value: Statistic | None, digits: int) -> str:
    """`0.917 ± 0.012`."""
    if value is None:
        return "–"
    std = "" if value.std is None else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{std}"


def shown(value: Any) -> str:
    """A swept value as its command line has it."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(shown(v) for v in value) + "]"
    return "null" if value is None else str(value)


def straight_line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Intercept, slope and R² of the least squares line; None of fewer than two places."""
    if len({x for x, _ in points}) < 2:
        return None
    mean_x, mean_y = mean(x for x, _ in points), mean(y for _, y in points)
    spread_x = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread_x
    intercept = mean_y - slope * mean_x
    total = sum((y - mean_y) ** 2 for _, y in points)
    rest = sum((y - intercept - slope * x) ** 2 for x, y in points)
    return intercept, slope, 1.0 - rest / total if total else 1.0


def as_csv(results: SweepResults) -> str:
    """A line for each cell, whatever became of it."""
    fields = list(dict.fromkeys(name for cell in results.cells for name in cell.values))
    metrics = list(dict.fromkeys(m for c in results.finished for m in c.report["metrics"]))
    facts = ["tokens_per_second", "peak_memory_bytes", "seconds", "parameters", "steps"]
    forecasts = list(dict.fromkeys(
        name for cell in results.finished for name, v in _predicted(cell).items()
        if number(v) is not None
    ))  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["cell", "status", "reason", *fields, *metrics, *facts]
        + [f"predicted_{name}" for name in forecasts]
    )
    for cell in results.cells:
        writer.writerow(
            [cell.name, cell.status, cell.reason]
            + [shown(cell.values.get(name)) for name in fields]
            + [cell.report.get("metrics", {}).get(name) for name in metrics]
            + [cell.report.get(name) for name in facts]
            + [_predicted(cell).get(name) for name in forecasts]
        )
    return out.getvalue()
