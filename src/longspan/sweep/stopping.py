"""A sweep whose machine is wanted back: all of its processes hear of it, and no cell begins."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longspan.training.notice import Notice

# the file that appears where the sweep's own process was told: its launcher's processes look for it
STOP_VARIABLE = "LONGSPAN_SWEEP_STOP"

_notice: Notice | None = None  # of this process, in which several cells may run


@contextmanager
def listening(folder: Path | None = None) -> Iterator[Notice]:
    """What this process was told so far: one notice for a sweep and all cells that it runs.

    Args:
        folder: of the sweep, in its own process; None in a launcher's, which may be the same.
    """
    global _notice
    if _notice is not None:
        yield _notice
        return
    with Notice() as _notice:
        _notice.defers = True
        try:
            if folder is None:
                yield _notice
            else:
                with _stop_file(folder, _notice):
                    yield _notice
        finally:
            _notice = None


@contextmanager
def _stop_file(folder: Path, notice: Notice) -> Iterator[None]:
    name = f"stop-{socket.gethostname()}-{os.getpid()}"
    file = folder.resolve() / ".locks" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    os.environ[STOP_VARIABLE] = str(file)
    notice.pass_on = lambda number: file.touch()
    try:
        yield
    finally:
        del os.environ[STOP_VARIABLE]
        file.unlink(missing_ok=True)


def is_told_to_stop() -> bool:
    """Whether the sweep's process, if this is another one, was told."""
    file = os.environ.get(STOP_VARIABLE)
    return file is not None and Path(file).exists()
