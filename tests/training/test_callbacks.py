"""What a run says of its speed, its memory and its interruption."""

import logging
import sys
from types import SimpleNamespace

import pytest
import torch

from longspan.cost.heap import keep_pages
from longspan.training import callbacks
from longspan.training.callbacks import (
    InterruptionNotice,
    Throughput,
    forget_peak_memory,
    peak_memory_bytes,
)
from longspan.training.checkpoints.shelf import Shelf


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


def test_throughput_is_the_tokens_of_training_over_its_time(clock):
    logged = {}
    module = SimpleNamespace(log=lambda name, value, **options: logged.update({name: value}))
    trainer = SimpleNamespace(world_size=2)
    throughput = Throughput()
    assert throughput.tokens_per_second == 0.0
    for tokens, seconds in ((100, 2.0), (50, 0.5)):
        batch = SimpleNamespace(num_tokens=tokens)
        throughput.on_train_batch_start(trainer, module, batch, 0)
        clock.now += seconds
        throughput.on_train_batch_end(trainer, module, None, batch, 0)
        assert logged["speed/tokens_per_second"] == 2 * tokens / seconds  # of all ranks
        clock.now += 60.0  # validation, saving: not training
    assert throughput.tokens == 150
    assert throughput.tokens_per_second == 150 / 2.5


def test_throughput_goes_on_counting_where_a_run_goes_on(clock):
    first = Throughput()
    first.tokens, first.seconds = 150, 2.5
    clock.now += 20.0
    saved = first.state_dict()
    clock.now += 1000.0  # lost
    second = Throughput()
    second.load_state_dict(saved)
    clock.now += 5.0
    assert second.tokens_per_second == 150 / 2.5
    assert second.seconds_in_all == 25.0


@pytest.mark.parametrize(
    ("exception", "saved", "said"),
    [
        (KeyboardInterrupt(), True, ["interrupted; the same command goes on from {checkpoint}"]),
        (
            KeyboardInterrupt(),
            False,
            ["interrupted before the first checkpoint; the same command starts anew"],
        ),
        (ValueError(), True, []),
    ],
)
def test_an_interruption_says_where_the_run_stands(tmp_path, caplog, exception, saved, said):
    checkpoints = Shelf(tmp_path)
    if saved:
        for step in (7, 12):
            checkpoints.folder(step).mkdir()
    with caplog.at_level(logging.WARNING):
        InterruptionNotice(checkpoints).on_exception(None, None, exception)
    newest = tmp_path / "step=00000012"
    assert caplog.messages == [line.format(checkpoint=newest) for line in said]


def test_peak_memory_never_falls():
    before = peak_memory_bytes()
    assert before > 10 * 2**20  # a Python with torch is larger than that
    assert peak_memory_bytes() >= before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_the_peak_of_an_earlier_run_can_be_forgotten():
    keep_pages()  # as that run did
    block = torch.ones(64 * 2**20)  # 256 MiB
    before = peak_memory_bytes()
    del block
    forget_peak_memory()
    assert peak_memory_bytes() < before - 200 * 2**20


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_bytes_everywhere(monkeypatch, platform, unit):
    usage = SimpleNamespace(ru_maxrss=5)
    resource = SimpleNamespace(getrusage=lambda who: usage, RUSAGE_SELF=0)
    monkeypatch.setattr(callbacks, "resource", resource)
    monkeypatch.setattr(callbacks, "sys", SimpleNamespace(platform=platform))
    assert peak_memory_bytes() == 5 * unit


def test_peak_memory_is_the_gpus_where_one_was_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 123)
    assert peak_memory_bytes() == 123
