"""The pictures of a sweep: one color for each window, or for each value of what is swept instead,
one marker for each number of layers."""

import math
from statistics import mean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from longspan.config.sweep import Cost
from longspan.sweep.sketch import FRONT, GREY, INK, Draw, Sketch, label, legend, window_text
from longspan.sweep.table import (
    UNITS,
    Row,
    cost,
    number,
    pareto_front,
    straight_line,
    winner,
)


def draw_heat_map(axes: Axes, sketch: Sketch) -> None:
    """Quality by window and layers, the better cells darker."""
    values = np.full((len(sketch.layers), len(sketch.series)), math.nan)
    notes: dict[tuple[int, int], str] = {}
    for i, layers in enumerate(sketch.layers):
        for j, window in enumerate(sketch.series):
            there = sketch.at(window, layers)
            known = [q for row in there if (q := row.quality) is not None]
            if known:
                choose = max if sketch.mode == "max" else min
                best = choose(known, key=lambda q: q.mean)
                values[i, j] = best.mean
                notes[i, j] = f"{best.mean:.3f}"
                notes[i, j] += "" if best.std is None else f"\n± {best.std:.3f}"
            elif there:
                failed = any(cell.status == "failed" for row in there for cell in row.cells)
                notes[i, j] = "failed" if failed else "no result"
    palette = mpl.colormaps["YlGnBu" if sketch.mode == "max" else "YlGnBu_r"].with_extremes(
        bad="#eef1f4"
    )
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0, 1)
    room = (high - low) or 1.0
    axes.imshow(
        values, cmap=palette, vmin=low - 0.25 * room, vmax=high + 0.35 * room, aspect="auto"
    )
    for (i, j), note in notes.items():
        share = (values[i, j] - low + 0.25 * room) / (1.6 * room)
        dark = share > 0.6 if sketch.mode == "max" else share < 0.4
        axes.text(j, i, note, ha="center", va="center", fontsize=9, color="white" if dark else INK)
    axes.set_xticks(range(len(sketch.series)), [window_text(w) for w in sketch.series])
    axes.set_yticks(range(len(sketch.layers)), [label(n) for n in sketch.layers])
    axes.set(xlabel="window W (one-sided)", ylabel="layers", title=f"{sketch.metric} by W × layers")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def draw_pareto(axes: Axes, sketch: Sketch) -> None:
    """Quality against cost, the front that nothing beats, the ceiling and the winner."""
    for row in sketch.rows:
        price, value = row.cost(sketch.kind), row.quality
        if price is None or value is None:
            continue
        axes.errorbar(
            price.mean, value.mean, yerr=value.std, xerr=price.std,
            fmt=sketch.marker(sketch.layers_of(row)), color=sketch.color(sketch.value(row)), markersize=7,
            elinewidth=0.8, alpha=0.9,
        )  # fmt: skip
    front = pareto_front(sketch.rows, sketch.kind, sketch.mode)
    places = [_place(row, sketch.kind) for row in front]
    if places:
        axes.plot(*zip(*places), drawstyle="steps-post", color=FRONT, linewidth=1.4, zorder=1)
    for i, (row, (x, y)) in enumerate(zip(front, places)):
        axes.plot(x, y, "o", markersize=13, markerfacecolor="none", color=FRONT)
        axes.annotate(
            f"{sketch.text(sketch.value(row))}, {label(sketch.layers_of(row))}L", (x, y), fontsize=8, color=FRONT,
            xytext=((7, -13), (-7, 9))[i % 2], ha=("left", "right")[i % 2],
            textcoords="offset points",
        )  # fmt: skip
    chosen = winner(sketch.rows, sketch.kind, sketch.ceiling, sketch.mode)
    if chosen is not None:
        x, y = _place(chosen, sketch.kind)
        axes.plot(x, y, "*", markersize=7, color="white", markeredgecolor=FRONT, zorder=5)
    if sketch.ceiling is not None:
        axes.axvline(sketch.ceiling, color=GREY, linestyle=":")
    if places:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
        axes.margins(x=0.12, y=0.12)
    axes.set(
        xlabel=f"{sketch.kind}: {UNITS[sketch.kind]} (log)",
        ylabel=sketch.metric,
        title=f"{sketch.metric} against {sketch.kind}",
    )
    shapes = [
        Line2D([], [], color=GREY, marker=sketch.marker(n), ls="", label=f"{label(n)} layers")
        for n in sketch.layers
    ]
    legend(axes, sketch, shapes)


def _place(row: Row, kind: Cost) -> tuple[float, float]:
    price, value = row.cost(kind), row.quality
    assert price is not None
    assert value is not None
    return price.mean, value.mean


def draw_cost(kind: Cost, title: str) -> Draw:
    """A cost against the window, with the straight line that it should follow.

    Full attention has no place on the axis, and would flatten the lines: it is told in words.
    """

    def draw(axes: Axes, sketch: Sketch) -> None:
        said = []
        for layers in sketch.layers:
            found = [
                (cell.window, price)
                for row in sketch.rows
                if sketch.layers_of(row) == layers
                for cell in row.finished
                if (price := cost(cell, kind)) is not None
            ]
            local = [(float(w), price) for w, price in found if isinstance(w, int)]
            full = [price for w, price in found if w is None]
            words = []
            for x, y in local:
                color = sketch.color(int(x))
                axes.plot(x, y, sketch.marker(layers), color=color, markersize=5, alpha=0.8)
            if (line := straight_line(local)) is not None:
                intercept, slope, r2 = line
                ends = np.array([0.0, max(x for x, _ in local)])
                axes.plot(ends, intercept + slope * ends, color=GREY, linewidth=1.1, zorder=1)
                words.append(f"{intercept:.3g} {slope_text(slope)}·W, R² {r2:.3f}")
            words += [f"full: {mean(full):.3g}"] if full else []
            if words:
                said.append((layers, "; ".join(words)))
        handles = [
            Line2D([], [], color=GREY, marker=sketch.marker(n), label=f"{label(n)}L  {text}")
            for n, text in said
        ]
        finite = [w for w in sketch.series if isinstance(w, int)]
        axes.set_xticks(finite, [str(w) for w in finite], rotation=45 if len(finite) > 4 else 0)
        axes.set(xlabel="window W", ylabel=UNITS[kind], title=title)
        axes.set_ylim(0, axes.get_ylim()[1] * (1.1 + 0.11 * len(said)))
        if handles:
            axes.legend(handles=handles, loc="upper left", fontsize=8.5)

    return draw


def slope_text(slope: float) -> str:
    return f"{'+' if slope >= 0 else '−'} {abs(slope):.2g}"


def draw_by_length(axes: Axes, sketch: Sketch) -> None:
    """Quality of documents of each length for each color, over all layers and seeds."""
    entries = [
        (sketch.value(row), (entry["above"], entry["up_to"]), entry["documents"], value)
        for row in sketch.rows
        for cell in row.finished
        for entry in cell.report.get("by_length", [])
        if (value := number(entry.get(sketch.metric))) is not None
    ]
    documents = {span: count for _, span, count, _ in entries}
    spans = sorted(documents, key=lambda span: span[0])
    for one in sketch.series:
        values = [
            [value for v, at, _, value in entries if (v, at) == (one, span)] for span in spans
        ]
        known = [(place, mean(found)) for place, found in enumerate(values) if found]
        if known:
            axes.plot(*zip(*known), marker="o", markersize=4, color=sketch.color(one))
    axes.set_xticks(range(len(spans)), [f"{_kilo(span)}\nn={documents[span]}" for span in spans])
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set(xlabel="tokens of the document", ylabel=sketch.metric, title="by document length")
    legend(axes, sketch)


def draw_curves(axes: Axes, sketch: Sketch) -> None:
    """What the dev split says at every validation, the mean of the seeds."""
    name = f"dev/{sketch.metric}"
    styles: list[Any] = ["-", "--", ":", "-."]
    for row in sketch.rows:
        by_step: dict[int, list[float]] = {}
        for cell in row.cells:
            for record in cell.records:
                value = number(record.get(name))
                if value is not None:
                    by_step.setdefault(record["step"] + 1, []).append(value)
        if by_step:
            steps = sorted(by_step)
            style = styles[sketch.layers.index(sketch.layers_of(row)) % len(styles)]
            axes.plot(
                steps, [mean(by_step[s]) for s in steps], style, color=sketch.color(sketch.value(row)),
                linewidth=1.4, marker=".",
            )  # fmt: skip
    handles = [
        Line2D([], [], color=INK, linestyle=styles[i % 4], label=f"{label(n)}L")
        for i, n in enumerate(sketch.layers)
    ]
    axes.set(xlabel="optimiser steps", ylabel=name, title="learning curves")
    legend(axes, sketch, handles)


def draw_transfer(axes: Axes, sketch: Sketch) -> None:
    """Models evaluated at windows that they were not trained with."""
    widest = 1
    places: dict[Any, float] = {}
    for one in sketch.series:
        values: dict[Any, list[float]] = {}
        for cell in sketch.finished(one):
            as_trained = {"window": cell.window, "metrics": cell.report.get("metrics", {})}
            for entry in [as_trained, *cell.transfer] if cell.transfer else []:
                value = number(entry.get("metrics", {}).get(sketch.metric))
                at = entry.get("window")
                # a schedule of windows has no place on the axis
                if value is not None and (at is None or isinstance(at, int)):
                    values.setdefault(at, []).append(value)
                    widest = max(widest, at or 0)
        order = sorted(values, key=lambda w: (w is None, w))
        places |= {w: 2.0 * widest if w is None else float(max(w, 1)) for w in order}
        if order:
            axes.plot(
                [places[w] for w in order], [mean(values[w]) for w in order], marker="o",
                markersize=4, color=sketch.color(one), label=f"trained with {sketch.text(one)}",
            )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(places.values()), [window_text(w) for w in places])
    axes.minorticks_off()
    if axes.lines:
        axes.legend()
    axes.set(xlabel="evaluated at window W", ylabel=sketch.metric, title="cross-window transfer")


def _kilo(span: tuple[int, Any]) -> str:
    above, up_to = span
    name = lambda n: f"{n // 1024}k" if n >= 1024 else str(n)  # noqa: E731
    return f"> {name(above)}" if up_to is None else f"≤ {name(up_to)}"
