"""A cell's folder from inside and outside: damage, failure, processes that die."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from longspan.config import SweepConfig
from longspan.errors import UserError
from longspan.lock import Lock, TakenError
from longspan.sweep import process
from longspan.sweep.cell import BUSY, PLAIN, alone_at, cell_of, corruption_of, set_aside_if_corrupt
from longspan.sweep.paths import CellPaths
from longspan.sweep.process import Outcome, run_cell

CONFIG = "experiment: s\nname: seed=0\n"


@pytest.fixture
def sweep(tmp_path):
    return SweepConfig(name="s", cell="seed=0", dir=str(tmp_path))


@pytest.fixture
def paths(tmp_path):
    return CellPaths(tmp_path / "s", "seed=0")


def write(paths, **files):
    for name, text in files.items():
        file = {
            "config": paths.folder.config_file,
            "report": paths.folder.report_file,
            "manifest": paths.folder.last_checkpoints.folder(7) / "manifest.json",
        }[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, None),
        ({"config": CONFIG}, None),
        ({"config": CONFIG, "report": '{"steps": 1}'}, None),
        ({"config": "a: ["}, "holds no run"),
        ({"config": "winow: 1"}, "winow is not a field"),
        ({"config": ""}, "must be a mapping"),
        ({"config": CONFIG, "report": '{"steps'}, "report.json is damaged"),
        ({"config": CONFIG, "report": "{}"}, "not that of a run"),
        ({"config": CONFIG, "report": "7"}, "report.json is damaged"),
        ({"report": '{"steps": 1}'}, "config.yaml is missing"),
        ({"manifest": "half"}, "config.yaml is missing"),
        ({"config": CONFIG, "manifest": "half"}, None),  # the run sees to its checkpoints
    ],
    ids=str,
)
def test_damage_is_seen_and_set_aside(paths, caplog, files, said):
    write(paths, **files)
    found = corruption_of(paths.folder)
    assert (found is None) == (said is None)
    aside = set_aside_if_corrupt(paths)
    if said is None:
        assert aside is None
        return
    assert said in found
    assert said in caplog.text
    assert aside.name == "seed=0-1"
    assert not paths.folder.path.exists()
    write(paths, **files)
    assert set_aside_if_corrupt(paths).name == "seed=0-2"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("data.x=1 is wrong; say 2"), "data.x=1 is wrong; say 2"),
        (RuntimeError("not enough\n  memory"), "RuntimeError: not enough memory"),
        (ValueError("x" * 999), "ValueError: " + "x" * 488),
    ],
    ids=["user", "defect", "long"],
)
def test_a_failure_leaves_its_reason_and_a_further_try_removes_it(sweep, paths, error, reason):
    with pytest.raises(type(error)), cell_of(sweep, "window_layers"):
        raise error
    assert json.loads(paths.failure.read_text())["reason"] == reason
    with cell_of(sweep, "window_layers"):
        assert not paths.failure.exists()
    assert not paths.failure.exists()


def test_an_interruption_is_no_failure(sweep, paths):
    with pytest.raises(KeyboardInterrupt), cell_of(sweep, PLAIN):
        raise KeyboardInterrupt
    assert not paths.failure.exists()


def test_a_cell_that_somebody_is_at_is_left_alone(sweep, paths, caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    with Lock(paths.lock), pytest.raises(SystemExit) as ended, cell_of(sweep, PLAIN):
        pytest.fail("two at one cell")
    assert ended.value.code == BUSY
    assert f"process {os.getpid()}" in caplog.text


def test_a_run_that_is_no_cell_is_left_alone_and_a_sweep_needs_its_flag(tmp_path):
    with cell_of(SweepConfig(dir=str(tmp_path)), PLAIN):
        pass
    with (
        pytest.raises(UserError, match=r"sweep=window_layers is many runs; .* -m"),
        cell_of(SweepConfig(), "window_layers"),
    ):
        pytest.fail("one run of many")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_others_start_from_is_made_by_one_of_them(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="longspan")
    made = []

    def start():
        with alone_at(tmp_path / "first"):
            made.append("begin")
            time.sleep(1)  # longer than a lock is tried for before it counts as taken
            made.append("end")

    others = [threading.Thread(target=start) for _ in range(2)]
    for thread in others:
        thread.start()
    for thread in others:
        thread.join(30)
    assert made == ["begin", "end"] * 2
    assert f"waiting for process {os.getpid()}" in caplog.text


def test_ranks_of_one_training_do_not_wait_for_each_other(tmp_path, monkeypatch):
    with alone_at(tmp_path / "first"):
        monkeypatch.setenv("LOCAL_RANK", "1")
        with alone_at(tmp_path / "first"):
            pass


@pytest.fixture
def script(tmp_path):
    """Write a program that stands in for train.py: its path."""

    def script(code):
        file = tmp_path / "script.py"
        file.write_text("import os, signal, sys, time\n" + code)
        return str(file)

    return script


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("print('hello')", "finished", ""),
        (f"sys.exit({BUSY})", "busy", ""),
        ("sys.exit('error: seed=-1 must be 0 or more')", "failed", "seed=-1 must be 0 or more"),
        ("raise ValueError('no\\n   such thing')", "failed", "ValueError: no"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "failed", "killed by SIGKILL (the kernel"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed", "killed by SIGSEGV"),
        ("sys.exit(4)", "failed", "ended with code 4"),
    ],
)
def test_whatever_a_cell_does_is_an_outcome(script, sweep, paths, code, status, reason):
    outcome = run_cell(script(code), ["seed=0"], sweep)
    assert (outcome.cell, outcome.status) == ("seed=0", status)
    assert outcome.reason.startswith(reason)
    assert paths.failure.exists() == (status == "failed")
    if status == "failed":
        assert json.loads(paths.failure.read_text())["reason"] == outcome.reason


def test_a_cell_that_is_held_is_not_started(script, sweep, paths):
    with Lock(paths.lock):
        assert run_cell(script("raise SystemExit(9)"), [], sweep) == Outcome("seed=0", "busy")
    assert not paths.log.exists()


def test_a_hopeless_cell_is_stopped(script, sweep, paths, monkeypatch):
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(process, "hopeless", lambda *asked: "below the median")
    sweep = replace(sweep, prune_after=3)
    outcome = run_cell(script("time.sleep(600)"), [], sweep)
    assert outcome == Outcome("seed=0", "pruned", "below the median")
    assert json.loads(paths.failure.read_text())["kind"] == "pruned"


def test_a_cell_ends_with_the_sweep_that_started_it(tmp_path, sweep, paths):
    program = tmp_path / "cell.py"
    program.write_text(
        "import sys, time\n"
        "from longspan.config import SweepConfig\n"
        "from longspan.sweep.cell import cell_of\n"
        f"with cell_of(SweepConfig(name='s', cell='seed=0', dir={str(tmp_path)!r}), 'grid'):\n"
        "    open(sys.argv[1], 'w').close()\n"
        "    time.sleep(600)\n"
    )
    started = tmp_path / "started"
    # a sweep that is killed as soon as its cell runs
    killed = f"""
import os, threading, time
from pathlib import Path
from longspan.config import SweepConfig
from longspan.sweep.process import run_cell
def die():
    while not Path({str(started)!r}).exists():
        time.sleep(0.05)
    os._exit(9)
threading.Thread(target=die).start()
sweep = SweepConfig(name="s", cell="seed=0", dir={str(tmp_path)!r})
run_cell({str(program)!r}, [{str(started)!r}], sweep)
"""
    subprocess.run([sys.executable, "-c", killed], timeout=60, check=False)
    for _ in range(200):
        try:
            with Lock(paths.lock) as lock:
                assert lock.taken_over is not None
                break
        except TakenError:
            time.sleep(0.05)
    else:
        pytest.fail("the cell lives on")
