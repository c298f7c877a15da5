"""A measurement in a process of its own, ended before it takes the machine's memory with it."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05
SPARE_GIB = 0.75  # of the machine, which the measurement may not take


def in_fresh_process(
    measure: Callable[..., dict[str, Any]], *arguments: Any, limit_gib: float
) -> dict[str, Any]:
    """What `measure` returns, or `{"failed": reason}`: an error, or too much memory.

    Args:
        measure: a function of a module, called in a new interpreter.
        limit_gib: resident memory at which the process is ended.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(theirs, measure, arguments))
    process.start()
    theirs.close()
    try:
        while not ours.poll(POLL_SECONDS):
            if reason := _too_much(process, limit_gib):
                return {"failed": reason}
        return ours.recv()
    except EOFError:  # it ended without a word
        process.join()
        return {"failed": f"the process ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def measured_in_fresh_process(
    measure: Callable[..., dict[str, Any]], *arguments: Any, limit_gib: float = 20
) -> dict[str, Any]:
    """As `in_fresh_process`, where nothing is expected to fail.

    Raises:
        SystemExit: it did.
    """
    result = in_fresh_process(measure, *arguments, limit_gib=limit_gib)
    if "failed" in result:
        raise SystemExit(f"{arguments}: {result['failed']}")
    return result


def _report(connection: Connection, measure: Callable[..., Any], arguments: tuple) -> None:
    try:
        result = measure(*arguments)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, MemoryError) as error:
        lines = str(error).strip().splitlines() or [""]
        result = {"failed": f"{type(error).__name__}: {lines[0]}"}
    connection.send(result)


def _too_much(process: BaseProcess, limit_gib: float) -> str:
    held = _kilobytes(f"/proc/{process.pid}/status", "VmRSS") / 2**20
    if held > limit_gib:
        return f"out of memory: more than {limit_gib:g} GiB"
    if _kilobytes("/proc/meminfo", "MemAvailable") / 2**20 < SPARE_GIB:
        return f"out of memory: at {held:.1f} GiB the machine had less than {SPARE_GIB} GiB left"
    return ""


def _kilobytes(file: str, name: str) -> int:
    """A figure of /proc; 0 of a process that is gone."""
    try:
        lines = Path(file).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
