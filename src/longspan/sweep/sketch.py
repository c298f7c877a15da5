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
from longspan.sweep.plan import last_part
from longspan.sweep.results import LAYERS, SEED, WINDOW, CellResult, SweepResults
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
        field: whose values have the colors: the window, or the first swept field beside layers and
            seed where the window is not swept.
        series: its distinct values, numbers smallest first, full attention last.
        layers: distinct values.
        metric, mode: what counts, and whether it is to be max or min.
        kind, ceiling: of cost.
    """

    rows: list[Row]
    field: str
    series: list[Any]
    layers: list[Any]
    metric: str
    mode: str
    kind: Cost
    ceiling: float | None

    @classmethod
    def of(
        cls, results: SweepResults, rows: list[Row], kind: Cost, ceiling: float | None
    ) -> "Sketch":
        others = [f for f in results.plan.swept if f not in (LAYERS, SEED)]
        field = WINDOW if WINDOW in others or not others else others[0]
        series = [value_of(row.cells[0], field) for row in rows]
        ordered = distinct(series) if field == WINDOW else list(dict.fromkeys(series))
        layers = distinct([row.layers for row in rows if row.layers is not None])
        if len(layers) != 1:
            layers = distinct([row.layers for row in rows])
        return cls(rows, field, ordered, layers, *results.monitor, kind, ceiling)

    @property
    def is_of_windows(self) -> bool:
        return self.field == WINDOW

    @property
    def field_name(self) -> str:
        return last_part(self.field)

    def value(self, row: Row) -> Any:
        return value_of(row.cells[0], self.field)

    def layers_of(self, row: Row) -> Any:
        """A row that has not begun has those of all others, where they are not swept."""
        return self.layers[0] if len(self.layers) == 1 else row.layers

    def color(self, value: Any) -> Any:
        if not self.is_of_windows:
            return mpl.colormaps["tab10"](self.series.index(value) % 10)
        if value is None:
            return INK
        finite = [w for w in self.series if w is not None]
        place = finite.index(value) / max(1, len(finite) - 1) if value in finite else 0.5
        return mpl.colormaps["viridis"](0.85 * (1 - place))

    def marker(self, layers: Any) -> str:
        return MARKERS[self.layers.index(layers) % len(MARKERS)]

    def finished(self, value: Any) -> list[CellResult]:
        return [cell for row in self.rows if self.value(row) == value for cell in row.finished]

    def at(self, value: Any, layers: Any) -> list[Row]:
        return [r for r in self.rows if (self.value(r), self.layers_of(r)) == (value, layers)]

    def text(self, value: Any) -> str:
        """Of a color: `64`, `full`, or the last part of a preset's name."""
        if self.is_of_windows:
            return window_text(value)
        return label(value.rpartition("/")[-1] if isinstance(value, str) else value)


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


def value_of(cell: CellResult, field: str) -> Any:
    """Of a field, as something that can be told apart."""
    if field == WINDOW:
        return cell.window
    value = cell.values.get(field)
    return shown(value) if isinstance(value, list | dict) else value


def legend(axes: Axes, sketch: Sketch, others: Sequence[Line2D] = ()) -> None:
    before = "W=" if sketch.is_of_windows else ""
    colors = [
        Line2D([], [], color=sketch.color(v), marker="o", ls="", label=f"{before}{sketch.text(v)}")
        for v in sketch.series
    ]
    if axes.has_data():
        columns = 1 + (len(colors) + len(others) > 4)
        axes.legend(handles=[*colors, *others], loc="best", ncols=columns, handletextpad=0.4)
