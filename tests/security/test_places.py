"""Read-only data, a read-only home or none, little room for temporary files, no network, no
compiler; and tokens that reach nothing which is printed, written or started. In fresh processes.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# so that no user has a home there, not by systemd's account of root either
NOBODY_KNOWN = "mount --bind /dev/null /etc/passwd && mount --bind /dev/null /etc/nsswitch.conf"
TOKENS = {
    "WANDB_API_KEY": "wandbmarker0123456789012345678901234567890",
    "HF_TOKEN": "hf_marker0123456789012345678901234",
    "HUGGING_FACE_HUB_TOKEN": "hf_othermarker012345678901234",
}
NOT_INHERITED = ("HOME", "USER", "LOGNAME", "XDG_", "HF_", "WANDB_", "LONGSPAN_", "TMPDIR", "CXX", "MPLCONFIGDIR",
                 "TRANSFORMERS_", "NETRC", "PYTEST_")  # fmt: skip

# what asks the hub, in a process that cannot reach it
ASK = """
import sys
from longspan.command import set_up_logging
set_up_logging()
from longspan.config import DataConfig
from longspan.data.sources import load_hub, load_splits
from longspan.data.stream_sources import load_stream
from longspan.errors import UserError
from longspan.pretrained.folder import pretrained_folder
from longspan.pretrained.tokenizer import load_tokenizer
rows = load_splits(DataConfig(path=sys.argv[1]), stratify=True)
print({split: len(table) for split, table in rows.items()})
for ask in (
    lambda: load_hub(DataConfig(path="someone/nothing")),
    lambda: load_stream(DataConfig(path="someone/nothing", streaming=True)),
    lambda: pretrained_folder("someone/nothing"),
    lambda: load_tokenizer("someone/nothing"),
):
    try:
        ask()
    except UserError as error:
        print("error:", error)
"""


@dataclass
class Done:
    """What a process said and left."""

    place: Path
    code: int
    stdout: str
    stderr: str
    commands: set[str]  # of the processes that it started

    def files(self) -> list[Path]:
        return [file for file in (self.place / "work").rglob("*") if file.is_file()]


@pytest.fixture(scope="module")
def place():
    """A folder with a data set, and empty folders to be mounted over."""
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True,
        ).returncode
    ):
        pytest.skip(
            "needs root and mount namespaces (unshare --mount), for disks that are read-only"
        )
    place = Path(tempfile.mkdtemp(prefix="longspan-places-"))
    for name in ("data", "home", "tmp", "nothing"):
        (place / name).mkdir()
    for split in ("train", "dev", "test"):
        rows = ["text,label", *("war of the nation,war", "peace of the nation,peace") * 8]
        (place / "data" / f"{split}.csv").write_text("\n".join(rows) + "\n")
    yield place
    shutil.rmtree(place)


@pytest.fixture
def run(place):
    """Run Python where disks are as `mounts` make them, there is no network and no compiler."""

    def run(*arguments, mounts, **variables):
        work = place / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        kept = {n: v for n, v in os.environ.items() if not n.startswith(NOT_INHERITED)}
        environment = kept | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
        environment |= {"NO_COLOR": "1"} | variables
        # the shell needs its programs; what it starts has none
        begin = f'PATH={place / "nothing"} exec "$@"'
        script = " && ".join(["(ip link set lo up || true) 2>&-", *mounts, begin])
        process = subprocess.Popen(
            ["unshare", "--mount", "--net", "sh", "-c", script, "sh", sys.executable, *arguments],
            cwd=work, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        commands: set[str] = set()
        watcher = threading.Thread(target=watch, args=(process, commands), daemon=True)
        watcher.start()
        stdout, stderr = process.communicate(timeout=500)
        return Done(place, process.returncode, stdout, stderr, commands)

    return run


def watch(process: subprocess.Popen, commands: set[str]) -> None:
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            commands |= {" ".join(member.cmdline()) for member in family}
        except psutil.Error:
            pass  # it has just ended
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue


def read_only(folder: Path) -> str:
    return f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"


def empty(folder: Path, options: str) -> str:
    return f"mount -t tmpfs -o {options} tmpfs {folder}"


def tiny_run(place: Path, *more: str) -> list[str]:
    files = [f"data.files.{s}={place / 'data' / s}.csv" for s in ("train", "dev", "test")]
    return [
        str(ROOT / "train.py"), "data=files", *files, "data.tokenizer=embedded:sotu",
        "data.max_length=32", "data.tokens_per_batch=128", "model.hidden_size=16",
        "model.intermediate_size=16", "model.num_heads=2", "model.window=4", "name=x",
        "trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.enable_progress_bar=false",
        *more,
    ]  # fmt: skip


def assert_nothing_of(tokens, done: Done) -> None:
    for token in tokens:
        for said in (done.stdout, done.stderr, *done.commands):
            assert token not in said
        for file in done.files():
            assert token.encode() not in file.read_bytes(), file


def test_no_home_little_room_no_compiler_and_no_token_told(place, run):
    done = run(
        *tiny_run(place, "logger=wandb", "logger.timeout_seconds=120"),
        mounts=[read_only(place / "data"), empty(place / "tmp", "size=6m"), NOBODY_KNOWN],
        TMPDIR=str(place / "tmp"), WANDB_MODE="offline", **TOKENS,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    folder = place / "work" / "runs" / "default" / "x"
    assert (folder / "report.json").is_file()
    # no home: said once, and no folder of the name `~` is made
    assert done.stderr.count("no cache can be kept in the home folder") == 1
    assert [f.name for f in (place / "work").iterdir()] == ["runs"]
    # no compiler: said once
    (line,) = [line for line in done.stderr.splitlines() if "attention backend" in line]
    assert line.startswith("attention backend: blocked (")
    assert re.search("no C[+][+] compiler|needs AVX-512", line)
    # tokens
    assert list(folder.glob("wandb/offline-run-*/run-*.wandb")), done.stderr
    assert any("wandb_process" in command for command in done.commands)
    assert_nothing_of(TOKENS.values(), done)
    assert "Traceback" not in done.stderr
    assert "warning: W&B" not in done.stderr


def test_a_read_only_home_and_no_network(place, run):
    done = run(
        "-c", ASK, str(place / "data" / "train.csv"),
        mounts=[read_only(place / "data"), empty(place / "home", "ro"), empty(place / "tmp", "ro")],
        HOME=str(place / "home"), TMPDIR=str(place / "tmp"), **TOKENS,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "(Read-only file system): data is prepared in" in done.stderr
    first, *errors = done.stdout.splitlines()
    assert first == "{'train': 11, 'test': 3, 'dev': 2}"
    # one line each, and at once: nobody has tried again, which would be told
    assert len(errors) == 4
    assert all("huggingface.co cannot be reached" in line for line in errors)
    assert "etry" not in done.stderr
    assert "huggingface" not in done.stderr
    assert done.files() == []
    assert_nothing_of(TOKENS.values(), done)


@pytest.mark.slow
def test_a_whole_run_with_a_read_only_home_and_an_account_without_network(place, run):
    done = run(
        *tiny_run(place, "logger=wandb", "logger.timeout_seconds=20"),
        mounts=[read_only(place / "data"), empty(place / "home", "ro"), empty(place / "tmp", "ro")],
        HOME=str(place / "home"), TMPDIR=str(place / "tmp"), **TOKENS,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert (place / "work" / "runs" / "default" / "x" / "report.json").is_file()
    assert_nothing_of(TOKENS.values(), done)
    assert done.stderr.count("warning: W&B") <= 1
