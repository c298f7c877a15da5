"""The picture of the attention benchmark: time and memory by length, time by window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ["#20527c", "#2f8f8b", "#d1662c", "#8c4a8c", "#6b7a2f", "#b03a48"]


def kinds(rows: list[dict[str, Any]]) -> list[tuple[str, str, int | None]]:
    """Everything that was measured at several lengths: dtype, attention, window."""
    return list(dict.fromkeys((row["dtype"], row["attention"], row["window"]) for row in rows))


def series(rows: list[dict[str, Any]], **chosen: Any) -> list[dict[str, Any]]:
    """The measured rows with these values."""
    measured = [row for row in rows if "skipped" not in row]
    return [row for row in measured if all(row[k] == value for k, value in chosen.items())]


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """One line of axes for each dtype."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    figure = Figure(figsize=(13, 4.2 * len(dtypes)), layout="constrained")
    for line, dtype in zip(figure.subplots(len(dtypes), 3, squeeze=False), dtypes, strict=True):
        draw_dtype(line, [row for row in rows if row["dtype"] == dtype], dtype)
    figure.suptitle("Attention of one layer, forward and backward", fontsize=11)
    figure.savefig(file, dpi=150)


def draw_dtype(line: Sequence[Axes], rows: list[dict[str, Any]], dtype: str) -> None:
    time_axes, memory_axes, window_axes = line
    draw_by_length(time_axes, rows, "forward_backward_seconds", 1)
    draw_by_length(memory_axes, rows, "forward_backward_bytes", 2**20)
    draw_by_window(window_axes, rows)
    time_axes.set(title=f"{dtype}: time by length", ylabel="seconds")
    memory_axes.set(title="peak memory by length", ylabel="MiB")
    window_axes.set(title="time by window", ylabel="seconds")
    for axes in line:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)


def draw_by_length(axes: Axes, rows: list[dict[str, Any]], key: str, unit: float) -> None:
    lines = {"masked": (":", "#777777"), "full": ("--", "#777777")}
    windows = list(dict.fromkeys(window for *_, window in kinds(rows)))
    for _, attention, window in kinds(rows):
        if attention not in lines and attention != rows[0]["attention"]:
            continue  # one backend of ours: the first
        if attention == "masked" and window != windows[0]:
            continue  # a dense mask costs the same whatever it holds
        line, colour = lines.get(attention, ("-", COLOURS[windows.index(window) % len(COLOURS)]))
        chosen = series(rows, attention=attention, window=window)
        axes.plot(
            [row["tokens"] for row in chosen],
            [row[key] / unit for row in chosen],
            line,
            marker=".",
            color=colour,
            label=attention if attention in lines else f"{attention}, W = {window}",
        )
    lengths = sorted({row["tokens"] for row in rows})
    # linear growth, through the last point of the first window
    last = series(rows, attention=rows[0]["attention"], window=rows[0]["window"])[-1]
    linear = [last[key] / unit * n / last["tokens"] for n in lengths]
    axes.plot(lengths, linear, color="#cccccc", zorder=0, label="slope 1")
    set_log_scales(axes, lengths)
    axes.set_xlabel("tokens T")


def draw_by_window(axes: Axes, rows: list[dict[str, Any]]) -> None:
    attention = rows[0]["attention"]
    for tokens, colour in zip(dict.fromkeys(row["tokens"] for row in rows), COLOURS, strict=False):
        chosen = series(rows, attention=attention, tokens=tokens)
        axes.plot(
            [row["window"] for row in chosen],
            [row["forward_backward_seconds"] for row in chosen],
            marker=".",
            color=colour,
            label=f"{attention}, T = {tokens:,}",
        )
    set_log_scales(axes, sorted({row["window"] for row in rows} - {None}))
    axes.set_xlabel("window W, one-sided")


def set_log_scales(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
