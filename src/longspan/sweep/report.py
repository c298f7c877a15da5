"""The report of a sweep: report.csv, report.png and report.html in its folder."""

import logging
from dataclasses import dataclass
from pathlib import Path

from longspan.config.sweep import Cost, SweepConfig
from longspan.durable import write_bytes
from longspan.sweep import bars
from longspan.sweep.figures import (
    draw_by_length,
    draw_cost,
    draw_curves,
    draw_heat_map,
    draw_pareto,
    draw_transfer,
)
from longspan.sweep.page import Picture, as_html
from longspan.sweep.results import SweepResults, read_sweep
from longspan.sweep.sketch import Draw, Sketch, as_png, as_svg
from longspan.sweep.table import as_csv, pareto_front, rows_of, verdict, winner
from longspan.training.run_folder import write_text

Figures = dict[str, tuple[Draw, str, str]]  # what draws it, what it is, how it is read

OF_WINDOWS: Figures = {
    "heat_map": (
        draw_heat_map,
        "Heat map of quality by window and layers",
        "Quality by window and number of layers; darker is better.",
    ),
    "time": (
        draw_cost("time", "time of a training token"),
        "Time of a training token against the window",
        "Every point a run. Windowed attention costs a constant and a share that grows with W: "
        "the line is fitted to all windows; full attention is told in words.",
    ),
    "memory": (
        draw_cost("memory", "peak memory"),
        "Peak memory against the window",
        "Of the whole process: libraries and data are the constant of the line. It is flat with the "
        "native kernel and FlexAttention, which keep nothing that grows with the window.",
    ),
}
OF_OTHERS: Figures = {
    "quality": (
        bars.draw_quality,
        "Quality of each value that was swept",
        "Mean and standard deviation over seeds; small dots are runs.",
    ),
    "time": (
        bars.draw_cost("time", "time of a training token"),
        "Time of a training token for each value that was swept",
        "On this machine and with the backend that serves it: patterns that the native kernel does "
        "not know are computed by plain PyTorch.",
    ),
    "memory": (
        bars.draw_cost("memory", "peak memory"),
        "Peak memory for each value that was swept",
        "Of the whole process, libraries and data among it.",
    ),
}
OF_ALL: Figures = {
    "pareto": (
        draw_pareto,
        "Scatter plot of quality against cost with the Pareto front",
        "Nothing is both better and cheaper than the ringed points; the star is the winner. "
        "Bars: standard deviation over seeds.",
    ),
    "by_length": (
        draw_by_length,
        "Quality by length of the document, a line for each color",
        "Mean of all layers and seeds; n = documents of that length.",
    ),
    "curves": (
        draw_curves,
        "Learning curves on the dev split",
        "Mean of the seeds at every validation.",
    ),
    "transfer": (
        draw_transfer,
        "Quality of trained models evaluated at other windows",
        "A model trained with one window, evaluated with others (eval.py run=… model.window=…).",
    ),
}
ORDER = ("heat_map", "quality", "pareto", "time", "memory", "by_length", "curves", "transfer")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """What became of a report.

    Attributes:
        results: that it shows.
        verdict: the winner in one sentence.
        files: csv, png and html.
    """

    results: SweepResults
    verdict: str
    files: list[Path]

    @property
    def summary(self) -> str:
        """One line about cells without a result; empty where there are none."""
        lacking = [c for c in self.results.cells if c.status not in ("finished", "pruned")]
        if not lacking:
            return ""
        first = lacking[0]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return (
            f"{len(lacking)} of {len(self.results.cells)} cells have no result: {first.name} "
            f"({first.status}: {first.reason}){more}"
        )


def draw(folder: Path, cost: Cost | None = None, ceiling: float | None = None) -> Drawn:
    """Read a sweep folder, finished or not, and write its report there.

    Args:
        folder: of the sweep.
        cost: what quality is weighed against; None = as the sweep was started.
        ceiling: the most it may be, in the unit of `table.UNITS`; None = as the sweep was started.

    Raises:
        UserError: there is no sweep, or the ceiling is no cost.
    """
    results = read_sweep(folder)
    kind = cost or results.plan.cost
    if ceiling is None and kind == results.plan.cost:
        ceiling = results.plan.ceiling
    SweepConfig(cost=kind, ceiling=ceiling)  # checks
    rows = rows_of(results)
    mode = results.monitor[1]
    said = verdict(rows, kind, ceiling, mode)
    sketch = Sketch.of(results, rows, kind, ceiling)
    chosen = figures_of(sketch)
    pictures = [Picture(as_svg(d, sketch), alt, caption) for d, alt, caption in chosen.values()]
    files = [folder / f"report.{kind}" for kind in ("csv", "png", "html")]
    write_text(files[0], as_csv(results))
    title = f"{folder.name}: {said}"
    write_bytes(files[1], as_png([d for d, _, _ in chosen.values()], sketch, title))
    front = pareto_front(rows, kind, mode)
    best = winner(rows, kind, ceiling, mode)
    write_text(files[2], as_html(results, rows, said, pictures, front, best))
    return Drawn(results, said, files)


def figures_of(sketch: Sketch) -> Figures:
    """In the order of the page."""
    figures = OF_ALL | (OF_WINDOWS if sketch.is_of_windows else OF_OTHERS)
    if not any(cell.transfer for row in sketch.rows for cell in row.cells):
        figures = {name: figure for name, figure in figures.items() if name != "transfer"}
    return {name: figures[name] for name in ORDER if name in figures}
