"""A cell of a sweep from the inside: a run that holds a lock and leaves the reason where it fails."""

import json
import logging
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from longspan.command import RANK_VARIABLES
from longspan.config.sweep import SweepConfig
from longspan.errors import UserError, was_interrupted
from longspan.sweep.lock import Lock, TakenError
from longspan.sweep.paths import CellPaths
from longspan.terminal import on_one_line
from longspan.training.run_folder import RunFolder, write_text

PLAIN = "grid"  # the choice of the group `sweep` that goes with single runs
BUSY = 75  # exit code of a cell that another process is at (EX_TEMPFAIL of sysexits.h)
POLL_SECONDS = 0.5
PARENT_VARIABLE = "LONGSPAN_SWEEP_PID"  # the process that waits for this one

log = logging.getLogger(__name__)


@contextmanager
def cell_of(sweep: SweepConfig, choice: str) -> Iterator[None]:
    """Around a run: nothing where it is no cell; else its lock, and the record of its failure.

    Args:
        sweep: `sweep.*` of the run.
        choice: of the group `sweep`, for the error of who forgot `-m`.

    Raises:
        SystemExit: with the code BUSY where another process is at this cell.
    """
    if sweep.cell is None or sweep.name is None:
        if choice != PLAIN:
            raise UserError(f"sweep={choice} is many runs; start them with train.py -m")
        yield
        return
    if _is_further_rank():
        yield  # of a distributed cell, whose first rank has the lock
        return
    paths = CellPaths(Path(sweep.dir) / sweep.name, sweep.cell)
    try:
        with Lock(paths.lock) as lock:
            if lock.taken_over is not None:
                log.info("taking over from %s, which is gone", lock.taken_over)
            end_with_parent()
            set_aside_if_corrupt(paths)
            paths.failure.unlink(missing_ok=True)
            with _recorded_failure(paths):
                yield
    except TakenError as taken:
        log.info("%s: %s is at it", sweep.cell, taken.owner)
        raise SystemExit(BUSY) from None


@contextmanager
def alone_at(folder: Path) -> Iterator[None]:
    """Around a run that several others start from: one process makes it while the others wait."""
    if _is_further_rank():
        yield
        return
    lock = CellPaths(folder.parent, folder.name).lock
    said = False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(Lock(lock))
                break
            except TakenError as taken:
                if not said:
                    log.info("%s: waiting for %s, which makes it", folder, taken.owner)
                said = True
                time.sleep(POLL_SECONDS)
        yield


def _is_further_rank() -> bool:
    return any(os.environ.get(name, "0") != "0" for name in RANK_VARIABLES)


@contextmanager
def _recorded_failure(paths: CellPaths) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not was_interrupted(error):
            name = type(error).__name__
            reason = str(error) if isinstance(error, UserError) else f"{name}: {error}"
            record_failure(paths, reason)
        raise


def record_failure(paths: CellPaths, reason: str, kind: str = "failed") -> None:
    """Write down why a cell has no result.

    Args:
        paths: of the cell.
        reason: in one line; longer ones are cut.
        kind: failed, or pruned: stopped because others did better.
    """
    paths.folder.path.mkdir(parents=True, exist_ok=True)
    record = {"kind": kind, "reason": on_one_line(reason)[:500], "time": time.time()}
    write_text(paths.failure, json.dumps(record) + "\n")


def corruption_of(folder: RunFolder) -> str | None:
    """What makes a run folder useless, if anything does; cheap: no checkpoint is loaded."""
    if not folder.path.exists():
        return None
    if not folder.path.is_dir():
        return "it is no folder"
    try:
        if folder.is_finished and "steps" not in folder.read_report():
            return "report.json is not that of a run"
        if folder.config_file.exists():
            folder.read_config()
        elif folder.is_finished or folder.last_checkpoint.exists():
            return "config.yaml is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:  # UserError is a ValueError
        return f"{type(error).__name__}: {error}"
    checkpoint = folder.last_checkpoint
    if not folder.is_finished and checkpoint.exists() and not zipfile.is_zipfile(checkpoint):
        return f"{checkpoint.name} is no checkpoint"
    return None


def set_aside_if_corrupt(paths: CellPaths) -> Path | None:
    """Rename a cell folder that nothing can be done with; call it with the lock held."""
    reason = corruption_of(paths.folder)
    if reason is None:
        return None
    number = 1
    while (aside := paths.set_aside(number)).exists():
        number += 1
    aside.parent.mkdir(parents=True, exist_ok=True)
    paths.folder.path.rename(aside)
    log.warning("%s is damaged (%s): set aside as %s, done anew", paths.name, reason, aside)
    return aside


def end_with_parent() -> None:
    """Let a training not go on unseen when the sweep that started it has been killed."""
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if parent:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # as a kill would: checkpoints and metrics are written so that nothing is torn
