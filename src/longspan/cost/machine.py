"""What this machine has, and what this process holds of it."""

import ctypes
import os
import platform
import resource
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1
CGROUPS = Path("/sys/fs/cgroup")


def uses_gpu(accelerator: str) -> bool:
    """Whether Lightning will train on CUDA, by `trainer.accelerator`."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def memory_bytes(accelerator: str = "cpu") -> int:
    """Of one GPU, or of the machine; of the container, where it has less."""
    if uses_gpu(accelerator):
        return torch.cuda.get_device_properties(0).total_memory
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(limit for limit in map(_cgroup_limit, CGROUP_LIMITS) if limit)])


def resident_bytes() -> int:
    """Main memory that this process holds now."""
    file = Path("/proc/self/statm")
    if file.exists():
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most that can be asked for
    return peak if sys.platform == "darwin" else peak * 1024


def keep_pages() -> bool:
    """Let glibc's heap keep what a step frees, for the next step; see docs/speed.md, "Pages".

    Otherwise large tensors are mapped one by one, and the kernel clears their pages each time.

    Returns:
        whether it does: with another C library, with `LONGSPAN_KEEP_PAGES=0`, or where the
        environment says how glibc is to allocate, nothing is changed.
    """
    told = [n for n in os.environ if n.startswith("MALLOC_") or n == "GLIBC_TUNABLES"]
    if told or os.environ.get("LONGSPAN_KEEP_PAGES") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # mallopt(3): -1 = the heap's top is never given back
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))


def _cgroup_limit(name: str) -> int | None:
    file = CGROUPS / name
    text = file.read_text().strip() if file.exists() else "max"
    return int(text) if text.isdigit() else None
