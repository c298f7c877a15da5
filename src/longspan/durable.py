"""Files and folders that are there whole or not at all, whatever ends the process or the machine.

Everything is written aside, synced and renamed, and the rename is synced too: POSIX promises that a
rename is all or nothing, not that it is on the disk, nor that what was written before it is.
"""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".aside"  # how the names of what is being written end; they begin with a dot
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` when it is left without error.

    A kill leaves `folder` as it was or as it shall be; in the moment between the two renames that
    replacing a folder takes, it leaves what `clear_aside` mends.

    Raises:
        OSError: naming a file; what was written of the new folder is gone, `folder` is as it was.
    """
    with os_errors_of(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(f"{ASIDE}", f".{folder.name}.", folder.parent))
        try:
            new = aside / "new"  # the folder around it is open to its owner alone
            new.mkdir()
            yield new
            for file in [*new.iterdir(), new]:
                sync(file)
            _replace(folder, new, aside / "old")
            sync(folder.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nobody may see half removed."""
    aside = Path(tempfile.mkdtemp(f"{ASIDE}", f".{folder.name}.", folder.parent))
    folder.rename(aside / "removed")
    shutil.rmtree(aside)


def clear_aside(parent: Path, name: str = "*") -> None:
    """Mend and remove what a kill left of writing `name` in a folder; for its only writer."""
    for aside in sorted(parent.glob(f".{name}.*{ASIDE}")):
        folder = parent / aside.name[1:].rsplit(".", 2)[0]
        if (aside / "old").exists() and not folder.exists():
            (aside / "old").rename(folder)  # killed between two renames
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file aside, sync, rename: a reader or a kill never sees half of it.

    Raises:
        OSError: naming the file, which is as it was.
    """
    aside = file.with_name(f".{file.name}.{os.getpid()}{ASIDE}")
    with os_errors_of(file):
        try:
            aside.write_bytes(content)
            sync(aside)
            aside.replace(file)
            sync(file.parent)
        finally:
            aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def os_errors_of(path: Path) -> Iterator[None]:
    """Let every error of writing be an OSError that names its file, those of Rust's libraries too.

    safetensors and tokenizers raise exceptions of their own that only say "(os error 28)".
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def cannot_write(error: OSError, path: Path, needed: int | None = None) -> str:
    """What went wrong with writing `path`, in one line, with the space that there is.

    Args:
        error: as it was raised.
        path: what was to be written.
        needed: bytes of it, where they are known.
    """
    said = error.strerror or str(error)
    if error.errno in OUT_OF_SPACE:
        existing = next(folder for folder in [path, *path.absolute().parents] if folder.exists())
        free = f"{shutil.disk_usage(existing).free:,} bytes free"
        said += f": {free}" if needed is None else f": {needed:,} bytes needed, {free}"
    return f"{path} cannot be written ({said})"


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`; if that fails, `folder` is as it was."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
