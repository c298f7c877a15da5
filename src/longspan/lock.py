"""One process at a time: a lock that says whose it is and that no death leaves behind.

On one host the kernel keeps it (`flock`) and lets go when the owner dies, however it dies. Between
hosts, where a file system may not carry `flock`, the owner's heartbeat decides: a number in the
file that goes up. Who wants the lock watches it for a while by a clock of its own that never jumps;
no time of day is read, of this host, of the other or of a file.
"""

import errno
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

BEAT_SECONDS = 2.0
LOOK_SECONDS = 8.0  # without a beat: nobody seems to be there, and whoever wants to makes sure
STALE_SECONDS = 60.0  # without a beat: the owner is taken for dead
# what file systems without `flock` say to it
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[Path, Any] = {}  # the open files of the locks that this process holds


def _leave_locks() -> None:
    """Let a fork, a data loader's worker say, not keep the lock of its parent when that is killed."""
    for file in _held.values():
        file.close()  # what the parent holds it holds on
    _held.clear()


os.register_at_fork(after_in_child=_leave_locks)


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
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            try:
                by_kernel = _flock(file, patience=0.5)
                if by_kernel is False:
                    raise TakenError(_owner_in(_read(self.path)) or Owner("this host", 0))
                if not _is_still(file, self.path):  # its owner removed it while we waited
                    file.close()
                    continue
                self.taken_over = _abandoned(self.path, by_kernel is True, STALE_SECONDS)
                _write(file, beat=0)
            except BaseException:
                file.close()
                raise
            self._file = file
            _held[self.path.resolve()] = file
            self._heart.start()
            return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._released.set()
        self._heart.join()  # it must not write into a file that has got the number of this one
        del _held[self.path.resolve()]
        self.path.unlink(missing_ok=True)  # while it is held: nobody can have taken it over
        self._file.close()

    def _beat(self) -> None:
        beat = 0
        while not self._released.wait(BEAT_SECONDS):
            beat += 1
            try:
                _write(self._file, beat)
            except OSError:  # a full disk, an absent server: it may beat the next time
                continue


def is_held_here(path: Path) -> bool:
    """Whether this process holds the lock."""
    return path.resolve() in _held


def owner_of(path: Path) -> Owner | None:
    """Who holds the lock now, if anybody seems to."""
    try:
        with path.open("rb") as file:
            by_kernel = _flock(file, fcntl.LOCK_SH)
            if by_kernel is False:
                return _owner_in(file.read()) or Owner("this host", 0)
            try:
                _abandoned(path, by_kernel is True, LOOK_SECONDS)
            except TakenError as taken:
                return taken.owner
    except FileNotFoundError:
        pass
    return None


def _flock(file: Any, kind: int = fcntl.LOCK_EX, patience: float = 0.0) -> bool | None:
    """Try for so many seconds (`owner_of` holds a lock for the time of a look); None = no flock."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise
            return None
        else:
            return True


def _is_still(file: Any, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _abandoned(path: Path, by_kernel: bool, patience: float) -> Owner | None:
    """The owner that left the lock behind, if there was one.

    Args:
        path: of the lock.
        by_kernel: `flock` is ours: an owner on this host would have it.
        patience: seconds to watch the heart of any other owner for.

    Raises:
        TakenError: its heart beats.
    """
    before = _read(path)
    owner = _owner_in(before)
    if owner is None or (by_kernel and owner.host == socket.gethostname()):
        return owner
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        time.sleep(BEAT_SECONDS / 4)
        if _read(path) != before:
            raise TakenError(owner)
    return owner


def _read(path: Path) -> bytes:
    """Opened anew each time: so network file systems ask their server."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _owner_in(content: bytes) -> Owner | None:
    try:
        data = json.loads(content)
        return Owner(data["host"], data["pid"])
    except (ValueError, TypeError, KeyError):
        return None  # new, or its owner died in writing


def _write(file: Any, beat: int) -> None:
    """Write the owner over itself, in one write of the same length."""
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "beat": f"{beat:012d}"}
    content = json.dumps(owner).encode() + b"\n"
    if not beat:
        file.truncate(0)
    os.pwrite(file.fileno(), content, 0)
