"""Memory that others keep: glibc what is free, oneDNN programs for shapes that were multiplied."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


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


def bound_primitive_cache() -> None:
    """Let oneDNN keep the programs of 64 shapes, not those of the last 1,024.

    A step multiplies matrices of some twenty shapes, in every layer the same. They follow the
    tokens of the batch, and hardly come again; the others would only take memory, in bfloat16.
    oneDNN reads the environment once, before its first product.
    """
    os.environ.setdefault(PRIMITIVES, "64")


def give_back_heap() -> None:
    """Return to the system what glibc's allocator keeps of memory that is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
