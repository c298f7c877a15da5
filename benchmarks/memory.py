"""Memory that calls take, read from Linux's count of the process's resident pages."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path


def resident_bytes() -> int:
    """What the process holds now, after giving back what it holds for nothing."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status_bytes("VmRSS")


def peak_bytes(call: Callable[[], None]) -> int:
    """The most that the process held during the call."""
    Path("/proc/self/clear_refs").write_text("5")  # man 5 proc_pid_clear_refs: resets VmHWM
    call()
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
