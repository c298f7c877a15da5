"""Texts and rows in, JSON lines out: the files of `longspan predict`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from longspan.errors import UserError
from longspan.terminal import printable_json


def read_text(file: Path) -> str:
    """A document.

    Raises:
        UserError: no such file, or not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8; convert it, e.g. with iconv -f latin1") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give a text file") from error


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a jsonl file, one by one.

    Raises:
        UserError: no such file, not UTF-8, or a line that is no object.
    """
    try:
        lines = file.open("rb")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give a jsonl file") from error
    with lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{file} line {number} is not UTF-8; convert it, e.g. with iconv -f latin1"
                ) from error
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file} line {number} is no JSON ({error}); mend it") from error
            if not isinstance(row, dict):
                raise UserError(f"{file} line {number} is no object with a text; mend it")
            yield row


def as_line(row: dict[str, Any]) -> str:
    """JSON that UTF-8 can hold: half of a surrogate pair stays the escape that it came as."""
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace").decode()


def write_rows(rows: Iterable[dict[str, Any]], output: Path | None) -> int:
    """Write rows as JSON lines, with a progress bar on stderr; print them without an output.

    What is written stands under `<output>.part` until all of it is there.

    Returns:
        how many.

    Raises:
        UserError: a place where nothing can be written.
    """
    count = 0
    if output is None:
        for row in rows:
            print(printable_json(as_line(row)), flush=True)
            count += 1
        return count
    part = output.with_name(f"{output.name}.part")
    console = Console(stderr=True)
    try:
        stream = part.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--output {output} cannot be written ({error.strerror}); name a file in a folder "
            "that exists"
        ) from error
    with stream:
        for row in track(rows, "documents", console=console, disable=not console.is_terminal):
            stream.write(as_line(row) + "\n")
            stream.flush()
            count += 1
    part.replace(output)
    return count
