"""Pictures of a sweep over something else than windows: a line for each value, such as a pattern."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from longspan.config.sweep import Cost
from longspan.sweep.sketch import GREY, INK, Draw, Sketch, label
from longspan.sweep.table import UNITS, Row, quality

SHARE = 0.72  # of a line's height that its bars fill


def draw_quality(axes: Axes, sketch: Sketch) -> None:
    """Quality of each value: mean, standard deviation over seeds, and every run."""
    for place, row in _places(axes, sketch):
        color, found = sketch.color(sketch.value(row)), row.quality
        if found is None:
            failed = any(cell.status == "failed" for cell in row.cells)
            axes.annotate(
                "failed" if failed else "no result", (0.02, place), color=GREY, va="center",
                xycoords=("axes fraction", "data"), fontsize=8.5,
            )  # fmt: skip
            continue
        known = [quality(cell, sketch.metric) for cell in row.finished]
        runs = [value for value in known if value is not None]
        axes.plot(runs, [place] * len(runs), "o", color=color, markersize=3.5, alpha=0.5)
        axes.errorbar(
            found.mean, place, xerr=found.std, fmt=sketch.marker(sketch.layers_of(row)), color=color,
            markersize=7, elinewidth=1.2,
        )  # fmt: skip
        axes.annotate(
            f"{found.mean:.3f}", (found.mean, place), fontsize=8, color=INK, ha="center",
            xytext=(0, 6), textcoords="offset points",
        )  # fmt: skip
    axes.margins(x=0.12)
    axes.set(xlabel=sketch.metric, title=f"{sketch.metric} by {sketch.field_name}")


def draw_cost(kind: Cost, title: str) -> Draw:
    """A cost of each value, from zero on: bars may be compared by their lengths."""

    def draw(axes: Axes, sketch: Sketch) -> None:
        for place, row in _places(axes, sketch):
            found = row.cost(kind)
            if found is not None:
                axes.barh(
                    place, found.mean, height=SHARE / len(sketch.layers), xerr=found.std,
                    color=sketch.color(sketch.value(row)), ecolor=INK,
                )  # fmt: skip
                axes.annotate(
                    f" {found.mean:,.{0 if found.mean >= 100 else 2}f}", (found.mean, place), fontsize=8.5, color=INK, va="center",
                    xytext=(3, 0), textcoords="offset points",
                )  # fmt: skip
        axes.margins(x=0.15)
        axes.set(xlabel=UNITS[kind], title=f"{title} by {sketch.field_name}")

    return draw


def _places(axes: Axes, sketch: Sketch) -> Iterator[tuple[float, Row]]:
    """Rows with their height on the axes, the first at the top; numbers of layers side by side."""
    axes.set_yticks(range(len(sketch.series)), [sketch.text(v) for v in sketch.series])
    axes.set_ylim(len(sketch.series) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    step = SHARE / len(sketch.layers)
    for row in sketch.rows:
        middle = sketch.layers.index(sketch.layers_of(row)) - (len(sketch.layers) - 1) / 2
        yield sketch.series.index(sketch.value(row)) + step * middle, row
    if len(sketch.layers) > 1:
        markers = [(sketch.marker(n), f"{label(n)} layers") for n in sketch.layers]
        handles = [Line2D([], [], color=GREY, marker=m, ls="", label=text) for m, text in markers]
        axes.legend(handles=handles, loc="best")
