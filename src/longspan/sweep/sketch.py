"""What the pictures of a sweep share: colors, markers, paper."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from longspan.config.sweep import Cost
from longspan.sweep.results import CellResult, SweepResults
from longspan.sweep.table import Row, shown
from longspan.terminal import on_one_line

SIZE = (5.4, 3.7)  # inches: readable at the width of a phone
LABEL_WIDTH = 24  # characters
MARKERS = "osD^vP*X"
INK, GREY, FRONT = "#1f2933", "#8794a3", "#c2410c"
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.hashsalt": "longspan",  # the same sweep draws the same bytes
    "text.parse_math": False,  # names of folders and metrics are no formulas
}


@dataclass(frozen=True)
class Sketch:
    """What the pictures share.

    Attributes:
        rows: of the table.
        windows, layers: distinct values, smallest first, full attention last.
        metric, mode: what counts, and whether it is to be max or min.
        kind, ceiling: of cost.
    """

    rows: list[Row]
    windows: list[Any]
    layers: list[Any]
    metric: str
    mode: str
    kind: Cost
    ceiling: float | None

    @classmethod
    def of(
        cls, results: SweepResults, rows: list[Row], kind: Cost, ceiling: float | None
    ) -> "Sketch":
        windows = distinct([row.window for row in rows])
        layers = distinct([row.layers for row in rows])
        return cls(rows, windows, layers, *results.monitor, kind, ceiling)

    def color(self, window: Any) -> Any:
        if window is None:
            return INK
        finite = [w for w in self.windows if w is not None]
        place = finite.index(window) / max(1, len(finite) - 1) if window in finite else 0.5
        return mpl.colormaps["viridis"](0.85 * (1 - place))

    def marker(self, layers: Any) -> str:
        return MARKERS[self.layers.index(layers) % len(MARKERS)]

    def finished(self, window: Any) -> list[CellResult]:
        return [cell for row in self.rows if row.window == window for cell in row.finished]

    def at(self, window: Any, layers: Any) -> list[Row]:
        return [row for row in self.rows if (row.window, row.layers) == (window, layers)]


Draw = Callable[[Axes, Sketch], None]


def as_svg(draw: Draw, sketch: Sketch) -> bytes:
    """One picture as a file of its own."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots(), sketch)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def as_png(draws: Sequence[Draw], sketch: Sketch, title: str) -> bytes:
    """All pictures on one sheet."""
    columns = 2 if len(draws) < 5 else 3
    lines = math.ceil(len(draws) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0] * columns, SIZE[1] * lines + 0.5), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
        places = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, draw in zip(places, draws):
            draw(axes, sketch)
        for axes in places[len(draws) :]:
            axes.set_visible(False)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def distinct(values: Sequence[Any]) -> list[Any]:
    """Numbers in their order, then whatever else, then None, which stands for full attention."""
    kinds = {repr(v): v for v in values}
    return sorted(
        kinds.values(),
        key=lambda v: (v is None, not isinstance(v, int), v if isinstance(v, int) else 0, str(v)),
    )


def label(value: Any) -> str:
    """A value where there is little room."""
    text = on_one_line(shown(value))
    return text if len(text) <= LABEL_WIDTH else f"{text[: LABEL_WIDTH - 1]}…"


def window_text(window: Any) -> str:
    return "full" if window is None else label(window)


def window_legend(axes: Axes, sketch: Sketch, others: Sequence[Line2D] = ()) -> None:
    colors = [
        Line2D([], [], color=sketch.color(w), marker="o", ls="", label=f"W={window_text(w)}")
        for w in sketch.windows
    ]
    if axes.has_data():
        columns = 1 + (len(colors) + len(others) > 4)
        axes.legend(handles=[*colors, *others], loc="best", ncols=columns, handletextpad=0.4)
