"""A cell of a sweep from the outside: `train.py` in a process of its own.

Memory is measured by process, a process that the kernel kills takes only its cell along, and what
one training leaves in the libraries' state does not reach the next.
"""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longspan.command import set_up_logging
from longspan.config.sweep import SweepConfig
from longspan.errors import Preempted
from longspan.lock import owner_of
from longspan.sweep.cell import BUSY, record_failure
from longspan.sweep.paths import CellPaths
from longspan.sweep.pruning import hopeless
from longspan.sweep.stopping import is_told_to_stop, listening
from longspan.training.notice import PARENT_VARIABLE, Notice

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0  # between two looks at whether a cell is hopeless
GRACE_SECONDS = 60.0  # from a request to end to a kill: a step and its checkpoint fit
REASON_BYTES = 20_000  # of the end of a log, where the reason is looked for

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a cell went."""

    cell: str
    status: Literal["finished", "failed", "pruned", "busy", "preempted"]
    reason: str = ""


def run_cell(script: str, overrides: Sequence[str], sweep: SweepConfig) -> Outcome:
    """Run `train.py` on one cell, wait for it, and say how it went; a failure is no error here.

    Args:
        script: path of train.py.
        overrides: of this cell, which make `sweep`.
        sweep: `sweep.*` of the cell.
    """
    assert sweep.name is not None
    assert sweep.cell is not None
    set_up_logging()  # in a launcher's worker nobody has
    paths = CellPaths(Path(sweep.dir) / sweep.name, sweep.cell)
    if owner := owner_of(paths.lock):
        log.info("%s: %s is at it", paths.name, owner)
        return Outcome(paths.name, "busy")
    with listening() as notice:
        if notice.signal is not None or is_told_to_stop():
            return Outcome(paths.name, "preempted")
        return _run_cell([sys.executable, script, *overrides], paths, sweep.prune_after, notice)


def _run_cell(command: list[str], paths: CellPaths, least: int | None, notice: Notice) -> Outcome:
    started = time.monotonic()
    look = None if least is None else lambda: hopeless(paths.sweep, paths.name, least)
    code, pruned = _run_to_end(command, paths, look, notice)
    if code == BUSY:
        return Outcome(paths.name, "busy")
    if code == Preempted.CODE or (code < 0 and notice.signal is not None):
        notice.signal = notice.signal or signal.SIGTERM  # no other cell begins
        log.warning("%s: stopped; the same command goes on", paths.name)
        return Outcome(paths.name, "preempted")
    if pruned is not None and not paths.folder.is_finished:
        record_failure(paths, pruned, "pruned")
        log.info("%s: stopped early: %s", paths.name, pruned)
        return Outcome(paths.name, "pruned", pruned)
    if code == 0:
        log.info("%s: finished in %.0f s", paths.name, time.monotonic() - started)
        return Outcome(paths.name, "finished")
    reason = _reason(code, paths.log)
    if not paths.failure.exists() and owner_of(paths.lock) is None:
        record_failure(paths, reason)
    log.warning("%s failed: %s (%s)", paths.name, reason, paths.log)
    return Outcome(paths.name, "failed", reason)


def _run_to_end(
    command: list[str], paths: CellPaths, look: Callable[[], str | None] | None, notice: Notice
) -> tuple[int, str | None]:
    """Exit code, and the reason why it was ended early if it was."""
    paths.log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {PARENT_VARIABLE: str(os.getpid())}
    with paths.log.open("ab") as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, env=environment
        )
    pruned, looked = None, time.monotonic()
    others, notice.pass_on = notice.pass_on, process.send_signal
    try:
        if notice.signal is not None:  # it came as the process was started
            process.send_signal(notice.signal)
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS), pruned
            if notice.signal is None and is_told_to_stop():
                notice.signal = signal.SIGTERM
                process.send_signal(notice.signal)
            if look is not None and time.monotonic() - looked > LOOK_SECONDS:
                pruned, looked = look(), time.monotonic()
                if pruned is not None:
                    process.send_signal(signal.SIGINT)  # it saves nothing half
                    return _wait_or_kill(process), pruned
    except BaseException:  # Ctrl-C, which the cell has got too where it came from a terminal
        process.send_signal(signal.SIGINT)
        _wait_or_kill(process)
        raise
    finally:
        notice.pass_on = others


def _wait_or_kill(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(GRACE_SECONDS)
    finally:
        process.kill()


def _reason(code: int, log_file: Path) -> str:
    """Why a run ended with this code, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the kernel does so when memory is short)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    with log_file.open("rb") as file:
        file.seek(max(0, log_file.stat().st_size - REASON_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    said = [line for line in lines if line and not line[0].isspace()]
    return said[-1] if said else f"ended with code {code}"
