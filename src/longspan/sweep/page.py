"""The report as one HTML file that needs nothing else: no network, no script of others.

All text that comes from configurations, logs and folders passes through `html.escape`; pictures
are SVG inside `<img>`, where nothing in them can run.
"""

import math
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from longspan.sweep.plan import last_part
from longspan.sweep.results import CellResult, SweepResults
from longspan.sweep.table import UNITS, Row, Statistic, shown

# the browser itself refuses whatever is not in this file
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        svg: the file.
        alternative: what it is, for those who do not see it.
        caption: how to read it.
    """

    svg: bytes
    alternative: str
    caption: str


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, unit, and the text and number of each row."""

    head: str
    unit: str
    cells: Sequence[tuple[str, float | str | None]]
    is_text: bool = False


def as_html(
    results: SweepResults,
    rows: Sequence[Row],
    verdict: str,
    pictures: Sequence[Picture],
    front: Sequence[Row],
    chosen: Row | None,
) -> str:
    """The whole page."""
    name = escape(results.folder.name)
    style, script = (files("longspan.sweep").joinpath(f"page.{kind}") for kind in ("css", "js"))
    without = [cell for cell in results.cells if cell.status != "finished"]
    parts = [
        f"<h1>{name}</h1>",
        f'<p class="soft">{escape(_what(results))}</p>',
        _counts(results),
        f'<p class="verdict">{escape(verdict)}</p>',
        f'<div class="figures">{"".join(map(_figure, pictures))}</div>',
        "<h2>Cells</h2>",
        '<p class="soft">Mean ± standard deviation over seeds. Marked: '
        '<span class="mark">●</span> on the Pareto front, <span class="mark">★</span> the winner. '
        "Reach: how far the windows alone carry information on each side; global tokens connect "
        "the whole document in two layers. Columns sort by a click.</p>",
        _table(_columns(rows, front, chosen), rows, front, chosen),
        _predictions(rows),
        _without_result(without),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · sweep</title>\n<style>\n{style.read_text(encoding='utf-8')}</style>\n"
        f"</head>\n<body>\n<main>\n{chr(10).join(filter(None, parts))}\n</main>\n"
        f"<script>\n{script.read_text(encoding='utf-8')}</script>\n</body>\n</html>\n"
    )


def _what(results: SweepResults) -> str:
    metric, mode = results.monitor
    better = "higher" if mode == "max" else "lower"
    split = next((str(c.report.get("split")) for c in results.finished), "test")
    varied = ", ".join(shown(field) for field in results.plan.swept) or "the cells found"
    return f"Sweep over {varied}. Quality: {metric} on {split}, {better} is better."


def _counts(results: SweepResults) -> str:
    counts = Counter(cell.status for cell in results.cells)
    items = [f"<li>{len(results.cells)} cells</li>"]
    items += [f'<li class="{escape(s)}">{n} {escape(s)}</li>' for s, n in counts.most_common()]
    return f'<ul class="counts">{"".join(items)}</ul>'


def _figure(picture: Picture) -> str:
    data = b64encode(picture.svg).decode()
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(picture.alternative)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>\n"
    )


def _columns(rows: Sequence[Row], front: Sequence[Row], chosen: Row | None) -> list[Column]:
    def marked(row: Row) -> str:
        return ("★ " if row is chosen else "") + ("● " if row in front else "")

    columns = []
    for field in rows[0].values:
        cells = [(shown(row.values[field]), _sortable(row.values[field])) for row in rows]
        columns.append(Column(last_part(field), "", cells))
    first = columns[0]
    marks = [(f"{marked(row)}{text}", key) for row, (text, key) in zip(rows, first.cells)]
    columns[0] = Column(first.head, first.unit, marks)
    metrics = dict.fromkeys(m for r in rows for c in r.finished for m in c.report["metrics"])
    main = rows[0].metric
    measured = {
        name: _statistics(name, "", [row.metric_named(name) for row in rows], 3)
        for name in sorted(metrics, key=lambda m: m != main)
    }
    if main in measured:
        columns.append(measured.pop(main))
    speed = [row.reported("tokens_per_second") for row in rows]
    columns.append(_statistics("tokens/s", "in training", speed, 0))
    columns.append(_statistics("time", UNITS["time"], [r.cost("time") for r in rows], 1))
    columns.append(_statistics("memory", "GiB, peak", [r.cost("memory") for r in rows], 2))
    columns.append(_statistics("FLOPs", UNITS["flops"], [r.cost("flops") for r in rows], 2))
    pairs = [row.predicted("pairs_per_token") for row in rows]
    columns.append(_statistics("pairs", "a token", pairs, 0))
    parameters = [row.reported("parameters") for row in rows]
    columns.append(_statistics("parameters", "", parameters, 0))
    columns.append(Column("reach", "tokens a side", [_reach(row) for row in rows]))
    seeds = [(f"{len(r.finished)} of {len(r.cells)}", len(r.finished)) for r in rows]
    columns.append(Column("finished", "seeds", seeds))
    columns.append(_statistics("duration", "s", [row.reported("seconds") for row in rows], 0))
    columns += measured.values()  # further metrics, behind what a choice is made by
    return [c for c in columns if any(key is not None for _, key in c.cells)]


def _reach(row: Row) -> tuple[str, float | None]:
    if row.model is None or row.reach is None:
        return "–", None
    side = "left" if row.model.pattern.causal else ""
    text = "all" if math.isinf(row.reach) else f"{row.reach:,.0f}"
    return f"{text} {side}".strip(), min(row.reach, 1e18)  # what is sorted by is JSON


def _statistics(head: str, unit: str, stats: Sequence[Statistic | None], digits: int) -> Column:
    cells: list[tuple[str, float | str | None]] = []
    for stat in stats:
        if stat is None:
            cells.append(("–", None))
        else:
            std = f" ± {stat.std:,.{digits}f}" if stat.std else ""
            cells.append((f"{stat.mean:,.{digits}f}{std}", stat.mean))
    return Column(head, unit, cells)


def _sortable(value: object) -> float | str:
    if value is None:
        return 1e18  # full attention: wider than any window
    return value if isinstance(value, int | float) else shown(value)


def _table(
    columns: Sequence[Column], rows: Sequence[Row], front: Sequence[Row], chosen: Row | None
) -> str:
    kinds = ["chosen" if r is chosen else "front" if r in front else "" for r in rows]
    return _html_table(columns, kinds)


def _html_table(columns: Sequence[Column], kinds: Sequence[str]) -> str:
    heads = "".join(
        f'<th scope="col"{_text(c)}><button>{escape(c.head)}'
        f"{f'<small>{escape(c.unit)}</small>' if c.unit else ''}</button></th>"
        for c in columns
    )
    body = []
    for i, kind in enumerate(kinds):
        cells = []
        for j, column in enumerate(columns):
            text, key = column.cells[i]
            tag = 'th scope="row"' if j == 0 else "td"
            sort = "" if key is None else escape(str(key))
            mean, plus, std = text.partition(" ± ")
            shown_mean = escape(mean)
            if column.is_text:  # names of cells may break behind their commas
                shown_mean = shown_mean.replace(",", ",<wbr>")
            inner = shown_mean + (f' <span class="std">± {escape(std)}</span>' if plus else "")
            cells.append(f'<{tag}{_text(column)} data-sort="{sort}">{inner}</{tag.split()[0]}>')
        body.append(f'<tr class="{kind}">{"".join(cells)}</tr>\n')
    return (
        '<div class="scroll" tabindex="0"><table class="sortable">\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{''.join(body)}</tbody>\n</table></div>"
    )


def _text(column: Column) -> str:
    return ' class="text wrap"' if column.is_text else ""


def _predictions(rows: Sequence[Row]) -> str:
    """Predicted beside measured, where cells were predicted before they ran."""
    names = ("peak_memory_bytes", "tokens_per_second")
    known = [row for row in rows if any(row.predicted(name) is not None for name in names)]
    if not known:
        return ""
    label = [(row.label, row.label) for row in known]
    columns = [Column("cell", "", label, is_text=True)]
    for (head, said, unit, digits), name in zip(
        (("memory", "GiB, peak", 2**30, 2), ("tokens/s", "in training", 1, 0)), names
    ):
        forecast = [_scaled(row.predicted(name), unit) for row in known]
        measured = [_scaled(row.reported(name), unit) for row in known]
        if not any(forecast):
            continue
        columns.append(_statistics(f"{head} predicted", said, forecast, digits))
        columns.append(_statistics(f"{head} measured", said, measured, digits))
        off = [
            None if p is None or m is None else p.mean / m.mean - 1
            for p, m in zip(forecast, measured)
        ]
        columns.append(
            Column("off by", head, [("–", None) if o is None else (f"{o:+.0%}", o) for o in off])
        )
    return "<h2>Predicted and measured</h2>" + _html_table(columns, [""] * len(known))


def _scaled(stat: Statistic | None, unit: float) -> Statistic | None:
    if stat is None:
        return None
    return Statistic(stat.mean / unit, None if stat.std is None else stat.std / unit)


def _without_result(cells: Sequence[CellResult]) -> str:
    if not cells:
        return ""
    columns = [
        Column("cell", "", [(cell.name, cell.name) for cell in cells], is_text=True),
        Column("state", "", [(cell.status, cell.status) for cell in cells], is_text=True),
        Column("why", "", [(cell.reason, cell.reason) for cell in cells], is_text=True),
    ]
    return "<h2>Cells without a result</h2>" + _html_table(columns, [""] * len(cells))
