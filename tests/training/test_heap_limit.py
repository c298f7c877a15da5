"""Free pages that pile up in a long run are given back, and asked for no more often than pays."""

import os
import platform

import pytest
import torch

from longspan.cost.heap import PRIMITIVES, bound_primitive_cache, keep_pages
from longspan.cost.machine import resident_bytes
from longspan.training import heap_limit
from longspan.training.heap_limit import BESIDE_WEIGHT, HeapLimit
from longspan.training.memory_guard import ERROR

MIB = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator is what it tells")
def test_holes_in_the_heap_are_given_back():
    keep_pages()
    tensors = [torch.ones(MIB) for _ in range(64)]  # of 4 MiB
    del tensors[::2]  # holes between those that stay
    before = resident_bytes()
    limit = HeapLimit(0.0)
    limit.limit = before - 1
    limit.on_train_batch_end()
    assert resident_bytes() < before - 100 * MIB
    assert all(tensor.sum() == MIB for tensor in tensors)


@pytest.fixture
def trims(monkeypatch):
    """Calls of the allocator; each leaves what is resident as `held` says."""
    calls, held = [], {"bytes": 0.0}
    monkeypatch.setattr(heap_limit, "resident_bytes", lambda: held["bytes"])
    monkeypatch.setattr(heap_limit, "give_back_heap", lambda: calls.append(held["bytes"]))
    return calls, held


def test_what_cannot_be_given_back_is_not_asked_for_at_every_step(trims):
    calls, held = trims
    limit = HeapLimit(100.0)
    held["bytes"] = 1000.0
    module = torch.nn.Linear(2, 1)  # three weights
    module.bias.requires_grad_(False)
    limit.on_train_start(None, module)
    assert limit.limit == 1000 + ERROR * (100 + 2 * BESIDE_WEIGHT)
    for resident in (1100, 1155, 1156, 1300, 1380, 1390, 1700):
        held["bytes"] = float(resident)
        limit.on_train_batch_end()
    # above the limit of 1,155; then above 1.2 times what was left, 1,387.2; then 1,668
    assert calls == [1156, 1390, 1700]


def test_the_users_own_number_of_programs_stays(monkeypatch):
    monkeypatch.delenv(PRIMITIVES, raising=False)
    bound_primitive_cache()
    assert os.environ[PRIMITIVES] == "64"
    monkeypatch.setenv(PRIMITIVES, "7")
    bound_primitive_cache()
    assert os.environ[PRIMITIVES] == "7"
