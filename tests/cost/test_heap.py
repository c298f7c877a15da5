"""What a step frees is kept for the next one, where nobody says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from longspan.cost.heap import keep_pages
kept = keep_pages()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(10):
    faults()
print(kept, faults())
"""


def second_allocation(**environment: str) -> tuple[str, int]:
    """Whether pages are said to be kept, and page faults of an allocation after ten like it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(
        command, env=own | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what it tells")
def test_pages_are_kept_unless_the_environment_says_otherwise():
    kept, faults = second_allocation()
    returned, fresh_faults = second_allocation(LONGSPAN_KEEP_PAGES="0")
    assert (kept, returned) == ("True", "False")
    assert faults < 100
    # a fault may bring two megabytes, where the system hands out huge pages
    assert fresh_faults >= 32
    assert second_allocation(MALLOC_ARENA_MAX="4")[0] == "False"
