"""A lock: one owner, named; no death leaves it shut, and no clock opens it."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

from longspan import lock
from longspan.lock import Lock, Owner, TakenError, owner_of


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
    with Lock(tmp_path / "locks" / "a") as held:
        assert held.taken_over is None
        assert owner_of(held.path) == Owner(socket.gethostname(), os.getpid())
    assert owner_of(held.path) is None
    assert not held.path.exists()


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
    with Lock(tmp_path / "lock") as held:
        assert held.taken_over == Owner(socket.gethostname(), holder.pid)


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat, and patience that ends, in fractions of a second."""
    for name, seconds in (("BEAT", 0.01), ("LOOK", 0.2), ("STALE", 0.3)):
        monkeypatch.setattr(lock, f"{name}_SECONDS", seconds)


@pytest.fixture
def elsewhere(tmp_path, quick):
    """The lock file of an owner on another host, whose heart beats until it is stopped."""
    path, stopped = tmp_path / "lock", threading.Event()

    path.touch()

    def write(beat):
        owner = {"host": "elsewhere", "pid": 7, "beat": f"{beat:012d}"}
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), json.dumps(owner).encode(), 0)

    def live():
        beat = 0
        while not stopped.wait(0.02):
            beat += 1
            write(beat)

    write(0)
    heart = threading.Thread(target=live)
    heart.start()

    def die():
        stopped.set()
        heart.join()

    yield SimpleNamespace(path=path, die=die)
    die()


@pytest.mark.parametrize("jump", [-1e9, 0, 1e9])
def test_the_heart_of_an_owner_elsewhere_decides_whatever_the_clocks_say(
    elsewhere, monkeypatch, jump
):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump)
    assert owner_of(elsewhere.path) == Owner("elsewhere", 7)
    with pytest.raises(TakenError), Lock(elsewhere.path):
        pytest.fail("two owners")
    elsewhere.die()
    os.utime(elsewhere.path, (now - jump, now - jump))
    assert owner_of(elsewhere.path) is None
    with Lock(elsewhere.path) as held:
        assert held.taken_over == Owner("elsewhere", 7)


def test_a_heart_beats_while_the_lock_is_held_and_names_its_owner_all_the_while(tmp_path, quick):
    with Lock(tmp_path / "lock") as held:
        seen = set()
        while len(seen) < 3:
            content = held.path.read_bytes()
            seen.add(content)
            assert json.loads(content)["pid"] == os.getpid()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_without_flock_the_heart_decides_on_this_host_too(tmp_path, monkeypatch, quick, number):
    def refuse(file, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with Lock(tmp_path / "lock") as held:
        assert owner_of(held.path) == Owner(socket.gethostname(), os.getpid())
        with pytest.raises(TakenError), Lock(held.path):
            pytest.fail("two owners")
        content = held.path.read_text()
    held.path.write_text(content)  # as a kill leaves it
    with Lock(held.path) as follower:
        assert follower.taken_over == Owner(socket.gethostname(), os.getpid())


def test_a_fork_does_not_keep_the_lock_of_a_parent_that_is_killed(tmp_path):
    """A data loader's workers outlive a killed training for a while."""
    program = f"""
        import os, sys, time
        from pathlib import Path
        from longspan.lock import Lock, is_held_here
        path = Path({str(tmp_path / "lock")!r})
        with Lock(path):
            assert is_held_here(path)
            if os.fork():
                sys.stdin.read()
            assert not is_held_here(path)
            print("forked", flush=True)
            time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "forked\n"
        process.kill()  # the parent alone
        process.wait()
        with Lock(tmp_path / "lock") as held:
            assert held.taken_over == Owner(socket.gethostname(), process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}'])
def test_half_written_owners_are_nobody(tmp_path, content):
    path = tmp_path / "lock"
    path.write_text(content)
    assert owner_of(path) is None
    with Lock(path) as held:
        assert held.taken_over is None


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
