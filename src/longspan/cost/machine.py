"""What this machine has, and what this process holds of it."""

import os
import resource
import sys
from pathlib import Path

import torch

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


def _cgroup_limit(name: str) -> int | None:
    file = CGROUPS / name
    text = file.read_text().strip() if file.exists() else "max"
    return int(text) if text.isdigit() else None
