"""Every fault that one file of a checkpoint can have, tried: `python benchmarks/checkpoint_faults.py`.

Of two checkpoints the newer one is damaged, in one way at a time: each byte flipped, each length
cut to, pages of zeros, files that are missing, empty, longer, of another checkpoint, or no files.
Each time the damage must be named with its file, the folder set aside and the older one chosen.
"""

import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from longspan.training.checkpoints.folder import STATE, WEIGHTS, write_checkpoint
from longspan.training.checkpoints.manifest import FORMAT, MANIFEST
from longspan.training.checkpoints.shelf import Shelf, log

OLDER, NEWER = 20, 30
PAGE = 512  # bytes, of the smallest block that a disk loses

Fault = tuple[str, str, Callable[[], None]]  # its kind, the file that is to be named, what it does


def tiny_checkpoint(step: int) -> dict[str, object]:
    """As Lightning dumps one, with tied weights."""
    weight = torch.arange(6.0).reshape(2, 3) + step
    state = {"step": torch.tensor(float(step)), "exp_avg": weight / 2}
    return {
        "epoch": 1,
        "global_step": step,
        "state_dict": {"embedding": weight, "norm": torch.ones(3), "decoder": weight},
        "optimizer_states": [{"state": {0: state}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
        "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 1}}}},
    }


def make_shelf(path: Path) -> Shelf:
    """A shelf with two whole checkpoints."""
    shelf = Shelf(path)
    for step in (OLDER, NEWER):
        write_checkpoint(shelf.folder(step), tiny_checkpoint(step), score=step / 100)
    return shelf


def faults(folder: Path, older: Path) -> Iterator[Fault]:
    """All faults of a checkpoint; it is whole again before each."""
    for name in (MANIFEST, WEIGHTS, STATE):
        file, whole = folder / name, (folder / name).read_bytes()
        yield from _faults_of_content(name, file, whole)
        yield "missing", name, file.unlink
        yield "of another checkpoint", name, lambda f=file: shutil.copy(older / f.name, f)
        yield "a folder", name, lambda f=file: (f.unlink(), f.mkdir())
        yield "a pipe", name, lambda f=file: (f.unlink(), os.mkfifo(f))
        yield "a link to nothing", name, lambda f=file: (f.unlink(), f.symlink_to("nowhere"))
        yield "a link to itself", name, lambda f=file: (f.unlink(), f.symlink_to(f.name))
    yield "extra file", "extra.bin", (folder / "extra.bin").touch
    yield "extra folder", "extra", (folder / "extra").mkdir
    yield "empty folder", MANIFEST, lambda: [file.unlink() for file in folder.iterdir()]
    yield "of another checkpoint", MANIFEST, lambda: (shutil.rmtree(folder), _copy(older, folder))
    about = json.loads((folder / MANIFEST).read_text())
    for format in ("longspan-checkpoint-0", "longspan-checkpoint-2", "", None, 1, [FORMAT]):
        yield "of another format", MANIFEST, _rewrite(folder, about | {"format": format})
    for field in about:
        for value in (None, "", -1, [], {}, {"a": 1}, 1e999):
            if value != about[field]:
                yield "another field", MANIFEST, _rewrite(folder, about | {field: value})
        yield "no field", MANIFEST, _rewrite(folder, {k: v for k, v in about.items() if k != field})
    for content in (b"null", b"[]", b"7", b"{}", b'"', b"[" * 100_000, b"\xff\xfe", b"\0" * PAGE):
        yield "no manifest", MANIFEST, lambda c=content: _write(folder / MANIFEST, c)


def _faults_of_content(name: str, file: Path, whole: bytes) -> Iterator[Fault]:
    def write(content: bytes) -> Callable[[], None]:
        return lambda: _write(file, content)

    for at in range(len(whole)):
        bit = 1 << at % 8
        yield "flipped", name, write(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
    for size in range(len(whole)):
        yield "truncated", name, write(whole[:size])
    for at in range(0, len(whole), PAGE):
        lost = whole[:at] + bytes(len(whole[at : at + PAGE])) + whole[at + PAGE :]
        if lost != whole:
            yield "page of zeros", name, write(lost)
    for more in (b"\0", b"\n", whole, b"x" * PAGE):
        yield "longer", name, write(whole + more)
    yield "zeros", name, write(bytes(len(whole)))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _rewrite(folder: Path, about: dict[str, object]) -> Callable[[], None]:
    return lambda: _write(folder / MANIFEST, (json.dumps(about, indent=1) + "\n").encode())


def try_all(path: Path) -> tuple[Counter[str], list[str]]:
    """Try every fault on a shelf that is made in a folder.

    Returns:
        how many of each kind, and what went wrong.
    """
    shelf = make_shelf(path / "shelf")
    newer, older = shelf.folder(NEWER), shelf.folder(OLDER)
    whole, said = path / "whole", Warnings()
    shutil.copytree(newer, whole)
    log.addHandler(said)
    tried: Counter[str] = Counter()
    wrong = []
    aside = newer.with_name(f"{newer.name}.damaged-1")
    try:
        assert shelf.newest_whole(mend=True) == newer
        for kind, file, damage in faults(newer, older):
            damage()
            tried[kind] += 1
            said.lines.clear()
            chosen = shelf.newest_whole(mend=True)
            named = len(said.lines) == 1 and f"{newer} is damaged ({file} " in said.lines[0]
            if chosen != older or not named or newer.exists() or not aside.is_dir():
                wrong.append(f"{kind} {file}: {chosen}, {said.lines}")
            shutil.rmtree(aside if aside.exists() else newer)
            shutil.copytree(whole, newer)
        assert shelf.newest_whole(mend=True) == newer
    finally:
        log.removeHandler(said)
    return tried, wrong


class Warnings(logging.Handler):
    """Collects what is said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    log.propagate = False
    with tempfile.TemporaryDirectory(prefix=f"longspan-faults-{os.getpid()}-") as folder:
        tried, wrong = try_all(Path(folder))
    for kind, count in sorted(tried.items()):
        print(f"{count:7,}  {kind}")
    print(f"{tried.total():7,}  faults, {tried.total() - len(wrong):,} found, named and set aside")
    for line in wrong:
        print(line)


if __name__ == "__main__":
    main()
