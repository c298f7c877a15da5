"""The manifest of a checkpoint: what its folder must hold, to the byte.

    {"format": …, "step": 120, "score": 0.93, "tied": {}, "files": {"state.pt": {"size": …,
     "sha256": …}, …}, "sha256": …}

The last digest is that of the manifest without it, so that no byte of the folder is unguarded.
"""

import errno
import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path

from longspan.errors import UserError

FORMAT = "longspan-checkpoint-1"
MANIFEST = "manifest.json"
NAME = re.compile(r"step=(\d{8,})")
# what a damaged file system or a damaged folder says; everything else may be over tomorrow
DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EIO)


class DamagedError(Exception):
    """A checkpoint that is not what was written: which file, and what is wrong with it."""


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written."""

    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is.

    Attributes:
        step: optimiser steps before it.
        files: name to record.
        score: by the dev metric, of one that was kept for it; None = none, or not a number.
        tied: names of tensors that are not stored, as they are others by these names.
    """

    step: int
    files: dict[str, FileRecord]
    score: float | None = None
    tied: dict[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's content."""
        finite = self.score is not None and math.isfinite(self.score)
        body = {"format": FORMAT, **asdict(self), "score": self.score if finite else None}
        digest = sha256(json.dumps(body).encode()).hexdigest()
        return (json.dumps(body | {"sha256": digest}, indent=1) + "\n").encode()


def record_of(content: bytes | memoryview) -> FileRecord:
    """The record of a file with this content."""
    return FileRecord(len(content), sha256(content).hexdigest())


def folder_name(step: int) -> str:
    """`step=00000120`: the order of the names is that of the steps."""
    return f"step={step:08d}"


def step_of(name: str) -> int | None:
    """The step in a folder's name; None = it is no checkpoint's."""
    match = NAME.fullmatch(name)
    return int(match[1]) if match else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint, the files unseen.

    Raises:
        DamagedError: it is not as it was written, or not of this folder.
        UserError: it cannot be read, for a reason outside of it.
    """
    content = _read(folder / MANIFEST)
    try:
        data = json.loads(content)
        if data["format"] != FORMAT:
            raise DamagedError(f"{MANIFEST} is of format {data['format']!r}, not {FORMAT!r}")
        files = {name: FileRecord(**record) for name, record in data["files"].items()}
        manifest = Manifest(data["step"], files, data["score"], data["tied"])
        whole = manifest.to_bytes() == content
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} is no manifest") from error
    if not whole or any(Path(name).name != name for name in files):
        raise DamagedError(f"{MANIFEST} is not as it was written")
    if folder_name(manifest.step) != folder.name:
        raise DamagedError(f"{MANIFEST} is that of {folder_name(manifest.step)}")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest of a checkpoint of which every byte is as it was written.

    Hidden files that a file system or a desktop puts there (.nfs…, .DS_Store) do no harm.

    Raises:
        DamagedError: the first thing that is wrong.
        UserError: it cannot be read, for a reason outside of it.
    """
    manifest = read_manifest(folder)
    for name, record in manifest.files.items():
        _check_file(folder / name, record)
    known = {MANIFEST, *manifest.files}
    extra = sorted(path.name for path in folder.iterdir() if path.name not in known)
    extra = [name for name in extra if not name.startswith(".")]
    if extra:
        raise DamagedError(f"{extra[0]} does not belong to it")
    return manifest


def _check_file(file: Path, record: FileRecord) -> None:
    try:
        size = _size(file)
        with file.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(file, error) from error
    if size != record.size:
        raise DamagedError(f"{file.name} has {size:,} bytes, not {record.size:,}")
    if digest != record.sha256:
        raise DamagedError(f"{file.name} is not as it was written (SHA-256)")


def _size(file: Path) -> int:
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DamagedError(f"{file.name} is no file")  # and a pipe would let us wait for ever
    return about.st_size


def _read(file: Path) -> bytes:
    try:
        _size(file)
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> Exception:
    if error.errno == errno.ENOENT:
        return DamagedError(f"{file.name} is missing")
    if error.errno in DAMAGE:
        return DamagedError(f"{file.name} cannot be read ({error.strerror})")
    return UserError(f"{file} cannot be read ({error.strerror}); let this user read it")


def rank_key(score: float | None, mode: str) -> float:
    """A score to be compared: more is better, and what is no number is worst."""
    if score is None or not math.isfinite(score):
        return -math.inf
    return score if mode == "max" else -score


def best_first(scores: Mapping[int, float | None], mode: str) -> list[int]:
    """Steps, the best first; of equals the earlier one.

    Args:
        scores: step to score.
        mode: min or max, which is best.
    """
    return sorted(scores, key=lambda step: (-rank_key(scores[step], mode), step))
