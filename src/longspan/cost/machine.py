"""What this machine has, and what this process holds of it."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1
CGROUPS = Path("/sys/fs/cgroup")
# of a control group: its limit, what it holds, and the line of its statistics that counts pages of
# files, which are given back where memory is short
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
PROC = Path("/proc")


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


def available_bytes() -> int | None:
    """Main memory that can still be taken without swapping; None where the system does not say.

    Of the machine, or of a control group that this process is in (a container, a job of SLURM),
    where that leaves less.
    """
    file = PROC / "meminfo"
    if not file.exists():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    free = next((int(kib) * 1024 for name, kib, *_ in lines if name == "MemAvailable:"), None)
    left = [_left_in(group, *names) for group in _cgroups() for names in CGROUP_FILES]
    return min((number for number in [free, *left] if number is not None), default=None)


def _cgroups() -> Iterator[Path]:
    """The folders of this process's control groups, each with those around it."""
    file = PROC / "self" / "cgroup"
    text = file.read_text() if file.exists() else ""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            root = CGROUPS / ("memory" if controllers else "")
            own = root / path.lstrip("/")
            if ".." not in own.parts:  # of a group outside this container's view
                yield from (own, *(p for p in own.parents if p.is_relative_to(root)))
            else:
                yield root


def _left_in(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes that a control group may still take; None where it has no such limit."""
    try:
        most = (group / limit).read_text().strip()
        if not most.isdigit():  # max
            return None
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        held = int((group / used).read_text()) - int(statistics.get(cache, 0))
    except FileNotFoundError:
        return None
    return max(0, int(most) - held)


def _cgroup_limit(name: str) -> int | None:
    file = CGROUPS / name
    text = file.read_text().strip() if file.exists() else "max"
    return int(text) if text.isdigit() else None
