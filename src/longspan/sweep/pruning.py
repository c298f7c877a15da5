"""Whether a cell still has a chance: the median rule on the dev metric at its validations.

Golovin et al. 2017, "Google Vizier", section 3.2.2: a run is stopped at a step if its best value
so far is worse than the median of what finished runs had at that step.
"""

from pathlib import Path
from statistics import median

from longspan.sweep.paths import CellPaths
from longspan.sweep.results import CellResult, read_sweep
from longspan.sweep.table import number


def hopeless(sweep: Path, name: str, least: int) -> str | None:
    """The reason to stop a cell, or None.

    Args:
        sweep: folder of the sweep.
        name: of the cell.
        least: finished cells that there must be before any is stopped.
    """
    if not (CellPaths(sweep, name).folder.path / "metrics.jsonl").exists():
        return None
    results = read_sweep(sweep)
    metric, mode = results.monitor
    (own,) = [cell for cell in results.cells if cell.name == name] or [None]
    if own is None or len(results.finished) < least:
        return None
    curve = _best_so_far(own, metric, mode)
    if not curve:
        return None
    step = max(curve)
    others = [
        best[max(s for s in best if s <= step)]
        for cell in results.finished
        if (best := _best_so_far(cell, metric, mode)) and min(best) <= step
    ]
    if len(others) < least:
        return None
    middle = median(others)
    worse = curve[step] < middle if mode == "max" else curve[step] > middle
    if not worse:
        return None
    return (
        f"dev/{metric} {curve[step]:.4g} at step {step + 1} is worse than the median {middle:.4g} "
        f"of {len(others)} finished cells"
    )


def _best_so_far(cell: CellResult, metric: str, mode: str) -> dict[int, float]:
    """Step to the best value of the dev metric up to it."""
    better = max if mode == "max" else min
    best: dict[int, float] = {}
    for record in cell.records:
        value = number(record.get(f"dev/{metric}"))
        if value is not None:
            best[record["step"]] = better([value, *list(best.values())[-1:]])
    return best
