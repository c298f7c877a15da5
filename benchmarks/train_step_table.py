"""What the processes of the training-step benchmark measured, as a summary and as tables."""

from statistics import median
from typing import Any

from contenders import NAMES, OURS
from rich.box import SIMPLE
from rich.table import Table

Row = dict[str, Any]
KEYS = ("data", "window", "dtype", "model")
DATA = {"full": "one document of full length", "mix": "batches of real documents"}


def summarise(rows: list[Row]) -> list[Row]:
    """One row for each configuration: tokens a second over all its passes.

    A pass is what repeats: the rate of one is its tokens over its seconds, and lowest and highest
    are the spread. Where there was time for one pass or less, its steps stand for passes.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS), []).append(row)
    summary = [dict(zip(KEYS, key)) | figures(group) for key, group in groups.items()]
    order, dtypes = list(NAMES), ["float32", "bfloat16"]
    summary.sort(
        key=lambda row: (
            row["data"],
            row["window"],
            dtypes.index(row["dtype"]),
            order.index(row["model"]),
        )
    )
    measured = {tuple(row[k] for k in KEYS): row for row in summary if "failed" not in row}
    for (*setting, model), row in measured.items():
        ours = measured.get((*setting, OURS))
        twin = measured.get((*setting, f"longspan-{model.removesuffix('-kept')}"))
        if ours is not None:
            row["longspan_is_faster"] = ours["tokens_per_second"] / row["tokens_per_second"]
            row["peak_beside_longspan"] = row["peak_bytes"] / ours["peak_bytes"]
        if twin is not None:
            row["same_function_is_faster"] = twin["tokens_per_second"] / row["tokens_per_second"]
    return summary


def figures(group: list[Row]) -> Row:
    failed = [row["failed"] for row in group if "failed" in row]
    if failed:
        return {"failed": failed[0]}
    tokens = group[0]["tokens"]
    passes = [seconds for row in group for seconds in row["passes"]]
    whole = [sum(tokens) / sum(seconds) for seconds in passes if len(seconds) == len(tokens)]
    steps = [n / second for seconds in passes for n, second in zip(tokens, seconds)]
    done = sum(n for seconds in passes for n, _ in zip(tokens, seconds))
    spent = sum(map(sum, passes))
    spread = whole if len(whole) > 1 else steps
    return {
        "tokens_per_second": median(whole) if whole else done / spent,
        "lowest": min(spread),
        "highest": max(spread),
        "steps": len(steps),
        "processes": len(group),
        "share_of_padding": group[0]["share_of_padding"],
        "peak_bytes": max(row["peak_bytes"] for row in group),
        "held_bytes": group[0]["held_bytes"],
    }


HEADS = (
    "model",
    "tokens/s",
    "lowest – highest",
    "steps",
    "Longspan is faster",
    "as this model",
    "peak GiB",
    "padding",
)


def as_table(summary: list[Row]) -> Table:
    table = Table(title="Training step", box=SIMPLE)
    table.add_column("data, W, dtype", no_wrap=True)
    for head in HEADS:
        table.add_column(head, justify="left" if head == "model" else "right")
    last = ""
    for row in summary:
        setting = f"{row['data']}, {row['window']}, {row['dtype']}"
        table.add_row(setting if setting != last else "", *cells(row))
        last = setting
    return table


def cells(row: Row) -> list[str]:
    if "failed" in row:
        return [NAMES[row["model"]], row["failed"], *["–"] * (len(HEADS) - 2)]
    faster, same = (
        f"{row[key]:.1f} ×" if key in row and row["model"] != OURS else ""
        for key in ("longspan_is_faster", "same_function_is_faster")
    )
    return [
        NAMES[row["model"]],
        f"{row['tokens_per_second']:,.0f}",
        f"{row['lowest']:,.0f} – {row['highest']:,.0f}",
        str(row["steps"]),
        faster,
        same,
        f"{row['peak_bytes'] / 2**30:.1f}",
        f"{row['share_of_padding']:.0%}",
    ]


def as_markdown(summary: list[Row]) -> str:
    """The page's tables, one for each setting; a test holds them against the committed result."""
    lines: list[str] = []
    last = ""
    for row in summary:
        setting = f"{DATA[row['data']]}, W = {row['window']}, {row['dtype']}"
        if setting != last:
            lines += ["", f"**{setting[0].upper()}{setting[1:]}**", ""]
            lines += [f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
        lines.append(f"| {' | '.join(cells(row))} |")
        last = setting
    return "\n".join(lines[1:])
