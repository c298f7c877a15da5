"""A sweep whose machine is wanted back stops with the code of its cell, and the same command goes on."""

import os
import signal
import time

import pytest

from longspan.lock import owner_of
from longspan.sweep.paths import CellPaths

LONG = "trainer.max_epochs=300"
PREEMPTED = 143


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_a_preempted_sweep_stops_with_its_cell(start, tmp_path, monkeypatch):
    first, second = (CellPaths(tmp_path / "sweeps" / "s", f"window={w}") for w in (4, 8))
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    process = start(LONG)
    wait_for(first.folder.last_checkpoints.steps, process)
    process.send_signal(
        signal.SIGUSR1
    )  # to the sweep alone, as to the first process of a container
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED, stderr
    assert "window=4: stopped; the same command goes on" in stderr
    assert "SIGUSR1: stopped after step" in first.log.read_text()
    assert not first.failure.exists()
    assert not second.folder.path.exists()
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"  # once, for both
    assert list((tmp_path / "sweeps" / "s" / ".locks").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["sweep", "cell"])
def test_a_preempted_sweep_goes_on(start, run, tmp_path, whom):
    cells = [CellPaths(tmp_path / "sweeps" / "s", f"window={w}") for w in (4, 8)]
    epochs = "trainer.max_epochs=40"
    process = start(epochs)
    wait_for(cells[0].folder.last_checkpoints.steps, process)
    pid = process.pid if whom == "sweep" else owner_of(cells[0].lock).pid
    os.kill(pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED, stderr
    done = run(epochs)
    assert done.returncode == 0, done.stderr
    assert "resuming from sweeps/s/window=4/checkpoints/last/step=" in cells[0].log.read_text()
    assert all(cell.folder.is_finished for cell in cells)


@pytest.mark.slow
def test_cells_side_by_side_all_save(start, tmp_path):
    names = [f"window={window},seed={seed}" for window in (4, 8) for seed in (0, 1)]
    cells = [CellPaths(tmp_path / "sweeps" / "s", name) for name in names]
    process = start("hydra/launcher=two_at_once", "seed=0,1", LONG)
    for cell in cells[:2]:
        wait_for(cell.folder.last_checkpoints.steps, process)
    process.send_signal(signal.SIGTERM)  # not to the launcher's processes
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED, stderr
    for cell in cells[:2]:
        assert "SIGTERM: stopped after step" in cell.log.read_text()
    assert not any(cell.folder.path.exists() for cell in cells[2:])
