"""A checkpoint comes back as it was written; no fault of its files and no kill goes unnoticed."""

import errno
import os
import sys
from pathlib import Path

import pytest
import torch

from longspan.errors import UserError
from longspan.training.checkpoints import folder as checkpoint_folder
from longspan.training.checkpoints.folder import (
    STATE,
    WEIGHTS,
    read_checkpoint,
    size_of,
    write_checkpoint,
)
from longspan.training.checkpoints.manifest import MANIFEST, best_first, read_manifest, verify
from longspan.training.checkpoints.shelf import Shelf

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import checkpoint_faults
import checkpoint_kills


@pytest.fixture
def shelf(tmp_path):
    return checkpoint_faults.make_shelf(tmp_path / "shelf")


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "step=00000007"
    checkpoint = checkpoint_faults.tiny_checkpoint(7)
    whole = torch.arange(12.0).reshape(3, 4)
    given = (
        checkpoint["state_dict"]
        | {
            "transposed": whole.T,
            "first": whole[:1],  # parts of one memory, which safetensors refuses
            "rest": whole[1:],
            "empty": torch.zeros(0, 3),
            "also empty": torch.zeros(0, 3),
            "half": torch.ones(2, dtype=torch.bfloat16),
        }
    )
    write_checkpoint(folder, checkpoint | {"state_dict": given}, score=0.5)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, STATE, WEIGHTS]
    manifest = verify(folder)
    assert (manifest.step, manifest.score) == (7, 0.5)
    assert manifest.tied == {"decoder": "embedding"}
    assert manifest.files[WEIGHTS].size < manifest.files[STATE].size
    read = read_checkpoint(folder)
    assert read.keys() == checkpoint.keys()
    assert read["state_dict"].keys() == given.keys()
    for name, tensor in given.items():
        assert torch.equal(read["state_dict"][name], tensor), name
    assert read["state_dict"]["decoder"] is read["state_dict"]["embedding"]
    optimizer = read["optimizer_states"][0]["state"][0]
    assert torch.equal(optimizer["exp_avg"], torch.arange(6.0).reshape(2, 3) / 2 + 3.5)
    assert read["loops"] == checkpoint["loops"]


def test_nothing_in_a_checkpoint_can_run(shelf, tmp_path):
    """Even where the digests are right: who can write a folder cannot make us run anything."""
    folder = shelf.folder(checkpoint_faults.NEWER)
    checkpoint = checkpoint_faults.tiny_checkpoint(checkpoint_faults.NEWER)
    write_checkpoint(folder, checkpoint | {"loops": Runs(tmp_path / "has run")})
    assert verify(folder)
    with pytest.raises(Exception, match="Weights only load failed"):
        read_checkpoint(folder)
    assert not (tmp_path / "has run").exists()


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_size_is_that_of_every_tensor_once():
    assert size_of(checkpoint_faults.tiny_checkpoint(1)) == (6 + 3 + 1 + 6) * 4


def test_every_fault_is_named_set_aside_and_the_one_before_is_used(tmp_path):
    tried, wrong = checkpoint_faults.try_all(tmp_path)
    assert not wrong
    assert tried["flipped"] > 2000  # every byte
    assert tried["truncated"] == tried["flipped"]  # every length


def test_a_kill_at_any_line_leaves_what_was_or_what_shall_be(tmp_path):
    outcomes = list(checkpoint_kills.kills(tmp_path))
    assert len(outcomes) > 200
    assert [o for o in outcomes if not checkpoint_kills.is_resumable(*o[1:])] == []


def test_damaged_ones_are_never_removed_and_none_is_none(shelf, caplog):
    for step in shelf.steps():
        (shelf.folder(step) / STATE).write_bytes(b"")
    assert shelf.newest_whole(mend=False) is None
    assert shelf.steps() == [20, 30]  # a further rank only looks
    assert not caplog.messages
    assert shelf.newest_whole(mend=True) is None
    assert len(caplog.messages) == 2
    write_checkpoint(shelf.folder(30), checkpoint_faults.tiny_checkpoint(30))
    (shelf.folder(30) / STATE).unlink()
    assert shelf.newest_whole(mend=True) is None
    shelf.keep([], until=99)
    shelf.clear_leftovers()
    assert sorted(path.name for path in shelf.path.iterdir()) == [
        "step=00000020.damaged-1",
        "step=00000030.damaged-1",
        "step=00000030.damaged-2",
    ]


def test_what_a_desktop_leaves_does_no_harm(shelf):
    (shelf.folder(30) / ".DS_Store").touch()
    assert shelf.newest_whole(mend=True) == shelf.folder(30)


def test_what_may_not_be_read_is_no_damage(shelf, monkeypatch):
    def refuse(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match=r"manifest.json cannot be read .* let this user read it"):
        shelf.newest_whole(mend=True)
    assert shelf.steps() == [20, 30]


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_is_that_of_steps_whatever_the_clock_said(shelf, order):
    write_checkpoint(shelf.folder(123_456_789), checkpoint_faults.tiny_checkpoint(123_456_789))
    for number, step in enumerate(shelf.steps()):
        for file in (*shelf.folder(step).iterdir(), shelf.folder(step)):
            os.utime(file, (1e9 + order * number * 1e8,) * 2)
    assert shelf.steps() == [20, 30, 123_456_789]
    assert shelf.newest_whole(mend=True) == shelf.folder(123_456_789)


def test_scores_rank_and_what_is_no_number_is_last():
    nan = float("nan")
    scores = {1: 0.5, 2: None, 3: 0.7, 4: 0.5, 5: nan, 6: float("inf")}
    assert best_first(scores, "max") == [3, 1, 4, 2, 5, 6]  # of equals the earlier one
    assert best_first(scores, "min") == [1, 4, 3, 2, 5, 6]


def test_a_score_that_is_no_number_is_kept_as_none(tmp_path):
    folder = tmp_path / "step=00000001"
    write_checkpoint(folder, checkpoint_faults.tiny_checkpoint(1), score=float("nan"))
    assert verify(folder).score is None


@pytest.mark.parametrize("call", ["fsync", "rename", "write", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_refuses_leaves_what_was(shelf, monkeypatch, call, code):
    def refuse(*arguments, **options):
        raise OSError(code, os.strerror(code))

    before = {path: path.read_bytes() for path in shelf.path.rglob("*") if path.is_file()}
    target, name = {
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "write": (checkpoint_folder, "_write"),
        "mkdir": (Path, "mkdir"),
    }[call]
    for step in (30, 40):  # one that is there, one that is not
        with monkeypatch.context() as patch:
            patch.setattr(target, name, refuse)
            with pytest.raises(OSError, match=os.strerror(code)) as error:
                write_checkpoint(shelf.folder(step), checkpoint_faults.tiny_checkpoint(step))
        assert error.value.filename
        after = {path: path.read_bytes() for path in shelf.path.rglob("*") if path.is_file()}
        assert after == before
        assert len(list(shelf.path.iterdir())) == 2


@pytest.mark.skipif(
    sys.platform != "linux", reason="what a descriptor is open on is asked in /proc"
)
def test_every_file_and_its_folders_are_synced_before_anyone_sees_them(tmp_path, monkeypatch):
    done = []
    rename = Path.rename
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(Path, "rename", lambda a, b: (done.append("rename"), rename(a, b)))
    folder = Shelf(tmp_path).folder(1)
    write_checkpoint(folder, checkpoint_faults.tiny_checkpoint(1))
    at = done.index("rename")
    assert sorted(Path(name).name for name in done[:at]) == [MANIFEST, "new", STATE, WEIGHTS]
    assert done[at + 1 :] == [str(tmp_path)]
    assert read_manifest(folder).step == 1
