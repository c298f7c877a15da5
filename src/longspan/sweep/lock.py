"""One process at a time: a lock that says whose it is and that no death leaves behind.

On one host the kernel keeps it (`flock`) and lets go when the owner dies, however it dies. Between
hosts, where a file system may not carry `flock`, the owner's heartbeat decides: the time of the
file's last change.
"""

import fcntl
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # without a heartbeat from another host; clocks may differ by less


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class TakenError(Exception):
    """Somebody else holds the lock."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(f"held by {owner}")
        self.owner = owner


class Lock:
    """A context manager that holds the lock file `path`.

    Attributes:
        taken_over: the owner before, where it left the lock behind.

    Raises:
        TakenError: on entry, somebody else holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken_over: Owner | None = None
        self._file: Any = None
        self._released = threading.Event()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = self.path.open("a+", encoding="utf-8")
            try:
                if not _flock(file, patience=0.5):
                    raise TakenError(_read_owner(file) or Owner("this host", 0))
                if not _is_still(file, self.path):  # its owner removed it while we waited
                    file.close()
                    continue
                self.taken_over = _abandoned(file)
                _write_owner(file)
            except BaseException:
                file.close()
                raise
            self._file = file
            threading.Thread(target=self._beat, daemon=True).start()
            return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self.path.unlink(missing_ok=True)  # while it is held: nobody can have taken it over
        self._file.close()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            os.utime(self._file.fileno())


def owner_of(path: Path) -> Owner | None:
    """Who holds the lock now, if anybody does."""
    try:
        with path.open("r", encoding="utf-8") as file:
            if not _flock(file, fcntl.LOCK_SH):
                return _read_owner(file) or Owner("this host", 0)
            try:
                _abandoned(file)
            except TakenError as taken:
                return taken.owner
    except FileNotFoundError:
        pass
    return None


def _flock(file: Any, kind: int = fcntl.LOCK_EX, patience: float = 0.0) -> bool:
    """Try for so many seconds: `owner_of` holds a lock for the time of a look."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _is_still(file: Any, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _abandoned(file: Any) -> Owner | None:
    """The owner that left the lock behind, if there was one.

    Raises:
        TakenError: it is on another host and its heart beats.
    """
    owner = _read_owner(file)
    if owner is None or owner.host == socket.gethostname():
        return owner  # the kernel would have told us that it lives
    if time.time() - os.fstat(file.fileno()).st_mtime < STALE_SECONDS:
        raise TakenError(owner)
    return owner


def _read_owner(file: Any) -> Owner | None:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):
        return None  # new, or its owner died in writing


def _write_owner(file: Any) -> None:
    file.seek(0)
    file.truncate()
    json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
    file.flush()
