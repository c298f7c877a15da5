"""Compiles the attention kernel for this machine on first use, and keeps it.

The library is cached by PyTorch's version, the processor, the compiler and the source, in a folder
that nobody but its user can write: what is in it is loaded as code.
"""

import atexit
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils import cpp_extension

CSRC = Path(__file__).parent / "csrc"
FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-fopenmp", "-DNDEBUG", "-w")
# what the kernel is written in; -march=native of a compiler too old for the processor may lack it
REQUIRED = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}

log = logging.getLogger(__name__)


class CannotBuildError(Exception):
    """There is no kernel on this machine; the text says why and what would help."""


@functools.cache
def processor_flags() -> frozenset[str]:
    """The instruction sets that Linux reports, as it names them; empty elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    flags = [line.partition(":")[2].split() for line in lines if line.startswith("flags")]
    return frozenset(flags[0]) if flags else frozenset()


@functools.cache
def library() -> Path:
    """The compiled kernel, compiled now if it is not in the cache.

    Raises:
        CannotBuildError: no compiler, a processor that the kernel is not written for, or an error
            of the compiler.
    """
    missing = REQUIRED - processor_flags()
    if missing:
        raise CannotBuildError(
            f"it needs AVX-512, and this processor ({platform.machine()}) lacks {min(missing)}"
        )
    compiler = shutil.which(cpp_extension.get_cxx_compiler())
    if compiler is None:
        raise CannotBuildError(
            f"no C++ compiler {cpp_extension.get_cxx_compiler()!r}; install g++ or set CXX"
        )
    folder = cache_folder()
    file = folder / f"attention-{_fingerprint(compiler)}.so"
    with _lock(folder):
        if not file.exists():
            log.info("compiling the attention kernel, once on this machine: %s", file)
            _compile(compiler, file)
    _check_owner(file)
    return file


def cache_folder() -> Path:
    """Where the kernel is kept: `$LONGSPAN_CACHE`, `$XDG_CACHE_HOME/longspan`, `~/.cache/longspan`.

    If that cannot be made, or others could write to it, a temporary folder of this process.
    """
    try:
        folder = Path(
            os.environ.get("LONGSPAN_CACHE")
            or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longspan"
        )
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(folder)
        with tempfile.TemporaryFile(dir=folder):  # a read-only disk shows only now
            return folder
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        log.info("the attention kernel is not kept for the next process: %s", error)
        temporary = Path(tempfile.mkdtemp(prefix="longspan-"))  # mode 0700
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return temporary


def _check_owner(path: Path) -> None:
    """Raise PermissionError if anybody else owns or can write what will be loaded as code."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise PermissionError(f"{path} is a link")
    if status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to user {status.st_uid}, not {os.getuid()}")
    if status.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by others: chmod go-w {path}")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process compiles, the others wait; the system frees the lock of a process that dies."""
    import fcntl  # Windows has none, where only this file is imported and nothing is built

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a disk without locks: all compile, each in its own folder
            log.debug("no lock in %s", folder)
        yield


def _fingerprint(compiler: str) -> str:
    """Of everything that the compiled code depends on."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    digest = hashlib.sha256(version)
    for part in (torch.__version__, platform.platform(), *FLAGS, *sorted(processor_flags())):
        digest.update(f"{part}\n".encode())
    for source in sorted(CSRC.iterdir()):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:20]


def _compile(compiler: str, file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as work:
        built = compile_library(compiler, Path(work))
        built.chmod(0o700)
        built.replace(file)  # whole or not at all


def compile_library(compiler: str, folder: Path, extra: tuple[str, ...] = ()) -> Path:
    """Compile and link csrc/ into `folder`; the files at the same time."""
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    include = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    sources = sorted(CSRC.glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor() as pool:
        list(
            pool.map(
                lambda source, target: _run(
                    [compiler, *FLAGS, *extra, abi, *include, "-c", source, "-o", target]
                ),
                sources,
                objects,
            )
        )
    target = folder / "attention.so"
    # OpenMP comes from PyTorch's own library, not from the compiler's: one pool of threads
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    linked = ["-lc10", "-ltorch_cpu", "-ltorch"]
    _run([compiler, "-shared", *extra, *objects, *libraries, *linked, "-o", target])
    return target


def _run(command: list[str | Path]) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        errors = [line for line in finished.stderr.splitlines() if "error" in line]
        log.debug("%s\n%s", command, finished.stderr)
        raise CannotBuildError(
            f"{command[0]} failed: {(errors or ['killed'])[0]}; install a newer g++ or set CXX"
        )
