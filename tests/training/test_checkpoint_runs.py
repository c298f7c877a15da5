"""Runs whose checkpoints are damaged, whose disk is full, whose clock jumps, and their locks."""

import logging
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from longspan.config import CheckpointConfig
from longspan.errors import UserError
from longspan.lock import Lock
from longspan.training.checkpoints.folder import STATE, WEIGHTS, read_weights
from longspan.training.checkpoints.store import CheckpointStore
from longspan.training.module import LongDocumentModule
from longspan.training.run import train
from longspan.training.run_folder import RunFolder
from longspan.training.run_lock import alone_in
from longspan.training.tracking import MetricsFile, _append_bytes, read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's, with torch 2.13
)

STEPS = 5  # of an epoch
PAGE = 4096  # bytes
RESULTS = ("metrics.jsonl", "model/model.safetensors", "predictions/test.jsonl")
FIELDS = {"trainer.max_epochs": 4}


class CrashError(Exception):
    pass


@pytest.fixture
def run(make_config, tmp_path):
    """Train a tiny config with some fields changed: its folder."""

    def run(runs_dir=tmp_path, **changes):
        config = make_config(runs_dir, name="run", **FIELDS | changes)
        train(config)
        return RunFolder(runs_dir / config.experiment / config.name)

    return run


@pytest.fixture
def folder(tmp_path):
    """Where `run` trains."""
    return RunFolder(tmp_path / "default" / "run")


@pytest.fixture
def at_step(monkeypatch):
    """Do something before training steps, which are counted over all epochs, within a context."""

    @contextmanager
    def at_step(actions):
        step, calls = LongDocumentModule.training_step, []

        def act(self, batch, batch_idx):
            calls.append(batch_idx)
            if len(calls) in actions:
                actions[len(calls)]()
            return step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(LongDocumentModule, "training_step", act)
            yield

    return at_step


def crash():
    raise CrashError


@pytest.fixture
def broken(run, at_step):
    """Break a run off in its last epoch, after three checkpoints."""

    def broken(**changes):
        with at_step({3 * STEPS + 2: crash}), pytest.raises(CrashError):
            run(**changes)

    return broken


@pytest.fixture(scope="module")
def unbroken(make_config, tmp_path_factory):
    """A run that nothing happened to: its folder."""
    runs_dir = tmp_path_factory.mktemp("unbroken")
    config = make_config(runs_dir, name="run", **FIELDS)
    train(config)
    return RunFolder(runs_dir / config.experiment / config.name)


def assert_same_results(folder, expected):
    for file in RESULTS:
        assert (folder.path / file).read_bytes() == (expected.path / file).read_bytes(), file


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_state_costs_its_steps_and_not_the_run(run, broken, folder, unbroken, caplog):
    broken()
    assert folder.last_checkpoints.steps() == [10, 15]
    newest = folder.last_checkpoints.folder(15)
    flip(newest / STATE)
    with caplog.at_level(logging.INFO, logger="longspan"):
        run()
    assert (
        f"{newest} is damaged (state.pt is not as it was written (SHA-256)): set aside as "
        "step=00000015.damaged-1"
    ) in caplog.messages
    assert f"resuming from {folder.last_checkpoints.folder(10)}, step 10" in caplog.messages
    assert newest.with_name(f"{newest.name}.damaged-1").is_dir()
    assert_same_results(folder, unbroken)


def test_where_no_state_is_whole_the_run_starts_anew_and_says_so(
    run, broken, folder, unbroken, caplog
):
    broken()
    for step in folder.last_checkpoints.steps():
        (folder.last_checkpoints.folder(step) / WEIGHTS).unlink()
    run()
    assert sum("weights.safetensors is missing" in line for line in caplog.messages) == 2
    said = f"no checkpoint in {folder.last_checkpoints.path} is whole: the run starts anew"
    assert said in caplog.messages
    assert_same_results(folder, unbroken)


@pytest.mark.parametrize("kept", [1, 2])
def test_damaged_best_weights_are_replaced_by_the_next_best_or_the_last(
    run, folder, caplog, monkeypatch, kept
):
    """The highest loss is that of the first epoch, the second highest that of the second."""
    monitor = {"checkpoint.monitor": "loss", "checkpoint.mode": "max", "checkpoint.keep_best": kept}
    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.finish.draw_figures", crash_with)
        with pytest.raises(CrashError):
            run(**monitor)
    best = folder.best_checkpoints
    assert best.steps() == [5, 10][:kept]
    flip(best.folder(5) / WEIGHTS)
    second = read_weights(best.folder(10)) if kept == 2 else None
    run(**monitor)
    assert f"{best.folder(5)} is damaged (weights.safetensors is not" in caplog.text
    lost = "no best checkpoint is whole: the weights of the last step are kept"
    assert (lost in caplog.messages) == (kept == 1)
    expected = read_weights(folder.last_checkpoints.folder(20)) if second is None else second
    weights = load_file(folder.model / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name])
    assert folder.read_report()["kept_step"] == (20 if kept == 1 else 10)


def crash_with(*arguments, **options):
    raise CrashError


def test_as_many_are_kept_as_the_config_says(run):
    # accuracy ties, loss falls: its highest are the first ones
    loss = {"checkpoint.monitor": "loss", "checkpoint.mode": "max"}
    folder = run(**{"checkpoint.keep_last": 3, "checkpoint.keep_best": 2}, **loss)
    assert folder.last_checkpoints.steps() == [10, 15, 20]
    assert folder.best_checkpoints.steps() == [5, 10]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["best", "last"]
    for shelf in (folder.last_checkpoints, folder.best_checkpoints):
        assert len(list(shelf.path.iterdir())) == len(shelf.steps())
    run(**{"checkpoint.keep_last": 1, "checkpoint.keep_best": 1}, **loss)  # the same run, finished


def test_how_many_are_kept_may_change_as_a_run_goes_on(run, broken, folder, unbroken):
    broken(**{"checkpoint.keep_last": 3})
    assert folder.last_checkpoints.steps() == [5, 10, 15]
    run(**{"checkpoint.keep_last": 1})
    assert folder.last_checkpoints.steps() == [20]
    assert_same_results(folder, unbroken)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 megabytes, and what fills and empties it."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", mount], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no file system may be mounted here: {made.stderr.strip()}")
    ballast = mount / "ballast"

    def fill(left=0):
        ballast.write_bytes(bytes(shutil.disk_usage(mount).free - left))

    yield SimpleNamespace(path=mount, fill=fill, empty=ballast.unlink)
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_is_reported_and_training_goes_on(run, at_step, small_disk, unbroken, caplog):
    """At the end of the second epoch no checkpoint can be written."""
    full = {2 * STEPS: lambda: small_disk.fill(left=2 * PAGE), 2 * STEPS + 3: small_disk.empty}
    with at_step(full):
        folder = run(small_disk.path)
    failed = [line for line in caplog.messages if "cannot be written" in line]
    assert failed
    for line in failed:
        (numbers,) = re.findall(
            r"\(No space left on device: ([\d,]+) bytes needed, ([\d,]+) ", line
        )
        needed, free = (int(number.replace(",", "")) for number in numbers)
        assert needed > 2 * PAGE >= free
        assert "/step=00000010 cannot be" in line
        assert line.endswith(f"training goes on, {folder.last_checkpoints.folder(5)} stays")
    assert folder.last_checkpoints.steps() == [15, 20]  # the next one is whole again
    assert not list(folder.path.rglob(".*"))
    assert_same_results(folder, unbroken)


@pytest.fixture
def no_room_for_records(at_step, monkeypatch):
    """In the second epoch the disk takes no record."""

    @contextmanager
    def no_room():
        with monkeypatch.context() as patch:
            name = "longspan.training.tracking._append_bytes"
            actions = {
                STEPS + 1: lambda: patch.setattr(name, refuse_all),
                2 * STEPS + 3: lambda: patch.setattr(name, _append_bytes),
            }
            with at_step(actions):
                yield

    return no_room


def refuse_all(path, content):
    raise OSError(28, "No space left on device", str(path))


def test_records_wait_for_room_and_no_checkpoint_is_ahead_of_them(
    run, folder, no_room_for_records, unbroken, caplog
):
    with no_room_for_records():
        run()
    said = [line for line in caplog.messages if "metrics.jsonl cannot be written (No sp" in line]
    assert said[0].endswith("; training goes on, and the records wait in memory")
    assert said[-1].endswith(f"; training goes on, {folder.last_checkpoints.folder(5)} stays")
    assert folder.last_checkpoints.steps() == [15, 20]
    assert_same_results(folder, unbroken)


def test_a_record_that_is_refused_stops_a_training_that_shall_stop(
    run, folder, no_room_for_records, unbroken
):
    stop = {"checkpoint.on_write_error": "stop"}
    with no_room_for_records(), pytest.raises(UserError, match=r"cannot be written \(No space"):
        run(**stop)
    assert folder.last_checkpoints.steps() == [5]
    run(**stop)
    assert_same_results(folder, unbroken)


def test_a_full_disk_stops_a_training_that_shall_stop(run, at_step, small_disk, unbroken):
    stop = {"checkpoint.on_write_error": "stop"}
    full = at_step({2 * STEPS: lambda: small_disk.fill(left=2 * PAGE)})
    with full, pytest.raises(UserError) as error:
        run(small_disk.path, **stop)
    folder = RunFolder(small_disk.path / "default" / "run")
    assert "step=00000010 cannot be written (No space left on device: " in str(error.value)
    assert f"{folder.last_checkpoints.folder(5)} stays; make room, and the same" in str(error.value)
    assert folder.last_checkpoints.steps() == [5]
    small_disk.empty()
    run(small_disk.path, **stop)
    assert_same_results(folder, unbroken)


def test_a_disk_full_at_the_end_leaves_a_run_to_go_on(run, at_step, small_disk, unbroken):
    with at_step({4 * STEPS: small_disk.fill}), pytest.raises(UserError) as error:
        run(small_disk.path)
    folder = RunFolder(small_disk.path / "default" / "run")
    assert "cannot be written (No space left on device: " in str(error.value)
    assert "make room, and the same command goes on from the last checkpoint" in str(error.value)
    assert not folder.is_finished
    assert not folder.model.exists()
    small_disk.empty()
    run(small_disk.path)
    assert_same_results(folder, unbroken)


@pytest.mark.parametrize("error", [UserError, OSError])
def test_results_that_cannot_be_written_are_one_line(run, folder, monkeypatch, error):
    """Where nothing can be mounted: what the libraries below raise, by name."""

    def refuse(*arguments, **options):
        raise OSError(28, "No space left on device") if error is OSError else UserError("other")

    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.finish.save_model", refuse)
        with pytest.raises(UserError, match="No space left on device" if error is OSError else "o"):
            run(**{"trainer.max_epochs": 1})
    assert not folder.is_finished


def test_records_wait_for_room_and_come_in_their_order(tmp_path, monkeypatch, caplog):
    file = MetricsFile(tmp_path)

    def log_from(first):
        for step in range(first, first + 3):
            file.log_metrics({"loss": float(step)}, step=step)

    log_from(0)
    with monkeypatch.context() as patch:
        patch.setattr("longspan.training.tracking._append_bytes", refuse_all)
        log_from(3)
        with pytest.raises(OSError, match="No space"):
            file.sync()
    assert len(caplog.messages) == 1
    assert [r["step"] for r in read_metrics(file.metrics_path)] == [0, 1, 2]
    log_from(6)
    assert [r["step"] for r in read_metrics(file.metrics_path)] == list(range(9))


def test_no_decision_depends_on_the_clock(run, broken, folder, unbroken, monkeypatch):
    """Time jumps by years with every look at it, and files are of times in disorder."""
    years = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: years.uniform(0, 4e9))
    broken()
    for path in sorted(folder.path.rglob("*")):
        os.utime(path, (years.uniform(1, 4e9),) * 2)
    run()
    assert_same_results(folder, unbroken)


@pytest.fixture
def trains_elsewhere(folder):
    """Another process that holds the lock of `folder`, as a training does."""
    program = f"""
        import sys
        from pathlib import Path
        from longspan.lock import Lock
        with Lock(Path({str(folder.lock)!r})):
            print("held", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_training_in_a_folder_stops_with_the_owner_and_a_dead_one_is_followed(
    run, folder, trains_elsewhere, unbroken, caplog
):
    with pytest.raises(UserError) as error:
        run()
    who = f"process {trains_elsewhere.pid} on {socket.gethostname()}"
    assert str(error.value) == (
        f"{folder.path}: {who} trains here; wait for it, or set name=… for another folder"
    )
    assert not folder.path.exists()
    trains_elsewhere.kill()
    trains_elsewhere.wait()
    with caplog.at_level(logging.INFO, logger="longspan"):
        run()
    assert f"taking over from {who}, which is gone" in caplog.messages
    assert_same_results(folder, unbroken)
    assert not folder.lock.exists()


def test_a_training_that_begins_while_data_is_prepared_is_noticed(run, folder, monkeypatch):
    # it looked before the other came
    monkeypatch.setattr("longspan.training.run.check_alone", lambda folder: None)
    monkeypatch.setattr("longspan.training.run_lock.is_held_here", lambda path: False)
    with Lock(folder.lock), pytest.raises(UserError, match="trains here"):
        run()
    assert not folder.path.exists()


def test_a_run_that_another_process_has_finished_meanwhile_is_shown(run, folder, monkeypatch):
    """It was not finished as this one looked first."""
    run()
    before = folder.read_report()
    answers = iter([False])
    is_finished = RunFolder.is_finished.fget
    monkeypatch.setattr(
        RunFolder, "is_finished", property(lambda self: next(answers, is_finished(self)))
    )
    run()
    assert folder.read_report() == before


def test_a_cell_that_holds_the_lock_of_its_run_goes_in(folder):
    with Lock(folder.lock), alone_in(folder):
        assert folder.lock.exists()


def test_leftovers_of_a_kill_are_swept_by_the_next_start(run, broken, folder, unbroken):
    broken()
    for path in (
        folder.path / ".model.abcd1234.aside" / "new",
        folder.last_checkpoints.path / ".step=00000015.abcd1234.aside" / "new",
        folder.best_checkpoints.path / ".step=00000015.abcd1234.aside" / "removed",
    ):
        path.mkdir(parents=True)
        (path / "half").touch()
    (folder.path / ".report.json.123.aside").touch()
    (folder.path / ".mine").touch()
    run()
    assert [path.name for path in folder.path.rglob(".*")] == [".mine"]
    assert_same_results(folder, unbroken)


def test_ranks_that_see_other_checkpoints_stop(tmp_path, monkeypatch):
    store = CheckpointStore(
        CheckpointConfig(),
        RunFolder(tmp_path).last_checkpoints,
        RunFolder(tmp_path).best_checkpoints,
        None,
    )
    store.resumed = 10

    def gather(steps, own):
        steps[:] = [own, 0]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    store.check_ranks(SimpleNamespace(world_size=1))
    with pytest.raises(UserError, match=r"different steps in .*/last \(\[10, 0\]\); put runs_dir"):
        store.check_ranks(SimpleNamespace(world_size=2))
