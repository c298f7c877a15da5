"""The lock of a cell: one owner, named; no death leaves it shut."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from longspan.lock import STALE_SECONDS, Lock, Owner, TakenError, owner_of


@pytest.fixture
def holder(tmp_path):
    """Hold the lock in another process, which ends with the test."""
    program = f"""
        import time
        from pathlib import Path
        from longspan.lock import Lock
        with Lock(Path({str(tmp_path / "lock")!r})):
            print("held", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_it_is_gone_after_use(tmp_path):
    with Lock(tmp_path / "locks" / "a") as lock:
        assert lock.taken_over is None
        assert owner_of(lock.path) == Owner(socket.gethostname(), os.getpid())
    assert owner_of(lock.path) is None
    assert not lock.path.exists()


def test_a_second_taker_learns_host_and_pid(tmp_path, holder):
    with pytest.raises(TakenError) as taken, Lock(tmp_path / "lock"):
        pytest.fail("two owners")
    assert taken.value.owner == Owner(socket.gethostname(), holder.pid)
    assert str(holder.pid) in str(taken.value)
    assert owner_of(tmp_path / "lock") == taken.value.owner


def test_a_killed_owner_is_followed_at_once(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert owner_of(tmp_path / "lock") is None
    with Lock(tmp_path / "lock") as lock:
        assert lock.taken_over == Owner(socket.gethostname(), holder.pid)


def test_the_heart_of_an_owner_elsewhere_decides(tmp_path):
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    assert owner_of(path) == Owner("elsewhere", 7)
    with pytest.raises(TakenError), Lock(path):
        pytest.fail("two owners")
    silent = time.time() - STALE_SECONDS - 1
    os.utime(path, (silent, silent))
    assert owner_of(path) is None
    with Lock(path) as lock:
        assert lock.taken_over == Owner("elsewhere", 7)


def test_a_heart_beats_while_the_lock_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr("longspan.lock.HEARTBEAT_SECONDS", 0.01)
    with Lock(tmp_path / "lock") as lock:
        os.utime(lock.path, (1, 1))
        while lock.path.stat().st_mtime < 2:
            time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_half_written_owners_are_nobody(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    assert owner_of(path) is None
    with Lock(path) as lock:
        assert lock.taken_over is None


def test_many_at_once_never_hold_it_together(tmp_path):
    program = f"""
        import os, time
        from pathlib import Path
        from longspan.lock import Lock, TakenError
        folder, entered = Path({str(tmp_path)!r}), 0
        while entered < 20:
            try:
                with Lock(folder / "lock"):
                    os.mkdir(folder / "inside")  # fails where somebody is inside
                    os.rmdir(folder / "inside")
                    entered += 1
            except TakenError:
                pass
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
