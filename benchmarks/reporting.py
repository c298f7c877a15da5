"""Where results of benchmarks go: a file, the last line that is printed, a table on a page."""

import json
from pathlib import Path
from typing import Any


def write_result(result: dict[str, Any], output: Path | None) -> None:
    """To the file, and to the last line that is printed."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


def with_table(page: str, marker: str, table: str) -> str:
    """The page with the table between `<!-- marker: begin -->` and `<!-- marker: end -->`."""
    begin, end = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
